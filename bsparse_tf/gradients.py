"""Gradients of the ops, each made of the same two ops, so that they can be differentiated again.

With z = x W(gate) + bias and y = activation(z):

  dz = dy * activation'(z)        dx = dz W(gate)^T        dbias = sum of dz over the batch
  raw[b] = x[c]^T dz[k]           dw = gate * raw          dgate[b] = sum(raw[b] * w[b])
"""

import math

import tensorflow as tf

from bsparse_tf import ops


def _layout_of(op):
    """The keyword arguments that say which layout an op multiplies by."""
    return {
        "coords": op.inputs[2],
        "block_size": op.get_attr("block_size"),
        "in_blocks": op.get_attr("in_blocks"),
        "out_blocks": op.get_attr("out_blocks"),
        "feature_axis": op.get_attr("feature_axis"),
    }


def _sum_over_batch(values, feature_axis):
    """[..., K] or [K, ...] -> [K], summed in float32 where the values are 16-bit."""
    wide = tf.float32 if values.dtype.size == 2 else values.dtype
    batch_axes = tf.range(1, tf.rank(values)) if feature_axis == 0 else tf.range(tf.rank(values) - 1)
    return tf.cast(tf.reduce_sum(tf.cast(values, wide), batch_axes), values.dtype)


def _gelu_slope(z):
    """d/dz of z * Phi(z): Phi(z) + z * phi(z)."""
    wide = tf.cast(z, tf.float32) if z.dtype.size == 2 else z
    cdf = 0.5 * tf.math.erfc(-wide * math.sqrt(0.5))
    pdf = tf.exp(-0.5 * tf.square(wide)) * (1 / math.sqrt(2 * math.pi))
    return tf.cast(cdf + wide * pdf, z.dtype)


def _before_activation(op, dy, layout, gate, bias):
    """dz from dy."""
    activation = tf.compat.as_str(op.get_attr("activation"))
    if activation == "relu":
        return tf.raw_ops.ReluGrad(gradients=dy, features=op.outputs[0])  # one pass over memory
    if activation == "gelu":
        # One more product instead of a second output: only y need be kept in memory.
        z = ops.matmul(
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
        return dy * _gelu_slope(z)
    return dy


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
    layout = _layout_of(op)
    transpose = op.get_attr("transpose")
    flags = {
        "gate_grad": op.get_attr("gate_grad"),
        "dw_gated": op.get_attr("dw_gated"),
        "straight_through": op.get_attr("straight_through"),
    }
    dz = _before_activation(op, dy, layout, gate, bias)
    dx = ops.matmul(dz, w, transpose=not transpose, gate=gate, **flags, **layout)
    forward_in, forward_out = (dz, x) if transpose else (x, dz)
    dw, dgate = _weight_gradients(forward_in, forward_out, w, gate, layout, **flags)
    gradients = [dx, dw, None]
    if gate is not None:
        gradients.append(dgate)
    if bias is not None:
        gradients.append(_sum_over_batch(dz, layout["feature_axis"]))
    return gradients


@tf.RegisterGradient("Bsparse>MatmulDw")
def _matmul_dw_gradient(op, ddw):
    x, dy = op.inputs[0], op.inputs[1]
    gate = op.inputs[3] if op.get_attr("num_gates") else None
    layout = _layout_of(op)
    dx = ops.matmul(dy, ddw, transpose=True, gate=gate, **layout)
    ddy = ops.matmul(x, ddw, gate=gate, **layout)
    gradients = [dx, ddy, None]
    if gate is not None:
        raw = ops.matmul_dw(x, dy, out_type=ddw.dtype, **layout)
        gradients.append(tf.cast(tf.reduce_sum(raw * ddw, [1, 2]), gate.dtype))
    return gradients
