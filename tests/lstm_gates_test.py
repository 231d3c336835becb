"""lstm_gates: against Keras's cell and against the formula in float64, with gradients."""

import hypothesis
import keras
import numpy as np
import problems
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import bsparse_tf

_CPU = "/device:CPU:0"
BAD = (ValueError, tf.errors.InvalidArgumentError)


def reference(c, gates, bias, axis, forget_bias=0.0):
    """(c_next, h) by TensorFlow's ops in the precision of the operands."""
    gates = tf.convert_to_tensor(gates)
    if bias is not None:
        gates += bias[:, tf.newaxis] if axis == 0 else bias
    i, f, g, o = tf.split(gates, 4, axis=0 if axis == 0 else -1)
    c_next = tf.sigmoid(f + forget_bias) * c + tf.sigmoid(i) * tf.tanh(g)
    return c_next, tf.sigmoid(o) * tf.tanh(c_next)


def gradients_of(function, operands, upstream):
    """The results and the gradients of the operands."""
    with tf.GradientTape() as tape:
        operands = [None if o is None else tf.convert_to_tensor(o) for o in operands]
        given = [o for o in operands if o is not None]
        tape.watch(given)
        results = function(*operands)
    upstream = [tf.convert_to_tensor(u) for u in upstream]
    return [*results, *tape.gradient(results, given, upstream)]


def test_order_of_gates_is_that_of_keras():
    cell = keras.layers.LSTMCell(7, bias_initializer="uniform", unit_forget_bias=False)
    rng = np.random.default_rng(0)
    x, h, c = [rng.standard_normal((3, n)).astype(np.float32) for n in (4, 7, 7)]
    cell.build(x.shape)
    _, (h_keras, c_keras) = cell(x, [h, c])
    gates = tf.matmul(x, cell.kernel) + tf.matmul(h, cell.recurrent_kernel)
    c_next, h_next = bsparse_tf.lstm_gates(c, gates, cell.bias)
    np.testing.assert_allclose(c_next, c_keras, atol=1e-6)
    np.testing.assert_allclose(h_next, h_keras, atol=1e-6)


@st.composite
def steps(draw):
    return dict(
        dtype=draw(st.sampled_from(problems.dtypes())),
        axis=draw(st.sampled_from([0, 1])),
        units=draw(st.sampled_from([1, 3, 8, 33, 128])),
        batch=draw(st.sampled_from([1, 2, 7, 33, 64])),
        has_bias=draw(st.booleans()),
        wide_cell=draw(st.booleans()),
        wide_bias=draw(st.booleans()),
        forget_bias=draw(st.sampled_from([0.0, 1.0])),
        scale=draw(st.sampled_from([1.0, 6.0])),
        seed=draw(st.integers(0, 2**16)),
    )


@hypothesis.settings(problems.DETERMINISTIC, max_examples=60)
@hypothesis.given(steps())
def test_values_and_gradients(step):
    rng = np.random.default_rng(step["seed"])
    dtype, axis, units, batch = step["dtype"], step["axis"], step["units"], step["batch"]
    is_narrow = tf.as_dtype(dtype).size == 2
    cell_dtype = "float32" if step["wide_cell"] and is_narrow else dtype
    bias_dtype = "float32" if step["wide_bias"] and is_narrow else dtype

    def state(features, dtype, scale=1.0):
        shape = (features, batch) if axis == 0 else (batch, features)
        return problems.rounded(scale * rng.standard_normal(shape), dtype)

    c, gates = state(units, cell_dtype), state(4 * units, dtype, step["scale"])
    dc, dh = state(units, cell_dtype), state(units, dtype)
    bias = None
    if step["has_bias"]:
        bias = problems.rounded(rng.standard_normal(4 * units), bias_dtype)
    options = dict(axis=axis, forget_bias=step["forget_bias"])
    results = gradients_of(
        lambda c, gates, bias: bsparse_tf.lstm_gates(c, gates, bias, **options),
        [c, gates, bias],
        [dc, dh],
    )
    kinds = [cell_dtype, dtype, cell_dtype, dtype] + [bias_dtype] * step["has_bias"]
    assert [r.dtype.name for r in results] == kinds

    def compute(wide):
        operands = [None if o is None else np.asarray(o).astype(wide) for o in (c, gates, bias)]
        upstream = [np.asarray(u).astype(wide) for u in (dc, dh)]
        return gradients_of(lambda *o: reference(*o, **options), operands, upstream)

    with tf.device(_CPU):
        truth = compute(np.float64)
    dense = compute(np.float64 if dtype == "float64" else np.float32)
    factors = [problems.FORWARD] * 2 + [problems.BACKWARD] * 3
    for i, (result, kind, factor) in enumerate(zip(results, kinds, factors)):
        exact = problems.as_float64(truth[i])
        narrow = dtype if i == 4 else kind  # dgates, which are summed, are rounded to their dtype.
        dense_result = dense[i]
        if i == 4:
            rounded_gates = problems.rounded(dense[3], narrow).astype(dense[3].dtype.as_numpy_dtype)
            dense_result = rounded_gates.sum(1 if axis == 0 else 0)
        allowed = problems.dense_error(exact, lambda a: a, kind, dense_result)
        problems.assert_as_accurate(result, exact, allowed, factor, f"result {i}")


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_first_and_second_derivatives(axis, has_bias):
    rng = np.random.default_rng(1)
    c, gates = rng.standard_normal((3, 5)), rng.standard_normal((3, 20))
    operands = [c.T, gates.T] if axis == 0 else [c, gates]
    operands += [rng.standard_normal(20)] if has_bias else []

    def function(*operands):
        results = bsparse_tf.lstm_gates(*operands, axis=axis, forget_bias=0.5)
        return tf.concat(results, 0)

    def first(*operands):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            loss = tf.reduce_sum(tf.sin(2 * function(*operands)))
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, operands)], 0)

    with tf.device(_CPU):
        for differentiated in (function, first):
            theory, numeric = tf.test.compute_gradient(differentiated, operands, delta=1e-5)
            for ours, theirs in zip(theory, numeric):
                assert np.abs(ours).max() > 0
                np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_may_go_unused(used):
    rng = np.random.default_rng(2)
    c, gates = tf.constant(rng.standard_normal((2, 3))), tf.constant(rng.standard_normal((2, 12)))
    with tf.device(_CPU):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([c, gates])
            ours = bsparse_tf.lstm_gates(c, gates)[used]
            theirs = reference(c, gates, None, 1)[used]
        for a, b in zip(tape.gradient(ours, [c, gates]), tape.gradient(theirs, [c, gates])):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saturated_gates(dtype):
    """Sums of any size give what the limits of the functions are; NaN stays NaN."""
    huge = float(tf.as_dtype(dtype).max)
    c = tf.cast([[2.0] * 6], dtype)
    i = [huge, -huge, np.inf, -np.inf, huge, np.nan]
    f = [-huge, huge, -np.inf, np.inf, 0, 0]
    g = [huge, huge, np.inf, np.inf, -huge, 0]
    o = [huge, huge, np.inf, np.inf, -huge, 0]
    gates = tf.cast(np.float64([i + f + g + o]), dtype)
    c_next, h = bsparse_tf.lstm_gates(c, gates)
    np.testing.assert_array_equal(problems.as_float64(c_next)[0, :4], [1, 2, 1, 2])
    np.testing.assert_allclose(problems.as_float64(c_next)[0, 4], 0.0, atol=1e-6)
    assert problems.as_float64(h)[0, 4] == 0
    assert np.isnan(problems.as_float64(c_next)[0, 5]) and np.isnan(problems.as_float64(h)[0, 5])


