"""The pointwise part of an LSTM cell as one op."""

import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import native
from bsparse_tf.activation_gradient import activation_grad, beside_batch


@tf.autograph.experimental.do_not_convert
def lstm_gates(c, gates, bias=None, axis=1, forget_bias=0.0, name=None):
    """From the sums that reach an LSTM's gates to its next state.

      c_next = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g)
      h = sigmoid(o) * tanh(c_next)

    (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), computed in
    float32. i, f, g, o are the four quarters of `gates`, in this order, which is that of
    `keras.layers.LSTM`'s kernels. The gradient keeps nothing but the inputs.

    Args:
      c: the cell's state before, [..., H] with `axis` 1 or -1, [H, ...] with `axis` 0, of rank 2 or
        more; in the dtype of `gates`, or in float32 with 16-bit gates: a state that grows in small
        steps loses them in 16 bits.
      gates: [..., 4 H], or [4 H, ...]; float32, float16, bfloat16 or (on the CPU) float64.
      bias: [4 H], added to `gates`; in their dtype, or in float32 with 16-bit gates; or None.
      axis: where the features are: 1 or -1, last; 0, first.
      forget_bias: a number added to f.
      name: of the op.

    Returns:
      c_next in c's dtype and shape; h in the dtype of `gates`, shaped as c. Differentiable twice in
      c, gates and bias.

    Raises:
      TypeError: dtypes that do not go together.
      ValueError: if a shape known while tracing does not fit, or `axis` is not 0, 1 or -1.
      tf.errors.InvalidArgumentError: the same found at run time.
    """
    gates = tf.convert_to_tensor(gates, name="gates")
    if not hasattr(c, "dtype"):
        c = tf.convert_to_tensor(c, gates.dtype, name="c")
    c = tf.convert_to_tensor(c, name="c")
    checks.check_stored_dtype("c", c.dtype, "gates", gates.dtype)
    if bias is not None:
        if not hasattr(bias, "dtype"):
            bias = tf.convert_to_tensor(bias, gates.dtype, name="bias")
        bias = tf.convert_to_tensor(bias, name="bias")
        checks.check_stored_dtype("bias", bias.dtype, "gates", gates.dtype)
    step = native.raw.bsparse_lstm_gates(
        c=c,
        gates=gates,
        bias=[] if bias is None else [bias],
        feature_axis=checks.feature_axis_of(axis),
        forget_bias=forget_bias,
        name=name,
    )
    return step.c_next, step.h


@tf.RegisterGradient("Bsparse>LstmGates")
def _gradient(op, dc_next, dh):
    c, gates, *bias = op.inputs
    axis = op.get_attr("feature_axis")
    gradient = native.raw.bsparse_lstm_gates_grad(
        c=c,
        gates=gates,
        bias=bias,
        dc_next=dc_next,
        dh=dh,
        feature_axis=axis,
        forget_bias=op.get_attr("forget_bias"),
    )
    dgates = gradient.dgates
    sums = [activation_grad(dgates, feature_axis=axis, bias_dtype=b.dtype)[1] for b in bias]
    return [gradient.dc, dgates, *sums]


@tf.RegisterGradient("Bsparse>LstmGatesGrad")
def _second_gradient(op, ddc, ddgates):
    """By differentiating the first gradient's formula, written in TensorFlow's ops."""
    inputs = list(op.inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = _first_gradient(
            *inputs[:2],
            inputs[2] if len(inputs) == 5 else None,
            *inputs[-2:],
            axis=op.get_attr("feature_axis"),
            forget_bias=op.get_attr("forget_bias"),
        )
    return tape.gradient(outputs, inputs, [ddc, ddgates])


def _first_gradient(c, gates, bias, dc_next, dh, axis, forget_bias):
    """(dc, dgates) as LstmGatesGrad gives them."""
    wide = tf.float64 if gates.dtype == tf.float64 else tf.float32
    split_axis = 0 if axis == 0 else -1
    sums = tf.cast(gates, wide)
    if bias is not None:
        sums += beside_batch(tf.cast(bias, wide), tf.rank(gates), axis)
    i, f, g, o = tf.split(sums, 4, split_axis)
    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f + forget_bias), tf.tanh(g), tf.sigmoid(o)
    before, dh = tf.cast(c, wide), tf.cast(dh, wide)
    tanh_c = tf.tanh(f * before + i * g)
    dc = tf.cast(dc_next, wide) + dh * o * (1 - tf.square(tanh_c))
    dgates = [
        dc * g * i * (1 - i),
        dc * before * f * (1 - f),
        dc * i * (1 - tf.square(g)),
        dh * tanh_c * o * (1 - o),
    ]
    return tf.cast(dc * f, c.dtype), tf.cast(tf.concat(dgates, split_axis), gates.dtype)
