// The custom calls of the small-world LSTM (calls.h) on the CPU.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cc/cpu/small_world.h"
#include "cc/plan/layout_plans.h"
#include "cc/xla/parallel_for.h"
#include "cc/xla/small_world_call.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {
namespace {

namespace ffi = xla::ffi;

// What an executable keeps for each of its calls.
struct SmallWorldState {
  xla_calls::SmallWorld call;
  std::vector<std::shared_ptr<const LayoutPlans>> plans;

  inline static ffi::TypeId id = XLA_FFI_UNKNOWN_TYPE_ID;
  inline static const ffi::TypeInfo info = ffi::MakeTypeInfo<SmallWorldState>();
};

ffi::ErrorOr<std::unique_ptr<SmallWorldState>> Instantiate(ffi::Dictionary attributes) {
  AttributeReader reader(attributes);
  auto state = std::make_unique<SmallWorldState>();
  state->call = reader.Read<xla_calls::SmallWorld>();
  ffi::Span<const int32_t> coords, blocks;
  reader(xla_calls::kCoords, coords);
  reader(xla_calls::kSmallWorldBlocks, blocks);
  if (reader.error().failure()) return ffi::Unexpected(reader.error());
  const SmallWorldAttrs attrs = AttrsOf(state->call);
  const int32_t* next = coords.begin();
  for (int j = 0; j < attrs.products; ++j) {
    const ProductAttrs product = attrs.Product(j, state->call.units);
    std::string error;
    state->plans.push_back(FindLayoutPlans(
        {next, blocks.begin()[j], product.in_blocks, product.out_blocks}, &error));
    if (state->plans.back() == nullptr) {
      return ffi::Unexpected(ffi::Error::InvalidArgument(error));
    }
    next += 2 * blocks.begin()[j];
  }
  return state;
}

template <bool kBackward>
ffi::Error Run(SmallWorldState* state, ffi::ThreadPool pool, ffi::RemainingArgs operands,
               ffi::RemainingRets results) {
  const SmallWorldAttrs attrs = AttrsOf(state->call);
  OperandReader operand(operands);
  const SmallWorldAddresses at = ReadAddresses(attrs, kBackward, &operand, results);
  if (operand.missing()) return WrongOperands();
  const SmallWorldInputs in(attrs, kBackward);
  CpuSmallWorldNet net;
  net.shape = ShapeOf(state->call);
  net.block_size = attrs.block_size;
  net.plans = state->plans;
  net.weights = Addresses<const void*>(at.inputs, in.w, attrs.products);
  net.gains = Addresses<const void*>(at.inputs, in.gain, attrs.products);
  net.biases = Addresses<const void*>(at.inputs, in.bias, attrs.products);
  const bool kept = attrs.kept > 0;
  if (!kBackward) {
    CpuSmallWorld(net, kept, ForwardStates(attrs, net.shape, at), OverXlaThreadPool(pool));
  } else {
    CpuSmallWorldGrad(net, kept, BackwardStates(attrs, net.shape, at),
                      Gradients(attrs, net.shape, at),
                      Addresses<void*>(at.outputs, FirstDgain(), attrs.products),
                      Addresses<void*>(at.outputs, FirstDbias(attrs), attrs.products),
                      OverXlaThreadPool(pool));
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kInstantiate, Instantiate, ffi::Ffi::BindInstantiate().Attrs());
XLA_FFI_DEFINE_HANDLER(kRunForward, Run<false>,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<SmallWorldState>>()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets());
XLA_FFI_DEFINE_HANDLER(kRunBackward, Run<true>,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::State<SmallWorldState>>()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets());

// The type first: a handler's registration asks for the id of its state's type.
XLA_FFI_REGISTER_TYPE(XLA_FFI_GetApi(), "bsparse_small_world_state", &SmallWorldState::id,
                      &SmallWorldState::info);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kSmallWorldTarget, "Host",
                         (XLA_FFI_Handler_Bundle{kInstantiate, nullptr, nullptr, kRunForward}));
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), xla_calls::kSmallWorldGradTarget, "Host",
                         (XLA_FFI_Handler_Bundle{kInstantiate, nullptr, nullptr, kRunBackward}));

}  // namespace
}  // namespace bsparse
