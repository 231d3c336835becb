"""The products against float64 NumPy on the dense weights, over random layouts and shapes."""

import dataclasses
import functools

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


def _activate(z, activation):
    if activation == "relu":
        return np.maximum(z, 0)
    if activation == "gelu":
        return z * 0.5 * (1 + tf.math.erf(z / np.sqrt(2)).numpy())
    return z


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


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_small_blocks_in_a_large_batch(feature_axis, transpose):
    problem = problems.swept(feature_axis)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    bias = problems.rounded(rng.standard_normal(problem.K), problem.dtype)
    y = ops.matmul(x, w, bias=bias, activation="relu", transpose=transpose, **problem.kwargs)

    def compute(x, w):
        dense = problem.to_dense(w)
        z = problem.product(x, dense.T if transpose else dense)
        add = bias.astype(z.dtype)
        return np.maximum(z + (add[:, None] if feature_axis == 0 else add), 0)

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
@hypothesis.given(
    problems.problems(), st.lists(problems.BATCHES, min_size=1, max_size=11), st.booleans(),
    st.booleans(), st.booleans()
)
def test_weight_gradient_of_a_list(problem, batches, has_gate, has_addend, float_output):
    """Several uses of the same weights, of different batches, upon an earlier sum."""
    rng = problem.rng()
    uses = [dataclasses.replace(problem, batch=batch) for batch in batches]
    xs = [use.activations(use.C, rng) for use in uses]
    dys = [use.activations(use.K, rng) for use in uses]
    out_type = "float32" if float_output and problem.dtype != "float64" else problem.dtype
    blocks = len(problem.coords)
    gate = rng.choice(np.float32([0, 1, 0.5]), blocks) if has_gate else None
    shape = (blocks, problem.block_size, problem.block_size)
    addend = problems.rounded(rng.standard_normal(shape), out_type) if has_addend else None
    dw = ops.matmul_dw(xs, dys, gate=gate, addend=addend, out_type=out_type, **problem.kwargs)
    assert dw.dtype.name == out_type

    scale = 1.0 if gate is None else gate.astype(np.float64)[:, None, None]
    more = 0.0 if addend is None else problems.as_float64(addend)

    def compute(*operands):
        sums = problem.from_dense(sum(use.outer(x, dy) for use, x, dy in zip(
            uses, operands[::2], operands[1::2], strict=True)))
        return sums * np.asarray(scale, sums.dtype) + np.asarray(more, sums.dtype)

    operands = [array for pair in zip(xs, dys) for array in pair]
    truth = compute(*(array.astype(np.float64) for array in operands))
    _expect(problem, dw, truth, compute, *operands, factor=problems.BACKWARD, dtype=out_type)


def _rounded_to_tf32(array, ties_to_even):
    """float32 with 10 bits of mantissa, to nearest. One of 8192 numbers is a tie: instructions of a kernel
    round it away from zero, Hopper's copy engine to even."""
    bits = array.view(np.uint32)
    half = np.uint32(0xFFF) + (bits >> 13 & 1) if ties_to_even else np.uint32(0x1000)
    return ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "tf32", "tf32x3"])
@pytest.mark.parametrize("blocks, batch", [((12, 10), 257), ((12, 10), 256), ((32, 32), 520)])
def test_precision(blocks, batch, precision, feature_axis):
    """float32 products of every precision, and those of their gradients."""
    layout = np.random.default_rng(1).random(blocks) < 0.4
    problem = problems.Problem(layout, 32, feature_axis, batch, dtype="float32", seed=2)
    rng = problem.rng()
    x = tf.constant(problem.activations(problem.C, rng))
    w = tf.constant(problem.weights(rng))
    dy = tf.constant(problem.activations(problem.K, rng))
    with tf.GradientTape() as tape:
        tape.watch((x, w))
        y = ops.matmul(x, w, precision=precision, **problem.kwargs)
    dx, dw = tape.gradient(y, (x, w), dy)
    # Of the products themselves, so that a gradient in another precision is found out.
    again = (ops.matmul(dy, w, transpose=True, precision=precision, **problem.kwargs),
             ops.matmul_dw(x, dy, precision=precision, **problem.kwargs))
    for gradient, same in zip((dx, dw), again, strict=True):
        np.testing.assert_array_equal(gradient, same)

    rounds = precision == "tf32" and problems.has_gpu()
    roundings = [np.asarray]
    if rounds:
        roundings = [functools.partial(_rounded_to_tf32, ties_to_even=even) for even in (0, 1)]

    def in_this_precision(compute):
        # Dense sums in TF32 err more than those in float32, too.
        def computed(*operands):
            tf.config.experimental.enable_tensor_float_32_execution(rounds)
            try:
                return compute(*operands)
            finally:
                tf.config.experimental.enable_tensor_float_32_execution(False)  # as in conftest.py

        return computed

    @in_this_precision
    def forward(x, w):
        return problem.product(x, problem.to_dense(w))

    @in_this_precision
    def backward(x, dy):
        return problem.from_dense(problem.outer(x, dy))

    for result, compute, operands, factor in (
        (y, forward, (x, w), problems.FORWARD), (dw, backward, (x, dy), problems.BACKWARD)
    ):
        candidates = []
        for operand in roundings:
            exact = [operand(o.numpy()) for o in operands]
            truth = compute(*(o.astype(np.float64) for o in exact))
            candidates.append((problems.errors(result, truth), truth, exact))
        _, truth, exact = min(candidates, key=lambda candidate: candidate[0])
        _expect(problem, result, truth, compute, *exact, factor=factor)
        if rounds:  # and it did round
            whole = compute(*(o.numpy().astype(np.float64) for o in operands))
            assert np.abs(result - whole).max() > 10 * np.abs(result - truth).max()


