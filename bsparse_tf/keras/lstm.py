"""`BlockSparseLSTM`: `keras.layers.LSTM` with block-sparse recurrent weights."""

import functools

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import initializers
from bsparse_tf.keras import layout_argument
from bsparse_tf.keras.recurrent import GATES, RecurrentCell, RecurrentLayer, share, tiled
from bsparse_tf.matmul import BlocksparseMatMul
from bsparse_tf.recurrent import cells
from bsparse_tf.recurrent.linear import BlockSparseLinear


@keras.saving.register_keras_serializable(package="bsparse_tf")
class BlockSparseLSTMCell(RecurrentCell):
    """One step of `BlockSparseLSTM`, whose arguments it takes.

    In `keras.layers.RNN` it makes a weight gradient at every step; the layer makes one a sequence.
    """

    def __init__(
        self,
        units,
        block_size=32,
        layout=None,
        kernel_layout=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        **kwargs,
    ):
        checks.check_block_size(block_size)
        self._blocks = checks.count_blocks("units", units, block_size)
        super().__init__(**kwargs)
        self.units = int(units)
        self.block_size = int(block_size)
        self.layout = layout_argument.normalise(layout)
        self.kernel_layout = layout_argument.normalise(kernel_layout)
        self.use_bias = use_bias
        has_layout = initializers if kernel_layout is not None else keras.initializers
        self.kernel_initializer = has_layout.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.unit_forget_bias = unit_forget_bias
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout = share("dropout", dropout)
        self.recurrent_dropout = share("recurrent_dropout", recurrent_dropout)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed=seed)
        self.state_size = [self.units, self.units]
        self.output_size = self.units
        # An array that does not fit is refused now, not when the first inputs come.
        self.recurrent_matmul = self._matmul(self.layout, self._blocks, "recurrent_kernel")
        self.kernel_matmul = None
        self.kernel = None
        self.recurrent_kernel = None
        self.bias = None

    def build(self, input_shape):
        features = input_shape[-1]
        options = {
            "name": "kernel",
            "regularizer": self.kernel_regularizer,
            "constraint": self.kernel_constraint,
        }
        if self.kernel_layout is None:
            self.kernel = self.add_weight(
                shape=(features, GATES * self.units),
                initializer=self.kernel_initializer,
                **options,
            )
        else:
            name = f"the number of input features (last axis of {tuple(input_shape)})"
            in_blocks = checks.count_blocks(name, features, self.block_size)
            self.kernel_matmul = self._matmul(self.kernel_layout, in_blocks, "kernel")
            self.kernel = self.add_blocks(
                matmul=self.kernel_matmul, initializer=self.kernel_initializer, **options
            )
        self.recurrent_kernel = self.add_blocks(
            "recurrent_kernel",
            self.recurrent_matmul,
            self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(GATES * self.units,),
                initializer=self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    @property
    def matmuls(self):
        """The BlocksparseMatMuls: of h, and of x if its kernel is block-sparse."""
        return [m for m in (self.recurrent_matmul, self.kernel_matmul) if m is not None]

    def prepare(self, x, state, mask, training):
        recurrent_dropout = None
        if training and self.dropout:
            x = x * self._drop(tf.ones_like(x[0] if x.shape.rank == 3 else x), self.dropout)
        if training and self.recurrent_dropout:
            recurrent_dropout = self._drop(tf.ones_like(state[0]), self.recurrent_dropout)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        kernel = tf.convert_to_tensor(self.kernel)
        if self.kernel_matmul is not None:
            z = self.kernel_matmul(x, kernel, bias=bias)
        else:
            z = tf.matmul(x, kernel)
            z = z if bias is None else z + bias
        step = functools.partial(cells.lstm_step, recurrent_dropout=recurrent_dropout)
        inputs = [z] if mask is None else [z, mask]
        weights = [tf.convert_to_tensor(self.recurrent_kernel)]
        return step, [BlockSparseLinear(self.recurrent_matmul)], weights, inputs, []

    def _drop(self, ones, rate):
        return keras.random.dropout(ones, rate, seed=self.seed_generator)

    def _matmul(self, layout, in_blocks, name):
        """All gates as one product: a layout of one gate is used for each, one of four as it is."""
        out_blocks = self._blocks
        if isinstance(layout, np.ndarray) and layout.shape == (in_blocks, GATES * out_blocks):
            return BlocksparseMatMul(layout, self.block_size, name=name)
        layout = layout_argument.resolve(layout, in_blocks, out_blocks)
        return BlocksparseMatMul(tiled(layout), self.block_size, name=name)

    def _initial_bias(self, shape, dtype=None):
        bias = self.bias_initializer(shape, dtype=dtype)
        if not self.unit_forget_bias:
            return bias
        forget = tf.ones((self.units,), bias.dtype)
        return tf.concat([bias[: self.units], forget, bias[2 * self.units :]], 0)

    def get_config(self):
        config = {
            "units": self.units,
            "block_size": self.block_size,
            "layout": layout_argument.to_config(self.layout),
            "kernel_layout": layout_argument.to_config(self.kernel_layout),
            "use_bias": self.use_bias,
            "unit_forget_bias": self.unit_forget_bias,
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
        }
        for part in ("kernel", "recurrent", "bias"):
            for kind in ("initializer", "regularizer", "constraint"):
                serialize = getattr(keras, kind + "s").serialize
                config[f"{part}_{kind}"] = serialize(getattr(self, f"{part}_{kind}"))
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="bsparse_tf")
class BlockSparseLSTM(RecurrentLayer):
    """A long short-term memory whose recurrent weights store only the blocks of a layout.

    Used as `keras.layers.LSTM` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
    al. 2000), and with all blocks present the same function of the same weights:

      i, f, g, o = x W + h R + b        c = s(f) c + s(i) tanh(g)        h = s(o) tanh(c)

    Inputs [N, T, features], a mask [N, T], initial states [h, c], and outputs are as there. R is
    one product for all four gates; all steps of a sequence make one gradient of R, so training
    differentiates once, not twice. Under a mixed policy weights stay in float32, with float32
    gradients, and c is kept in float32 within a sequence.

    Args:
      units: a multiple of `block_size`.
      block_size: 8, 16, 32, 64 or 128.
      layout: of R: a spec such as "ba:m=4,seed=0" or an array [blocks, blocks], which every gate
        has; an array [blocks, 4 blocks], a part for each gate; or None for a Barabási-Albert graph
        with a number of connections that suits the size.
      kernel_layout: of W: None for a dense one, or as `layout` with blocks of inputs first; then
        the features must be a multiple of `block_size`.
      use_bias, unit_forget_bias: as in Keras.
      kernel_initializer, recurrent_initializer, bias_initializer: any of Keras's. For block-sparse
        weights those that depend on fans or shape are replaced by their equivalents in
        `bsparse_tf.initializers`.
      kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer,
      kernel_constraint, recurrent_constraint, bias_constraint: as in Keras, on stored blocks
        [blocks, block_size, block_size] where weights are block-sparse.
      dropout, recurrent_dropout: shares of x and of h that are dropped in training; one mask a
        sequence, and the same for all gates.
      seed: of dropout.
      recompute: keep only the states for the way back, and multiply again there: less memory, a
        third more time, the same bits.
      return_sequences, return_state, go_backwards, stateful, zero_output_for_mask, **kwargs: as
        for any recurrent layer of Keras.

    Attributes:
      cell: holds the weights: `kernel`, `recurrent_kernel` [blocks, block_size, block_size],
        `bias` [4 units], and `recurrent_matmul`, the BlocksparseMatMul of R [units, 4 units].

    Raises:
      ValueError: if units, or with a kernel_layout the features, are not a multiple of block_size;
        if a layout does not fit them.
      RuntimeError: if Keras runs on another backend than TensorFlow.
    """

    cell_class = BlockSparseLSTMCell

    @classmethod
    def from_dense(cls, layer, layout=None, block_size=32, **kwargs):
        """A built layer with the weights of a `keras.layers.LSTM`, less those outside the layout.

        Args:
          layer: a built `keras.layers.LSTM` with the usual activations, tanh and sigmoid.
          layout, block_size: as for the class.
          **kwargs: anything else that the class takes, in place of what carries over: `use_bias`,
            the returns, `go_backwards`, `stateful`, dtype policy, dropout rates.

        Raises:
          ValueError: if `layer` is not built or has other activations.
        """
        _check_convertible(layer)
        shared = {
            "use_bias": layer.use_bias,
            "return_sequences": layer.return_sequences,
            "return_state": layer.return_state,
            "go_backwards": layer.go_backwards,
            "stateful": layer.stateful,
            "zero_output_for_mask": layer.zero_output_for_mask,
            "dropout": layer.dropout,
            "recurrent_dropout": layer.recurrent_dropout,
            "dtype": layer.dtype_policy,
        }
        sparse = cls(layer.units, block_size, layout, **{**shared, **kwargs})
        kernel = layer.cell.kernel.numpy()
        batch = layer.states[0].shape[0] if layer.stateful else None
        sparse.build((batch, None, kernel.shape[0]))
        cell = sparse.cell
        blocks = cell.recurrent_matmul.from_dense(layer.cell.recurrent_kernel.numpy())
        cell.recurrent_kernel.assign(blocks)
        if cell.kernel_matmul is not None:
            kernel = cell.kernel_matmul.from_dense(kernel)
        cell.kernel.assign(kernel)
        if cell.use_bias and layer.use_bias:
            cell.bias.assign(layer.cell.bias)
        return sparse


def _check_convertible(layer):
    if not layer.built:
        raise ValueError(f"layer {layer.name} is not built, so it has no weights to take over")
    wanted = (keras.activations.tanh, keras.activations.sigmoid)
    found = (layer.activation, layer.recurrent_activation)
    if found != wanted:
        names = [keras.activations.serialize(activation) for activation in found]
        raise ValueError(
            f"layer {layer.name} has activation={names[0]!r} and recurrent_activation="
            f"{names[1]!r}; expected 'tanh' and 'sigmoid'"
        )
