#include "cc/cpu/scratch.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

namespace bsparse {
namespace {

constexpr std::align_val_t kCacheLine{64};

// What a thread keeps at most: its share of a product's working memory is well below.
constexpr int kKeptBuffers = 4;
constexpr size_t kLargestKept = size_t{24} << 20;

struct Buffer {
  void* data = nullptr;
  size_t capacity = 0;
};

struct KeptBuffers {
  ~KeptBuffers() {
    for (const Buffer& buffer : buffers) ::operator delete(buffer.data, kCacheLine);
  }

  Buffer buffers[kKeptBuffers];
};

thread_local KeptBuffers kept;

}  // namespace

// A buffer in use is out of `kept`, so a call within a call gets another one.
ScratchBytes::ScratchBytes(size_t size) {
  Buffer* best = nullptr;
  for (Buffer& buffer : kept.buffers) {
    if (buffer.capacity >= size && (best == nullptr || buffer.capacity < best->capacity)) {
      best = &buffer;
    }
  }
  if (best != nullptr && best->data != nullptr) {
    data_ = best->data;
    capacity_ = best->capacity;
    *best = Buffer();
    return;
  }
  capacity_ = std::max<size_t>(size, 4096);
  data_ = ::operator new(capacity_, kCacheLine);
}

ScratchBytes::~ScratchBytes() {
  Buffer released{data_, capacity_};
  if (released.capacity <= kLargestKept) {
    // Of one too many, the smallest goes.
    Buffer* smallest = std::min_element(
        std::begin(kept.buffers), std::end(kept.buffers),
        [](const Buffer& a, const Buffer& b) { return a.capacity < b.capacity; });
    if (smallest->capacity < released.capacity) std::swap(*smallest, released);
  }
  ::operator delete(released.data, kCacheLine);
}

}  // namespace bsparse