def test_unknown_precision():
    problem = problems.Problem(np.ones((1, 1), bool), 8, 1, batch=2, dtype="float32", seed=0)
    rng = problem.rng()
    with pytest.raises(ValueError, match="precision must be None, 'float32', 'tf32', 'tf32x3'; got"):
        ops.matmul(problem.activations(problem.C, rng), problem.weights(rng), precision="high",
                   **problem.kwargs)


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
        return _activate(z + (bias[:, None] if problem.feature_axis == 0 else bias), activation)

    truth = compute(*[a.astype(np.float64) for a in (x, w, bias)])
    _expect(problem, y, truth, compute, x, w, bias)


@problems.DETERMINISTIC
@hypothesis.given(
    problems.problems(), st.sampled_from([None, "relu", "gelu"]), st.booleans(), st.booleans()
)
def test_residual(problem, activation, has_bias, transpose):
    rng = problem.rng()
    outputs = problem.C if transpose else problem.K
    x = problem.activations(problem.K if transpose else problem.C, rng)
    w = problem.weights(rng)
    bias = problems.rounded(rng.standard_normal(outputs) * has_bias, problem.dtype)
    residual = problem.activations(outputs, rng)
    y = ops.matmul(
        x, w, transpose=transpose, bias=bias if has_bias else None, activation=activation,
        residual=residual, **problem.kwargs,
    )  # fmt: skip
    assert y.dtype.name == problem.dtype

    def compute(x, w, bias, residual):
        dense = problem.to_dense(w)
        z = problem.product(x, dense.T if transpose else dense)
        z = z + (bias[:, None] if problem.feature_axis == 0 else bias)
        return _activate(z, activation) + residual

    truth = compute(*[a.astype(np.float64) for a in (x, w, bias, residual)])
    _expect(problem, y, truth, compute, x, w, bias, residual)


@pytest.mark.parametrize("dtype", problems.dtypes())
@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("block_size", problems.BLOCK_SIZES)
def test_output_in_the_memory_of_the_residual(dtype, feature_axis, block_size):
    """In a graph y takes the memory of a residual that nobody else reads; an eager tensor stays."""
    layout = np.random.default_rng(8).random((5, 4)) < 0.5
    layout[:, 0] = True
    for batch in (1, 24, 77, 300):
        problem = problems.Problem(layout, block_size, feature_axis, batch, dtype, seed=batch)
        rng = problem.rng()
        x, w = problem.activations(problem.C, rng), problem.weights(rng)
        residual = tf.constant(problem.activations(problem.K, rng))
        before = residual.numpy().copy()

        def add(x, w, residual):
            return ops.matmul(x, w, activation="relu", residual=residual, **problem.kwargs)

        eager = add(x, w, residual)
        np.testing.assert_array_equal(residual, before)
        in_graph = tf.function(lambda x, w, reversed: add(x, w, tf.reverse(reversed, [0])))
        np.testing.assert_array_equal(in_graph(x, w, tf.reverse(residual, [0])), eager)


def test_output_takes_the_memory_of_a_residual_that_nobody_else_reads():
    problem = problems.Problem(np.ones((2, 3), bool), 16, 1, 40, "float32", seed=10)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    with tf.Graph().as_default(), tf.device("/device:CPU:0"), tf.compat.v1.Session() as session:
        given = tf.compat.v1.placeholder(tf.float32, [40, problem.K])
        residual = tf.reverse(given, [0], name="residual")
        y = ops.matmul(x, w, residual=residual, name="product", **problem.kwargs)
        trace = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        session.run(2 * y, {given: np.ones((40, problem.K))}, options, trace)
    address = {
        node.node_name: node.output[0].tensor_description.allocation_description.ptr
        for device in trace.step_stats.dev_stats
        for node in device.node_stats
        if node.output
    }
    assert address["product"] == address["residual"] != 0


def test_residual_that_is_the_input():
    problem = problems.Problem(np.eye(3, dtype=bool), 16, 1, 40, "float32", seed=9)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    apart = ops.matmul(x, w, residual=x.copy(), **problem.kwargs)
    same = tf.function(lambda x: ops.matmul(x, w, residual=x, **problem.kwargs))
    np.testing.assert_array_equal(same(tf.constant(x)), apart)
    doubled = tf.function(lambda x: same(x + x))  # what it takes is nobody else's
    np.testing.assert_array_equal(
        doubled(tf.constant(x)), ops.matmul(2 * x, w, residual=2 * x, **problem.kwargs)
    )


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
