"""layer_norm and its Keras layer: values, gradients, edges, bad input."""

import hypothesis
import keras
import numpy as np
import problems
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import bsparse_tf
from bsparse_tf.keras import LayerNorm

_CPU = "/device:CPU:0"
MANY = 128
BAD = (ValueError, tf.errors.InvalidArgumentError)


def reference(x, gain, bias, axis, segments=1, relu=False, epsilon=1e-6):
    """The formula in x's precision, features where x has them. TensorFlow, so differentiable."""
    x = tf.convert_to_tensor(x)
    last = tf.transpose(x) if axis == 0 else x
    parts = tf.reshape(last, [last.shape[0], segments, last.shape[1] // segments])
    centred = parts - tf.reduce_mean(parts, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    y = tf.reshape(centred / tf.sqrt(variance + epsilon), last.shape) * gain + bias
    y = tf.nn.relu(y) if relu else y
    return tf.transpose(y) if axis == 0 else y


def gradients_of(function, operands, dy):
    """y and the gradients of its product with dy."""
    with tf.GradientTape() as tape:
        operands = [tf.convert_to_tensor(o) for o in operands]
        tape.watch(operands)
        y = function(*operands)
    return [y, *tape.gradient(y, operands, tf.convert_to_tensor(dy))]


@st.composite
def norms(draw):
    segments = draw(st.sampled_from([1, 1, 2, 4]))
    return dict(
        dtype=draw(st.sampled_from(problems.dtypes())),
        axis=draw(st.sampled_from([0, 1])),
        segments=segments,
        features=segments * draw(st.sampled_from([17, 64, 100, 257, 1030])),
        batch=draw(st.sampled_from([1, 2, 7, 33, 64, 129, 200])),
        relu=draw(st.booleans()),
        wide_parameters=draw(st.booleans()),
        mean=draw(st.sampled_from([0.0, 3.0])),
        seed=draw(st.integers(0, 2**16)),
    )


@hypothesis.settings(problems.DETERMINISTIC, max_examples=60)
@hypothesis.given(norms())
def test_values_and_gradients(norm):
    rng = np.random.default_rng(norm["seed"])
    dtype, axis, features, batch = norm["dtype"], norm["axis"], norm["features"], norm["batch"]
    wide = norm["wide_parameters"] and tf.as_dtype(dtype).size == 2
    stored = "float32" if wide else dtype
    # What dense errs is taken over many entries: a handful can be right by chance.
    many = max(batch, MANY)
    shape = (features, many) if axis == 0 else (many, features)
    x = problems.rounded(rng.standard_normal(shape) + norm["mean"], dtype)
    dy = problems.rounded(rng.standard_normal(shape), dtype)
    gain = problems.rounded(1 + 0.3 * rng.standard_normal(features), stored)
    bias = problems.rounded(0.3 * rng.standard_normal(features), stored)
    options = dict(axis=axis, segments=norm["segments"], relu=norm["relu"])
    # Away from 0 relu's slope does not depend on rounding.
    if norm["relu"]:
        z = reference(*[problems.as_float64(a) for a in (x, gain, bias)], axis, norm["segments"])
        dy = np.where(np.abs(z) < 0.01, np.zeros_like(dy), dy)
    few = (slice(None), slice(batch)) if axis == 0 else slice(batch)

    def compute(x, gain, bias, dy):
        return gradients_of(lambda *o: reference(*o, **options), [x, gain, bias], dy)

    def reference_of(type_, x, dy):
        """y and dx of many entries, dgain and dbias of the few."""
        x, gain_, bias_, dy = (np.asarray(a).astype(type_) for a in (x, gain, bias, dy))
        return compute(x, gain_, bias_, dy)[:2] + compute(x[few], gain_, bias_, dy[few])[2:]

    results = gradients_of(
        lambda x, g, b: bsparse_tf.layer_norm(x, g, b, **options), [x[few], gain, bias], dy[few]
    )
    with tf.device(_CPU):
        truth = reference_of(np.float64, x, dy)
    dense = reference_of(np.float64 if dtype == "float64" else np.float32, x, dy)
    kinds = [dtype, dtype, stored, stored]
    assert [r.dtype.name for r in results] == kinds
    factors = [problems.FORWARD] + [problems.BACKWARD] * 3
    for i, (result, kind, factor) in enumerate(zip(results, kinds, factors)):
        exact = problems.as_float64(truth[i])
        allowed = problems.dense_error(exact, lambda a: a, kind, dense[i])
        exact = exact[few] if i < 2 else exact
        problems.assert_as_accurate(result, exact, allowed, factor, f"result {i}")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("features", [4096, 20000, 70000])
def test_long_rows_with_a_mean(axis, features):
    """A mean far from 0 must not spoil the variance."""
    x = np.random.default_rng(0).standard_normal((5, features)).astype(np.float32) + 100
    y = bsparse_tf.layer_norm(x.T if axis == 0 else x, axis=axis)
    y = np.asarray(y).T if axis == 0 else np.asarray(y)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-6)
    # Half a unit of the mean's last place.
    np.testing.assert_allclose(y, exact, atol=8e-6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_first_and_second_derivatives(axis, segments, relu):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((8, 3) if axis == 0 else (3, 8))
    gain, bias = rng.standard_normal(8), rng.standard_normal(8)
    weights = rng.standard_normal(x.shape)

    def function(x, gain, bias):
        return bsparse_tf.layer_norm(x, gain, bias, axis=axis, segments=segments, relu=relu)

    def first(x, gain, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, gain, bias])
            loss = tf.reduce_sum(weights * tf.sin(function(x, gain, bias)))
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, [x, gain, bias])], 0)

    with tf.device(_CPU):
        for differentiated in (function, first):
            theory, numeric = tf.test.compute_gradient(differentiated, [x, gain, bias], delta=1e-5)
            for ours, theirs in zip(theory, numeric):
                assert np.abs(ours).max() > 0
                np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", problems.dtypes())
