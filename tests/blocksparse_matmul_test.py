"""BlocksparseMatMul: the layout as an object that multiplies."""

import pickle

import hypothesis
import numpy as np
import problems
import pytest
import tensorflow as tf

import bsparse_tf
from bsparse_tf import BlocksparseMatMul, layouts

RECTANGLE = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]])  # Column 1 is empty.


def normal(*shape, dtype="float32", seed=0):
    return problems.rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


# What it knows about itself.


def test_attributes():
    matmul = BlocksparseMatMul(RECTANGLE, block_size=16, name="mixer")
    assert (matmul.CB, matmul.KB, matmul.C, matmul.K) == (4, 3, 64, 48)
    assert matmul.blocks == 6
    assert matmul.w_shape == (6, 16, 16)
    assert matmul.g_shape == (6,)
    assert matmul.density == 0.5 and matmul.sparsity == 0.5
    assert matmul.layout.dtype == bool and matmul.coords.dtype == np.int32
    assert [matmul.block_coord(b) for b in range(6)] == [
        (0, 0), (0, 2), (1, 2), (2, 0), (3, 0), (3, 2)
    ]  # fmt: skip
    assert matmul.flops(10) == 2 * 6 * 16 * 16 * 10
    assert matmul.i_shape(5) == (5, 64) and matmul.o_shape(5) == (5, 48)
    first = matmul.with_feature_axis(0)
    assert first.i_shape(5) == (64, 5) and first.o_shape(5) == (48, 5)
    assert repr(matmul) == (
        "BlocksparseMatMul(64 -> 48, block_size=16, feature_axis=1, 6 of 12 blocks, density=0.5, "
        "name='mixer')"
    )


def test_from_spec():
    matmul = BlocksparseMatMul.from_spec("ba:m=2,seed=3", 256, 128, block_size=16, feature_axis=0)
    np.testing.assert_array_equal(matmul.layout, layouts.from_spec("ba:m=2,seed=3", 16, 8))
    assert matmul.feature_axis == 0
    assert BlocksparseMatMul.from_spec("dense", 64).w_shape == (4, 32, 32)


def test_identity_is_its_content():
    matmul = BlocksparseMatMul(RECTANGLE, 16, name="a")
    same = BlocksparseMatMul(RECTANGLE.tolist(), 16, name="b")
    others = [
        BlocksparseMatMul(RECTANGLE, 32),
        BlocksparseMatMul(RECTANGLE, 16, feature_axis=0),
        BlocksparseMatMul(RECTANGLE.T, 16),
    ]
    assert matmul == same and hash(matmul) == hash(same)
    assert all(matmul != other for other in others) and matmul != "matmul"
    assert len({matmul, same, *others}) == 4


def test_pickle():
    matmul = BlocksparseMatMul(RECTANGLE, 16, feature_axis=0, name="mixer")
    matmul(np.ones(matmul.i_shape(1), "float32"), np.ones(matmul.w_shape, "float32"))
    copy = pickle.loads(pickle.dumps(matmul))
    assert copy == matmul and copy.name == "mixer"
    np.testing.assert_array_equal(copy.coords, matmul.coords)


def test_nothing_outside_can_change_it():
    layout = RECTANGLE.copy()
    matmul = BlocksparseMatMul(layout, 16)
    layout[0, 0] = 0
    assert matmul.layout[0, 0]
    with pytest.raises(ValueError):
        matmul.layout[0, 0] = False
    with pytest.raises(ValueError):
        matmul.coords[0, 0] = 1


# Products.


