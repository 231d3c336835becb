"""Layouts, shapes and the rule of errors that all numeric tests share.

Truth is the product with the dense weights in float64. A result in some precision may err at most
`factor` times as much as the plain dense computation in that precision errs: 2 forward, 3 backward.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from hypothesis import settings
from hypothesis import strategies as st

BLOCK_SIZES = (8, 16, 32, 64, 128)
FORWARD, BACKWARD = 2.0, 3.0

BATCHES = st.sampled_from([0, 1, 2, 3, 7, 16, 17, 33, 64, 100, 129])

# Fixed seeds, and no deadline: the first example of a shape pays for TensorFlow's start.
DETERMINISTIC = settings(derandomize=True, deadline=None, max_examples=25, print_blob=True)


def has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def dtypes():
    """The dtypes that kernels on this machine's default device take."""
    return ("float32", "float16", "bfloat16") + (() if has_gpu() else ("float64",))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A layout and what is multiplied by it."""

    layout: np.ndarray  # bool [CB, KB]
    block_size: int
    feature_axis: int
    batch: int
    dtype: str
    seed: int

    @property
    def coords(self):
        return np.argwhere(self.layout).astype(np.int32)

    @property
    def C(self):
        return self.layout.shape[0] * self.block_size

    @property
    def K(self):
        return self.layout.shape[1] * self.block_size

    @property
    def kwargs(self):
        """What ops.matmul and ops.matmul_dw take of the layout."""
        return {
            "coords": self.coords,
            "block_size": self.block_size,
            "in_blocks": self.layout.shape[0],
            "out_blocks": self.layout.shape[1],
            "feature_axis": self.feature_axis,
        }

    def rng(self):
        return np.random.default_rng(self.seed)

    def activations(self, features, rng):
        """Random values that are exact in the problem's dtype."""
        shape = (features, self.batch) if self.feature_axis == 0 else (self.batch, features)
        return rounded(rng.standard_normal(shape), self.dtype)

    def weights(self, rng):
        fan_in = max(1, self.layout.sum(0).max(initial=0)) * self.block_size
        shape = (len(self.coords), self.block_size, self.block_size)
        return rounded(rng.standard_normal(shape) / np.sqrt(fan_in), self.dtype)

    def to_dense(self, w):
        """[blocks, bs, bs] -> [C, K], by plain loops."""
        bs = self.block_size
        dense = np.zeros((self.C, self.K), w.dtype)
        for block, (c, k) in zip(w, self.coords):
            dense[c * bs : (c + 1) * bs, k * bs : (k + 1) * bs] = block
        return dense

    def from_dense(self, dense):
        bs = self.block_size
        blocks = [dense[c * bs : (c + 1) * bs, k * bs : (k + 1) * bs] for c, k in self.coords]
        return np.stack(blocks) if blocks else np.zeros((0, bs, bs), dense.dtype)

    def product(self, x, dense):
        """x W in x's dtype, features on the problem's axis."""
        return dense_dot(dense.T, x) if self.feature_axis == 0 else dense_dot(x, dense)

    def outer(self, x, dy):
        """x^T dy, [C, K]."""
        return dense_dot(x, dy.T) if self.feature_axis == 0 else dense_dot(x.T, dy)


def dense_dot(a, b):
    """a @ b. In float32 by TensorFlow, on the device that the tested ops run on: how a dense product
    orders its sums, and so how much it errs, differs between devices. Truth is NumPy's float64."""
    if a.dtype == np.float32:
        return tf.matmul(a, b).numpy()
    return a @ b


def rounded(array, dtype):
    """float64 array -> the nearest values of `dtype`, as a NumPy array of that dtype."""
    return np.asarray(array).astype(tf.dtypes.as_dtype(dtype).as_numpy_dtype)


def as_float64(tensor):
    return np.asarray(tensor).astype(np.float64)


def swept(feature_axis):
    """A product as Hopper's sweeps ask for: small blocks, few of them, and many batch tiles (plan_test.py
    sees to it that they are taken)."""
    layout = np.random.default_rng(5).random((64, 64)) < 0.05
    return Problem(layout, 8, feature_axis, 25344, "bfloat16", 5)


@st.composite
def layouts(draw, most=6):
    """Bool [CB, KB] of any density, rectangular, empty rows and columns included."""
    shape = draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    density = draw(st.sampled_from([0.0, 0.1, 0.4, 0.8, 1.0]))
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).random(shape) < density


@st.composite
def problems(draw, block_sizes=BLOCK_SIZES, batches=BATCHES):
    block_size = draw(st.sampled_from(block_sizes))
    return Problem(
        layout=draw(layouts(most=6 if block_size <= 32 else 3)),
        block_size=block_size,
        feature_axis=draw(st.sampled_from([0, 1])),
        batch=draw(batches),
        dtype=draw(st.sampled_from(dtypes())),
        seed=draw(st.integers(0, 2**16)),
    )


def dense_error(truth, compute, dtype, *operands):
    """Error of the plain dense computation in `dtype`: what any implementation has to allow for.

    `compute` runs in float32 (float64 for float64) on operands that are exact in `dtype`, and its
    result is rounded to `dtype` once: the accuracy of a tensor core or of oneDNN.
    """
    wide = np.float64 if dtype == "float64" else np.float32
    result = rounded(compute(*[np.asarray(o).astype(wide) for o in operands]), dtype)
    return _norms(as_float64(result) - truth)


def _norms(difference):
    """(root mean square, largest) of the errors."""
    if difference.size == 0:
        return 0.0, 0.0
    return float(np.sqrt(np.mean(np.square(difference)))), float(np.abs(difference).max())


def errors(result, truth):
    """Of a result against float64 truth, as dense_error gives them."""
    return _norms(as_float64(result) - truth)


def assert_as_accurate(result, truth, allowed, factor, what="result"):
    """`allowed` comes from dense_error. float32's epsilon covers cells where dense happens to be exact."""
    result = as_float64(result)
    assert result.shape == truth.shape, f"{what} has shape {result.shape}, truth {truth.shape}"
    assert np.isfinite(result).all(), f"{what} is not finite"
    scale = float(np.abs(truth).max(initial=0.0))
    for name, ours, theirs in zip(("rms", "largest"), errors(result, truth), allowed):
        limit = factor * theirs + np.finfo(np.float32).eps * scale
        assert ours <= limit, f"{what}: {name} error {ours:.3g}, dense errs {theirs:.3g}"
