"""Initial weights that know the layout.

A [blocks, block_size, block_size] tensor does not show how many inputs a unit has, so the ordinary
initializers would take its fans from the wrong numbers. These take the `BlocksparseMatMul` itself:

    w = tf.Variable(initializers.GlorotUniform(seed=0)(matmul))
    BlockSparseDense(1024, kernel_initializer="glorot_uniform")       # the same, by name
    BlockSparseDense(1024, kernel_initializer=initializers.Identity())

`get` turns the names and objects of Keras into their equivalents here.
"""

import inspect
import random
import warnings

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import layouts

_PACKAGE = "bsparse_tf"
_TRUNCATED_STDDEV = 0.87962566103423978  # Of a unit normal cut off at two standard deviations.


class LayoutInitializer(keras.initializers.Initializer):
    """Base class: called with a BlocksparseMatMul where a Keras initializer is called with a shape.

    Args:
      seed: int, `keras.random.SeedGenerator`, or None for one drawn from Python's `random` (which
        `keras.utils.set_random_seed` seeds). With an int every call gives the same values.
    """

    def __init__(self, seed=None):
        if isinstance(seed, dict):
            seed = keras.saving.deserialize_keras_object(seed)
        self._given_seed = seed
        self.seed = random.randint(1, 10**9) if seed is None else seed

    def __call__(self, matmul, dtype=None):
        """Values for `w`.

        Args:
          matmul: a BlocksparseMatMul.
          dtype: of the result; `keras.config.floatx()` if None.

        Returns:
          Tensor of shape `matmul.w_shape`.

        Raises:
          TypeError: if `matmul` is a shape, from which the fans cannot be known.
        """
        if not hasattr(matmul, "w_shape"):
            raise TypeError(
                f"{type(self).__name__} needs to know the layout: call it with a "
                f"BlocksparseMatMul, not with the shape {matmul!r}"
            )
        dtype = tf.as_dtype(dtype or keras.config.floatx())
        # Drawn in float32 at least, so that a 16-bit w is rounded only once.
        wide = tf.float64 if dtype == tf.float64 else tf.float32
        return tf.cast(self.values(matmul, wide.name), dtype)

    def values(self, matmul, dtype):
        """What subclasses provide: `matmul.w_shape` in "float32" or "float64"."""
        raise NotImplementedError

    def get_config(self):
        return {"seed": keras.saving.serialize_keras_object(self._given_seed)}


def block_variances(matmul, scale, mode):
    """The variance of the weights of each stored block, such that every unit gets its due.

    Output unit j in block column k has `fan_in(k)` = block_size * (blocks stored in column k)
    inputs; input unit i in block row c has `fan_out(c)` outputs, counted in the same way.

    * "fan_in": `scale / fan_in(k)`. The gain of every output unit (its variance for inputs of
      variance 1, the sum of the variances of its weights) is `scale`, hubs included.
    * "fan_out": `scale / fan_out(c)`: the same for the gradient that reaches every input unit.
    * "fan_avg": `2 scale / (fan_in(k) + fan_out(c))`, then each column is multiplied by a factor
      that makes the gain of all its units `scale * 2C / (C + K)`. That is what Glorot's rule gives
      a dense matrix; without the factor, a hub whose inputs have few outputs would have nearly
      twice the variance of its neighbours.

    On a dense layout all three are the rules of He et al. (2015) and Glorot and Bengio (2010).

    Returns:
      float64 array [blocks].
    """
    c, k = matmul.coords.T
    fan_in = matmul.block_size * matmul.layout.sum(axis=0)
    fan_out = matmul.block_size * matmul.layout.sum(axis=1)
    if mode == "fan_in":
        return scale / fan_in[k]
    if mode == "fan_out":
        return scale / fan_out[c]
    variances = 2.0 / (fan_in[k] + fan_out[c])
    gains = matmul.block_size * np.bincount(k, variances, minlength=matmul.KB)
    wanted = 2.0 * matmul.C / (matmul.C + matmul.K)
    return scale * variances * wanted / gains[k]


