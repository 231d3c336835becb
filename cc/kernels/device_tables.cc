#include "cc/kernels/device_tables.h"

#include <list>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// A plan's tables take kilobytes; this many cover the layouts of a large model.
constexpr size_t kCapacity = 1024;

class Cache {
 public:
  absl::Status Find(OpKernelContext* ctx, const bsparse_cuda_api& api,
                    std::shared_ptr<const void> plan, const std::vector<int32_t>& tables,
                    void* stream, Tensor* device) {
    // The copy is ordered with the kernels that read it by the stream it was enqueued on, hence
    // one for each stream.
    const Key key{plan.get(), stream};
    absl::MutexLock lock(&mutex_);
    const auto found = by_key_.find(key);
    if (found != by_key_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      *device = found->second->device;
      return absl::OkStatus();
    }
    Tensor copy;
    TF_RETURN_IF_ERROR(ctx->allocate_temp(
        tensorflow::DT_INT32, {static_cast<int64_t>(tables.size())}, &copy));
    if (!tables.empty() &&
        api.copy_to_device(copy.flat<int32_t>().data(), tables.data(),
                           tables.size() * sizeof(int32_t), stream) != BSPARSE_OK) {
      return absl::InternalError(absl::StrCat("copying a plan to the GPU: ", api.last_error()));
    }
    recent_.push_front({key, std::move(plan), copy});
    by_key_[key] = recent_.begin();
    if (recent_.size() > kCapacity) {
      by_key_.erase(recent_.back().key);
      recent_.pop_back();
    }
    *device = std::move(copy);
    return absl::OkStatus();
  }

 private:
  using Key = std::pair<const void*, void*>;
  struct Node {
    Key key;
    std::shared_ptr<const void> plan;
    Tensor device;
  };
  absl::Mutex mutex_;
  std::list<Node> recent_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, std::list<Node>::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status FindDeviceTables(OpKernelContext* ctx, const bsparse_cuda_api& api,
                              std::shared_ptr<const void> plan,
                              const std::vector<int32_t>& tables, void* stream, Tensor* device) {
  // Never destroyed: its tensors must not outlive TensorFlow's allocators, which go first.
  static Cache* const cache = new Cache;
  return cache->Find(ctx, api, std::move(plan), tables, stream, device);
}

}  // namespace bsparse
