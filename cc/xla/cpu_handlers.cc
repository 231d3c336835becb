// The custom calls of calls.h on the CPU: cc/cpu's kernels over XLA's thread pool.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "cc/cpu/matmul.h"
#include "cc/plan/layout_plans.h"
#include "cc/xla/calls.h"
#include "cc/xla/handler_util.h"
#include "cc/xla/parallel_for.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {
namespace {

namespace ffi = xla::ffi;

// What an executable keeps for each of its calls.
template <typename Call>
struct CpuState {
  Call call;
  std::shared_ptr<const LayoutPlans> plans;

  inline static ffi::TypeId id = XLA_FFI_UNKNOWN_TYPE_ID;
  inline static const ffi::TypeInfo info = ffi::MakeTypeInfo<CpuState>();
};
using MatmulState = CpuState<xla_calls::Matmul>;
using MatmulDwState = CpuState<xla_calls::MatmulDw>;

template <typename Call>
ffi::ErrorOr<std::unique_ptr<CpuState<Call>>> Instantiate(ffi::Dictionary attrs) {
  AttributeReader reader(attrs);
  const Call call = reader.Read<Call>();
  ffi::Span<const int32_t> coords;
  reader(xla_calls::kCoords, coords);
  if (reader.error().failure()) return ffi::Unexpected(reader.error());
  std::string error;
  std::shared_ptr<const LayoutPlans> plans =
      FindLayoutPlans({coords.begin(), static_cast<int64_t>(coords.size() / 2), call.in_blocks,
                       call.out_blocks},
                      &error);
  if (plans == nullptr) return ffi::Unexpected(ffi::Error::InvalidArgument(error));
  auto state = std::make_unique<CpuState<Call>>();
  state->call = call;
  state->plans = std::move(plans);
  return state;
}

ffi::Error RunMatmul(MatmulState* state, ffi::ThreadPool pool, ffi::RemainingArgs operands,
                     ffi::Result<ffi::AnyBuffer> y) {
  const xla_calls::Matmul& call = state->call;
  OperandReader operand(operands);
  CpuMatmulArgs args;
  args.dtype = call.dtype;
  args.weight_dtype = call.weight_dtype;
  args.activation = call.activation;
  args.block_size = call.block_size;
  args.feature_axis = call.feature_axis;
  args.transpose = call.transpose;
  args.batch = call.batch;
  args.index = &state->plans->index(call.transpose);
  args.x = operand.Next();
  args.w = operand.Next();
  args.gate = static_cast<const float*>(operand.Next(call.has_gate));
  args.bias = operand.Next(call.has_bias);
  args.residual = operand.Next(call.has_residual);
  args.y = y->untyped_data();
  if (operand.missing()) return WrongOperands();
  CpuMatmul(args, OverXlaThreadPool(pool));
  return ffi::Error::Success();
}

ffi::Error RunMatmulDw(MatmulDwState* state, ffi::ThreadPool pool, ffi::RemainingArgs operands,
                       ffi::Result<ffi::AnyBuffer> dw) {
  const xla_calls::MatmulDw& call = state->call;
  OperandReader operand(operands);
  CpuMatmulDwArgs args;
  args.dtype = call.dtype;
  args.out_dtype = call.out_dtype;
  args.block_size = call.block_size;
  args.feature_axis = call.feature_axis;
  args.index = &state->plans->index(/*transpose=*/false);
  args.pairs = operand.NextPairs<CpuDwPair>(call);
  args.gate = static_cast<const float*>(operand.Next(call.has_gate));
  args.addend = operand.Next(call.has_addend);
  args.dw = dw->untyped_data();
  if (operand.missing()) return WrongOperands();
  CpuMatmulDw(args, OverXlaThreadPool(pool));
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kInstantiateMatmul, Instantiate<xla_calls::Matmul>,
                       ffi::Ffi::BindInstantiate().Attrs());
XLA_FFI_DEFINE_HANDLER(kRunMatmul, RunMatmul,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<MatmulState>>()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(kInstantiateMatmulDw, Instantiate<xla_calls::MatmulDw>,
                       ffi::Ffi::BindInstantiate().Attrs());
XLA_FFI_DEFINE_HANDLER(kRunMatmulDw, RunMatmulDw,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<MatmulDwState>>()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>());

// The types first: a handler's registration asks for the id of its state's type.
XLA_FFI_REGISTER_TYPE(XLA_FFI_GetApi(), "bsparse_matmul_state", &MatmulState::id,
                      &MatmulState::info);
XLA_FFI_REGISTER_TYPE(XLA_FFI_GetApi(), "bsparse_matmul_dw_state", &MatmulDwState::id,
                      &MatmulDwState::info);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kMatmulTarget, "Host",
                         (XLA_FFI_Handler_Bundle{kInstantiateMatmul, nullptr, nullptr,
                                                 kRunMatmul}));
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kMatmulDwTarget, "Host",
                         (XLA_FFI_Handler_Bundle{kInstantiateMatmulDw, nullptr, nullptr,
                                                 kRunMatmulDw}));

}  // namespace
}  // namespace bsparse
