"""First and second derivatives, by TensorFlow's checker and against the dense computation."""

import hypothesis
import numpy as np
import problems
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from bsparse_tf import ops

# float64 makes the checker's finite differences trustworthy to about 1e-8; it has no GPU kernel.
_CPU = "/device:CPU:0"


def _small(feature_axis, seed=0, block_size=8):
    layout = np.array([[1, 0, 1], [1, 1, 0]], bool)  # rectangular, unequal columns
    return problems.Problem(layout, block_size, feature_axis, 3, "float64", seed)


def _check(function, operands, tolerance=1e-7):
    with tf.device(_CPU):
        theory, numeric = tf.test.compute_gradient(function, operands, delta=1e-4)
    for i, (ours, theirs) in enumerate(zip(theory, numeric)):
        assert np.abs(ours).max() > 0, f"the gradient of operand {i} is all zeros"
        np.testing.assert_allclose(ours, theirs, atol=tolerance, err_msg=f"operand {i}")


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_product(feature_axis, transpose, activation):
    problem = _small(feature_axis)
    rng = problem.rng()
    x = problem.activations(problem.K if transpose else problem.C, rng)
    w = problem.weights(rng)
    bias = rng.standard_normal(problem.C if transpose else problem.K)

    def function(x, w, bias):
        return ops.matmul(
            x, w, bias=bias, activation=activation, transpose=transpose, **problem.kwargs
        )

    _check(function, [x, w, bias])


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_product_with_a_residual(feature_axis, transpose, activation):
    problem = _small(feature_axis)
    rng = problem.rng()
    x = problem.activations(problem.K if transpose else problem.C, rng)
    w = problem.weights(rng)
    bias = rng.standard_normal(problem.C if transpose else problem.K)
    # Large enough to hide the sign of what relu gave.
    residual = -3 * problem.activations(problem.C if transpose else problem.K, rng)

    def function(x, w, bias, residual):
        return ops.matmul(
            x, w, bias=bias, activation=activation, residual=residual, transpose=transpose,
            **problem.kwargs,
        )  # fmt: skip

    _check(function, [x, w, bias, residual])


def test_relu_under_a_residual_has_the_gradients_of_relu_alone():
    problem = _small(1)
    rng = problem.rng()
    x, w = tf.constant(problem.activations(problem.C, rng)), tf.constant(problem.weights(rng))
    bias = tf.constant(rng.standard_normal(problem.K))
    residual = tf.constant(problem.activations(problem.K, rng))
    dy = tf.constant(problem.activations(problem.K, rng))
    with tf.device(_CPU):
        gradients = []
        for added in (residual, None):
            with tf.GradientTape() as tape:
                tape.watch([x, w, bias, residual])
                y = ops.matmul(
                    x, w, bias=bias, activation="relu", residual=added, **problem.kwargs
                )
            gradients.append(tape.gradient(y, [x, w, bias, residual], dy))
    for ours, alone in zip(gradients[0][:3], gradients[1][:3]):
        np.testing.assert_array_equal(ours, alone)
    np.testing.assert_array_equal(gradients[0][3], dy)
    assert gradients[1][3] is None


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_weight_gradient(feature_axis):
    problem = _small(feature_axis)
    rng = problem.rng()
    x, dy = problem.activations(problem.C, rng), problem.activations(problem.K, rng)
    _check(lambda x, dy: ops.matmul_dw(x, dy, **problem.kwargs), [x, dy])


