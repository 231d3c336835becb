"""What the recurrent layers share: Keras's `RNN`, with the time loop of `recurrent.unroll`."""

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import initializers, layouts, native
from bsparse_tf.recurrent.unroll import unroll

GATES = 4


class RecurrentCell(keras.layers.Layer):
    """One step of a recurrent layer, usable in `keras.layers.RNN`, too.

    A subclass gives `state_size`, `output_size` and `prepare`.
    """

    def prepare(self, x, state, mask, training):
        """What `unroll` takes, but for the state: step, linears, weights, inputs, parameters.

        Args:
          x: [..., N, features], of one step or of a sequence.
          state: (h, c) [N, units] before the first step.
          mask: bool [..., N, 1] or None.
          training: whether to drop out.
        """
        raise NotImplementedError

    def run(self, x, state, mask, training, recompute):
        """All steps of a sequence.

        Args:
          x: [T, N, features].
          state: (h, c) [N, units] before the first step, in the dtypes of `unroll`'s state.
          mask: bool [T, N, 1] or None.
          training: whether to drop out.
          recompute: as for `unroll`.

        Returns:
          (h after every step [T, N, units], (h, c) after the last step).
        """
        prepared = self.prepare(x, state, mask, training)
        return unroll(*prepared, state, recompute=recompute)

    def output(self, h):
        """What the layer shows of h."""
        return h

    def call(self, inputs, states, training=False):
        h, c = states
        wide_c = tf.cast(c, _cell_dtype(c.dtype))
        step, linears, weights, more, parameters = self.prepare(inputs, states, None, training)
        products = (
            lambda v, linear=linear, w=w: linear.product(v, linear.prepare(w, h.dtype))
            for linear, w in zip(linears, weights)
        )
        h, wide_c = step(
            lambda v: next(products)(v), tf.constant(0), more, parameters, (h, wide_c)
        )
        return self.output(h), [h, tf.cast(wide_c, c.dtype)]

    def add_blocks(self, name, matmul, initializer, **options):
        """A variable of the shape `matmul.w_shape`, kept in float32 under a mixed policy."""
        return self.add_weight(
            name=name,
            shape=matmul.w_shape,
            initializer=initializers.for_shape(initializer, matmul),
            autocast=False,  # `unroll` rounds it once a sequence and gives it float32 gradients.
            **options,
        )


class RecurrentLayer(keras.layers.RNN):
    """`keras.layers.RNN` whose weights get one gradient a sequence, whatever its length."""

    cell_class = None

    def __init__(
        self,
        *cell_arguments,
        recompute=False,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        zero_output_for_mask=False,
        activity_regularizer=None,
        name=None,
        dtype=None,
        trainable=True,
        **cell_options,
    ):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"{type(self).__name__} needs Keras's TensorFlow backend "
                f"(KERAS_BACKEND=tensorflow); this process uses {keras.backend.backend()}"
            )
        super().__init__(
            self.cell_class(
                *cell_arguments, name="cell", dtype=dtype, trainable=trainable, **cell_options
            ),
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.recompute = recompute
        self.input_spec = keras.InputSpec(ndim=3)
        # Keras compiles a model with XLA by itself if all layers say that they can be.
        self.supports_jit = native.xla_status() is None

    def build(self, sequences_shape, initial_state_shape=None):
        if sequences_shape[-1] is None:
            raise ValueError(
                f"inputs have shape {tuple(sequences_shape)}: the number of features, their last "
                "axis, must be known when the layer is built"
            )
        super().build(sequences_shape, initial_state_shape)
        self.input_spec = keras.InputSpec(ndim=3, axes={-1: sequences_shape[-1]})

    def inner_loop(self, sequences, initial_state, mask, training=False):
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        x = tf.transpose(sequences, [1, 0, 2])  # [T, N, features]
        if mask is not None:
            mask = tf.transpose(tf.cast(mask, tf.bool))[..., tf.newaxis]  # [T, N, 1]
        if self.go_backwards:
            x = tf.reverse(x, [0])
            mask = None if mask is None else tf.reverse(mask, [0])
        h, c = initial_state
        state = h, tf.cast(c, _cell_dtype(c.dtype))
        # Without training, a gradient is the exception: the states are enough to keep for it.
        recompute = self.recompute or not training
        hidden, (h, c) = self.cell.run(x, state, mask, training, recompute)
        shown = slice(None) if self.return_sequences else slice(-1, None)
        outputs = self.cell.output(hidden[shown])
        if mask is not None:
            counts = mask if self.zero_output_for_mask else _any_before(mask)
            outputs = tf.where(counts[shown], outputs, tf.zeros_like(outputs))
        return outputs[-1], tf.transpose(outputs, [1, 0, 2]), [h, c]

    # Saving.

    def get_config(self):
        config = super().get_config()
        own = {key: config[key] for key in config if key not in ("cell", "unroll")}
        cell = self.cell.get_config()
        options = {key: cell[key] for key in cell if key not in ("name", "dtype", "trainable")}
        regularizer = keras.regularizers.serialize(self.activity_regularizer)
        return {**options, **own, "recompute": self.recompute, "activity_regularizer": regularizer}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def get_build_config(self):
        config = super().get_build_config()
        if config and self.cell.built:
            config["layout_digests"] = [layouts.digest(m.layout) for m in self.cell.matmuls]
        return config

    def build_from_config(self, config):
        super().build_from_config(config)
        saved = (config or {}).get("layout_digests")
        if saved and saved != [layouts.digest(m.layout) for m in self.cell.matmuls]:
            raise ValueError(
                f"layer {self.name}: its layout gives another pattern than the one that was saved "
                "with these weights"
            )


def tiled(layout):
    """The layout of four gates side by side, each with `layout` [n, n]: [n, 4n]."""
    return np.tile(layout, (1, GATES))


def tiled_initializer(initializer, square):
    """Initial values of four gates, each initialised as the matrix of `square` by itself.

    Args:
      initializer: called once for each gate; see `fresh`.
      square: the BlocksparseMatMul of one gate.

    Returns:
      A function of (shape, dtype) for the blocks of `tiled(square.layout)`.
    """

    def values(shape, dtype=None):
        gates = [
            initializers.for_shape(fresh(initializer, gate), square)(square.w_shape, dtype=dtype)
            for gate in range(GATES)
        ]
        number = np.full(square.layout.shape, -1)
        number[square.layout] = np.arange(square.blocks)
        rows, columns = np.nonzero(tiled(square.layout))
        gate, k = np.divmod(columns, square.KB)
        return tf.gather(tf.concat(gates, 0), gate * square.blocks + number[rows, k])

    return values


def fresh(initializer, index):
    """A copy of an initializer that draws other values for each index, and the same on every run
    where it has a seed."""
    if not hasattr(initializer, "get_config"):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += index
    return type(initializer).from_config(config)


def share(name, value):
    """`value` as a float from 0 to below 1; raises ValueError if it is none."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {value!r}")
    return float(value)


def _cell_dtype(dtype):
    """c is a sum over all steps: 16 bits would lose the small terms."""
    dtype = tf.as_dtype(dtype)
    return tf.float32 if dtype.size == 2 else dtype


def _any_before(mask):
    """Where a step or one before it counts; until then Keras shows zeros."""
    return tf.cumsum(tf.cast(mask, tf.int32), axis=0) > 0
