"""One time step of each recurrent cell, as `unroll` takes it.

The state is (h, c): h in the dtype of the products, c in float32 or wider, since it is a sum over
all the steps before.
"""

import tensorflow as tf

from bsparse_tf.layer_normalization import layer_norm
from bsparse_tf.lstm_cell import lstm_gates


def lstm_step(multiply, t, inputs, parameters, state, *, recurrent_dropout=None):
    """The standard LSTM: z = x W + b + h R; i, f, g, o = z; c = s(f) c + s(i) tanh(g); ...

    Args:
      multiply: one product, h R -> [N, 4U].
      inputs: [x W + b of this step, [N, 4U]], and after it a mask bool [N, 1] if there is one.
      parameters: none.
      state: (h [N, U], c [N, U]).
      recurrent_dropout: None, or [N, U], which multiplies h on its way into the product.
    """
    x, *mask = inputs
    h, c = state
    product = multiply(h if recurrent_dropout is None else h * recurrent_dropout)
    return _masked(mask, _update(c, x + product, None), state)


def small_world_step(
    multiply, t, inputs, parameters, state, *, steps, epsilon, dropout=None
):
    """The multiplicative cell with deep updates of Gray, Radford and Kingma (2017), Algorithm 1.

    With linear(v) = layer_norm(v W), and m, a the linear maps of x:

      v = linear(h) * m
      v = relu(linear(v) + a), then relu(linear(v)) for each further step
      i, f, g, o = linear(v), each gate with a norm of its own; then as the standard LSTM

    Args:
      multiply: `steps` products [N, U] -> [N, U], and one [N, U] -> [N, 4U].
      inputs: m and a of this step, [N, U], and after them a mask bool [N, 1] if there is one.
      parameters: gain and bias of the layer norm behind each product, in turn.
      state: (h [N, U], c [N, U]).
      steps: number of internal steps, 2 or more.
      epsilon: of the layer norms.
      dropout: None, or function t -> [N, U], which multiplies the update tanh(g).
    """
    h, c = state
    m, a, *mask = inputs
    norms = iter(zip(parameters[::2], parameters[1::2]))

    def linear(v, **options):
        return layer_norm(multiply(v), *next(norms), axis=1, epsilon=epsilon, **options)

    v = linear(h) * m
    v = tf.nn.relu(linear(v) + a)
    for _ in range(2, steps):
        v = linear(v, relu=True)
    z = linear(v, segments=4)
    return _masked(mask, _update(c, z, dropout and dropout(t)), state)


def _update(c, z, update_dropout):
    """(h, c) of the step; with dropout the update is scaled between two of the fused op's parts."""
    if update_dropout is None:
        c, h = lstm_gates(c, z)
        return h, c
    i, f, g, o = tf.split(tf.cast(z, c.dtype), 4, axis=-1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g) * tf.cast(update_dropout, c.dtype)
    return tf.cast(tf.sigmoid(o) * tf.tanh(c), z.dtype), c


def _masked(mask, new_state, state):
    """The new state where the step counts, else the old; `mask` is [] or [bool [N, 1]]."""
    if not mask:
        return new_state
    return [tf.where(mask[0], new, old) for new, old in zip(new_state, state)]