@pytest.mark.parametrize("axis", [0, 1])
def test_leading_dimensions_and_empty_batch(axis):
    rng = np.random.default_rng(3)
    c = rng.standard_normal((4, 2, 3)).astype(np.float32)
    gates = rng.standard_normal((16, 2, 3)).astype(np.float32)
    if axis == 1:
        c, gates = np.moveaxis(c, 0, -1), np.moveaxis(gates, 0, -1)
    flat = (lambda a: a.reshape(-1, a.shape[-1])) if axis == 1 else lambda a: a.reshape(len(a), -1)
    for a, b in zip(
        bsparse_tf.lstm_gates(c, gates, axis=axis),
        bsparse_tf.lstm_gates(flat(c), flat(gates), axis=axis),
    ):
        assert a.shape == c.shape
        np.testing.assert_array_equal(np.asarray(a).ravel(), np.asarray(b).ravel())
    empty = (tf.zeros([4, 0]), tf.zeros([16, 0])) if axis == 0 else (
        tf.zeros([0, 4]), tf.zeros([0, 16]))  # fmt: skip
    for result in gradients_of(
        lambda c, gates, bias: bsparse_tf.lstm_gates(c, gates, bias, axis=axis),
        [*empty, tf.ones(16)],
        [empty[0], empty[0]],
    ):
        assert not np.asarray(result).any()


# ---- bad input ----

C, GATES = np.ones((4, 2), np.float32), np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(gates=GATES[:, :7]), r"gates has shape \(4, 7\); expected \(4, 8\), four gates"),
        (dict(gates=GATES[:3]), r"gates has shape \(3, 8\); expected \(4, 8\)"),
        (dict(axis=0), r"gates has shape \(4, 8\); expected \(16, 2\)"),
        (dict(axis=3), "axis must be 1 or -1"),
        (dict(bias=np.ones(7, np.float32)), r"bias has shape \(7,\); expected \(8,\)"),
        (dict(c=C[0]), "c has shape .* of rank 1"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"c": C, "gates": GATES, **arguments}
    with pytest.raises(BAD, match=message):
        bsparse_tf.lstm_gates(**arguments)
    with pytest.raises(BAD, match=message):
        tf.function(lambda: bsparse_tf.lstm_gates(**arguments)).get_concrete_function()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="c has dtype float16 and gates float32"):
        bsparse_tf.lstm_gates(C.astype(np.float16), GATES)
    with pytest.raises(TypeError, match="bias has dtype float16 and gates float32"):
        bsparse_tf.lstm_gates(C, GATES, np.ones(8, np.float16))


def test_shapes_unknown_while_tracing_are_checked_at_run_time():
    spec = tf.TensorSpec(None, tf.float32)
    traced = tf.function(bsparse_tf.lstm_gates, input_signature=[spec, spec, spec])
    assert traced(C, GATES, np.ones(8, np.float32))[0].shape == (4, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"bias has shape \(3,\)"):
        traced(C, GATES, np.ones(3, np.float32))
