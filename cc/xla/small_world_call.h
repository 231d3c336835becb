// What the handlers of the small-world LSTM's custom calls read alike on CPU and GPU.
#ifndef BSPARSE_CC_XLA_SMALL_WORLD_CALL_H_
#define BSPARSE_CC_XLA_SMALL_WORLD_CALL_H_

#include "cc/kernels/small_world_states.h"
#include "cc/xla/calls.h"
#include "cc/xla/handler_util.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {

inline SmallWorldAttrs AttrsOf(const xla_calls::SmallWorld& call) {
  SmallWorldAttrs attrs;
  attrs.block_size = call.block_size;
  attrs.products = call.products;
  attrs.kept = call.kept;
  attrs.stride = call.stride;
  attrs.epsilon = call.epsilon;
  return attrs;
}

inline SmallWorldShape ShapeOf(const xla_calls::SmallWorld& call) {
  return SmallWorldShapeOf(AttrsOf(call), call.dtype, call.cell_dtype, call.param_dtype,
                           call.steps, call.batch, call.units);
}

// The op's inputs, null for coords, and its outputs.
inline SmallWorldAddresses ReadAddresses(const SmallWorldAttrs& attrs, bool backward,
                                         OperandReader* operand,
                                         const xla::ffi::RemainingRets& results) {
  const SmallWorldInputs in(attrs, backward);
  SmallWorldAddresses at;
  for (int i = 0; i < in.count; ++i) {
    const bool is_coords = i >= in.coords && i < in.coords + attrs.products;
    at.inputs.push_back(operand->Next(!is_coords));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<xla::ffi::AnyBuffer>(i);
    at.outputs.push_back(buffer.has_value() ? (*buffer)->untyped_data() : nullptr);
  }
  return at;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_SMALL_WORLD_CALL_H_
