"""Bad arguments of the ops: a clear error at the earliest moment, and no harm to what comes after.

Bad arguments of the Python classes are tested beside them.
"""

import re
import subprocess
import sys

import numpy as np
import problems
import pytest
import tensorflow as tf

from bsparse_tf import native, ops

LAYOUT = np.array([[1, 0, 1], [1, 1, 0]], bool)
GOOD = problems.Problem(LAYOUT, 8, 1, 4, "float32", seed=0)
BAD = (ValueError, TypeError, tf.errors.InvalidArgumentError)


def _good_call():
    rng = GOOD.rng()
    x, w = GOOD.activations(GOOD.C, rng), GOOD.weights(rng)
    return {"x": x, "w": w, **GOOD.kwargs}


def _matmul(**changes):
    return ops.matmul(**{**_good_call(), **changes})


@pytest.fixture(autouse=True)
def later_calls_are_unharmed():
    """Whatever a test does, a good call gives the right answer after it."""
    yield
    call = _good_call()
    np.testing.assert_allclose(
        ops.matmul(**call), call["x"] @ GOOD.to_dense(call["w"]), rtol=1e-2, atol=1e-2
    )


W = _good_call()["w"]
X = _good_call()["x"]
DY = GOOD.activations(GOOD.K, GOOD.rng())

@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dy": []}, "x is a list of 2 and dy of 0; expected as many, at least 1"),
        ({"x": [], "dy": []}, "x is a list of 0 and dy of 0; expected as many, at least 1"),
        ({"dy": [DY, DY[:3]]}, r"x has shape \(4, 16\) and dy \(3, 24\).* the same batch"),
        ({"x": [X, X[:, :8]]}, r"x has shape \(4, 8\): feature_axis=1 reads it as 8 features"),
        ({"addend": W[:3]}, "addend has 3 blocks, but coords has 4: expected the same number"),
        ({"addend": W[:, :4]}, r"addend has shape \(4, 4, 8\); expected \(blocks, 8, 8\)"),
        ({"addend": tf.cast(W, tf.float16)}, "addend has dtype float16; expected float32"),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_weight_gradient_of_a_list(changes, message, graph):
    call = {"x": [X, X], "dy": [DY, DY], **GOOD.kwargs, **changes}
    run = lambda: ops.matmul_dw(**call)
    with pytest.raises(BAD, match=message):
        (tf.function(run) if graph else run)()


