"""The products against float64 NumPy on the dense weights, over random layouts and shapes."""

import hypothesis
import numpy as np
import problems
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from bsparse_tf import ops


def _expect(problem, result, truth, compute, *operands, factor=problems.FORWARD, dtype=None):
    dtype = dtype or problem.dtype
    allowed = problems.dense_error(truth, compute, dtype, *operands)
    problems.assert_as_accurate(result, truth, allowed, factor)


@problems.DETERMINISTIC
@hypothesis.given(problems.problems(), st.booleans())
def test_product_is_as_accurate_as_dense(problem, transpose):
    rng = problem.rng()
    x = problem.activations(problem.K if transpose else problem.C, rng)
    w = problem.weights(rng)
    y = ops.matmul(x, w, transpose=transpose, **problem.kwargs)
    assert y.dtype.name == problem.dtype

    def compute(x, w):
        dense = problem.to_dense(w)
        return problem.product(x, dense.T if transpose else dense)

    truth = compute(x.astype(np.float64), w.astype(np.float64))
    _expect(problem, y, truth, compute, x, w)


@problems.DETERMINISTIC
@hypothesis.given(problems.problems())
def test_weight_gradient_is_as_accurate_as_dense(problem):
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    dy = problem.activations(problem.K, rng)
    dw = ops.matmul_dw(x, dy, **problem.kwargs)
    assert dw.dtype.name == problem.dtype

    def compute(x, dy):
        return problem.from_dense(problem.outer(x, dy))

    truth = compute(x.astype(np.float64), dy.astype(np.float64))
    _expect(problem, dw, truth, compute, x, dy, factor=problems.BACKWARD)


@problems.DETERMINISTIC
@hypothesis.given(problems.problems(), st.sampled_from([None, "relu", "gelu"]), st.booleans())
def test_gate_bias_and_activation(problem, activation, transpose):
    rng = problem.rng()
    x = problem.activations(problem.K if transpose else problem.C, rng)
    w = problem.weights(rng)
    bias = problems.rounded(rng.standard_normal(problem.C if transpose else problem.K), problem.dtype)
    gate = rng.choice(np.float32([0, 1, 0.5, -1.5]), len(w))
    y = ops.matmul(
        x, w, transpose=transpose, gate=gate, bias=bias, activation=activation, **problem.kwargs
    )

    def compute(x, w, bias):
        dense = problem.to_dense(problems.rounded(w * gate[:, None, None], problem.dtype))
        dense = dense.astype(x.dtype)
        z = problem.product(x, dense.T if transpose else dense)
        z = z + (bias[:, None] if problem.feature_axis == 0 else bias)
        if activation == "relu":
            return np.maximum(z, 0)
        if activation == "gelu":
            return z * 0.5 * (1 + tf.math.erf(z / np.sqrt(2)).numpy())
        return z

    truth = compute(*[a.astype(np.float64) for a in (x, w, bias)])
    _expect(problem, y, truth, compute, x, w, bias)


@problems.DETERMINISTIC
@hypothesis.given(problems.problems())
def test_gated_weight_gradient(problem):
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    dy = problem.activations(problem.K, rng)
    gate = rng.choice(np.float32([0, 1, 0.5, -1.5]), len(problem.coords))
    dw = ops.matmul_dw(x, dy, gate=gate, **problem.kwargs)

    def compute(x, dy):
        return problem.from_dense(problem.outer(x, dy)) * gate[:, None, None]

    truth = compute(x.astype(np.float64), dy.astype(np.float64))
    _expect(problem, dw, truth, compute, x, dy, factor=problems.BACKWARD)
    assert not np.asarray(dw)[gate == 0].any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("block_size", problems.BLOCK_SIZES)