@keras.saving.register_keras_serializable(package=_PACKAGE)
class VarianceScaling(LayoutInitializer):
    """Random weights whose variance follows from the blocks that really feed a unit.

    How each block is scaled: see `block_variances`.

    Args:
      scale: positive float.
      mode: "fan_in", "fan_out" or "fan_avg".
      distribution: "uniform", "truncated_normal" or "untruncated_normal".
      seed: see LayoutInitializer.
    """

    def __init__(self, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None):
        super().__init__(seed)
        if scale <= 0:
            raise ValueError(f"scale must be positive; got {scale}")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"mode must be 'fan_in', 'fan_out' or 'fan_avg'; got {mode!r}")
        if distribution == "normal":  # Keras's older name.
            distribution = "truncated_normal"
        if distribution not in ("uniform", "truncated_normal", "untruncated_normal"):
            raise ValueError(
                "distribution must be 'uniform', 'truncated_normal' or 'untruncated_normal'; got "
                f"{distribution!r}"
            )
        self.scale = scale
        self.mode = mode
        self.distribution = distribution

    def values(self, matmul, dtype):
        shape = matmul.w_shape
        if self.distribution == "uniform":
            unit, stddev = keras.random.uniform(shape, -1.0, 1.0, dtype, self.seed), 3**-0.5
        elif self.distribution == "truncated_normal":
            unit = keras.random.truncated_normal(shape, dtype=dtype, seed=self.seed)
            stddev = _TRUNCATED_STDDEV
        else:
            unit, stddev = keras.random.normal(shape, dtype=dtype, seed=self.seed), 1.0
        factors = np.sqrt(block_variances(matmul, self.scale, self.mode)) / stddev
        return unit * factors.astype(dtype)[:, None, None]

    def get_config(self):
        config = {"scale": self.scale, "mode": self.mode, "distribution": self.distribution}
        return {**super().get_config(), **config}


