"""activation_grad: dz and dbias against float64, their own gradients, edges, bad input."""

import hypothesis
import ml_dtypes
import numpy as np
import problems
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from bsparse_tf import native, ops
from bsparse_tf.activation_gradient import activation_grad, gelu

_CPU = "/device:CPU:0"
ACTIVATIONS = ("none", "relu", "gelu")
MANY = 4096  # numbers that dense's error is taken over
BAD = (ValueError, tf.errors.InvalidArgumentError)


def slope(activation, values):
    """In the precision of the values, by TensorFlow's erfc."""
    if activation == "none":
        return np.ones_like(values)
    if activation == "relu":
        return (values > 0).astype(values.dtype)
    pdf = np.exp(-0.5 * np.square(values)) / values.dtype.type(np.sqrt(2 * np.pi))
    cdf = 0.5 * tf.math.erfc(-values * values.dtype.type(np.sqrt(0.5))).numpy()
    return cdf + values * pdf


def operands(dtype, axis, features, batch, seed=0):
    """dy and values, exact in `dtype`."""
    rng = np.random.default_rng(seed)
    shape = (features, batch) if axis == 0 else (batch, features)
    return [problems.rounded(2 * rng.standard_normal(shape), dtype) for _ in range(2)]


def run(activation, axis, dy, values, bias_dtype):
    return activation_grad(
        dy, None if activation == "none" else values, activation, axis, bias_dtype
    )


def assert_is_sum_of(dbias, dz, axis):
    """dz as it is, summed in float32 (of float64 in float64) and rounded once."""
    exact = problems.as_float64(dz)
    batch_axes = tuple(range(1, exact.ndim)) if axis == 0 else tuple(range(exact.ndim - 1))
    size, exact = np.abs(exact).sum(batch_axes), exact.sum(batch_axes)
    unit = float(ml_dtypes.finfo(dbias.dtype.as_numpy_dtype).eps)
    wide = np.finfo(np.float64 if dbias.dtype == tf.float64 else np.float32).eps
    limit = 0.5 * unit * np.abs(exact) + 8 * wide * size
    assert dbias.shape == exact.shape
    assert (np.abs(problems.as_float64(dbias) - exact) <= limit).all()


@st.composite
def cases(draw):
    return dict(
        dtype=draw(st.sampled_from(problems.dtypes())),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        axis=draw(st.sampled_from([0, 1])),
        features=draw(st.sampled_from([1, 3, 16, 64, 100, 257, 1030])),
        batch=draw(st.sampled_from([0, 1, 2, 7, 33, 64, 129, 1000, 5000])),
        bias=draw(st.sampled_from([None, "same", "float32"])),
        seed=draw(st.integers(0, 2**16)),
    )


@hypothesis.settings(problems.DETERMINISTIC, max_examples=80)
@hypothesis.given(cases())
def test_values(case):
    dtype, activation, axis = case["dtype"], case["activation"], case["axis"]
    dy, values = operands(dtype, axis, case["features"], case["batch"], case["seed"])
    bias_dtype = dtype if case["bias"] == "same" or dtype == "float64" else case["bias"]
    bias_dtype = case["bias"] and bias_dtype
    dz, dbias = run(activation, axis, dy, values, bias_dtype)
    assert dz.dtype.name == dtype and dz.shape == dy.shape
    truth = problems.as_float64(dy) * slope(activation, problems.as_float64(values))
    # A handful of numbers can be right by chance: dense errs on many.
    many = operands(dtype, axis, 1, MANY)
    exact = problems.as_float64(many[0]) * slope(activation, problems.as_float64(many[1]))
    allowed = problems.dense_error(exact, lambda g, v: g * slope(activation, v), dtype, *many)
    if activation == "gelu":
        problems.assert_as_accurate(dz, truth, allowed, problems.BACKWARD, "dz")
    else:
        np.testing.assert_array_equal(problems.as_float64(dz), truth)
    if bias_dtype is None:
        assert dbias is None
    else:
        assert dbias.dtype.name == bias_dtype
        assert_is_sum_of(dbias, dz, axis)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_leading_dimensions(axis, activation):
    rng = np.random.default_rng(2)
    dy, values = (rng.standard_normal((6, 2, 3, 5)).astype(np.float32) for _ in range(2))
    if axis == 1:
        dy, values = np.moveaxis(dy, 0, -1), np.moveaxis(values, 0, -1)
    flat = (-1, 6) if axis == 1 else (6, -1)
    dz, dbias = run(activation, axis, dy, values, "float32")
    expected = run(activation, axis, dy.reshape(flat), values.reshape(flat), "float32")
    assert dz.shape == dy.shape and dbias.shape == (6,)
    assert dz.numpy().tobytes() == expected[0].numpy().tobytes()
    assert dbias.numpy().tobytes() == expected[1].numpy().tobytes()


