// The custom calls of calls.h on a GPU: the CUDA library's launches on XLA's stream.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cc/kernels/cuda_library.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/xla/calls.h"
#include "cc/xla/gpu_args.h"
#include "cc/xla/gpu_error.h"
#include "cc/xla/handler_util.h"
#include "cuda/bsparse_cuda.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {
namespace {

namespace ffi = xla::ffi;

// Cuts allocations off the call's scratch result. XLA aligns buffers to less than the kernels need,
// so the result has room for one more kScratchAlignment.
class ScratchCutter {
 public:
  explicit ScratchCutter(const ffi::RemainingRets& results) {
    if (results.size() == 0) return;
    auto buffer = results.get<ffi::AnyBuffer>(0);
    if (!buffer.has_value()) return;
    void* data = (*buffer)->untyped_data();
    left_ = (*buffer)->size_bytes();
    next_ = static_cast<char*>(std::align(kScratchAlignment, 1, data, left_));
  }

  DeviceAllocator Allocator() {
    return [this](size_t bytes) -> void* {
      const size_t aligned = RoundUpScratch(bytes);
      if (next_ == nullptr || aligned > left_) return nullptr;
      char* const out = next_;
      next_ += aligned;
      left_ -= aligned;
      return out;
    };
  }

 private:
  char* next_ = nullptr;
  size_t left_ = 0;
};

ffi::Error RunMatmul(void* stream, ffi::Dictionary attrs, ffi::RemainingArgs operands,
                     ffi::Result<ffi::AnyBuffer> y, ffi::RemainingRets scratch) {
  AttributeReader reader(attrs);
  const auto call = reader.Read<xla_calls::Matmul>();
  const auto gpu = reader.Read<xla_calls::MatmulGpu>();
  if (reader.error().failure()) return reader.error();
  std::string why;
  const bsparse_cuda_api* const api = CudaLibrary(&why);
  if (api == nullptr) return ffi::Error(ffi::ErrorCode::kUnimplemented, why);

  OperandReader operand(operands);
  const void* const x = operand.Next();
  const void* const w = operand.Next();
  const void* const gate = operand.Next(call.has_gate);
  const void* const bias = operand.Next(call.has_bias);
  const void* const residual = operand.Next(call.has_residual);
  const auto* const tables = static_cast<const int32_t*>(operand.Next());
  if (operand.missing()) return WrongOperands();
  bsparse_matmul_args args;
  bsparse_dtype weight_dtype;
  const GpuStatus status = MatmulArgs(call, gpu, tables, &args, &weight_dtype);
  if (!status.ok()) return ToError(status);
  args.x = x;
  args.w = w;
  args.gate = static_cast<const float*>(gate);
  args.bias = bias;
  args.residual = residual;
  args.y = y->untyped_data();
  ScratchCutter cutter(scratch);
  return ToError(
      LaunchMatmul(*api, args, weight_dtype, gpu.num_blocks, cutter.Allocator(), stream));
}

ffi::Error RunMatmulDw(void* stream, ffi::Dictionary attrs, ffi::RemainingArgs operands,
                       ffi::Result<ffi::AnyBuffer> dw, ffi::RemainingRets scratch) {
  AttributeReader reader(attrs);
  const auto call = reader.Read<xla_calls::MatmulDw>();
  const auto gpu = reader.Read<xla_calls::MatmulDwGpu>();
  if (reader.error().failure()) return reader.error();
  std::string why;
  const bsparse_cuda_api* const api = CudaLibrary(&why);
  if (api == nullptr) return ffi::Error(ffi::ErrorCode::kUnimplemented, why);

  OperandReader operand(operands);
  const auto pairs = operand.NextPairs<bsparse_dw_pair>(call);
  const void* const gate = operand.Next(call.has_gate);
  const void* const addend = operand.Next(call.has_addend);
  const auto* const tables = static_cast<const int32_t*>(operand.Next());
  if (operand.missing()) return WrongOperands();
  bsparse_matmul_dw_args args;
  const GpuStatus status = MatmulDwArgs(call, gpu, pairs, tables, &args);
  if (!status.ok()) return ToError(status);
  args.gate = static_cast<const float*>(gate);
  args.addend = addend;
  args.dw = dw->untyped_data();
  ScratchCutter cutter(scratch);
  return ToError(LaunchMatmulDw(*api, args, cutter.Allocator(), stream));
}

// A launch enqueues kernels on the stream, and does nothing else that a CUDA graph could miss.
XLA_FFI_DEFINE_HANDLER(kRunMatmul, RunMatmul,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Attrs()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>()
                           .RemainingRets(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kRunMatmulDw, RunMatmulDw,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Attrs()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>()
                           .RemainingRets(),
                       {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kMatmulTarget, "CUDA", kRunMatmul);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kMatmulDwTarget, "CUDA", kRunMatmulDw);

}  // namespace
}  // namespace bsparse