@problems.DETERMINISTIC
@hypothesis.given(problems.problems(block_sizes=(8, 16, 32)))
def test_products_are_as_accurate_as_dense_ones(problem):
    hypothesis.assume(problem.layout.any())
    matmul = BlocksparseMatMul(problem.layout, problem.block_size, problem.feature_axis)
    rng = problem.rng()
    w = problem.weights(rng)
    dense = problem.to_dense(w)
    for product, features, matrix in (
        (matmul, problem.C, dense),
        (matmul.transpose_matmul, problem.K, dense.T),
    ):
        x = problem.activations(features, rng)
        result = product(x, w)
        assert result.dtype == problem.dtype
        truth = problem.product(problems.as_float64(x), problems.as_float64(matrix))
        allowed = problems.dense_error(truth, problem.product, problem.dtype, x, matrix)
        problems.assert_as_accurate(result, truth, allowed, problems.FORWARD)


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_bias_and_activation(feature_axis, activation):
    matmul = BlocksparseMatMul(RECTANGLE, 16, feature_axis)
    w, bias = normal(*matmul.w_shape) / 8, normal(matmul.K, seed=1)
    x = normal(*matmul.i_shape(7), seed=2)
    last = x if feature_axis == 1 else x.T
    expected = last @ matmul.to_dense(w) + bias
    if activation:
        expected = getattr(tf.nn, activation)(expected).numpy()
    y = matmul(x, w, bias=bias, activation=activation)
    np.testing.assert_allclose(y, expected if feature_axis == 1 else expected.T, atol=1e-5)


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_residual(feature_axis, activation):
    matmul = BlocksparseMatMul(RECTANGLE, 16, feature_axis)
    w = normal(*matmul.w_shape) / 8
    x, residual = normal(*matmul.i_shape(7), seed=2), normal(*matmul.o_shape(7), seed=3)
    plain = matmul(x, w, activation=activation)
    np.testing.assert_allclose(
        matmul(x, w, activation=activation, residual=residual), plain + residual, atol=1e-5
    )
    back = matmul.transpose_matmul(residual, w, activation=activation)
    np.testing.assert_allclose(
        matmul.transpose_matmul(residual, w, activation=activation, residual=x), back + x, atol=1e-5
    )


def test_residual_of_an_unknown_batch():
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    x, w = normal(3, matmul.C), normal(*matmul.w_shape)
    for shape in ([None, matmul.C], None):
        traced = tf.function(
            lambda x, r: matmul(x, w, residual=r),
            input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec(None, tf.float32)],
        )
        y = traced(x, tf.ones([3, matmul.K]))
        np.testing.assert_allclose(y, matmul(x, w) + 1, atol=1e-5)


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_any_number_of_batch_dimensions(feature_axis):
    matmul = BlocksparseMatMul(RECTANGLE, 8, feature_axis)
    w = normal(*matmul.w_shape)
    x = normal(3, 2, 5, matmul.C)
    expected = (x.reshape(-1, matmul.C) @ matmul.to_dense(w)).reshape(3, 2, 5, matmul.K)
    if feature_axis == 0:
        y = bsparse_tf.to_features_last(matmul(bsparse_tf.to_features_first(x), w))
    else:
        y = matmul(x, w)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_variables_are_taken_as_they_are():
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    w = tf.Variable(normal(*matmul.w_shape))
    x = normal(3, matmul.C)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(matmul.matmul(x, w))
    expected = np.broadcast_to(x.sum(0).reshape(matmul.CB, 1, 8, 1), (4, 3, 8, 8))
    expected = expected[matmul.coords[:, 0], matmul.coords[:, 1]]
    np.testing.assert_allclose(tape.gradient(loss, w), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_master_weights_get_a_float32_gradient(dtype):
    matmul = BlocksparseMatMul(RECTANGLE, 16)
    w = tf.Variable(normal(*matmul.w_shape))
    x = tf.constant(normal(33, matmul.C, dtype=dtype))
    with tf.GradientTape() as tape:
        y = matmul(x, w, dw_dtype="float32")
    dy = tf.constant(normal(33, matmul.K, dtype=dtype, seed=1))
    dw = tape.gradient(y, w, output_gradients=dy)
    assert y.dtype == dtype and dw.dtype == tf.float32
    truth = matmul.from_dense(problems.as_float64(x).T @ problems.as_float64(dy))
    # Not rounded to 16 bits: float32's accuracy, from 16-bit factors that are exact.
    np.testing.assert_allclose(dw, truth, atol=1e-4)


# Gates.


def gate_problem():
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    gate = np.array([1.0, 0.0, 0.5, -2.0, 0.0, 3.0], "float32")
    return matmul, normal(5, matmul.C), normal(*matmul.w_shape, seed=1), gate


def gate_gradients(**options):
    matmul, x, w, gate = gate_problem()
    x, w, gate = map(tf.Variable, (x, w, gate))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(matmul(x, w, gate, **options)))
    return tape.gradient(loss, (x, w, gate))