def test_without_an_activation_dz_is_dy():
    """Not a copy of it."""
    def pointer(tensor):
        return np.from_dlpack(tensor).ctypes.data

    with tf.device(_CPU):
        dy = tf.random.normal([64, 64])
        dz, dbias = activation_grad(dy, bias_dtype="float32")
        assert pointer(dz) == pointer(dy) != pointer(dbias)
        assert activation_grad(dy)[1] is None


@pytest.mark.parametrize("dtype", problems.dtypes())
def test_special_numbers(dtype):
    inf, nan = np.inf, np.nan
    values = tf.constant([[nan, 0.0, -0.0, inf, -inf, 30.0, -30.0]], dtype)
    dy = tf.constant([[2.0] * 7], dtype)
    relu = activation_grad(dy, values, "relu")[0]
    np.testing.assert_array_equal(problems.as_float64(relu), [[0, 0, 0, 2, 0, 2, 0]])
    gelu = activation_grad(dy, values, "gelu")[0]
    expected = [[nan, 1, 1, nan, nan, 2, 0]]
    np.testing.assert_allclose(problems.as_float64(gelu), expected, atol=1e-6)
    relu = activation_grad(dy * nan, values, "relu")[0]
    np.testing.assert_array_equal(
        problems.as_float64(relu), [[0, 0, 0, nan, 0, nan, 0]], "a NaN that relu holds back"
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_reaches_its_feature_alone(axis):
    dy, values = operands("float32", axis, 40, 100)
    place = (7, 20) if axis == 0 else (20, 7)
    dy[place] = np.nan
    values[place] = 1
    for activation in ACTIVATIONS:
        dz, dbias = (np.asarray(t) for t in run(activation, axis, dy, values, "float32"))
        assert np.isnan(dz[place]) and np.isnan(dz).sum() == 1
        assert np.isnan(dbias[7]) and np.isnan(dbias).sum() == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_the_same_bits_every_time(dtype, axis):
    dy, values = operands(dtype, axis, 300, 10000)
    wide = "float64" if dtype == "float64" else "float32"

    def bits():
        return [np.asarray(r).tobytes() for r in run("gelu", axis, dy, values, wide)]

    first = bits()
    assert all(bits() == first for _ in range(5))


# ---- its gradient ----


def _check_gradient(function, arguments):
    with tf.device(_CPU):
        theory, numeric = tf.test.compute_gradient(function, arguments, delta=1e-5)
    for i, (ours, theirs) in enumerate(zip(theory, numeric)):
        np.testing.assert_allclose(ours, theirs, atol=2e-6, err_msg=f"argument {i}")
    return theory


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_of_the_gradient(axis, activation, has_bias):
    """Of dz and dbias, and of their gradients again."""
    dy, values = operands("float64", axis, 3, 4)
    weights = np.random.default_rng(1).standard_normal(dy.shape)

    def function(dy, values=None):
        dz, dbias = activation_grad(
            dy, values, activation, axis, "float64" if has_bias else None
        )
        results = [tf.reshape(tf.sin(dz) * weights, [-1])]
        return tf.concat(results + ([tf.square(dbias)] if has_bias else []), 0)

    def first(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = tf.reduce_sum(tf.square(function(*arguments)))
        gradients = tape.gradient(
            loss, arguments, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)

    arguments = [dy] if activation == "none" else [dy, values]
    for differentiated in (function, first):
        theory = _check_gradient(differentiated, arguments)
        assert np.abs(theory[0]).max() > 0
        if activation == "gelu":
            assert np.abs(theory[1]).max() > 0


def test_gradient_in_16_bit_is_rounded_once():
    dy, values = (tf.constant(a) for a in operands("bfloat16", 1, 64, 200))
    with tf.GradientTape() as tape:
        tape.watch([dy, values])
        dz, dbias = activation_grad(dy, values, "gelu", 1, "float32")
    ddz, ddbias = (tf.ones_like(dz), tf.fill(dbias.shape, 2.0**-10))
    ddy, dvalues = tape.gradient([dz, dbias], [dy, values], [ddz, ddbias])
    z = problems.as_float64(values)
    pdf = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    # 1 + 2^-10 is 1 in bfloat16.
    np.testing.assert_allclose(problems.as_float64(ddy), slope("gelu", z), rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(
        problems.as_float64(dvalues), problems.as_float64(dy) * pdf * (2 - z**2),
        rtol=2**-8, atol=1e-5,
    )


@pytest.mark.parametrize("dtype", problems.dtypes())
def test_gelu_is_tensorflows_with_another_gradient(dtype):
    z = tf.constant(operands(dtype, 1, 20, 30)[0])
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = gelu(z)
    np.testing.assert_array_equal(problems.as_float64(y), problems.as_float64(tf.nn.gelu(z)))
    dz = tape.gradient(y, z)
    expected, _ = activation_grad(tf.ones_like(z), z, "gelu")
    np.testing.assert_array_equal(problems.as_float64(dz), problems.as_float64(expected))


def test_derivatives_of_gelu():
    z = operands("float64", 1, 3, 4)[0]

    def first(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_sum(tf.square(gelu(z)))
        return tape.gradient(loss, z)

    for differentiated in (gelu, first, tf.function(first)):
        theory = _check_gradient(differentiated, [z])
        assert np.abs(theory[0]).max() > 0


# ---- as the gradient of a product ----


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_needs_one_op_for_both(activation, has_bias, axis):
    """And none where there is neither."""
    problem = problems.Problem(np.ones((2, 2), bool), 8, axis, 5, "float32", 0)
    rng = problem.rng()
    x, w = tf.constant(problem.activations(problem.C, rng)), tf.constant(problem.weights(rng))
    bias = tf.constant(rng.standard_normal(problem.K).astype(np.float32))

    @tf.function
    def gradients(x, w, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, w, bias])
            y = ops.matmul(
                x, w, bias=bias if has_bias else None, activation=activation, **problem.kwargs
            )
            loss = tf.reduce_sum(tf.sin(y))
        return [g for g in tape.gradient(loss, [x, w, bias]) if g is not None]

    types = [op.type for op in gradients.get_concrete_function(x, w, bias).graph.get_operations()]
    assert types.count("Bsparse>ActivationGrad") == (1 if has_bias or activation else 0)
    assert "ReluGrad" not in types
    assert len(gradients(x, w, bias)) == (3 if has_bias else 2)


# ---- XLA ----


@pytest.mark.skipif(native.xla_status() is not None, reason=f"no XLA: {native.xla_status()}")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_xla_agrees(dtype, activation, axis):
    wide = "float64" if dtype == "float64" else "float32"
    for batch, bias_dtype in ((1000, dtype), (1000, wide), (0, dtype), (33, None)):
        dy, values = (tf.constant(a) for a in operands(dtype, axis, 24, batch))

        def function(dy, values):
            return [r for r in run(activation, axis, dy, values, bias_dtype) if r is not None]

        plain = function(dy, values)
        jitted = tf.function(function, jit_compile=True)(dy, values)
        assert [(r.dtype, r.shape) for r in jitted] == [(r.dtype, r.shape) for r in plain]
        unit = float(ml_dtypes.finfo(dy.dtype.as_numpy_dtype).eps)
        tolerance = dict(rtol=unit, atol=1e-15 if dtype == "float64" else 1e-6)
        if activation != "gelu":
            tolerance = dict(rtol=0, atol=0)
        ours, theirs = (problems.as_float64(r[0]) for r in (jitted, plain))
        np.testing.assert_allclose(ours, theirs, **tolerance)
        if bias_dtype is not None:
            assert_is_sum_of(jitted[1], jitted[0], axis)


@pytest.mark.skipif(native.xla_status() is not None, reason=f"no XLA: {native.xla_status()}")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_xla_with_a_batch_that_it_pads(activation):
    """Rows that tf.boolean_mask leaves are a dynamic dimension to XLA."""
    dy, values = (tf.constant(a) for a in operands("float32", 1, 24, 40))
    keep = tf.constant(np.arange(40) % 3 > 0)

    @tf.function(jit_compile=True)
    def function(dy, values):
        dy, values = (tf.boolean_mask(t, keep) for t in (dy, values))
        return run(activation, 1, dy, values, "float32")

    expected = run(activation, 1, dy[keep], values[keep], "float32")
    dz, dbias = function(dy, values)
    np.testing.assert_allclose(dz, expected[0], rtol=1e-6, atol=1e-6)
    assert_is_sum_of(dbias, dz, axis=1)  # in another order than the op's own


# ---- bad input ----

X = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(values=np.ones((4, 7), np.float32)), r"values has shape \(4, 7\); expected \(4, 8\)"),
        (dict(dy=X[0], values=X[0]), "dy has shape .* of rank 1; expected rank 2 or more"),
        (dict(values=None), "values is None; expected y with activation 'relu'"),
        (dict(values=None, activation="gelu"), "values is None; expected z with activation 'gelu'"),
        (dict(activation=None), "values is given; expected None with activation 'none'"),
        (dict(activation="tanh"), "activation is 'tanh'; expected None, 'relu' or 'gelu'"),
        (dict(feature_axis=2), "feature_axis must be 1"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"dy": X, "values": X, "activation": "relu", **arguments}
    with pytest.raises(BAD, match=message):
        activation_grad(**arguments)
    with pytest.raises(BAD, match=message):
        tf.function(lambda: activation_grad(**arguments)).get_concrete_function()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="values has dtype float16; expected float32"):
        activation_grad(X, X.astype(np.float16), "relu")
    with pytest.raises(TypeError, match="bias has dtype float16 and dy float32"):
        activation_grad(X, X, "relu", bias_dtype="float16")


@pytest.mark.parametrize(
    "attributes, message",
    [
        (dict(values=[]), "num_values is 0; expected 1 with activation='relu'"),
        (dict(values=[X, X]), "num_values is 2; expected 1 with activation='relu'"),
        (dict(activation="none"), "num_values is 1; expected 0 with activation='none'"),
        (dict(num_biases=2), "num_biases is 2; expected 0 or 1"),
        (dict(feature_axis=3), "feature_axis is 3"),
        (dict(Tb=tf.float16), "Tb is half and T float; expected Tb to be T"),
    ],
)
def test_bad_attributes(attributes, message):
    attributes = {"dy": X, "values": [X], "activation": "relu", "num_biases": 1,
                  "Tb": tf.float32, **attributes}
    with pytest.raises(BAD, match=message):
        tf.function(
            lambda: native.raw.bsparse_activation_grad(**attributes)
        ).get_concrete_function()


def test_shapes_unknown_while_tracing_are_checked_at_run_time():
    spec = tf.TensorSpec(None, tf.float32)
    traced = tf.function(
        lambda dy, y: activation_grad(dy, y, "relu", 1, "float32"), input_signature=[spec, spec]
    )
    np.testing.assert_array_equal(traced(X, X)[1], np.full(8, 4))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"values has shape \(4, 7\)"):
        traced(X, X[:, :7])
