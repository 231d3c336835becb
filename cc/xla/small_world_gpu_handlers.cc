// The custom calls of the small-world LSTM (calls.h) on a GPU.
//
// They are left out of command buffers: a call is thousands of launches, which the host enqueues
// faster than the device gets through them, and a CUDA graph of them would have to be made anew
// whenever a buffer moves.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cc/kernels/cuda_library.h"
#include "cc/kernels/small_world_launch.h"
#include "cc/xla/gpu_error.h"
#include "cc/xla/small_world_call.h"
#include "cc/xla/small_world_plan.h"
#include "cuda/bsparse_cuda.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {
namespace {

namespace ffi = xla::ffi;

// Reads the plans of the products in one direction; none if there are no numbers.
GpuStatus ReadProducts(const xla_calls::SmallWorld& call, bool transpose, bsparse_float32_math float32_math,
                       ffi::Span<const int32_t> numbers, const int32_t* tables,
                       const std::vector<const void*>& weights,
                       std::vector<bsparse_matmul_args>* products) {
  if (numbers.size() == 0) return {};
  const SmallWorldShape shape = ShapeOf(call);
  for (int j = 0; j < call.products; ++j) {
    bsparse_matmul_args args;
    const GpuStatus status =
        SmallWorldProduct(shape, call.block_size, j, transpose, float32_math, &args);
    if (!status.ok()) return status;
    args.w = weights[j];
    args.plan = ReadSmallWorldPlan(numbers.begin() + j * kSmallWorldPlanNumbers, tables);
    products->push_back(args);
  }
  return {};
}

template <bool kBackward>
ffi::Error Run(void* stream, ffi::Dictionary attributes, ffi::RemainingArgs operands,
               ffi::RemainingRets results) {
  AttributeReader reader(attributes);
  const auto call = reader.Read<xla_calls::SmallWorld>();
  bsparse_float32_math float32_math = BSPARSE_FLOAT32_EXACT;
  ffi::Span<const int32_t> forward, transposed;
  reader(xla_calls::kSmallWorldFloat32Math, float32_math);
  reader(xla_calls::kSmallWorldForward, forward);
  reader(xla_calls::kSmallWorldTransposed, transposed);
  if (reader.error().failure()) return reader.error();
  const size_t numbers = call.products * kSmallWorldPlanNumbers;
  for (const auto& plans : {forward, transposed}) {
    if (plans.size() != 0 && plans.size() != numbers) return WrongOperands();
  }
  std::string why;
  const bsparse_cuda_api* const api = CudaLibrary(&why);
  if (api == nullptr) return ffi::Error(ffi::ErrorCode::kUnimplemented, why);

  const SmallWorldAttrs attrs = AttrsOf(call);
  OperandReader operand(operands);
  SmallWorldAddresses at = ReadAddresses(attrs, kBackward, &operand, results);
  const auto* const tables = static_cast<const int32_t*>(operand.Next());
  if (operand.missing() || at.outputs.empty()) return WrongOperands();
  size_t room = (*results.get<ffi::AnyBuffer>(results.size() - 1))->size_bytes();
  void* scratch = at.outputs.back();
  at.outputs.pop_back();

  const SmallWorldInputs in(attrs, kBackward);
  GpuSmallWorldNet net;
  net.shape = ShapeOf(call);
  net.gains = Addresses<const void*>(at.inputs, in.gain, attrs.products);
  net.biases = Addresses<const void*>(at.inputs, in.bias, attrs.products);
  const auto weights = Addresses<const void*>(at.inputs, in.w, attrs.products);
  GpuStatus status =
      ReadProducts(call, /*transpose=*/false, float32_math, forward, tables, weights, &net.forward);
  if (status.ok()) {
    status = ReadProducts(call, /*transpose=*/true, float32_math, transposed, tables, weights,
                          &net.transposed);
  }
  if (!status.ok()) return ToError(status);
  const bool kept = attrs.kept > 0;
  const size_t needed = kBackward ? SmallWorldGradScratchBytes(*api, net, kept)
                                  : SmallWorldScratchBytes(*api, net, kept);
  // XLA aligns buffers to less than the kernels need.
  if (needed > 0 && std::align(kScratchAlignment, needed, scratch, room) == nullptr) {
    return ffi::Error::Internal("the call's scratch memory is smaller than its kernels need");
  }
  if (!kBackward) {
    return ToError(LaunchSmallWorld(*api, net, kept, ForwardStates(attrs, net.shape, at), scratch,
                                    stream));
  }
  return ToError(LaunchSmallWorldGrad(
      *api, net, kept, BackwardStates(attrs, net.shape, at), Gradients(attrs, net.shape, at),
      Addresses<void*>(at.outputs, FirstDgain(), attrs.products),
      Addresses<void*>(at.outputs, FirstDbias(attrs), attrs.products), scratch, stream));
}

XLA_FFI_DEFINE_HANDLER(kRunForward, Run<false>,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Attrs()
                           .RemainingArgs()
                           .RemainingRets());
XLA_FFI_DEFINE_HANDLER(kRunBackward, Run<true>,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Attrs()
                           .RemainingArgs()
                           .RemainingRets());

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kSmallWorldTarget, "CUDA", kRunForward);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kSmallWorldGradTarget, "CUDA",
                         kRunBackward);

}  // namespace
}  // namespace bsparse