def test_float32_master_weights(dtype, feature_axis, block_size):
    """float32 weights are rounded to x's dtype; their gradient is the unrounded float32 sum."""
    layout = np.random.default_rng(1).random((4, 3)) < 0.6
    problem = problems.Problem(layout, block_size, feature_axis, 48, dtype, seed=2)
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    w32 = rng.standard_normal((len(problem.coords), block_size, block_size)).astype(np.float32)
    np.testing.assert_array_equal(
        ops.matmul(x, w32, **problem.kwargs),
        ops.matmul(x, problems.rounded(w32, dtype), **problem.kwargs),
    )
    dy = problem.activations(problem.K, rng)
    dw = ops.matmul_dw(x, dy, out_type=tf.float32, **problem.kwargs)
    assert dw.dtype == tf.float32

    def compute(x, dy):
        return problem.from_dense(problem.outer(x, dy))

    truth = compute(x.astype(np.float64), dy.astype(np.float64))
    _expect(problem, dw, truth, compute, x, dy, factor=problems.BACKWARD, dtype="float32")


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_any_rank(feature_axis):
    """Leading (or, features first, trailing) dimensions are all batch."""
    problem = problems.Problem(np.ones((2, 3), bool), 8, feature_axis, 24, "float32", seed=3)
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    w = problem.weights(rng)
    flat = ops.matmul(x, w, **problem.kwargs)
    folded = (problem.C, 2, 3, 4) if feature_axis == 0 else (2, 3, 4, problem.C)
    y = ops.matmul(x.reshape(folded), w, **problem.kwargs)
    assert y.shape == ((problem.K, 2, 3, 4) if feature_axis == 0 else (2, 3, 4, problem.K))
    np.testing.assert_array_equal(tf.reshape(y, flat.shape), flat)


@pytest.mark.parametrize("dtype", problems.dtypes())
@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("block_size", problems.BLOCK_SIZES)
def test_nan_and_inf_travel_as_in_a_dense_product(dtype, feature_axis, block_size):
    layout = np.array([[1, 0, 1], [1, 1, 0]], bool)
    problem = problems.Problem(layout, block_size, feature_axis, 5, dtype, seed=4)
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    x_nc = x.T if feature_axis == 0 else x
    x_nc[1, 0] = np.nan
    x_nc[2, block_size] = np.inf
    w = problem.weights(rng)
    for activation in (None, "relu"):
        y = np.asarray(ops.matmul(x, w, activation=activation, **problem.kwargs)).astype(np.float64)
        y = y.T if feature_axis == 0 else y
        bs = block_size
        # Input block 0 feeds outputs 0 and 2, input block 1 feeds outputs 0 and 1.
        assert np.isnan(y[1, :bs]).all() and np.isnan(y[1, 2 * bs :]).all()
        if activation is None:
            assert np.isinf(y[2, : 2 * bs]).all()
        assert np.isfinite(y[[0, 3, 4]]).all()
        # Only Hopper's 16-bit kernels for blocks of 32 count an absent block as zeros, as a dense
        # product does.
        if not (problems.has_gpu() and bs == 32 and dtype in ("float16", "bfloat16")):
            assert np.isfinite(y[1, bs : 2 * bs]).all() and np.isfinite(y[2, 2 * bs :]).all()


def test_a_closed_gate_stops_nan():
    problem = problems.Problem(np.ones((2, 1), bool), 16, 1, 4, "float32", seed=5)
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    w = problem.weights(rng)
    w[0] = np.nan
    y = ops.matmul(x, w, gate=np.float32([0, 1]), **problem.kwargs)
    np.testing.assert_allclose(y, x[:, 16:] @ w[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", problems.dtypes())
def test_same_inputs_give_the_same_bits(dtype):
    rng = np.random.default_rng(6)
    layout = rng.random((24, 24)) < 0.2
    layout[:, 0] = True  # a hub column, which a GPU plan cuts into segments
    problem = problems.Problem(layout, 16, 1, 70, dtype, seed=6)
    x, dy = problem.activations(problem.C, rng), problem.activations(problem.K, rng)
    w = problem.weights(rng)
    y = np.asarray(ops.matmul(x, w, **problem.kwargs))
    dw = np.asarray(ops.matmul_dw(x, dy, **problem.kwargs))
    for _ in range(20):
        np.testing.assert_array_equal(y, ops.matmul(x, w, **problem.kwargs))
        np.testing.assert_array_equal(dw, ops.matmul_dw(x, dy, **problem.kwargs))


def test_order_of_coords_does_not_matter():
    problem = problems.Problem(np.ones((3, 4), bool), 8, 1, 9, "float32", seed=7)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    order = rng.permutation(len(w))
    kwargs = problem.kwargs
    shuffled = {**kwargs, "coords": kwargs["coords"][order]}
    np.testing.assert_array_equal(
        ops.matmul(x, w, **kwargs), ops.matmul(x, w[order], **shuffled)
    )
