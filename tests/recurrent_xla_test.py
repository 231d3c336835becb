"""layer_norm, lstm_gates, l2_normalize and SparseProj under `jit_compile=True`.

XLA fuses them with what is around them and so rounds otherwise: closeness is asked.
"""

import keras
import numpy as np
import problems
import pytest
import tensorflow as tf

import bsparse_tf
from bsparse_tf import native
from bsparse_tf.keras import LayerNorm

pytestmark = pytest.mark.skipif(
    native.xla_status() is not None, reason=f"no XLA kernels: {native.xla_status()}"
)

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def _random(rng, features, batch, dtype, axis):
    shape = (features, *batch) if axis == 0 else (*batch, features)
    return tf.constant(problems.rounded(rng.standard_normal(shape), dtype))


def _with_gradients(function, operands, upstream):
    """All results, then the gradients of all operands."""

    def run(operands, upstream):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            results = function(*operands)
        gradients = tape.gradient(results, operands, upstream)
        return [*tf.nest.flatten(results), *gradients]

    plain = run(operands, upstream)
    jitted = tf.function(run, jit_compile=True)(operands, upstream)
    for i, (a, b) in enumerate(zip(plain, jitted)):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = problems.as_float64(a), problems.as_float64(b)
        scale = max(1.0, np.abs(a).max(initial=0))
        tolerance = TOLERANCE[plain[i].dtype.name] * scale
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance, err_msg=f"result {i}")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_layer_norm(dtype, axis, relu):
    rng = np.random.default_rng(0)
    for segments, batch in ((1, [5]), (4, [2, 3])):
        x, dy = (_random(rng, 48, batch, dtype, axis) for _ in range(2))
        stored = "float32" if segments == 1 and dtype != "float64" else dtype
        gain, bias = (_random(rng, 48, [], stored, 0) for _ in range(2))
        # At 0 relu's slope depends on rounding.
        y = bsparse_tf.layer_norm(x, gain, bias, axis, segments)
        dy = tf.where(tf.abs(y) < 0.05, tf.zeros_like(dy), dy)
        _with_gradients(
            lambda x, g, b: bsparse_tf.layer_norm(x, g, b, axis, segments, relu),
            [x, gain, bias],
            dy,
        )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_lstm_gates(dtype, axis):
    rng = np.random.default_rng(1)
    for batch, cell in (([5], dtype), ([2, 3], "float32")):
        if dtype == "float64":
            cell = dtype
        c, dc = (_random(rng, 9, batch, cell, axis) for _ in range(2))
        gates, dh = _random(rng, 36, batch, dtype, axis), _random(rng, 9, batch, dtype, axis)
        bias = _random(rng, 36, [], dtype, 0)
        for operands in ([c, gates], [c, gates, bias]):
            _with_gradients(
                lambda *o: bsparse_tf.lstm_gates(*o, axis=axis, forget_bias=1.0),
                operands,
                [dc, dh],
            )


@pytest.mark.parametrize("axis", [0, 1])
def test_batch_of_a_size_known_while_running(axis):
    """A tf.boolean_mask inside the compiled function."""
    rng = np.random.default_rng(2)
    x, dy = (_random(rng, 12, [10], "float32", axis) for _ in range(2))
    gain, bias = (_random(rng, 12, [], "float32", 0) for _ in range(2))
    keep = tf.constant(np.arange(10) % 3 != 0)

    def run(x, dy, gain, bias, keep):
        x = tf.boolean_mask(x, keep, axis=1 - axis)
        dy = tf.boolean_mask(dy, keep, axis=1 - axis)
        with tf.GradientTape() as tape:
            tape.watch([x, gain, bias])
            normal = bsparse_tf.layer_norm(x, gain, bias, axis=axis, segments=4)
            c, h = bsparse_tf.lstm_gates(tf.split(x, 4, -axis)[0], normal, axis=axis)
            loss = tf.reduce_sum(c * h) + tf.reduce_sum(normal * dy)
        dx, dgain, dbias = tape.gradient(loss, [x, gain, bias])
        return tf.shape(normal), tf.reduce_sum(c), tf.reduce_sum(dx * dx), dgain, dbias

    plain = run(x, dy, gain, bias, keep)
    jitted = tf.function(run, jit_compile=True)(x, dy, gain, bias, keep)
    for a, b in zip(plain, jitted):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    rng = np.random.default_rng(3)
    x = tf.constant(rng.standard_normal((3, 8)), tf.float32)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            normal = bsparse_tf.layer_norm(x)
            _, h = bsparse_tf.lstm_gates(x[:, :2], normal)
            loss = tf.reduce_sum(h**2)
        return tape.gradient(loss, x)

    _with_gradients(gradient, [x], tf.ones_like(x))


def test_weight_norm_and_projections():
    rng = np.random.default_rng(4)
    layout = rng.random((4, 3)) < 0.6
    matmul = bsparse_tf.BlocksparseMatMul(layout, 8)
    w = tf.constant(rng.standard_normal(matmul.w_shape), tf.float32)
    gain = tf.constant(rng.standard_normal(matmul.K), tf.float32)
    _with_gradients(matmul.l2_normalize, [w, gain], tf.ones_like(w))
    proj = bsparse_tf.SparseProj(12, nproj=5)
    x, y = _random(rng, 12, [4], "float32", 1), _random(rng, 5, [4], "float32", 1)
    _with_gradients(proj.scatter_mul, [x, y], x)
    _with_gradients(proj.scatter_add, [x, y], x)
    _with_gradients(proj.gather, [x], y)
    _with_gradients(proj.scatter, [y], x)


def test_errors_found_while_compiling():
    def run(c, gates):
        return bsparse_tf.lstm_gates(c, gates)

    spec = tf.TensorSpec(None, tf.float32)
    compiled = tf.function(run, jit_compile=True, input_signature=[spec, spec])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"gates has shape \(3, 7\)"):
        compiled(tf.ones([3, 2]), tf.ones([3, 7]))


def test_layer_in_a_compiled_model():
    x = np.random.default_rng(5).standard_normal((32, 8)).astype(np.float32)
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), LayerNorm(relu=True), keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=jit)
        losses.append(model.fit(x, x[:, 0], epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