def _flat_gradients(function):
    """The gradients of the sum of squares of what `function` gives, in one vector."""

    def gradients(*operands):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            loss = tf.reduce_sum(tf.square(function(*operands)))
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, operands)], 0)

    return gradients


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("gated", [False, True])
def test_weight_gradient_of_a_list(gated, feature_axis):
    problem = _small(feature_axis)
    rng = problem.rng()
    pairs = [problem.activations(n, rng) for n in (problem.C, problem.K) * 2]
    addend = problem.weights(rng)
    gate = GATE if gated else None

    def function(x, dy, next_x, next_dy, addend):
        return ops.matmul_dw([x, next_x], [dy, next_dy], gate=gate, addend=addend,
                             **problem.kwargs)

    _check(function, [*pairs, addend])


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_second_derivatives(feature_axis):
    problem = _small(feature_axis)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    gradients = _flat_gradients(lambda x, w: ops.matmul(x, w, activation="gelu", **problem.kwargs))
    _check(gradients, [x, w], tolerance=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_second_derivatives_with_a_residual(feature_axis, activation):
    problem = _small(feature_axis)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    residual = problem.activations(problem.K, rng)
    gradients = _flat_gradients(
        lambda x, w, residual: ops.matmul(
            x, w, activation=activation, residual=residual, **problem.kwargs
        )
    )
    _check(gradients, [x, w, residual], tolerance=1e-6)


GATE = np.float32([0.5, 0.0, -2.0, 1.0])


def _gradients_of_gated(problem, x, w, dy, **flags):
    """(dx, dw, dgate) of sum(dy * y), y gated by GATE."""
    with tf.device(_CPU):
        x, w, gate = tf.constant(x), tf.constant(w), tf.constant(GATE)
        with tf.GradientTape() as tape:
            tape.watch([x, w, gate])
            y = ops.matmul(x, w, gate=gate, **flags, **problem.kwargs)
            loss = tf.reduce_sum(dy * y)
        return tape.gradient(loss, [x, w, gate])


def _gated_problem():
    problem = _small(1)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    dy = problem.activations(problem.K, rng)
    raw = problem.from_dense(problem.outer(x, dy))
    return problem, x, w, dy, raw


@pytest.mark.parametrize("gate_grad", [False, True])
def test_gated_product_has_true_gradients(gate_grad):
    problem, x, w, dy, raw = _gated_problem()
    _check(
        lambda x, w: ops.matmul(x, w, gate=GATE, gate_grad=gate_grad, **problem.kwargs), [x, w]
    )
    _, dw, dgate = _gradients_of_gated(problem, x, w, dy, gate_grad=gate_grad)
    np.testing.assert_allclose(dw, raw * GATE[:, None, None], rtol=1e-5, atol=1e-6)
    if gate_grad:
        np.testing.assert_allclose(dgate, (raw * w).sum((1, 2)), rtol=1e-5, atol=1e-6)
    else:
        assert dgate is None


def test_dw_gated_leaves_closed_blocks_out():
    problem, x, w, dy, raw = _gated_problem()
    _, dw, dgate = _gradients_of_gated(problem, x, w, dy, gate_grad=True, dw_gated=True)
    np.testing.assert_allclose(dw, raw * GATE[:, None, None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        dgate, (raw * w).sum((1, 2)) * (GATE != 0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("gate_grad", [False, True])
def test_straight_through_lets_closed_blocks_learn(gate_grad):
    problem, x, w, dy, raw = _gated_problem()
    _, dw, _ = _gradients_of_gated(
        problem, x, w, dy, gate_grad=gate_grad, straight_through=True
    )
    np.testing.assert_allclose(dw, raw, rtol=1e-5, atol=1e-6)


def test_second_derivative_through_the_gate():
    """d/dgate of dw: gate * raw is linear in the gate, so it is raw, block by block."""
    problem, x, w, dy, raw = _gated_problem()
    with tf.device(_CPU):
        gate, w = tf.constant(GATE), tf.constant(w)
        with tf.GradientTape() as outer:
            outer.watch(gate)
            with tf.GradientTape() as inner:
                inner.watch(w)
                y = ops.matmul(x, w, gate=gate, gate_grad=True, **problem.kwargs)
                loss = tf.reduce_sum(dy * y)
            total = tf.reduce_sum(inner.gradient(loss, w))
        slope = outer.gradient(total, gate)
    np.testing.assert_allclose(slope, raw.sum((1, 2)), rtol=1e-5, atol=1e-5)


@problems.DETERMINISTIC
@hypothesis.given(problems.problems(batches=st.sampled_from([1, 5, 33])), st.booleans())
def test_gradients_are_as_accurate_as_dense(problem, has_bias):
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    dy = problem.activations(problem.K, rng)
    bias = problems.rounded(rng.standard_normal(problem.K), problem.dtype) if has_bias else None
    with tf.GradientTape() as tape:
        watched = [tf.constant(x), tf.constant(w)] + ([tf.constant(bias)] if has_bias else [])
        tape.watch(watched)
        y = ops.matmul(
            watched[0], watched[1], bias=watched[2] if has_bias else None, **problem.kwargs
        )
    gradients = tape.gradient(y, watched, output_gradients=tf.constant(dy))

    references = [
        (lambda dy, w: problem.product(dy, problem.to_dense(w).T), (dy, w)),
        (lambda x, dy: problem.from_dense(problem.outer(x, dy)), (x, dy)),
        (lambda dy: dy.sum(1 if problem.feature_axis == 0 else 0), (dy,)),
    ]
    for gradient, (compute, operands) in zip(gradients, references):
        truth = compute(*[a.astype(np.float64) for a in operands])
        allowed = problems.dense_error(truth, compute, problem.dtype, *operands)
        problems.assert_as_accurate(gradient, truth, allowed, problems.BACKWARD)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_master_weights_get_float32_gradients(dtype):
    problem = problems.Problem(np.ones((2, 2), bool), 16, 1, 8, dtype, seed=9)
    rng = problem.rng()
    x = problem.activations(problem.C, rng)
    w = tf.Variable(rng.standard_normal((4, 16, 16)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        y = ops.matmul(x, w, **problem.kwargs)
    dw = tape.gradient(y, w)
    assert dw.dtype == tf.float32
    expected = problem.from_dense(problem.outer(x.astype(np.float64), np.ones((8, problem.K))))
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=1e-5)


def test_gradients_in_a_session():
    problem = _small(0)
    rng = problem.rng()
    x, w = problem.activations(problem.C, rng), problem.weights(rng)
    with tf.Graph().as_default(), tf.device(_CPU), tf.compat.v1.Session() as session:
        x_in = tf.compat.v1.placeholder(tf.float64, [problem.C, None])
        w_in = tf.compat.v1.placeholder(tf.float64, w.shape)
        y = ops.matmul(x_in, w_in, activation="relu", **problem.kwargs)
        dx, dw = tf.gradients(y, [x_in, w_in])
        ours = session.run([dx, dw], {x_in: x, w_in: w})
    dense = problem.to_dense(w)
    dz = (problem.product(x, dense) > 0).astype(np.float64)
    np.testing.assert_allclose(ours[0], problem.product(dz, dense.T))
    np.testing.assert_allclose(ours[1], problem.from_dense(problem.outer(x, dz)))
