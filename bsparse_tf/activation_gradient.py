"""The gradient of an activation and of the bias before it, in one pass over memory."""

import math

import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import native


@tf.autograph.experimental.do_not_convert
def activation_grad(dy, values=None, activation=None, feature_axis=1, bias_dtype=None, name=None):
    """The gradients of z and bias for y = activation(z), z = ... + bias.

      dz = dy * activation'(z)      dbias = the sum of dz over the batch

    The sum is that of dz as it is returned, taken in float32 or wider, in a fixed order.

    Args:
      dy: float32, float16, bfloat16 or (on the CPU) float64. Shape [..., K] with `feature_axis` 1,
        [K, ...] with `feature_axis` 0, of rank 2 or more.
      values: like dy: y for "relu", z for "gelu"; None without an activation.
      activation: None, "relu" or "gelu" (exact, by erf).
      feature_axis: 1, features last; 0, features first.
      bias_dtype: of dbias: dy's dtype, or float32 with a 16-bit dy; None where there is no bias.
      name: of the op.

    Returns:
      (dz, dbias): dz like dy, without an activation dy itself; of relu dy where y > 0 and else 0,
      for a NaN too. dbias [K], or None. Differentiable any number of times in dy and z.

    Raises:
      TypeError: dtypes that do not go together.
      ValueError: another activation or feature_axis; values missing, or given without an
        activation; shapes known while tracing that do not fit.
      tf.errors.InvalidArgumentError: the same found at run time.
    """
    dy = tf.convert_to_tensor(dy, name="dy")
    checks.check_feature_axis(feature_axis)
    if activation not in (None, "none", "relu", "gelu"):
        raise ValueError(f"activation is {activation!r}; expected None, 'relu' or 'gelu'")
    activation = activation or "none"
    if (values is None) != (activation == "none"):
        expected = "None" if activation == "none" else "y" if activation == "relu" else "z"
        raise ValueError(
            f"values is {'None' if values is None else 'given'}; expected {expected} with "
            f"activation {activation!r}"
        )
    if values is not None:
        values = [checks.as_tensor("values", values, dy.dtype, "that is dy's dtype")]
    if bias_dtype is not None:
        bias_dtype = tf.as_dtype(bias_dtype)
        checks.check_stored_dtype("bias", bias_dtype, "dy", dy.dtype)
    gradient = native.raw.bsparse_activation_grad(
        dy=dy,
        values=values or [],
        Tb=bias_dtype or dy.dtype,
        activation=activation,
        feature_axis=feature_axis,
        num_biases=0 if bias_dtype is None else 1,
        name=name,
    )
    return gradient.dz, gradient.dbias[0] if gradient.dbias else None


@tf.RegisterGradient("Bsparse>ActivationGrad")
def _gradient(op, ddz, *ddbias):
    """With g = ddz + ddbias at every batch entry: ddy = g * slope(z), of z g * dy * slope'(z)."""
    dy, *values = op.inputs
    activation = tf.compat.as_str(op.get_attr("activation"))
    axis = op.get_attr("feature_axis")
    wide = tf.float64 if dy.dtype == tf.float64 else tf.float32
    g = ddz
    for vector in ddbias:
        spread = beside_batch(tf.cast(vector, wide), tf.rank(dy), axis)
        g = tf.cast(tf.cast(g, wide) + spread, dy.dtype)
    if not values:
        return g
    ddy, _ = activation_grad(g, values[0], activation, axis)
    if activation == "relu":
        return ddy, None
    z = tf.cast(values[0], wide)
    # The slope Phi(z) + z phi(z) has the slope phi(z) (2 - z^2).
    pdf = tf.exp(-0.5 * tf.square(z)) * (1 / math.sqrt(2 * math.pi))
    bend = pdf * (2 - tf.square(z))
    return ddy, tf.cast(tf.cast(g, wide) * tf.cast(dy, wide) * bend, dy.dtype)


@tf.custom_gradient
def gelu(z):
    """z * Phi(z), exact, whose gradient is one op.

    Args:
      z: float32, float16, bfloat16 or (on the CPU) float64, of rank 2 or more.

    Returns:
      Like z; differentiable any number of times.
    """

    def gradient(dy):
        return activation_grad(dy, z, "gelu")[0]

    return tf.nn.gelu(z), gradient


def beside_batch(vector, rank, feature_axis):
    """[K] -> a shape that broadcasts against activations [..., K] or [K, ...] of a rank."""
    if feature_axis == 1:
        return vector
    return tf.reshape(vector, tf.concat([tf.shape(vector), tf.ones([rank - 1], tf.int32)], 0))
