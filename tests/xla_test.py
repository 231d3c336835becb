"""XLA kernels: `jit_compile=True` gives the same bits as the ops run one by one.

Equality is asked of the products themselves. What XLA compiles around them (activation gradients,
sums over a gate) may be fused and so rounded otherwise: there, closeness is asked.
"""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import problems
import pytest
import tensorflow as tf

from bsparse_tf import native, ops

pytestmark = pytest.mark.skipif(
    native.xla_status() is not None, reason=f"no XLA kernels: {native.xla_status()}"
)

RNG = np.random.default_rng(3)
LAYOUT = RNG.random((5, 4)) < 0.5
LAYOUT[:, 1] = False  # an empty output column
LAYOUT[2, :] = False  # an unused input row


def _problem(dtype="float32", feature_axis=1, batch=37, block_size=16, layout=LAYOUT, seed=0):
    return problems.Problem(layout, block_size, feature_axis, batch, dtype, seed)


def _jit(function):
    return tf.function(function, jit_compile=True)


def _bits(tensor):
    return np.asarray(tensor).tobytes()


def _assert_same_bits(function, *args):
    """Runs `function` as it is and under XLA."""
    plain = tf.nest.flatten(function(*args))
    jitted = tf.nest.flatten(_jit(function)(*args))
    assert len(plain) == len(jitted)
    for i, (a, b) in enumerate(zip(plain, jitted)):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert _bits(a) == _bits(b), f"result {i}: largest difference {_largest(a, b)}"
    return plain


def _largest(a, b):
    return np.abs(problems.as_float64(a) - problems.as_float64(b)).max(initial=0)


def _inputs(p, transpose=False):
    """x, w, dy, gate, bias of a problem; one gate in three is 0."""
    rng = p.rng()
    x = tf.constant(p.activations(p.K if transpose else p.C, rng))
    dy = tf.constant(p.activations(p.C if transpose else p.K, rng))
    w = tf.constant(p.weights(rng))
    gate = rng.uniform(0.5, 2, len(p.coords)).astype(np.float32)
    gate[::3] = 0
    bias = tf.constant(problems.rounded(rng.standard_normal(p.C if transpose else p.K), p.dtype))
    return x, w, dy, tf.constant(gate), bias