# What is changed, and what the message must say: what came, what was expected.
CASES = {
    "rank 1": ({"x": X[0]}, r"x has shape \(16,\), of rank 1; expected rank 2 or more"),
    "wrong feature count": (
        {"x": X[:, :15]},
        r"x has shape \(4, 15\): feature_axis=1 reads it as 15 features, batch 4, but the layout "
        r"takes 16 features \(feature_axis=0 reads it as 4 features, batch 15\)",
    ),
    "features on the other axis": ({"x": X.T}, r"feature_axis=0 reads it as 16 features, batch 4"),
    "transposed takes K": ({"transpose": True}, r"the layout takes 24 features"),
    "block size": ({"block_size": 12}, r"block_size is 12; supported are 8, 16, 32, 64, 128"),
    "feature axis": ({"feature_axis": 2}, r"feature_axis is 2; expected 0 .* or 1"),
    "no input blocks": ({"in_blocks": 0}, r"in_blocks.*0.*at least|in_blocks.*minimum 1"),
    "too many features": (
        {"out_blocks": 2**28},
        r"out_blocks \* block_size is 268435456 \* 8 = 2147483648; expected less than 2\^31",
    ),
    "w of another block size": (
        {"w": np.zeros((4, 16, 16), np.float32)},
        r"w has shape \(4, 16, 16\); expected \(blocks, 8, 8\)",
    ),
    "w of rank 2": ({"w": W[0]}, r"w has shape \(8, 8\); expected \(blocks, 8, 8\)"),
    "w with too few blocks": ({"w": W[:3]}, r"w has 3 blocks, but coords has 4"),
    "coords of rank 1": (
        {"coords": GOOD.coords.ravel()},
        r"coords has shape \(8,\); expected \(blocks, 2\)",
    ),
    "coords of int64": ({"coords": GOOD.coords.astype(np.int64)}, r"coords has dtype int64; expected int32"),
    "coords of float": ({"coords": GOOD.coords.astype(np.float32)}, r"coords has dtype float32; expected int32"),
    "coords tensor of int64": (
        {"coords": tf.constant(GOOD.coords, tf.int64)},
        r"coords has dtype int64; expected int32",
    ),
    "too many blocks": (
        {"coords": np.zeros((7, 2), np.int32), "w": np.zeros((7, 8, 8), np.float32)},
        r"coords has 7 blocks; a layout of 2 x 3 blocks holds at most 6",
    ),
    "w of another dtype": (
        {"w": tf.constant(W, tf.float64)},
        r"w has dtype float64 and x float32; expected the same",
    ),
    "integer x": ({"x": np.ones((4, 16), np.int32), "w": tf.constant(W)}, r"w has dtype float32 and x int32"),
    "gate too short": ({"gate": np.ones(3, np.float32)}, r"gate has 3 blocks, but coords has 4"),
    "gate of rank 2": ({"gate": np.ones((4, 1), np.float32)}, r"gate has shape \(4, 1\); expected \(blocks\)"),
    "gate of float64": (
        {"gate": tf.ones(4, tf.float64)},
        r"gate has dtype float64; expected float32",
    ),
    "bias too short": ({"bias": np.ones(16, np.float32)}, r"bias has shape \(16,\); expected \(24,\)"),
    "residual of another batch": (
        {"residual": np.ones((5, 24), np.float32)},
        r"residual has shape \(5, 24\); expected \(4, 24\), the shape of y",
    ),
    "residual shaped as x": (
        {"residual": X},
        r"residual has shape \(4, 16\); expected \(4, 24\), the shape of y",
    ),
    "residual of rank 1": (
        {"residual": np.ones(24, np.float32)},
        r"residual has shape \(24,\); expected \(4, 24\), the shape of y",
    ),
    "residual of float16": (
        {"residual": tf.ones([4, 24], tf.float16)},
        r"residual has dtype float16; expected float32",
    ),
    "activation": ({"activation": "tanh"}, r"activation is 'tanh'; expected None, 'relu' or 'gelu'"),
}


@pytest.mark.parametrize("case", CASES)
def test_known_from_shapes_and_attributes(case):
    """Found eagerly, and already while a graph is built, where nothing has run yet."""
    changes, message = CASES[case]
    with pytest.raises(BAD, match=message):
        _matmul(**changes)
    with pytest.raises(BAD, match=message):
        tf.function(lambda: _matmul(**changes)).get_concrete_function()


COORDS = {
    "too large": ([[0, 0], [0, 2], [1, 0], [1, 3]], r"coords\[3\] = \(1, 3\) is out of range: .* 2 input"),
    "negative": ([[0, 0], [0, 2], [-1, 0], [1, 1]], r"coords\[2\] = \(-1, 0\) is out of range"),
    "repeated": ([[0, 0], [0, 2], [1, 0], [0, 2]], r"coords\[3\] = \(0, 2\) repeats coords\[1\]"),
}


@pytest.mark.parametrize("case", COORDS)
def test_coords_are_checked_when_they_arrive(case):
    coords, message = np.int32(COORDS[case][0]), COORDS[case][1]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _matmul(coords=coords)
    traced = tf.function(lambda coords: _matmul(coords=coords))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        traced(tf.constant(coords))
    call = _good_call()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.matmul_dw(
            call["x"], np.zeros((4, 24), np.float32), **{**GOOD.kwargs, "coords": coords}
        )


def test_shapes_unknown_while_tracing_are_checked_at_run_time():
    x_spec, w_spec = tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.float32)
    traced = tf.function(
        lambda x, w: _matmul(x=x, w=w), input_signature=[x_spec, w_spec]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="the layout takes 16 features"):
        traced(tf.ones([4, 17]), W)
    with pytest.raises(tf.errors.InvalidArgumentError, match="w has 3 blocks, but coords has 4"):
        traced(X, W[:3])
    traced = tf.function(
        lambda x, r: _matmul(x=x, residual=r), input_signature=[x_spec, x_spec]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"residual .*expected \(4, 24\)"):
        traced(X, tf.ones([24]))
    np.testing.assert_array_equal(traced(X, tf.ones([4, 24])), _matmul() + 1)


