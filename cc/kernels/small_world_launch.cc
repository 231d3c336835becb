#include "cc/kernels/small_world_launch.h"

#include <algorithm>

namespace bsparse {
namespace {

struct DTypes {
  bsparse_dtype activations, cell, params;
};

GpuStatus ToCudaDTypes(const SmallWorldShape& shape, DTypes* dtypes) {
  GpuStatus status = ToCudaDType(shape.dtype, &dtypes->activations);
  if (status.ok()) status = ToCudaDType(shape.cell_dtype, &dtypes->cell);
  if (status.ok()) status = ToCudaDType(shape.param_dtype, &dtypes->params);
  return status;
}

// Enqueues; after a failure, of which it keeps the first, it does nothing any more.
class GpuBackend {
 public:
  GpuBackend(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, const DTypes& dtypes,
             void* workspace, size_t workspace_bytes, void* stream)
      : api_(api), net_(net), shape_(net.shape), dtypes_(dtypes), workspace_(workspace),
        workspace_bytes_(workspace_bytes), stream_(stream) {}

  void SetSums(const std::vector<void*>* dgains, const std::vector<void*>* dbiases) {
    dgains_ = dgains;
    dbiases_ = dbiases;
  }

  const GpuStatus& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  void Multiply(int product, bool transpose, const void* x, void* y) {
    bsparse_matmul_args args = (transpose ? net_.transposed : net_.forward)[product];
    args.x = x;
    args.y = y;
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes_;
    // Norms and gates, which come between products, leave weights and plans alone.
    args.settled = multiplied_ ? BSPARSE_SETTLED_PLAN | BSPARSE_SETTLED_WEIGHTS : 0;
    multiplied_ = true;
    Check(api_.matmul, args);
  }

  void Norm(const NormCall& call) {
    bsparse_layer_norm_args args{};
    args.dtype = dtypes_.activations;
    args.param_dtype = dtypes_.params;
    args.feature_axis = 1;
    args.relu = call.relu;
    args.batch = shape_.batch;
    args.features = shape_.width(call.product);
    args.segments = shape_.segments(call.product);
    args.epsilon = shape_.epsilon;
    args.x = call.x;
    args.gain = net_.gains[call.product];
    args.bias = net_.biases[call.product];
    args.operand_stride = shape_.stride;
    args.multiplier = call.multiplier;
    args.addend = call.addend;
    args.y = call.y;
    args.mean = static_cast<float*>(call.mean);
    args.rstd = static_cast<float*>(call.rstd);
    Check(api_.layer_norm, args);
  }

  void NormGrad(const NormGradCall& call) {
    bsparse_layer_norm_grad_args args = NormGradArgs(call.product);
    args.relu = call.relu;
    args.sums = call.first ? BSPARSE_SUMS_IN_FLOAT32 : BSPARSE_SUMS_ADDED;
    args.dy = call.dy;
    args.x = call.x;
    args.mean = static_cast<const float*>(call.mean);
    args.rstd = static_cast<const float*>(call.rstd);
    args.operand_stride = shape_.stride;
    args.multiplier = call.multiplier;
    args.addend = call.addend;
    args.dx = call.dx;
    args.dz = call.dz;
    args.doperand = call.doperand;
    args.dgain = (*dgains_)[call.product];
    args.dbias = (*dbiases_)[call.product];
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes_;
    Check(api_.layer_norm_grad, args);
  }

  void Gates(const GatesCall& call) {
    bsparse_lstm_gates_args args = GatesArgs(call.gates, call.mean, call.rstd, call.c);
    args.c_next = call.c_next;
    args.h = call.h;
    Check(api_.lstm_gates, args);
  }

  void GatesGrad(const GatesGradCall& call) {
    bsparse_lstm_gates_args args = GatesArgs(call.gates, call.mean, call.rstd, call.c);
    args.dc_next = call.dc_next;
    args.dh = call.dh;
    args.dh_more = call.dh_more;
    args.dc = call.dc;
    args.dgates = call.dgates;
    Check(api_.lstm_gates_grad, args);
  }

  // Of the largest call.
  size_t WorkspaceBytes(bool backward) const {
    size_t bytes = 0;
    for (const auto* products : {&net_.forward, &net_.transposed}) {
      for (const bsparse_matmul_args& args : *products) {
        bytes = std::max(bytes, api_.matmul_workspace(&args));
      }
    }
    for (int j = 0; backward && j < shape_.products(); ++j) {
      const bsparse_layer_norm_grad_args args = NormGradArgs(j);
      bytes = std::max(bytes, api_.layer_norm_grad_workspace(&args));
    }
    return bytes;
  }

 private:
  bsparse_layer_norm_grad_args NormGradArgs(int product) const {
    bsparse_layer_norm_grad_args args{};
    args.dtype = dtypes_.activations;
    args.param_dtype = dtypes_.params;
    args.feature_axis = 1;
    args.batch = shape_.batch;
    args.features = shape_.width(product);
    args.segments = shape_.segments(product);
    args.gain = net_.gains[product];
    args.bias = net_.biases[product];
    return args;
  }