@pytest.mark.parametrize("axis", [0, 1])
def test_leading_dimensions(axis, dtype):
    rng = np.random.default_rng(2)
    x = problems.rounded(rng.standard_normal((6, 2, 3, 5)), dtype)
    x = np.moveaxis(x, 0, -1) if axis == 1 else x
    flat = x.reshape(-1, 6) if axis == 1 else x.reshape(6, -1)
    y = bsparse_tf.layer_norm(x, axis=axis)
    assert y.shape == x.shape
    expected = np.asarray(bsparse_tf.layer_norm(flat, axis=axis))
    assert np.asarray(y).tobytes() == expected.tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_segments_of_one_feature_give_the_bias(axis):
    x = np.random.default_rng(11).standard_normal((4, 4)).astype(np.float32)
    bias = np.float32([1, 2, 3, 4])
    y = bsparse_tf.layer_norm(x, bias=bias, axis=axis, segments=4)
    np.testing.assert_array_equal(np.asarray(y).T if axis == 0 else y, np.tile(bias, (4, 1)))


@pytest.mark.parametrize("axis", [0, 1])
def test_empty_batch(axis):
    x = tf.zeros([8, 0] if axis == 0 else [0, 8])
    y, dx, dgain, dbias = gradients_of(
        lambda x, g, b: bsparse_tf.layer_norm(x, g, b, axis=axis),
        [x, tf.ones(8), tf.ones(8)],
        tf.zeros_like(x),
    )
    assert y.shape == x.shape and dx.shape == x.shape
    np.testing.assert_array_equal(dgain, np.zeros(8))
    np.testing.assert_array_equal(dbias, np.zeros(8))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_spoil_their_batch_entry_alone(bad, axis, relu):
    x = np.random.default_rng(3).standard_normal((4, 40)).astype(np.float32)
    x[2, 7] = bad
    y = bsparse_tf.layer_norm(x.T if axis == 0 else x, axis=axis, relu=relu)
    y = np.asarray(y).T if axis == 0 else np.asarray(y)
    assert np.isnan(y[2]).all()
    assert np.isfinite(np.delete(y, 2, 0)).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_same_bits_every_time(axis):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((513, 300)).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    features = x.shape[0 if axis == 0 else 1]
    gain, bias = rng.standard_normal((2, features)).astype(np.float32)

    def bits():
        results = gradients_of(
            lambda x, g, b: bsparse_tf.layer_norm(x, g, b, axis, relu=True), [x, gain, bias], dy
        )
        return [np.asarray(r).tobytes() for r in results]

    first = bits()
    assert all(bits() == first for _ in range(5))


def test_default_gain_and_bias():
    x = np.random.default_rng(5).standard_normal((3, 16)).astype(np.float32)
    gain, bias = np.float32(np.arange(16)), np.float32(np.arange(16)) / 3
    for given in (dict(gain=gain), dict(bias=bias), {}):
        full = {"gain": np.ones(16, np.float32), "bias": np.zeros(16, np.float32), **given}
        np.testing.assert_array_equal(
            bsparse_tf.layer_norm(x, **given), bsparse_tf.layer_norm(x, **full)
        )


