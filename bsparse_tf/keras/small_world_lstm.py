"""`SmallWorldLSTM`: the recurrent network of "GPU Kernels for Block-Sparse Weights"."""

import functools

import keras
import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import initializers
from bsparse_tf.keras import layout_argument
from bsparse_tf.keras.recurrent import (
    GATES,
    RecurrentCell,
    RecurrentLayer,
    fresh,
    share,
    tiled,
    tiled_initializer,
)
from bsparse_tf.layer_normalization import layer_norm
from bsparse_tf.matmul import BlocksparseMatMul
from bsparse_tf.recurrent import cells
from bsparse_tf.recurrent.linear import BlockSparseLinear, DenseLinear
from bsparse_tf.recurrent.small_world import small_world_lstm
from bsparse_tf.sparse_proj import SparseProj


@keras.saving.register_keras_serializable(package="bsparse_tf")
class SmallWorldLSTMCell(RecurrentCell):
    """One step of `SmallWorldLSTM`, whose arguments it takes.

    In `keras.layers.RNN` it makes weight gradients at every step; the layer makes one a sequence.
    """

    def __init__(
        self,
        units,
        block_size=32,
        layout=None,
        internal_steps=4,
        stride=2,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="identity",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        update_dropout=0.0,
        epsilon=1e-6,
        seed=None,
        **kwargs,
    ):
        checks.check_block_size(block_size)
        checks.count_blocks("units", units, block_size)
        super().__init__(**kwargs)
        self.units = int(units)
        self.block_size = int(block_size)
        self.internal_steps = _at_least("internal_steps", internal_steps, 2)
        self.stride = _at_least("stride", stride, 1)
        if units % self.stride:
            raise ValueError(
                f"units must be a multiple of stride={stride}, of which inputs and outputs touch "
                f"every {stride}th; got {units}"
            )
        self.layout = _normalise(layout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.unit_forget_bias = unit_forget_bias
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.update_dropout = share("update_dropout", update_dropout)
        self.epsilon = epsilon
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed=seed)
        self.state_size = [self.units, self.units]
        self.output_size = self.units // self.stride
        self._maps = self._make_maps()
        self._project = SparseProj(self.units, proj_stride=self.stride)
        self.kernels = []
        self.norms = []

    def _make_maps(self):
        """For each internal step, and last for the gates, the BlocksparseMatMul of a square layout;
        None where it is dense."""
        blocks = self.units // self.block_size
        count = self.internal_steps + 1
        layout = self.layout
        if layout is None:
            layout = layout_argument.default_spec(blocks, blocks).replace("seed=0", "seed={step}")
        if not isinstance(layout, list):
            layout = [layout] * count
        if len(layout) != count:
            raise ValueError(
                f"layout has {len(layout)} entries; expected {count}: one for each of "
                f"internal_steps={self.internal_steps} and one for the gates"
            )
        maps = []
        for step, one in enumerate(layout):
            if isinstance(one, str):
                one = one.replace("{step}", str(step))
            if isinstance(one, str) and one == "dense":
                maps.append(None)
            else:
                one = layout_argument.resolve(one, blocks, blocks)
                maps.append(BlocksparseMatMul(one, self.block_size, name=f"hidden_{step}"))
        return maps

    @property
    def matmuls(self):
        """The BlocksparseMatMul of each internal step and of a gate; dense ones are left out."""
        return [m for m in self._maps if m is not None]

    def build(self, input_shape):
        features = input_shape[-1]
        for name in ("input_m", "input_a"):
            kernel = self.add_weight(
                name=name,
                shape=(features, self.output_size),
                initializer=fresh(self.kernel_initializer, len(self.kernels)),
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            self._add_linear(name, kernel, self.output_size)
        options = {
            "regularizer": self.recurrent_regularizer,
            "constraint": self.recurrent_constraint,
        }
        self._linears = []
        for step, square in enumerate(self._maps):
            gates = step == self.internal_steps
            name = "gates" if gates else f"hidden_{step}"
            outputs = GATES * self.units if gates else self.units
            # Seeded initializers would otherwise give every matrix the same values.
            initializer = fresh(self.recurrent_initializer, step * GATES)
            if square is None:
                kernel = self.add_weight(
                    name=name,
                    shape=(self.units, outputs),
                    initializer=_dense_initializer(initializer, outputs // self.units),
                    autocast=False,
                    **options,
                )
                self._linears.append(DenseLinear(self.units, outputs))
            else:
                matmul = square
                if gates:
                    initializer = tiled_initializer(initializer, square)
                    matmul = BlocksparseMatMul(tiled(square.layout), self.block_size, name=name)
                kernel = self.add_blocks(name, matmul, initializer, **options)
                self._linears.append(BlockSparseLinear(matmul))
            self._add_linear(name, kernel, outputs)

    def _add_linear(self, name, kernel, outputs):
        """Notes a kernel and makes gain and bias of the layer norm behind it."""
        forget_bias = name == "gates" and self.unit_forget_bias

        def initial_bias(shape, dtype=None):
            forget = tf.range(shape[0]) // self.units == 1  # The second gate is the forget gate.
            return tf.cast(forget & forget_bias, dtype)

        options = {"shape": (outputs,), "autocast": False}
        gain = self.add_weight(name=name + "_gain", initializer="ones", **options)
        bias = self.add_weight(name=name + "_bias", initializer=initial_bias, **options)
        self.kernels.append(kernel)
        self.norms.append((gain, bias))

    def prepare(self, x, state, mask, training):
        (m, a), weights, norms = self._tensors(x)
        # Spread over all units once a sequence, not at every step.
        every = tf.ones(tf.concat([tf.shape(m)[:-1], [self.units]], 0), m.dtype)
        inputs = [self._project.scatter_mul(every, m), self._project.scatter(a)]
        step = functools.partial(
            cells.small_world_step,
            steps=self.internal_steps,
            epsilon=self.epsilon,
            dropout=self._dropout(state[0]) if training and self.update_dropout else None,
        )
        parameters = [parameter for norm in norms for parameter in norm]
        inputs += [] if mask is None else [mask]
        return step, self._linears, weights, inputs, parameters

    def run(self, x, state, mask, training, recompute):
        dense = None in self._maps
        if dense or mask is not None or (training and self.update_dropout):
            return super().run(x, state, mask, training, recompute)
        (m, a), weights, norms = self._tensors(x)
        matmuls = [linear.matmul for linear in self._linears]
        hidden, h, c = small_world_lstm(
            matmuls, weights, norms, m, a, *state, epsilon=self.epsilon, recompute=recompute
        )
        return hidden, (h, c)

    def _tensors(self, x):
        """((m, a) of all steps and every stride-th unit; the recurrent weights; their norms)."""
        kernels = [tf.convert_to_tensor(kernel) for kernel in self.kernels]
        norms = [[tf.convert_to_tensor(p) for p in pair] for pair in self.norms]
        inputs = [
            layer_norm(tf.matmul(x, kernel), *norm, axis=1, epsilon=self.epsilon)
            for kernel, norm in zip(kernels[:2], norms)
        ]
        return inputs, kernels[2:], norms[2:]

    def _dropout(self, h):
        """A function of the step that gives its mask: the same when it is asked again."""
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        keep = 1 - self.update_dropout

        def mask(t):
            uniform = tf.random.stateless_uniform(tf.shape(h), seed + [0, 1] * t)
            return tf.cast(uniform < keep, h.dtype) / tf.cast(keep, h.dtype)

        return mask

    def output(self, h):
        return self._project.gather(h)

    def get_config(self):
        config = {
            "units": self.units,
            "block_size": self.block_size,
            "layout": _to_config(self.layout),
            "internal_steps": self.internal_steps,
            "stride": self.stride,
            "unit_forget_bias": self.unit_forget_bias,
            "update_dropout": self.update_dropout,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }
        for part in ("kernel", "recurrent"):
            for kind in ("initializer", "regularizer", "constraint"):
                serialize = getattr(keras, kind + "s").serialize
                config[f"{part}_{kind}"] = serialize(getattr(self, f"{part}_{kind}"))
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="bsparse_tf")
class SmallWorldLSTM(RecurrentLayer):
    """The multiplicative LSTM with deep updates and block-sparse weights.

    From Gray, Radford and Kingma, "GPU Kernels for Block-Sparse Weights" (2017), section 4.1 and
    Algorithm 1, after the multiplicative LSTM of Krause et al. (2016). Between two time steps h
    goes through several sparse layers, enough for every unit to reach every other on a small-world
    layout. With linear(v) = layer_norm(v W), gain and bias included, every time with another W:

      v = linear(h) * linear(x)                multiplicative
      v = relu(linear(v) + linear(x))          additive
      v = relu(linear(v))                      for each further one of `internal_steps`
      i, f, g, o = linear(v), each             c = s(f) c + s(i) tanh(g)        h = s(o) tanh(c)

    Inputs reach every `stride`-th unit (the others go through the first two lines on their own),
    and only these units are given out, so that dense layers before and after it stay small. All of
    h and c are the state. Masks, initial states and outputs are as for `keras.layers.LSTM`, with
    outputs [N, T, units / stride] or [N, units / stride] and states [N, units].

    All steps of a sequence make one gradient for each W, so training differentiates once, not
    twice. Under a mixed policy weights, gains and biases stay in float32, with float32 gradients;
    weights are rounded once a call (to generate step by step, "bfloat16" saves that), and c is kept
    in float32 within a sequence.

    Args:
      units: a multiple of `block_size` and of `stride`.
      block_size: 8, 16, 32, 64 or 128.
      layout: of the square W: one for all, or a list of `internal_steps` + 1, the last for the
        gates, which share one. Each is a spec such as "ba:m=4,seed=0", in which "{step}" stands for
        the number of the internal step ("ba:m=4,seed={step}" gives each its own graph), or an array
        [blocks, blocks], or "dense", which is stored and multiplied as an ordinary matrix. None is
        a Barabási-Albert graph for each step, with a number of connections that suits the size.
      internal_steps: D of the report, 2 or more. It saw no gain beyond 4.
      stride: 1 lets inputs and outputs touch all units.
      kernel_initializer: of the two W that x is multiplied by.
      recurrent_initializer: of the others; "identity", as in the report's own code, or any of
        Keras's, block-sparse weights with their equivalents in `bsparse_tf.initializers`.
      unit_forget_bias: whether the forget gate's bias starts at 1.
      kernel_regularizer, recurrent_regularizer, kernel_constraint, recurrent_constraint: on those
        weights; block-sparse ones are [blocks, block_size, block_size].
      update_dropout: share of the elements of tanh(g) that are dropped in training, others at each
        step (Semeniuta et al. 2016).
      epsilon: of the layer norms. From a state of zeros two norms in a row multiply gradients by
        1 / epsilon, more than float16 holds: take 1e-3 there, or start from another state.
      seed: of dropout.
      activity_regularizer: as in Keras.
      recompute: keep only the states for the way back, and multiply again there: less memory, a
        third more time, the same bits.
      return_sequences, return_state, go_backwards, stateful, zero_output_for_mask, **kwargs: as
        for any recurrent layer of Keras.

    Attributes:
      cell: holds the weights: `kernels`, a list (x multiplicative, x additive, internal steps,
        gates), `norms`, their (gain, bias) pairs, and `matmuls`, the BlocksparseMatMul of each
        internal step and of one gate.

    Raises:
      ValueError: if units are not a multiple of block_size and stride; if a layout does not fit;
        if internal_steps is below 2.
      RuntimeError: if Keras runs on another backend than TensorFlow.
    """

    cell_class = SmallWorldLSTMCell


def _at_least(name, value, lowest):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < lowest:
        raise ValueError(f"{name} must be a whole number of at least {lowest}; got {value!r}")
    return int(value)


def _normalise(layout):
    """A list of layouts as such, or one layout; a nested list of numbers is one array."""
    several = isinstance(layout, (list, tuple)) and any(
        one is None or hasattr(one, "shape") or isinstance(one, (str, dict)) for one in layout
    )
    if several:
        return [layout_argument.normalise(one) for one in layout]
    return layout_argument.normalise(layout)


def _to_config(layout):
    if isinstance(layout, list):
        return [layout_argument.to_config(one) for one in layout]
    return layout_argument.to_config(layout)


def _dense_initializer(initializer, matrices):
    """Initial values of square matrices side by side, each initialised by itself."""

    def values(shape, dtype=None):
        square = BlocksparseMatMul.from_spec("dense", shape[0], block_size=8)
        parts = [
            initializers.for_shape(fresh(initializer, i), square)(square.w_shape, dtype=dtype)
            for i in range(matrices)
        ]
        return tf.concat([square.to_dense(part) for part in parts], 1)

    return values