def dense_gate_gradients():
    """Of the same loss, by TensorFlow's own ops on the dense matrix."""
    matmul, x, w, gate = gate_problem()
    x, w, gate = map(tf.Variable, (x, w, gate))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(x @ matmul.to_dense(w * gate[:, None, None])))
    return tape.gradient(loss, (x, w, gate))


def test_gate_scales_blocks_and_skips_those_at_zero():
    matmul, x, w, gate = gate_problem()
    w[1] = np.nan
    sound = np.where(gate[:, None, None] == 0, 0, w)
    expected = x @ matmul.to_dense(sound * gate[:, None, None])
    np.testing.assert_allclose(matmul(x, w, gate), expected, atol=1e-4)


def test_gate_gradients_are_the_true_ones():
    for ours, expected in zip(gate_gradients(gate_grad=True), dense_gate_gradients()):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_gate_is_a_constant_by_default():
    dx, dw, dgate = gate_gradients()
    assert dgate is None
    for ours, expected in zip((dx, dw), dense_gate_gradients()):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_dw_gated_leaves_closed_blocks_out_of_the_gate_gradient():
    dx, dw, dgate = gate_gradients(gate_grad=True, dw_gated=True)
    _, _, _, gate = gate_problem()
    expected_dx, expected_dw, expected_dgate = dense_gate_gradients()
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dw, expected_dw, rtol=1e-4, atol=1e-3)
    expected_dgate = np.where(gate == 0, 0, expected_dgate)
    np.testing.assert_allclose(dgate, expected_dgate, rtol=1e-4, atol=1e-3)