def test_in_a_session():
    x = np.random.default_rng(6).standard_normal((3, 8))
    with tf.Graph().as_default(), tf.device(_CPU), tf.compat.v1.Session() as session:
        x_in = tf.compat.v1.placeholder(tf.float64, [None, 8])
        y = bsparse_tf.layer_norm(x_in, tf.ones(8, tf.float64))
        (dx,) = tf.gradients(tf.square(y)[:, 0], [x_in])
        ours = session.run([y, dx], {x_in: x})
    y, dx = gradients_of(
        lambda x: tf.square(reference(x, 1.0, 0.0, 1))[:, 0], [x], np.ones(3)
    )
    np.testing.assert_allclose(ours[0], reference(x, 1.0, 0.0, 1), atol=1e-12)
    np.testing.assert_allclose(ours[1], dx, atol=1e-7)


# ---- bad input ----

X = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(gain=np.ones(7, np.float32)), r"gain has shape \(7,\); expected \(8,\)"),
        (dict(bias=np.ones((8, 1), np.float32)), r"bias has shape \(8, 1\); expected \(8,\)"),
        (dict(segments=3), "8 features; expected a positive multiple of segments=3"),
        (dict(segments=0), "segments"),
        (dict(axis=2), "axis must be 1 or -1"),
        (dict(x=np.ones(8, np.float32)), "of rank 1; expected rank 2 or more"),
        (dict(x=np.ones((4, 0), np.float32)), "0 features"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"x": X, **arguments}
    with pytest.raises(BAD, match=message):
        bsparse_tf.layer_norm(**arguments)
    with pytest.raises(BAD, match=message):
        tf.function(lambda: bsparse_tf.layer_norm(**arguments)).get_concrete_function()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="gain has dtype float16 and x float32"):
        bsparse_tf.layer_norm(X, np.ones(8, np.float16))
    with pytest.raises(TypeError, match="bias has dtype float32; expected float16"):
        x = X.astype(np.float16)
        bsparse_tf.layer_norm(x, np.ones(8, np.float16), np.ones(8, np.float32))


def test_shapes_unknown_while_tracing_are_checked_at_run_time():
    spec = tf.TensorSpec(None, tf.float32)
    traced = tf.function(bsparse_tf.layer_norm, input_signature=[spec, spec])
    np.testing.assert_array_equal(traced(X, np.ones(8, np.float32)), np.zeros_like(X))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"gain has shape \(3,\)"):
        traced(X, np.ones(3, np.float32))


# ---- the layer ----


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_layer_is_the_op(feature_axis):
    layer = LayerNorm(feature_axis, segments=2, relu=True, gain_initializer="uniform")
    x = np.random.default_rng(7).standard_normal((8, 8)).astype(np.float32)
    y = layer(x)
    expected = bsparse_tf.layer_norm(x, layer.gain, layer.bias, feature_axis, 2, True)
    np.testing.assert_array_equal(y, expected)
    assert [w.shape for w in layer.trainable_weights] == [(8,), (8,)]


def test_layer_agrees_with_keras():
    x = np.random.default_rng(8).standard_normal((5, 12)).astype(np.float32)
    theirs = keras.layers.LayerNormalization(epsilon=1e-3)(x)
    np.testing.assert_allclose(LayerNorm(epsilon=1e-3)(x), theirs, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_float32_parameters(policy):
    layer = LayerNorm(dtype=policy)
    with tf.GradientTape() as tape:
        y = layer(np.random.default_rng(9).standard_normal((6, 32)).astype(np.float32))
    assert y.dtype.name == policy.removeprefix("mixed_")
    assert layer.gain.dtype == layer.bias.dtype == "float32"
    gradients = tape.gradient(y, layer.trainable_weights)
    assert [g.dtype for g in gradients] == [tf.float32, tf.float32]


def test_layer_trains_and_saves(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(10).standard_normal((64, 12)).astype(np.float32)
    model = keras.Sequential(
        [keras.Input((12,)), LayerNorm(segments=3, relu=True, center=False), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    before = model.layers[0].gain.numpy()
    model.fit(x, x[:, :1], epochs=2, verbose=0)
    assert np.abs(model.layers[0].gain.numpy() - before).max() > 0
    assert model.layers[0].bias is None
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        (dict(feature_axis=2), (2, 8), "feature_axis must be 1"),
        (dict(segments=0), (2, 8), "segments must be positive; got 0"),
        (dict(segments=3), (2, 8), "expected a multiple of segments=3"),
    ],
)
def test_bad_layer_arguments(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        LayerNorm(**arguments)(np.ones(shape, np.float32))


def test_layer_needs_to_know_its_features():
    with pytest.raises(ValueError, match="must be known when the layer is built"):
        LayerNorm().build((None, None))
