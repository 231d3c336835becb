"""Layer norm with its gain, bias and relu in one op, for features last and features first."""

import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import native


@tf.autograph.experimental.do_not_convert
def layer_norm(x, gain=None, bias=None, axis=1, segments=1, relu=False, epsilon=1e-6, name=None):
    """y = (x - mean) / sqrt(variance + epsilon) * gain + bias, then relu if asked for.

    Mean and variance are those of each batch entry over its features (Ba, Kiros, Hinton 2016,
    "Layer Normalization"), summed in float32. Gradients are summed in a fixed order.

    Args:
      x: float32, float16, bfloat16 or (on the CPU) float64. Shape [..., F] with `axis` 1 or -1,
        [F, ...] with `axis` 0, of rank 2 or more.
      gain: [F] in x's dtype, or in float32 with a 16-bit x; None for ones.
      bias: [F] in gain's dtype; None for zeros.
      axis: where the features are: 1 or -1, last; 0, first.
      segments: a divisor of F: the features are so many equal slices, each normalised by itself.
        An LSTM's four gates in one tensor take 4.
      relu: whether to cut off what is negative.
      epsilon: added to the variance.
      name: of the op.

    Returns:
      y in x's dtype and shape. Differentiable twice in x, gain and bias.

    Raises:
      TypeError: if gain or bias has another dtype.
      ValueError: if a shape known while tracing does not fit, or `axis` is not 0, 1 or -1.
      tf.errors.InvalidArgumentError: the same found at run time.
    """
    x = tf.convert_to_tensor(x, name="x")
    axis = checks.feature_axis_of(axis)
    gain, bias = _parameters(x, gain, bias, axis)
    stats_type = tf.float64 if x.dtype == tf.float64 else tf.float32
    return native.raw.bsparse_layer_norm(
        x=x,
        gain=gain,
        bias=bias,
        stats_type=stats_type,
        feature_axis=axis,
        segments=segments,
        relu=relu,
        epsilon=epsilon,
        name=name,
    ).y


def _parameters(x, gain, bias, axis):
    """Gain and bias as tensors of one dtype that goes with x; those that are None filled in."""
    dtype = next((p.dtype for p in (gain, bias) if hasattr(p, "dtype")), x.dtype)
    dtype = tf.as_dtype(dtype)
    checks.check_stored_dtype("gain" if hasattr(gain, "dtype") else "bias", dtype, "x", x.dtype)
    features = tf.shape(x)[0 if axis == 0 else -1] if gain is None or bias is None else None
    if gain is None:
        gain = tf.ones([features], dtype)
    if bias is None:
        bias = tf.zeros([features], dtype)
    gain = checks.as_tensor("gain", gain, dtype, "gain and bias go together")
    return gain, checks.as_tensor("bias", bias, dtype, "that is gain's dtype")


@tf.RegisterGradient("Bsparse>LayerNorm")
def _gradient(op, dy, _dmean, _drstd):
    x, gain, bias = op.inputs
    gradient = native.raw.bsparse_layer_norm_grad(
        dy=dy,
        x=x,
        gain=gain,
        bias=bias,
        mean=op.outputs[1],
        rstd=op.outputs[2],
        feature_axis=op.get_attr("feature_axis"),
        segments=op.get_attr("segments"),
        relu=op.get_attr("relu"),
    )
    return gradient.dx, gradient.dgain, gradient.dbias


@tf.RegisterGradient("Bsparse>LayerNormGrad")
def _second_gradient(op, ddx, ddgain, ddbias):
    """By differentiating the first gradient's formula, written in TensorFlow's ops.

    There the statistics are functions of x, so the whole derivative in x comes out at x.
    """
    dy, x, gain, bias, _, rstd = op.inputs
    attrs = {name: op.get_attr(name) for name in ("feature_axis", "segments", "relu")}
    with tf.GradientTape() as tape:
        tape.watch([dy, x, gain])
        outputs = _first_gradient(dy, x, gain, bias, rstd, **attrs)
    gradients = tape.gradient(outputs, [dy, x, gain], [ddx, ddgain, ddbias])
    return [*gradients, None, None, None]


def _first_gradient(dy, x, gain, bias, rstd, feature_axis, segments, relu):
    """(dx, dgain, dbias) as LayerNormGrad gives them."""
    wide = rstd.dtype
    split = _split_first if feature_axis == 0 else _split_last
    sum_axis = 1 if feature_axis == 0 else -1
    gain_shape = tf.concat([tf.shape(gain), tf.ones([tf.rank(x) - 1], tf.int32)], 0)
    if feature_axis == 1:
        gain_shape = tf.reverse(gain_shape, [0])

    def mean(values):
        return tf.reduce_mean(values, sum_axis, keepdims=True)

    def spread(parameter):  # [F] -> broadcast against x, in segments
        return split(tf.reshape(tf.cast(parameter, wide), gain_shape), segments)

    centred = split(tf.cast(x, wide), segments)
    centred -= mean(centred)
    variance = mean(tf.square(centred))
    # epsilon is what rstd holds beyond the variance.
    epsilon = tf.stop_gradient(1 / tf.square(tf.expand_dims(rstd, sum_axis)) - variance)
    rstd = tf.math.rsqrt(variance + epsilon)
    normal = centred * rstd
    dz = split(tf.cast(dy, wide), segments)
    if relu:
        positive = tf.stop_gradient(normal * spread(gain) + spread(bias)) > 0
        dz = tf.where(positive, dz, tf.zeros_like(dz))
    g = dz * spread(gain)
    dx = rstd * (g - mean(g) - normal * mean(g * normal))
    rank = tf.rank(x)
    batch_axes = tf.range(2, rank + 1) if feature_axis == 0 else tf.range(rank - 1)
    dgain = tf.reduce_sum(dz * normal, batch_axes)
    dbias = tf.reduce_sum(dz, batch_axes)
    return (
        tf.cast(tf.reshape(dx, tf.shape(x)), x.dtype),
        tf.cast(tf.reshape(dgain, tf.shape(gain)), gain.dtype),
        tf.cast(tf.reshape(dbias, tf.shape(bias)), bias.dtype),
    )


def _split_first(values, segments):
    """[F, ...] -> [segments, F / segments, ...]."""
    shape = tf.shape(values)
    return tf.reshape(values, tf.concat([[segments, shape[0] // segments], shape[1:]], 0))


def _split_last(values, segments):
    """[..., F] -> [..., segments, F / segments]."""
    shape = tf.shape(values)
    return tf.reshape(values, tf.concat([shape[:-1], [segments, shape[-1] // segments]], 0))