def test_straight_through_lets_closed_blocks_learn():
    _, dw, _ = gate_gradients(straight_through=True)
    _, _, _, gate = gate_problem()
    _, expected, _ = dense_gate_gradients()
    open_blocks = gate != 0
    unscaled = expected.numpy()[open_blocks] / gate[open_blocks, None, None]
    np.testing.assert_allclose(dw.numpy()[open_blocks], unscaled, rtol=1e-4, atol=1e-3)
    assert (np.abs(dw.numpy()[~open_blocks]).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("kind", [np.array, tf.Variable])
def test_prune(kind):
    matmul, x, w, gate = gate_problem()
    smaller, pruned = matmul.prune(kind(w), kind(gate))
    assert isinstance(pruned, np.ndarray) == (kind is np.array)
    assert matmul.blocks == 6 and smaller.blocks == 4
    np.testing.assert_allclose(smaller(x, pruned, gate[gate != 0]), matmul(x, w, gate), atol=1e-4)
    _, slot = matmul.prune(np.arange(6), gate)
    np.testing.assert_array_equal(slot, [0, 2, 3, 5])


# Dense and back.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int32"])
@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
def test_dense_round_trip(convert, dtype):
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    w = problems.rounded(np.random.default_rng(0).integers(-9, 9, matmul.w_shape), dtype)
    dense = matmul.to_dense(convert(w))
    assert isinstance(dense, np.ndarray) == (convert is np.asarray)
    assert dense.dtype == dtype
    expected = np.zeros((32, 24))
    for block, (c, k) in zip(w, matmul.coords):
        expected[8 * c : 8 * c + 8, 8 * k : 8 * k + 8] = block
    np.testing.assert_array_equal(problems.as_float64(dense), expected)
    back = matmul.from_dense(dense)
    assert isinstance(back, np.ndarray) == (convert is np.asarray)
    np.testing.assert_array_equal(problems.as_float64(back), problems.as_float64(w))


def test_dense_conversions_are_differentiable():
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    w, dense = tf.Variable(normal(*matmul.w_shape)), tf.Variable(normal(matmul.C, matmul.K))
    weights = normal(matmul.C, matmul.K, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        from_w = tf.reduce_sum(matmul.to_dense(w) * weights)
        from_dense = tf.reduce_sum(matmul.from_dense(dense) * matmul.from_dense(weights))
    np.testing.assert_allclose(tape.gradient(from_w, w), matmul.from_dense(weights))
    stored = np.kron(matmul.layout, np.ones((8, 8)))
    np.testing.assert_allclose(tape.gradient(from_dense, dense), weights * stored)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_crossing_over(shape):
    x = normal(*shape)
    first = bsparse_tf.to_features_first(x)
    np.testing.assert_array_equal(first, np.moveaxis(x, -1, 0))
    np.testing.assert_array_equal(bsparse_tf.to_features_last(first), x)
    np.testing.assert_array_equal(bsparse_tf.to_features_first(tf.constant(x)), first)
    unknown = tf.function(
        lambda x: (bsparse_tf.to_features_first(x), bsparse_tf.to_features_last(x)),
        input_signature=[tf.TensorSpec(None)],
    )
    to_first, to_last = unknown(x)
    np.testing.assert_array_equal(to_first, first)
    np.testing.assert_array_equal(to_last, np.moveaxis(x, 0, -1))


# Misuse.


@pytest.mark.parametrize(
    "layout, error, message",
    [
        ("ba:m=2", TypeError, "from_spec"),
        (np.ones(3), ValueError, "2-D"),
        (np.ones((2, 2, 2)), ValueError, "2-D"),
        (np.ones((0, 3)), ValueError, "at least one row"),
        (np.zeros((2, 3)), ValueError, "at least one block"),
        (np.array([[0, 2]]), ValueError, "only 0 and 1"),
        (np.array([[0, np.nan]]), ValueError, "only 0 and 1"),
    ],
)
def test_bad_layouts(layout, error, message):
    with pytest.raises(error, match=message):
        BlocksparseMatMul(layout)


@pytest.mark.parametrize("block_size", [0, 7, 24, 256, -8, True, "32"])
def test_bad_block_size(block_size):
    with pytest.raises(ValueError, match="one of 8, 16, 32, 64, 128"):
        BlocksparseMatMul(RECTANGLE, block_size)


@pytest.mark.parametrize("feature_axis", [2, -1, None, True])
def test_bad_feature_axis(feature_axis):
    with pytest.raises(ValueError, match="features last"):
        BlocksparseMatMul(RECTANGLE, 8, feature_axis)


def test_sizes_that_are_no_multiples_suggest_the_nearest():
    with pytest.raises(ValueError, match="in_features .* got 100, nearest: 96 or 128"):
        BlocksparseMatMul.from_spec("dense", 100, 64)
    with pytest.raises(ValueError, match="out_features .* got 5, nearest: 32"):
        BlocksparseMatMul.from_spec("dense", 64, 5)


@pytest.mark.parametrize(
    "shape, feature_axis, message",
    [
        ((64, 96), 1, r"feature_axis=1 that is N=64, 96 features, but the layout takes C=32; with "
                      r"feature_axis=0 it would be N=96, 64 features$"),
        ((96, 64), 0, r"feature_axis=0 that is N=64, 96 features, but the layout takes C=32; with "
                      r"feature_axis=1 it would be N=96, 64 features$"),
        ((32, 5), 1, r"which fits: use with_feature_axis\(0\).*to_features_last\(x\)"),
        ((5, 32), 0, r"which fits: use with_feature_axis\(1\).*to_features_first\(x\)"),
        ((2, 3, 31), 1, r"a batch of shape \(2, 3\), 31 features"),
        ((32,), 1, r"rank 1; expected rank 2 or more: \[..., 32\]"),
        ((), 0, r"rank 0; expected rank 2 or more: \[32, ...\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("graph", [False, True])
def test_wrong_features_show_both_readings(shape, feature_axis, message, graph):
    matmul = BlocksparseMatMul(RECTANGLE, 8, feature_axis)
    w = np.ones(matmul.w_shape, "float32")
    multiply = tf.function(matmul, autograph=False) if graph else matmul
    with pytest.raises(ValueError, match=message):
        multiply(tf.ones(shape), w)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"w": np.ones((5, 8, 8), "float32")}, ValueError, r"w has shape \(5, .*\(6, 8, 8\)"),
        ({"w": np.ones((6, 8), "float32")}, ValueError, "w has shape"),
        ({"w": np.ones((6, 8, 8), "float16")}, TypeError, "w has dtype float16 and x float32"),
        ({"w": np.ones((6, 8, 8), "float64")}, TypeError, "w has dtype float64"),
        ({"gate": np.ones(5, "float32")}, ValueError, r"gate has shape \(5,\); expected \(6,\)"),
        ({"gate": np.ones((6, 1), "float32")}, ValueError, "gate has shape"),
        ({"gate": np.ones(6, "float16")}, TypeError, "gate has dtype float16; expected float32"),
        ({"gate": np.ones(6)}, TypeError, "gate has dtype float64; expected float32"),
        ({"gate_grad": True}, ValueError, "gate is None"),
        ({"straight_through": True}, ValueError, "gate is None"),
        ({"gate": [1.0] * 6, "dw_gated": True}, ValueError, "gate_grad=True"),
        ({"bias": np.ones(32, "float32")}, ValueError, r"bias has shape \(32,\); expected \(24,\)"),
        ({"bias": np.ones(24, "float16")}, TypeError, "bias has dtype float16; expected float32"),
        (
            {"residual": np.ones((3, 24), "float32")},
            ValueError,
            r"residual has shape \(3, 24\); expected \(2, 24\), the shape of the result",
        ),
        ({"residual": np.ones((2, 24))}, TypeError, "residual has dtype float64; expected float32"),
        ({"activation": "tanh"}, ValueError, "relu"),
        ({"dw_dtype": "float16"}, ValueError, "keep w in float32"),
    ],
)
def test_bad_arguments(arguments, error, message):
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    good = {"x": np.ones((2, 32), "float32"), "w": np.ones(matmul.w_shape, "float32")}
    with pytest.raises(error, match=message):
        matmul(**{**good, **arguments})
    np.testing.assert_allclose(matmul(**good)[:, 0], [24, 24])  # Three blocks of eight inputs.


def test_other_misuse():
    matmul = BlocksparseMatMul(RECTANGLE, 8)
    with pytest.raises(IndexError, match="stores 6"):
        matmul.block_coord(6)
    with pytest.raises(IndexError):
        matmul.block_coord(-1)
    with pytest.raises(ValueError, match=r"\(32, 24\)"):
        matmul.from_dense(np.zeros((24, 32)))
    with pytest.raises(ValueError, match=r"\(6, 8, 8\)"):
        matmul.to_dense(tf.zeros((5, 8, 8)))
    with pytest.raises(ValueError, match="at least one block"):
        matmul.prune(np.zeros(matmul.w_shape), np.zeros(6))
    with pytest.raises(ValueError, match="a row for each block"):
        matmul.prune(np.zeros((5, 8, 8)), np.ones(6))
    with pytest.raises(ValueError, match="scalar"):
        bsparse_tf.to_features_first(1.0)
    with pytest.raises(TypeError, match="BlockSparseDense"):
        matmul(tf.keras.Input((32,)), np.ones(matmul.w_shape, "float32"))
