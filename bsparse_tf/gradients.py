"""Gradients of the products, made of the products and Bsparse>ActivationGrad, so that they can be
differentiated again.

With z = x W(gate) + bias and y = activation(z) + residual:

  dz = dy * activation'(z)        dx = dz W(gate)^T        dbias = sum of dz over the batch
  raw[b] = x[c]^T dz[k]           dw = gate * raw          dgate[b] = sum(raw[b] * w[b])
  dresidual = dy
"""

import tensorflow as tf

from bsparse_tf import ops
from bsparse_tf.activation_gradient import activation_grad


def _layout_of(op, coords):
    """The keyword arguments that say which layout an op multiplies by, and how."""
    return {
        "coords": coords,
        "block_size": op.get_attr("block_size"),
        "in_blocks": op.get_attr("in_blocks"),
        "out_blocks": op.get_attr("out_blocks"),
        "feature_axis": op.get_attr("feature_axis"),
        "precision": tf.compat.as_str(op.get_attr("precision")),
    }


def _before_activation(op, dy, layout, gate, bias):
    """(dz, dbias or None) from dy."""
    activation = tf.compat.as_str(op.get_attr("activation"))
    if activation == "none" and bias is None:
        return dy, None
    values = None
    if activation == "relu" and not op.get_attr("num_residuals"):
        values = op.outputs[0]
    elif activation != "none":
        # y does not tell gelu's slope, nor under a residual relu's. One more product instead of a
        # second output: only y need be kept in memory.
        values = ops.matmul(
            op.inputs[0],
            op.inputs[1],
            transpose=op.get_attr("transpose"),
            gate=gate,
            bias=bias,
            gate_grad=op.get_attr("gate_grad"),
            dw_gated=op.get_attr("dw_gated"),
            straight_through=op.get_attr("straight_through"),
            **layout,
        )
    bias_dtype = None if bias is None else bias.dtype
    return activation_grad(dy, values, activation, layout["feature_axis"], bias_dtype)


def _weight_gradients(x, dz, w, gate, layout, gate_grad, dw_gated, straight_through):
    """(dw, dgate or None) for dz = d loss / d (x W(gate))."""
    if gate is None:
        return ops.matmul_dw(x, dz, out_type=w.dtype, **layout), None
    if not gate_grad:
        dw_gate = None if straight_through else tf.stop_gradient(gate)
        return ops.matmul_dw(x, dz, gate=dw_gate, out_type=w.dtype, **layout), None
    open_gate = tf.cast(tf.not_equal(gate, 0), gate.dtype) if dw_gated else None
    wide = tf.float64 if w.dtype == tf.float64 else tf.float32
    raw = ops.matmul_dw(x, dz, gate=open_gate, out_type=wide, **layout)
    dgate = tf.cast(tf.reduce_sum(raw * tf.cast(w, wide), [1, 2]), gate.dtype)
    scale = 1 if straight_through else tf.cast(gate, wide)[:, tf.newaxis, tf.newaxis]
    return tf.cast(raw * scale, w.dtype), dgate


@tf.RegisterGradient("Bsparse>Matmul")
def _matmul_gradient(op, dy):
    x, w = op.inputs[0], op.inputs[1]
    rest = list(op.inputs[3:])
    gate = rest.pop(0) if op.get_attr("num_gates") else None
    bias = rest.pop(0) if op.get_attr("num_biases") else None
    layout = _layout_of(op, op.inputs[2])
    transpose = op.get_attr("transpose")
    flags = {
        "gate_grad": op.get_attr("gate_grad"),
        "dw_gated": op.get_attr("dw_gated"),
        "straight_through": op.get_attr("straight_through"),
    }
    dz, dbias = _before_activation(op, dy, layout, gate, bias)
    dx = ops.matmul(dz, w, transpose=not transpose, gate=gate, **flags, **layout)
    forward_in, forward_out = (dz, x) if transpose else (x, dz)
    dw, dgate = _weight_gradients(forward_in, forward_out, w, gate, layout, **flags)
    gradients = [dx, dw, None]
    if gate is not None:
        gradients.append(dgate)
    if bias is not None:
        gradients.append(dbias)
    if op.get_attr("num_residuals"):
        gradients.append(dy)
    return gradients


@tf.RegisterGradient("Bsparse>MatmulDw")
def _matmul_dw_gradient(op, ddw):
    pairs = op.get_attr("num_pairs")
    xs, dys = op.inputs[:pairs], op.inputs[pairs : 2 * pairs]
    coords, *rest = op.inputs[2 * pairs :]
    gate = rest[0] if op.get_attr("num_gates") else None
    layout = _layout_of(op, coords)
    gradients = [ops.matmul(dy, ddw, transpose=True, gate=gate, **layout) for dy in dys]
    gradients += [ops.matmul(x, ddw, gate=gate, **layout) for x in xs]
    gradients.append(None)
    if gate is not None:
        raw = ops.matmul_dw(xs, dys, out_type=ddw.dtype, **layout)
        gradients.append(tf.cast(tf.reduce_sum(raw * ddw, [1, 2]), gate.dtype))
    if op.get_attr("addend_types"):
        gradients.append(ddw)
    return gradients
