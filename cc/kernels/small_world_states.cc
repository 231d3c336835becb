#include "cc/kernels/small_world_states.h"

namespace bsparse {
namespace {

OverTime Steps(void* data, size_t stride) { return {data, stride}; }

void SetInputs(const SmallWorldInputs& in, const SmallWorldShape& shape,
               const SmallWorldAddresses& at, SmallWorldStates* states) {
  states->m = Steps(at.inputs[in.m], shape.input_bytes());
  states->a = Steps(at.inputs[in.a], shape.input_bytes());
  states->h_first = at.inputs[in.h];
  states->c_first = at.inputs[in.c];
}

// The addresses of `kept`, from which each product and each operand but the first comes.
void SetKept(const SmallWorldShape& shape, const std::vector<void*>& kept,
             SmallWorldStates* states) {
  for (int j = 0; j < shape.products(); ++j) {
    states->products.push_back(Steps(kept[j], shape.activation_bytes(shape.width(j))));
  }
  for (int j = 0; j < shape.depth; ++j) {
    states->operands.push_back(
        Steps(kept[shape.products() + j], shape.activation_bytes(shape.units)));
  }
}

}  // namespace

SmallWorldShape SmallWorldShapeOf(const SmallWorldAttrs& attrs, DType dtype, DType cell_dtype,
                                  DType param_dtype, int64_t steps, int64_t batch,
                                  int64_t units) {
  SmallWorldShape shape;
  shape.dtype = dtype;
  shape.cell_dtype = cell_dtype;
  shape.param_dtype = param_dtype;
  shape.steps = steps;
  shape.batch = batch;
  shape.units = units;
  shape.stride = attrs.stride;
  shape.depth = attrs.depth();
  shape.epsilon = attrs.epsilon;
  return shape;
}

SmallWorldStates ForwardStates(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                               const SmallWorldAddresses& at) {
  SmallWorldStates states;
  SetInputs(SmallWorldInputs(attrs, /*backward=*/false), shape, at, &states);
  states.h = Steps(at.outputs[0], shape.activation_bytes(shape.units));
  states.c = Steps(at.outputs[1], shape.cell_bytes());
  if (attrs.kept == 0) return states;
  states.mean = Steps(at.outputs[2], shape.stats_bytes());
  states.rstd = Steps(at.outputs[3], shape.stats_bytes());
  SetKept(shape, Addresses<void*>(at.outputs, 4, attrs.kept), &states);
  return states;
}

SmallWorldStates BackwardStates(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                                const SmallWorldAddresses& at) {
  const SmallWorldInputs in(attrs, /*backward=*/true);
  const size_t bytes = shape.activation_bytes(shape.units);
  SmallWorldStates states;
  SetInputs(in, shape, at, &states);
  states.h = Steps(at.inputs[in.hidden], bytes);
  states.c = Steps(at.inputs[in.cells], shape.cell_bytes());
  if (attrs.kept > 0) {
    states.mean = Steps(at.inputs[in.mean], shape.stats_bytes());
    states.rstd = Steps(at.inputs[in.rstd], shape.stats_bytes());
    SetKept(shape, Addresses<void*>(at.inputs, in.kept, attrs.kept), &states);
    return states;
  }
  for (void* operand : Addresses<void*>(at.outputs, 4 + 3 * attrs.products, attrs.depth())) {
    states.operands.push_back(Steps(operand, bytes));
  }
  return states;
}

SmallWorldGradients Gradients(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                              const SmallWorldAddresses& at) {
  const size_t bytes = shape.activation_bytes(shape.units);
  SmallWorldGradients grads;
  grads.dh = Steps(at.inputs[0], bytes);
  grads.dh_last = at.inputs[1];
  grads.dc_last = at.inputs[2];
  grads.dm = Steps(at.outputs[0], shape.input_bytes());
  grads.da = Steps(at.outputs[1], shape.input_bytes());
  grads.dh_first = at.outputs[2];
  grads.dc_first = at.outputs[3];
  for (int j = 0; j < attrs.products; ++j) {
    grads.dproducts.push_back(Steps(at.outputs[4 + 2 * attrs.products + j],
                                    shape.activation_bytes(shape.width(j))));
  }
  return grads;
}

}  // namespace bsparse