class _Preset(VarianceScaling):
    """A VarianceScaling known by name, of which only the seed is free."""

    _settings = {}

    def __init__(self, seed=None):
        super().__init__(seed=seed, **self._settings)

    def get_config(self):
        return LayoutInitializer.get_config(self)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class GlorotUniform(_Preset):
    """Uniform; every unit's gain as Glorot and Bengio (2010) have it for a dense matrix."""

    _settings = {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class GlorotNormal(_Preset):
    """Truncated normal; every unit's gain as Glorot and Bengio (2010) have it."""

    _settings = {"scale": 1.0, "mode": "fan_avg", "distribution": "truncated_normal"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class HeUniform(_Preset):
    """Uniform; gain 2 for every unit, for layers with relu (He et al. 2015)."""

    _settings = {"scale": 2.0, "mode": "fan_in", "distribution": "uniform"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class HeNormal(_Preset):
    """Truncated normal; gain 2 for every unit, for layers with relu (He et al. 2015)."""

    _settings = {"scale": 2.0, "mode": "fan_in", "distribution": "truncated_normal"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LecunUniform(_Preset):
    """Uniform; gain 1 for every unit."""

    _settings = {"scale": 1.0, "mode": "fan_in", "distribution": "uniform"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LecunNormal(_Preset):
    """Truncated normal; gain 1 for every unit."""

    _settings = {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Identity(LayoutInitializer):
    """`scale` times the identity in the blocks that join a unit to itself, zeros elsewhere.

    On a square layout with its self connections that is the identity matrix; on a rectangular one
    the identity is stretched along the longer side (`layouts.self_connections`). This is how Gray, Radford and Kingma ("GPU
    Kernels for Block-Sparse Weights", 2017, with the code published beside it) start the sparse
    matrices of their recurrent networks, with layer normalisation behind each. Warns if an
    output block has no such block in the layout, since its units then start at zero.

    Args:
      scale: float, the value on the diagonals.
    """

    def __init__(self, scale=1.0):
        super().__init__(seed=0)
        self.scale = scale

    def values(self, matmul, dtype):
        c, k = matmul.coords.T
        chosen = layouts.self_connections(matmul.CB, matmul.KB)[c, k]
        dead = matmul.KB - len(np.unique(k[chosen]))
        if dead:
            warnings.warn(
                f"Identity: {dead} of {matmul.KB} output blocks have no self connection in the "
                "layout; their units start at zero",
                stacklevel=2,
            )
        factors = tf.constant(np.where(chosen, self.scale, 0.0), dtype)
        return factors[:, None, None] * tf.eye(matmul.block_size, dtype=dtype)

    def get_config(self):
        return {"scale": self.scale}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Orthogonal(LayoutInitializer):
    """Random orthonormal columns: the weights into one unit are orthogonal to those into another.

    Output blocks that read the same input blocks form one dense submatrix. Its columns are
    orthonormal, from the QR decomposition of a normal matrix with the signs that make it uniform
    (Saxe et al. 2014); if it has more outputs than inputs its rows are orthonormal instead. So a
    dense layout gets one orthogonal matrix, a block-diagonal one an orthogonal matrix for each
    part, and in any other each output block is orthonormal over the inputs that feed it. Between
    output blocks whose inputs overlap only in part nothing is promised.

    Args:
      gain: float, multiplies the result.
      seed: see LayoutInitializer.
    """

    def __init__(self, gain=1.0, seed=None):
        super().__init__(seed)
        self.gain = gain

    def values(self, matmul, dtype):
        normal = keras.random.normal(matmul.w_shape, dtype=dtype, seed=self.seed)
        ids, values = [], []
        for group in _dense_submatrices(matmul):
            # group: [submatrices, inputs, outputs], the number of the block in w.
            blocks = tf.transpose(tf.gather(normal, group), (0, 1, 3, 2, 4))
            count, inputs, outputs = group.shape
            matrix = _orthonormal(
                tf.reshape(
                    blocks, (count, inputs * matmul.block_size, outputs * matmul.block_size)
                )
            )
            matrix = tf.reshape(matrix, blocks.shape)
            blocks = tf.transpose(matrix, (0, 1, 3, 2, 4))
            ids.append(group.reshape(-1))
            values.append(tf.reshape(blocks, (-1, *matmul.w_shape[1:])))
        if not ids:
            return normal
        order = np.argsort(np.concatenate(ids))
        return self.gain * tf.gather(tf.concat(values, axis=0), order)

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


def _dense_submatrices(matmul):
    """Block numbers of the columns with the same inputs: arrays [submatrices, inputs, outputs].

    Submatrices of one shape are stacked, so that they share one decomposition.
    """
    number = np.full(matmul.layout.shape, -1)
    number[matmul.layout] = np.arange(matmul.blocks)  # coords are in this order, row by row
    columns = {}
    for k in range(matmul.KB):
        columns.setdefault(tuple(np.flatnonzero(matmul.layout[:, k])), []).append(k)
    shapes = {}
    for rows, ks in columns.items():
        if rows:
            shapes.setdefault((len(rows), len(ks)), []).append(number[np.ix_(rows, ks)])
    return [np.stack(submatrices) for submatrices in shapes.values()]


def _orthonormal(matrix):
    """[..., rows, columns] -> the same with orthonormal columns, or rows if those are fewer."""
    wide = matrix.shape[-2] < matrix.shape[-1]
    if wide:
        matrix = tf.linalg.matrix_transpose(matrix)
    q, r = tf.linalg.qr(matrix)
    diagonal = tf.linalg.diag_part(r)
    q *= tf.where(diagonal < 0, -tf.ones_like(diagonal), tf.ones_like(diagonal))[..., None, :]
    return tf.linalg.matrix_transpose(q) if wide else q


# Those of Keras whose values depend on the fans or on the shape of the matrix.
_EQUIVALENTS = {
    keras.initializers.VarianceScaling: VarianceScaling,
    keras.initializers.GlorotUniform: GlorotUniform,
    keras.initializers.GlorotNormal: GlorotNormal,
    keras.initializers.HeUniform: HeUniform,
    keras.initializers.HeNormal: HeNormal,
    keras.initializers.LecunUniform: LecunUniform,
    keras.initializers.LecunNormal: LecunNormal,
    keras.initializers.Orthogonal: Orthogonal,
}


def get(identifier):
    """An initializer by anything that Keras accepts, aware of the layout where that matters.

    Args:
      identifier: a name ("glorot_uniform", "orthogonal", ...), a configuration, an object of
        Keras or of this module, or a function of (shape, dtype). Keras's own objects whose values
        depend on fans or on the matrix's shape become their equivalents here; those that do not
        (zeros, constant, random_normal, ...) are kept as they are.
    """
    initializer = keras.initializers.get(identifier)
    if type(initializer) is keras.initializers.Identity:
        return Identity(scale=initializer.gain)
    equivalent = _EQUIVALENTS.get(type(initializer))
    if equivalent is None:
        return initializer
    parameters = inspect.signature(equivalent).parameters
    config = initializer.get_config()  # May hold more (which axes are inputs) than applies here.
    return equivalent(**{key: config[key] for key in parameters})


def for_shape(initializer, matmul):
    """`initializer` as a function of (shape, dtype), which is what a Keras variable calls."""
    if isinstance(initializer, LayoutInitializer):
        return lambda shape, dtype=None: initializer(matmul, dtype)
    return initializer