# ---- the same bits ----


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_matmul_has_the_same_bits(dtype, feature_axis):
    p = _problem(dtype, feature_axis)
    for transpose in (False, True):
        x, w, _, gate, bias = _inputs(p, transpose)

        def products(x, w, gate, bias):
            def run(**kwargs):
                return ops.matmul(x, w, transpose=transpose, **kwargs, **p.kwargs)

            return (
                run(),
                run(gate=gate),
                run(bias=bias, activation="relu"),
                run(gate=gate, bias=bias, activation="gelu"),
            )

        y = _assert_same_bits(products, x, w, gate, bias)[0]
        dense = p.to_dense(problems.as_float64(w))
        truth = p.product(problems.as_float64(x), dense.T if transpose else dense)
        np.testing.assert_allclose(problems.as_float64(y), truth, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_residual_has_the_same_bits(dtype, feature_axis):
    p = _problem(dtype, feature_axis)
    for transpose in (False, True):
        x, w, residual, gate, bias = _inputs(p, transpose)

        def products(x, w, residual, gate, bias):
            def run(**kwargs):
                return ops.matmul(
                    x, w, transpose=transpose, residual=residual, **kwargs, **p.kwargs
                )

            return (
                run(),
                run(gate=gate),
                run(bias=bias, activation="relu"),
                run(gate=gate, bias=bias, activation="gelu"),
            )

        y = _assert_same_bits(products, x, w, residual, gate, bias)[0]
        plain = ops.matmul(x, w, transpose=transpose, **p.kwargs)
        np.testing.assert_allclose(
            problems.as_float64(y),
            problems.as_float64(plain) + problems.as_float64(residual),
            rtol=0.02, atol=0.02,
        )  # fmt: skip


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_dw_has_the_same_bits(dtype, feature_axis):
    p = _problem(dtype, feature_axis)
    x, _, dy, gate, _ = _inputs(p)
    out_types = {dtype, "float32"} if dtype != "float64" else {dtype}

    def products(x, dy, gate):
        return [
            ops.matmul_dw(x, dy, gate=g, out_type=out_type, **p.kwargs)
            for g in (None, gate)
            for out_type in sorted(out_types)
        ]

    _assert_same_bits(products, x, dy, gate)


@pytest.mark.parametrize("feature_axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weight_gradient_of_a_list(dtype, feature_axis):
    uses = [_problem(dtype=dtype, feature_axis=feature_axis, batch=n) for n in (24, 0, 7, 16)]
    xs, _, dys, gates, _ = zip(*(_inputs(p) for p in uses))
    addend = tf.cast(_inputs(uses[0])[1], tf.float32)

    def products(xs, dys, gate, addend):
        sizes = uses[0].kwargs
        return [
            ops.matmul_dw(xs, dys, **sizes),
            ops.matmul_dw(xs, dys, gate=gate, addend=addend, out_type=tf.float32, **sizes),
            ops.matmul_dw(xs[1:2], dys[1:2], addend=addend, out_type=tf.float32, **sizes),
        ]

    _assert_same_bits(products, xs, dys, gates[0], addend)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_weights_with_16_bit_activations(dtype):
    p = _problem(dtype)
    x, w, dy, gate, _ = _inputs(p)
    w = tf.cast(w, tf.float32) * 1.001

    def run(x, w, gate, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = ops.matmul(x, w, gate=gate, **p.kwargs)
        dx, dw = tape.gradient(y, [x, w], dy)
        assert dw.dtype == tf.float32
        return y, dx, dw

    _assert_same_bits(run, x, w, gate, dy)


@pytest.mark.parametrize("block_size", problems.BLOCK_SIZES)
def test_block_sizes(block_size):
    p = _problem(block_size=block_size, batch=9, layout=LAYOUT[:3, :2])
    x, w, dy, _, _ = _inputs(p)
    _assert_same_bits(
        lambda x, w, dy: (ops.matmul(x, w, **p.kwargs), ops.matmul_dw(x, dy, **p.kwargs)), x, w, dy
    )


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_small_blocks_in_a_large_batch(feature_axis):
    p = problems.swept(feature_axis)
    x, w, dy, _, _ = _inputs(p)
    _assert_same_bits(
        lambda x, w, dy: (
            ops.matmul(x, w, **p.kwargs),
            ops.matmul(dy, w, transpose=True, **p.kwargs),
        ),
        x, w, dy,
    )  # fmt: skip


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_leading_dimensions(feature_axis):
    p = _problem(feature_axis=feature_axis, batch=24)
    x, w, dy, _, _ = _inputs(p)
    batch = [2, 3, 4]
    x = tf.reshape(x, [p.C, *batch] if feature_axis == 0 else [*batch, p.C])
    dy = tf.reshape(dy, [p.K, *batch] if feature_axis == 0 else [*batch, p.K])
    _assert_same_bits(
        lambda x, w, dy: (ops.matmul(x, w, **p.kwargs), ops.matmul_dw(x, dy, **p.kwargs)), x, w, dy
    )


@pytest.mark.parametrize("batch", [0, 1])
def test_smallest_batches(batch):
    for feature_axis in (0, 1):
        p = _problem(feature_axis=feature_axis, batch=batch)
        x, w, dy, gate, _ = _inputs(p)
        _assert_same_bits(
            lambda x, w, dy, g: (
                ops.matmul(x, w, gate=g, **p.kwargs),
                ops.matmul_dw(x, dy, gate=g, **p.kwargs),
            ),
            x, w, dy, gate,
        )  # fmt: skip


def test_layout_without_blocks():
    p = _problem(layout=np.zeros((2, 3), bool))
    x, w, dy, _, bias = _inputs(p)
    y, dw = _assert_same_bits(
        lambda x, w, dy, b: (
            ops.matmul(x, w, bias=b, **p.kwargs),
            ops.matmul_dw(x, dy, **p.kwargs),
        ),
        x, w, dy, bias,
    )  # fmt: skip
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))
    assert dw.shape == (0, p.block_size, p.block_size)


def test_large_enough_for_threads():
    p = _problem(batch=300, block_size=32, layout=np.random.default_rng(1).random((24, 24)) < 0.3)
    x, w, dy, _, _ = _inputs(p)
    _assert_same_bits(
        lambda x, w, dy: (ops.matmul(x, w, **p.kwargs), ops.matmul_dw(x, dy, **p.kwargs)), x, w, dy
    )


@pytest.mark.parametrize("precision", ["float32", "tf32", "tf32x3"])
def test_precision(precision):
    p = _problem(batch=64)
    x, w, dy, _, _ = _inputs(p)
    kwargs = dict(p.kwargs, precision=precision)
    _assert_same_bits(
        lambda x, w, dy: (ops.matmul(x, w, **kwargs), ops.matmul_dw(x, dy, **kwargs)), x, w, dy
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_layout_of_small_blocks(dtype):
    """On a GPU by the dense matrix, whose scratch memory depends on what else is added."""
    p = _problem(dtype, batch=1024, block_size=8, layout=np.ones((128, 128), bool))
    x, w, residual, _, bias = _inputs(p)
    _assert_same_bits(
        lambda x, w, bias, residual: [
            ops.matmul(x, w, **added, **p.kwargs)
            for added in ({}, {"bias": bias}, {"residual": residual})
        ],
        x, w, bias, residual,
    )  # fmt: skip


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_follows_the_switch(allowed):
    p = _problem(batch=64)
    x, w, dy, _, _ = _inputs(p)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        _assert_same_bits(
            lambda x, w, dy: (ops.matmul(x, w, **p.kwargs), ops.matmul_dw(x, dy, **p.kwargs)),
            x, w, dy,
        )  # fmt: skip
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_special_values_travel():
    p = _problem()
    x, w, dy, gate, _ = _inputs(p)
    x = tf.tensor_scatter_nd_update(x, [[0, 0], [1, 17], [2, 3]], [np.nan, np.inf, 1e-40])
    _assert_same_bits(
        lambda x, w, g: (ops.matmul(x, w, **p.kwargs), ops.matmul(x, w, gate=g, **p.kwargs)),
        x, w, gate,
    )  # fmt: skip


# ---- in larger graphs ----


def test_changing_batch_recompiles():
    p = _problem()
    _, w, _, _, _ = _inputs(p)
    plain = tf.function(lambda x: ops.matmul(x, w, **p.kwargs))
    jitted = tf.function(
        lambda x: ops.matmul(x, w, **p.kwargs),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, p.C], tf.float32)],
    )
    for batch in (4, 1, 31, 4):
        x = tf.constant(np.random.default_rng(batch).standard_normal((batch, p.C)), tf.float32)
        assert _bits(plain(x)) == _bits(jitted(x))


