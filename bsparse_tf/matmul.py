"""`BlocksparseMatMul`: a block-sparse layout as an object that multiplies."""

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import layouts, ops, weight_norm

_W_SHAPE = "that is (blocks, block_size, block_size)"
_G_SHAPE = "that is (blocks,)"


class BlocksparseMatMul:
    """Products with a block-sparse matrix W whose pattern is fixed by a layout.

    The object holds the pattern only. The weights `w` are an ordinary tensor or variable of shape
    `w_shape`, passed to each call, so several weights can share one object. `w[b, i, j]` joins
    input `c * block_size + i` to output `k * block_size + j`, where `(c, k) = coords[b]`; blocks
    are ordered by c, then by k.

    The object is immutable, can be pickled, and compares and hashes by what it computes (layout,
    block size and feature axis; not its name).

    Args:
      layout: array-like of 0/1 or bool, shape [CB, KB]: rows are blocks of inputs, columns are
        blocks of outputs. Single rows and columns may be empty.
      block_size: 8, 16, 32, 64 or 128.
      feature_axis: 1 for features last, [..., C] -> [..., K]; 0 for features first,
        [C, ...] -> [K, ...].
      name: of the ops in a graph.

    Attributes:
      layout: bool array [CB, KB], read-only.
      coords: int32 array [blocks, 2], (c, k) of each stored block, read-only.
      block_size, feature_axis, name: as given.
      CB, KB: numbers of blocks of inputs and of outputs.
      C, K: numbers of inputs and of outputs.
      blocks: number of stored blocks.
      w_shape: (blocks, block_size, block_size).
      g_shape: (blocks,), the shape of a gate.
      density: blocks / (CB * KB).
      sparsity: 1 - density.

    Raises:
      TypeError: if `layout` is a layout spec; `from_spec` takes those.
      ValueError: if `layout` is not two-dimensional, is empty or has entries other than 0 and 1;
        if `block_size` or `feature_axis` is not supported.
    """

    def __init__(self, layout, block_size=32, feature_axis=1, name=None):
        if isinstance(layout, str):
            raise TypeError(
                f"layout must be a 0/1 array [CB, KB], got the string {layout!r}; to build one "
                "from a spec use BlocksparseMatMul.from_spec(spec, in_features, out_features)"
            )
        checks.check_block_size(block_size)
        checks.check_feature_axis(feature_axis)
        self.layout = _read_only(layouts.as_layout(layout))
        self.coords = _read_only(layouts.to_coords(self.layout))
        self.block_size = int(block_size)
        self.feature_axis = int(feature_axis)
        self.name = name
        self.CB, self.KB = self.layout.shape
        self.C, self.K = self.CB * self.block_size, self.KB * self.block_size
        self.blocks = len(self.coords)
        self.w_shape = (self.blocks, self.block_size, self.block_size)
        self.g_shape = (self.blocks,)
        self.density = self.blocks / (self.CB * self.KB)
        self.sparsity = 1.0 - self.density
        self._eager_coords = None

    @classmethod
    def from_spec(
        cls, spec, in_features, out_features=None, block_size=32, feature_axis=1, name=None
    ):
        """Builds the layout from a graph family and sizes.

        Args:
          spec: a layout spec such as "ba:m=4,seed=0" or "dense"; see `layouts.from_spec`.
          in_features: C, a multiple of `block_size`.
          out_features: K, a multiple of `block_size`; C if None.
          block_size, feature_axis, name: as for the class.

        Raises:
          ValueError: if a size is not a positive multiple of `block_size`, or the spec is wrong.
        """
        checks.check_block_size(block_size)
        out_features = in_features if out_features is None else out_features
        in_blocks = checks.count_blocks("in_features", in_features, block_size)
        out_blocks = checks.count_blocks("out_features", out_features, block_size)
        layout = layouts.from_spec(spec, in_blocks, out_blocks)
        return cls(layout, block_size, feature_axis, name)

    # Sizes. N, the batch, is a capital in every formula of this package.

    def i_shape(self, N):
        """Shape of x for a batch of N: (N, C), or (C, N) with features first."""
        return (N, self.C) if self.feature_axis == 1 else (self.C, N)

    def o_shape(self, N):
        """Shape of y for a batch of N: (N, K), or (K, N) with features first."""
        return (N, self.K) if self.feature_axis == 1 else (self.K, N)

    def flops(self, N=1):
        """Floating-point operations of one product with a batch of N: 2 for each weight."""
        return 2 * self.blocks * self.block_size**2 * N

    def block_coord(self, b):
        """(c, k) of stored block b; IndexError unless 0 <= b < blocks."""
        if not 0 <= b < self.blocks:
            raise IndexError(
                f"block {b} does not exist: the layout stores {self.blocks}, 0 to {self.blocks - 1}"
            )
        c, k = self.coords[b]
        return int(c), int(k)

    # Products.

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        x,
        w,
        gate=None,
        gate_grad=False,
        dw_gated=False,
        dw_dtype=None,
        *,
        bias=None,
        activation=None,
        residual=None,
        straight_through=False,
        precision=None,
        name=None,
    ):
        """y = activation(x W + bias) + residual.

        Differentiable in x, w, bias, residual and (with `gate_grad`) gate, any number of times.

        Args:
          x: [..., C], or [C, ...] with feature axis 0, of rank 2 or more; float32, float16,
            bfloat16, or float64 on the CPU.
          w: `w_shape`; x's dtype, or float32 where x is 16-bit: then w is rounded to x's dtype
            inside the op, and its gradient comes back in float32.
          gate: None, or float32 [blocks]: block b counts as `gate[b] * w[b]`, and where `gate[b]`
            is 0 it is skipped.
          gate_grad: give the gate its gradient; without it the gate counts as a constant.
          dw_gated: together with `gate_grad`: leave blocks whose gate is 0 out of the work of the
            gradients; theirs is 0.
          dw_dtype: dtype of the gradient of w. It is always w's dtype; saying so here turns a
            mistaken belief into an error.
          bias: None, or [K] of x's dtype.
          activation: None, "relu" or "gelu" (exact, by erf).
          residual: None, or what is added after the activation: of y's shape and x's dtype. The sum
            is rounded once. The gradient of relu then takes one more product, as that of gelu does.
          straight_through: leave the gate out of the gradient of w, so that blocks which are
            switched off go on learning. The default is the true gradient.
          precision: how a GPU multiplies float32 numbers: None, "float32", "tf32" or "tf32x3"; see
            `bsparse_tf.ops.matmul`.
          name: of the op; the object's name if None.

        Returns:
          [..., K], or [K, ...] with feature axis 0; x's dtype.

        Raises:
          ValueError: if a shape does not fit the layout, or an option does not make sense.
          TypeError: if a dtype does not fit.
        """
        options = dict(gate=gate, gate_grad=gate_grad, dw_gated=dw_gated, dw_dtype=dw_dtype)
        options.update(bias=bias, activation=activation, residual=residual)
        options.update(straight_through=straight_through, precision=precision)
        return self._multiply(x, w, name=name, transpose=False, **options)

    matmul = __call__

    @tf.autograph.experimental.do_not_convert
    def transpose_matmul(
        self,
        y,
        w,
        gate=None,
        gate_grad=False,
        dw_gated=False,
        dw_dtype=None,
        *,
        bias=None,
        activation=None,
        residual=None,
        straight_through=False,
        precision=None,
        name=None,
    ):
        """x = activation(y Wᵀ + bias) + residual: from the output side back to the input side.

        The gradient of x in `y = x W` is this product, and tied weights (an autoencoder, an output
        layer that shares the embedding) need it too. Arguments as for `__call__`, with C and K
        exchanged: y is [..., K], or [K, ...] with feature axis 0, `bias` is [C] and `residual` of
        the result's shape.

        Returns:
          [..., C], or [C, ...] with feature axis 0; y's dtype.
        """
        options = dict(gate=gate, gate_grad=gate_grad, dw_gated=dw_gated, dw_dtype=dw_dtype)
        options.update(bias=bias, activation=activation, residual=residual)
        options.update(straight_through=straight_through, precision=precision)
        return self._multiply(y, w, name=name, transpose=True, **options)

    def _multiply(
        self,
        x,
        w,
        *,
        transpose,
        gate,
        gate_grad,
        dw_gated,
        dw_dtype,
        bias,
        activation,
        residual,
        straight_through,
        precision,
        name,
    ):
        argument = "y" if transpose else "x"
        if keras.utils.is_keras_tensor(x):
            raise TypeError(
                f"{argument} is a symbolic input of a functional Keras model, in which this object "
                "could not own w; use bsparse_tf.keras.BlockSparseDense there"
            )
        takes, gives = (self.K, self.C) if transpose else (self.C, self.K)
        x = tf.convert_to_tensor(x, name=argument)
        w = tf.convert_to_tensor(w, name="w")
        checks.check_features(argument, x, takes, self.feature_axis, "K" if transpose else "C")
        checks.check_shape("w", w, self.w_shape, _W_SHAPE)
        checks.check_weight_dtype(argument, x, w, dw_dtype)
        if gate is not None:
            gate = checks.as_tensor("gate", gate, tf.float32, "it scales float32 sums")
            checks.check_shape("gate", gate, self.g_shape, _G_SHAPE)
        elif gate_grad or dw_gated or straight_through:
            raise ValueError(
                "gate_grad, dw_gated and straight_through say how to treat a gate, but gate is None"
            )
        if dw_gated and not gate_grad:
            raise ValueError(
                "dw_gated=True restricts the gate's gradient, which only exists with gate_grad=True"
            )
        if bias is not None:
            bias = checks.as_tensor("bias", bias, x.dtype, f"that is {argument}'s dtype")
            checks.check_shape("bias", bias, (gives,), "one for each output")
        if residual is not None:
            residual = checks.as_tensor("residual", residual, x.dtype, f"that is {argument}'s dtype")
            expected = self._shape_of_result(x, gives)
            checks.check_shape("residual", residual, expected, "the shape of the result")
        return ops.matmul(
            x,
            w,
            self._coords_argument(),
            block_size=self.block_size,
            in_blocks=self.CB,
            out_blocks=self.KB,
            feature_axis=self.feature_axis,
            precision=precision,
            transpose=transpose,
            gate=gate,
            bias=bias,
            activation=activation,
            residual=residual,
            gate_grad=gate_grad,
            dw_gated=dw_gated,
            straight_through=straight_through,
            name=name or self.name,
        )

    def _shape_of_result(self, x, features):
        if x.shape.rank is None:
            return x.shape
        dims = x.shape.as_list()
        dims[0 if self.feature_axis == 0 else -1] = features
        return tf.TensorShape(dims)

    def _coords_argument(self):
        # A graph gets a constant of its own: an eager tensor captured by a graph would be pinned
        # to the device it was made on. Eager calls share one tensor, by which the kernel
        # recognises the layout without reading it.
        if not tf.executing_eagerly():
            return self.coords
        if self._eager_coords is None:
            with tf.device("CPU:0"):
                self._eager_coords = tf.constant(self.coords)
        return self._eager_coords

    # Weight norm.

    def l2_normalize(self, w, gain=None, epsilon=1e-12, dtype=None):
        """Weights whose columns in W have length 1, or `gain`; see `bsparse_tf.l2_normalize`.

        Args:
          w: `w_shape`.
          gain: [K], or None for ones.
          epsilon: the least sum of squares.
          dtype: of the result; w's by default.
        """
        return weight_norm.l2_normalize(
            w, gain, coords=self.coords, out_blocks=self.KB, epsilon=epsilon, dtype=dtype
        )

    # Dense and back.

    def to_dense(self, w):
        """The whole matrix W: [C, K] in w's dtype, zeros where there is no block.

        Args:
          w: `w_shape`, any dtype. NumPy in gives NumPy out; a tensor gives a tensor, and the
            gradient flows back.
        """
        tiled = (self.CB, self.KB, self.block_size, self.block_size)
        if isinstance(w, np.ndarray):
            checks.check_shape("w", w, self.w_shape, _W_SHAPE)
            tiles = np.zeros(tiled, w.dtype)
            tiles[self.coords[:, 0], self.coords[:, 1]] = w
            return tiles.transpose(0, 2, 1, 3).reshape(self.C, self.K)
        w = tf.convert_to_tensor(w, name="w")
        checks.check_shape("w", w, self.w_shape, _W_SHAPE)
        tiles = tf.scatter_nd(self.coords, w, tiled)
        return tf.reshape(tf.transpose(tiles, (0, 2, 1, 3)), (self.C, self.K))

    def from_dense(self, dense):
        """The stored blocks of a whole matrix: `w_shape` in its dtype; the rest is dropped.

        Args:
          dense: [C, K], any dtype. NumPy in gives NumPy out; a tensor gives a tensor, and the
            gradient flows back.
        """
        tiled = (self.CB, self.block_size, self.KB, self.block_size)
        if isinstance(dense, np.ndarray):
            checks.check_shape("dense", dense, (self.C, self.K), "that is (C, K)")
            tiles = dense.reshape(tiled).transpose(0, 2, 1, 3)
            return tiles[self.coords[:, 0], self.coords[:, 1]]
        dense = tf.convert_to_tensor(dense, name="dense")
        checks.check_shape("dense", dense, (self.C, self.K), "that is (C, K)")
        tiles = tf.transpose(tf.reshape(dense, tiled), (0, 2, 1, 3))
        return tf.gather_nd(tiles, self.coords)

    # Relatives.

    def with_feature_axis(self, feature_axis):
        """The same matrix for activations with features on that axis; w fits both."""
        if feature_axis == self.feature_axis:
            return self
        return BlocksparseMatMul(self.layout, self.block_size, feature_axis, self.name)

    def prune(self, w, gate):
        """Leaves out the blocks whose gate is 0. This object does not change.

        The blocks that stay keep their order and are not scaled: with a gate of zeros and ones
        the pruned product equals the gated one; with other values, go on passing
        `gate[gate != 0]`.

        Args:
          w: `w_shape`, tensor, variable or array; or anything else with a row for each block, such
            as an optimizer's slot.
          gate: [blocks], with values that can be read now (array or eager tensor).

        Returns:
          A smaller BlocksparseMatMul and the smaller w: an array for an array, else a tensor.

        Raises:
          ValueError: if gate or w is not as long as there are blocks.
        """
        gate = np.asarray(gate)
        checks.check_shape("gate", gate, self.g_shape, _G_SHAPE)
        checks.check_shape("w", w, (self.blocks, *w.shape[1:]), "a row for each block")
        kept = np.flatnonzero(gate)
        layout = np.zeros_like(self.layout)
        layout[self.coords[kept, 0], self.coords[kept, 1]] = True
        smaller = BlocksparseMatMul(layout, self.block_size, self.feature_axis, self.name)
        return smaller, w[kept] if isinstance(w, np.ndarray) else tf.gather(w, kept)

    # Identity.

    def __reduce__(self):
        bits = np.packbits(self.layout)
        return _unpickle, (bits, self.layout.shape, self.block_size, self.feature_axis, self.name)

    def _key(self):
        return layouts.digest(self.layout), self.block_size, self.feature_axis

    def __eq__(self, other):
        if not isinstance(other, BlocksparseMatMul):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def __repr__(self):
        name = f", name={self.name!r}" if self.name else ""
        return (
            f"BlocksparseMatMul({self.C} -> {self.K}, block_size={self.block_size}, "
            f"feature_axis={self.feature_axis}, {self.blocks} of {self.CB * self.KB} blocks, "
            f"density={self.density:.3g}{name})"
        )


def _unpickle(bits, shape, block_size, feature_axis, name):
    layout = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)
    return BlocksparseMatMul(layout, block_size, feature_axis, name)


def _read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array