def test_batches_of_x_and_dy_must_agree():
    with pytest.raises(BAD, match=r"x has shape \(4, 16\) and dy \(5, 24\).*same batch"):
        ops.matmul_dw(X, np.zeros((5, 24), np.float32), **GOOD.kwargs)
    with pytest.raises(BAD, match=r"dy has shape \(4, 23\)"):
        ops.matmul_dw(X, np.zeros((4, 23), np.float32), **GOOD.kwargs)


def test_tampered_saved_model(tmp_path):
    """A SavedModel whose coords were edited fails when it runs, not with a wrong answer or a crash."""

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32)])
        def __call__(self, x):
            return _matmul(x=x)

    tf.saved_model.save(Model(), str(tmp_path))
    graph = tmp_path / "saved_model.pb"
    stored = GOOD.coords.tobytes()
    tampered = np.array(GOOD.coords)
    tampered[-1] = (1, 77)
    content = graph.read_bytes()
    assert content.count(stored) > 0
    graph.write_bytes(content.replace(stored, tampered.tobytes()))
    loaded = tf.saved_model.load(str(tmp_path))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"coords\[3\] = \(1, 77\) is out of range"):
        loaded(X)


def test_raw_op_rejects_a_second_gate():
    gate = tf.ones(4)

    def two_gates():
        return native.raw.bsparse_matmul(
            x=X, w=W, gate=[gate, gate], bias=[], residual=[], activation="none", transpose=False,
            gate_grad=False, dw_gated=False, straight_through=False, **GOOD.kwargs,
        )

    with pytest.raises(BAD, match="num_gates is 2; expected 0 or 1"):
        two_gates()
    with pytest.raises(BAD, match="num_gates is 2; expected 0 or 1"):
        tf.function(two_gates).get_concrete_function()


def test_raw_op_rejects_a_second_residual():
    with pytest.raises(BAD, match="num_residuals is 2; expected 0 or 1"):
        native.raw.bsparse_matmul(
            x=X, w=W, gate=[], bias=[], residual=[tf.ones([4, 24])] * 2, activation="none",
            transpose=False, gate_grad=False, dw_gated=False, straight_through=False, **GOOD.kwargs,
        )


@pytest.mark.skipif(not problems.has_gpu(), reason="needs a GPU")
def test_float64_on_a_gpu_says_what_to_do():
    with pytest.raises(tf.errors.UnimplementedError, match="float64 has no GPU kernel: use float32"):
        with tf.device("/GPU:0"):
            _matmul(x=X.astype(np.float64), w=W.astype(np.float64))


_OUT_OF_MEMORY = """
import numpy as np, tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
tf.config.set_logical_device_configuration(
    gpus[0], [tf.config.LogicalDeviceConfiguration(memory_limit=256)])
from bsparse_tf import ops
coords = np.int32([[0, k] for k in range(64)])
kwargs = dict(coords=coords, block_size=128, in_blocks=1, out_blocks=64)
w = tf.ones([64, 128, 128])
try:
    ops.matmul(tf.ones([100_000, 128]), w, **kwargs)
except tf.errors.ResourceExhaustedError as error:
    print("exhausted:", error.message)
print("after:", float(ops.matmul(tf.ones([1, 128]), w, **kwargs)[0, 0]))
"""


@pytest.mark.skipif(not problems.has_gpu(), reason="needs a GPU")
def test_out_of_device_memory():
    """In a process of its own, since the memory limit is set before TensorFlow starts."""
    done = subprocess.run(
        [sys.executable, "-c", _OUT_OF_MEMORY], capture_output=True, text=True, check=True
    )
    assert re.search(r"exhausted: .*OOM", done.stdout)
    assert "after: 128.0" in done.stdout