  bsparse_lstm_gates_args GatesArgs(const void* gates, const void* mean, const void* rstd,
                                    const void* c) const {
    bsparse_lstm_gates_args args{};
    args.dtype = dtypes_.activations;
    args.cell_dtype = dtypes_.cell;
    args.bias_dtype = dtypes_.params;
    args.feature_axis = 1;
    args.batch = shape_.batch;
    args.units = shape_.units;
    args.c = c;
    args.gates = gates;
    args.gain = net_.gains[shape_.depth];
    args.bias = net_.biases[shape_.depth];
    args.mean = static_cast<const float*>(mean);
    args.rstd = static_cast<const float*>(rstd);
    return args;
  }

  template <typename Args>
  void Check(bsparse_status (*launch)(const Args*, void*), const Args& args) {
    if (!ok()) return;
    const bsparse_status code = launch(&args, stream_);
    if (code != BSPARSE_OK) status_ = {code, api_.last_error()};
  }

  const bsparse_cuda_api& api_;
  const GpuSmallWorldNet& net_;
  const SmallWorldShape& shape_;
  const DTypes dtypes_;
  void* const workspace_;
  const size_t workspace_bytes_;
  void* const stream_;
  bool multiplied_ = false;
  const std::vector<void*>* dgains_ = nullptr;
  const std::vector<void*>* dbiases_ = nullptr;
  GpuStatus status_;
};

// What a call takes of its scratch memory.
struct Workspace {
  void* data;
  size_t bytes;
};

Workspace TakeWorkspace(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool backward,
                        ScratchPlan* scratch) {
  DTypes dtypes{};
  if (!ToCudaDTypes(net.shape, &dtypes).ok()) return {nullptr, 0};
  const size_t bytes = GpuBackend(api, net, dtypes, nullptr, 0, nullptr).WorkspaceBytes(backward);
  return {scratch->Take(bytes), bytes};
}

Workspace TakeForward(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                      ScratchPlan* scratch, SmallWorldStates* states) {
  if (!kept) TakeStates(net.shape, /*together=*/false, scratch, states);
  return TakeWorkspace(api, net, /*backward=*/false, scratch);
}

Workspace TakeBackward(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                       ScratchPlan* scratch, SmallWorldStates* states,
                       SmallWorldGradients* grads) {
  TakeGradients(net.shape, scratch, grads);
  if (!kept) TakeStates(net.shape, /*together=*/true, scratch, states);
  return TakeWorkspace(api, net, /*backward=*/true, scratch);
}

}  // namespace

GpuStatus SmallWorldProduct(const SmallWorldShape& shape, int block_size, int product,
                            bool transpose, bsparse_float32_math float32_math, bsparse_matmul_args* args) {
  *args = {};
  args->block_size = block_size;
  args->feature_axis = 1;
  args->transpose = transpose;
  const auto in_blocks = static_cast<int32_t>(shape.units / block_size);
  const auto out_blocks = static_cast<int32_t>(shape.width(product) / block_size);
  args->in_blocks = transpose ? out_blocks : in_blocks;
  args->out_blocks = transpose ? in_blocks : out_blocks;
  args->float32_math = float32_math;
  args->batch = shape.batch;
  return ToCudaDType(shape.dtype, &args->dtype);
}

size_t SmallWorldScratchBytes(const bsparse_cuda_api& api, const GpuSmallWorldNet& net,
                              bool kept) {
  ScratchPlan scratch;
  SmallWorldStates states;
  TakeForward(api, net, kept, &scratch, &states);
  return scratch.bytes();
}

size_t SmallWorldGradScratchBytes(const bsparse_cuda_api& api, const GpuSmallWorldNet& net,
                                  bool kept) {
  ScratchPlan scratch;
  SmallWorldStates states;
  SmallWorldGradients grads;
  TakeBackward(api, net, kept, &scratch, &states, &grads);
  return scratch.bytes();
}

GpuStatus LaunchSmallWorld(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                           SmallWorldStates states, void* scratch_memory, void* stream) {
  DTypes dtypes{};
  const GpuStatus status = ToCudaDTypes(net.shape, &dtypes);
  if (!status.ok()) return status;
  ScratchPlan scratch(scratch_memory);
  const Workspace workspace = TakeForward(api, net, kept, &scratch, &states);
  GpuBackend backend(api, net, dtypes, workspace.data, workspace.bytes, stream);
  SmallWorldLoop<GpuBackend>(net.shape, states, &backend).Forward();
  return backend.status();
}

GpuStatus LaunchSmallWorldGrad(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                               SmallWorldStates states, SmallWorldGradients grads,
                               const std::vector<void*>& dgains,
                               const std::vector<void*>& dbiases, void* scratch_memory,
                               void* stream) {
  DTypes dtypes{};
  const GpuStatus status = ToCudaDTypes(net.shape, &dtypes);
  if (!status.ok()) return status;
  ScratchPlan scratch(scratch_memory);
  const Workspace workspace = TakeBackward(api, net, kept, &scratch, &states, &grads);
  GpuBackend backend(api, net, dtypes, workspace.data, workspace.bytes, stream);
  backend.SetSums(&dgains, &dbiases);
  SmallWorldLoop<GpuBackend>(net.shape, states, &backend).Backward(grads, kept);
  return backend.status();
}

}  // namespace bsparse