def test_batch_that_only_the_data_decides():
    """A tf.boolean_mask inside the compiled function: its size is known only while it runs."""
    for feature_axis in (0, 1):
        p = _problem(feature_axis=feature_axis, batch=12)
        x, w, dy, _, _ = _inputs(p)
        keep = tf.constant(np.arange(12) % 3 != 0)

        def run(x, w, dy, keep):
            x = tf.boolean_mask(x, keep, axis=1 - feature_axis)
            dy = tf.boolean_mask(dy, keep, axis=1 - feature_axis)
            y = ops.matmul(x, w, residual=dy, **p.kwargs)
            return tf.shape(y), tf.reduce_sum(y), ops.matmul_dw(x, dy, **p.kwargs)

        for a, b in zip(run(x, w, dy, keep), _jit(run)(x, w, dy, keep)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_have_the_same_bits():
    for feature_axis in (0, 1):
        p = _problem(feature_axis=feature_axis)
        x, w, dy, gate, _ = _inputs(p)

        def gradients(x, w, gate, dy):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = ops.matmul(x, w, gate=gate, **p.kwargs)
            return tape.gradient(y, [x, w], dy)

        _assert_same_bits(gradients, x, w, gate, dy)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_through_bias_activation_and_gate(activation, has_residual):
    p = _problem()
    x, w, dy, gate, bias = _inputs(p)
    residual = tf.reverse(dy, [0])

    def gradients(x, w, gate, bias, residual, dy):
        watched = [x, w, gate, bias] + [residual] * has_residual
        with tf.GradientTape() as tape:
            tape.watch(watched)
            y = ops.matmul(
                x, w, gate=gate, bias=bias, activation=activation, gate_grad=True,
                residual=residual if has_residual else None, **p.kwargs,
            )  # fmt: skip
        return tape.gradient(y, watched, dy)

    args = (x, w, gate, bias, residual, dy)
    for a, b in zip(gradients(*args), _jit(gradients)(*args)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    p = _problem(batch=5)
    x, w, dy, _, _ = _inputs(p)

    def second(x, w, dy):
        with tf.GradientTape() as outer:
            outer.watch([x, w, dy])
            with tf.GradientTape() as inner:
                inner.watch([x, w])
                y = ops.matmul(x, w, **p.kwargs)
            dx, dw = inner.gradient(y, [x, w], dy)
        return outer.gradient([dx, dw], [x, w, dy], [x, w])

    _assert_same_bits(second, x, w, dy)


def test_while_loop_inside():
    """A recurrent net's time loop: forward and its gradient."""
    p = _problem(layout=np.eye(4, dtype=bool) | (RNG.random((4, 4)) < 0.3), batch=6)
    x, w, dy, _, _ = _inputs(p)

    def loop(x, w):
        return tf.while_loop(
            lambda i, h: i < 5,
            lambda i, h: (i + 1, ops.matmul(h, w, **p.kwargs)),
            [tf.constant(0), x],
            maximum_iterations=5,
        )[1]

    def gradients(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = loop(x, w)
        return (y, *tape.gradient(y, [x, w], dy))

    plain = tf.function(gradients)(x, w, dy)
    jitted = _jit(gradients)(x, w, dy)
    assert _bits(plain[0]) == _bits(jitted[0])
    for a, b in zip(plain, jitted):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_variables_and_captured_coords():
    p = _problem()
    x, w, dy, _, _ = _inputs(p)
    variable = tf.Variable(w)
    coords = tf.constant(p.coords)  # captured by the function, as a layer does
    kwargs = {**p.kwargs, "coords": coords}

    @_jit
    def step(x, dy):
        with tf.GradientTape() as tape:
            y = ops.matmul(x, variable, **kwargs)
        dw = tape.gradient(y, variable, dy)
        variable.assign_sub(dw)
        return dw

    dw = step(x, dy)
    assert _bits(dw) == _bits(ops.matmul_dw(x, dy, **p.kwargs))
    np.testing.assert_allclose(variable, w - dw, rtol=1e-5, atol=1e-5)


def test_two_layouts_in_one_function():
    p = _problem()
    q = _problem(layout=~LAYOUT)
    x, w, _, _, _ = _inputs(p)
    v = _inputs(q)[1]
    _assert_same_bits(
        lambda x, w, v: ops.matmul(x, w, **p.kwargs) + ops.matmul(x, v, **q.kwargs), x, w, v
    )


def test_concurrent_calls():
    """Many threads run one executable; each must get its own result and none may wait for ever."""
    p = _problem(batch=128, block_size=32, layout=np.random.default_rng(1).random((12, 12)) < 0.5)
    _, w, _, _, _ = _inputs(p)
    jitted = _jit(lambda x: ops.matmul(x, w, **p.kwargs))
    xs = [
        tf.constant(np.random.default_rng(i).standard_normal((128, p.C)), tf.float32)
        for i in range(8)
    ]
    expected = [_bits(ops.matmul(x, w, **p.kwargs)) for x in xs]
    jitted(xs[0])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            results = [_bits(y) for y in pool.map(jitted, xs, timeout=60)]
            assert results == expected


def test_saved_model(tmp_path):
    p = _problem()
    x, w, _, _, _ = _inputs(p)
    module = tf.Module()
    module.w = tf.Variable(w)
    module.run = tf.function(
        lambda x: ops.matmul(x, module.w, **p.kwargs),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, p.C], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert _bits(loaded.run(x)) == _bits(ops.matmul(x, w, **p.kwargs))


def test_import_after_xla_has_compiled():
    """XLA lists its kernels when it first compiles; ours must be found even if they come later."""
    program = """
import numpy as np, tensorflow as tf
tf.function(lambda x: x * 2, jit_compile=True)(tf.ones([3]))
from bsparse_tf import ops
y = tf.function(lambda x: ops.matmul(x, tf.ones([1, 8, 8]), np.array([[0, 0]], np.int32),
                block_size=8, in_blocks=1, out_blocks=1), jit_compile=True)(tf.ones([2, 8]))
assert (y.numpy() == 8).all(), y
"""
    # Away from a GPU, whose memory this process holds already.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env=environment)


# ---- bad input ----


def test_errors_name_the_argument():
    p = _problem()
    x, w, dy, gate, bias = _inputs(p)

    # Shapes unknown while tracing, so that the XLA kernel is the first to see them.
    def late(tensor):
        return tf.TensorSpec(None, tensor.dtype)

    def matmul(x, w, gate, bias, **changes):
        function = tf.function(
            lambda x, w, gate, bias: ops.matmul(
                x, w, gate=gate, bias=bias, **{**p.kwargs, **changes}
            ),
            jit_compile=True,
            input_signature=[late(x), late(w), late(gate), late(bias)],
        )
        return function(x, w, gate, bias)

    def expect(message, *args, **changes):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            matmul(*args, **changes)

    assert matmul(x, w, gate, bias).shape == dy.shape
    expect("x has shape .* feature_axis", x[:, 1:], w, gate, bias)
    expect("x has shape .*rank 1", x[0], w, gate, bias)
    expect("w has shape .* expected \\(blocks, 16, 16\\)", x, w[:, 1:], gate, bias)
    expect("w has .* blocks, but coords has", x, w[1:], gate, bias)
    expect("gate has .* blocks, but coords has", x, w, gate[1:], bias)
    expect("bias has shape", x, w, gate, bias[1:])
    outside = p.coords.copy()
    outside[-1] = [0, 99]
    expect("coords.*99", x, w, gate, bias, coords=outside)
    twice = p.coords.copy()
    twice[-1] = twice[0]
    expect("coords", x, w, gate, bias, coords=twice)
    assert matmul(x, w, gate, bias).shape == dy.shape  # later calls are unharmed


def test_dw_errors_name_the_argument():
    p = _problem()
    x, _, dy, gate, _ = _inputs(p)

    def expect(message, x, dy, gate):
        signature = [tf.TensorSpec(None, t.dtype) for t in (x, dy, gate)]
        function = tf.function(
            lambda x, dy, gate: ops.matmul_dw(x, dy, gate=gate, **p.kwargs),
            jit_compile=True,
            input_signature=signature,
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            function(x, dy, gate)

    expect("x has shape", x[:, 1:], dy, gate)
    expect("dy has shape", x, dy[:, 1:], gate)
    expect("same batch", x, dy[1:], gate)
    expect("gate has", x, dy, gate[1:])


def test_coords_must_be_known_when_compiling():
    p = _problem()
    x, w, _, _, _ = _inputs(p)

    def run(x, w):
        shift = tf.random.stateless_uniform([], [1, 2], 0, 2, tf.int32)
        return ops.matmul(x, w, **{**p.kwargs, "coords": p.coords + shift})

    with pytest.raises(tf.errors.InvalidArgumentError, match="compile-time constant"):
        _jit(run)(x, w)


@pytest.mark.skipif(not problems.has_gpu(), reason="float64 has kernels on the CPU")
def test_float64_on_a_gpu_says_so():
    p = _problem("float64")
    x, w, _, _, _ = _inputs(p)
    with pytest.raises(tf.errors.UnimplementedError, match="float64"):
        _jit(lambda x, w: ops.matmul(x, w, **p.kwargs))(x, w)
