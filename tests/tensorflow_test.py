"""Block-sparse products wherever TensorFlow may put an op."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, initializers
from bsparse_tf.keras import BlockSparseDense

MATMUL = BlocksparseMatMul.from_spec("ba:m=2,seed=0", 8 * 16, 5 * 16, block_size=16)
SQUARE = BlocksparseMatMul.from_spec("ws:k=2,p=0.3,seed=0", 6 * 8, block_size=8)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def weights(matmul, seed=0):
    return tf.Variable(initializers.LecunNormal(seed=seed)(matmul))


# Graphs.


def test_function_with_unknown_batch_is_traced_once():
    w = weights(MATMUL)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, MATMUL.C))])
    def product(x):
        traces.append(x.shape)
        y = MATMUL(x, w)
        assert y.shape.as_list() == [None, MATMUL.K]
        return y

    for batch in (0, 1, 3, 64):
        x = normal(batch, MATMUL.C)
        np.testing.assert_allclose(product(x), x @ MATMUL.to_dense(w.numpy()), atol=1e-5)
    assert len(traces) == 1


def test_function_is_not_traced_again_for_equal_arguments():
    """Objects that are equal but not the same share a trace; another layout gets its own."""
    w = weights(MATMUL)
    traces = []

    @tf.function
    def product(matmul, x):
        traces.append(matmul)
        return matmul(x, w)

    x = tf.constant(normal(2, MATMUL.C))
    for _ in range(3):
        product(MATMUL, x)
    product(BlocksparseMatMul(MATMUL.layout, MATMUL.block_size), x)
    assert len(traces) == 1
    flipped = BlocksparseMatMul(MATMUL.layout[::-1], MATMUL.block_size)
    np.testing.assert_array_equal(product(flipped, x), flipped(x, w))
    assert len(traces) == 2


def test_function_with_unknown_rank():
    w = weights(MATMUL)
    product = tf.function(lambda x: MATMUL(x, w), input_signature=[tf.TensorSpec(None)])
    x = normal(2, 3, MATMUL.C)
    np.testing.assert_array_equal(product(x), MATMUL(x, w))
    with pytest.raises(tf.errors.InvalidArgumentError, match="48 features"):
        product(normal(3, 48))


def test_graphs_capture_no_eager_tensor():
    """An eager call first, so that there is an eager tensor to be captured by mistake."""
    w = weights(MATMUL)
    x = tf.constant(normal(2, MATMUL.C))
    MATMUL(x, w)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            y = MATMUL(x, w)
        return tape.gradient(y, w)

    captured = gradient.get_concrete_function(x).captured_inputs
    assert [tensor.dtype for tensor in captured] == [tf.resource]  # Of the variable w.


def test_autograph_and_while_loop():
    w = weights(SQUARE)

    @tf.function
    def power(x, steps):
        for _ in tf.range(steps):
            x = tf.tanh(SQUARE(x, w))
        return x

    x = tf.Variable(normal(3, SQUARE.C))
    with tf.GradientTape() as tape:
        y = power(x, tf.constant(4))
    expected = x.numpy()
    for _ in range(4):
        expected = np.tanh(expected @ SQUARE.to_dense(w.numpy()))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    dx, dw = tape.gradient(y, (x, w))
    with tf.GradientTape() as tape:
        unrolled = tf.convert_to_tensor(x)
        for _ in range(4):
            unrolled = tf.tanh(SQUARE(unrolled, w))
    for looped, plain in zip((dx, dw), tape.gradient(unrolled, (x, w))):
        np.testing.assert_allclose(looped, plain, atol=1e-5)


def test_version_1_session_with_placeholders():
    values, dy = normal(7, MATMUL.C), normal(7, MATMUL.K, seed=1)
    w_value = weights(MATMUL).numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, MATMUL.C))
        w = tf.compat.v1.get_variable(
            "w", initializer=lambda: initializers.LecunNormal(seed=0)(MATMUL)
        )
        y = MATMUL(x, w, name="product")
        assert y.op.name == "product" and y.shape.as_list() == [None, MATMUL.K]
        dx, dw = tf.compat.v1.gradients(y, (x, w), grad_ys=dy)
        train = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_sum(y))
        session.run(tf.compat.v1.global_variables_initializer())
        results = session.run((y, dx, dw), {x: values})
        session.run(train, {x: values})
        trained = session.run(w)
    dense = MATMUL.to_dense(w_value)
    truth = values @ dense, dy @ dense.T, MATMUL.from_dense(values.T @ dy)
    for result, expected in zip(results, truth):
        np.testing.assert_allclose(result, expected, atol=1e-4)
    step = MATMUL.from_dense(np.repeat(values.sum(0)[:, None], MATMUL.K, 1))
    np.testing.assert_allclose(trained, w_value - 0.1 * step, atol=1e-4)


def test_version_1_session_with_a_wrong_placeholder():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, MATMUL.C + 16))
        with pytest.raises(ValueError, match=f"{MATMUL.C + 16} features, but the layout takes"):
            MATMUL(x, np.zeros(MATMUL.w_shape, "float32"))


# Differentiation.


def test_gradient_tapes_nested_twice():
    """d/dw of |d loss/dx|^2, as a gradient penalty needs it, against the dense matrix."""
    x_value, w_value = normal(4, SQUARE.C), weights(SQUARE).numpy()

    def penalty(product):
        x, w = tf.constant(x_value), tf.Variable(w_value)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.sin(product(tf.tanh(product(x, w)), w)))
            penalty = tf.reduce_sum(tf.square(inner.gradient(loss, x)))
        return outer.gradient(penalty, w)

    expected = penalty(lambda x, w: x @ SQUARE.to_dense(w))
    np.testing.assert_allclose(penalty(SQUARE), expected, rtol=1e-4, atol=1e-5)


def test_hessian_of_a_loss():
    """Three deep: the tape, the Hessian's batch of products by while_loop, the function."""
    matmul = BlocksparseMatMul([[1, 0], [1, 1]], block_size=8)
    x, w_value = normal(3, matmul.C), normal(*matmul.w_shape, seed=1)

    @tf.function
    def hessian(product):
        w = tf.constant(w_value[:1, :2])
        rest = tf.constant(w_value)

        def whole(w):
            first = tf.concat([w, rest[:1, 2:]], axis=1)
            return tf.concat([first, rest[1:]], axis=0)

        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                loss = tf.reduce_sum(tf.square(tf.square(product(x, whole(w)))))
            slope = inner.gradient(loss, w)
        return outer.jacobian(slope, w)

    ours, expected = hessian(matmul), hessian(lambda x, w: x @ matmul.to_dense(w))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("fallback", [True, False])
def test_vectorized_map(fallback):
    """Products are mapped by a loop; without TensorFlow's leave to fall back to one, an error."""
    w = weights(MATMUL)
    x = tf.constant(normal(3, 2, MATMUL.C))

    def mapped():
        return tf.vectorized_map(lambda x: MATMUL(x, w), x, fallback_to_while_loop=fallback)

    if fallback:
        np.testing.assert_array_equal(mapped(), MATMUL(x, w))
    else:
        with pytest.raises(ValueError, match="Bsparse>Matmul"):
            mapped()


def test_vectorized_map_over_gradients():
    """One gradient for each example, of one shared w."""
    w = weights(MATMUL)
    x = tf.constant(normal(4, MATMUL.C))

    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(MATMUL(x[tf.newaxis], w)))
        return tape.gradient(loss, w)

    expected = [gradient(example).numpy() for example in x]
    np.testing.assert_allclose(tf.vectorized_map(gradient, x), expected, atol=1e-5)


# Training, and what it runs on.


def test_data_pipeline():
    """In `map`, on TensorFlow's own threads, several at a time."""
    w = tf.constant(weights(MATMUL).numpy())
    x = normal(64, MATMUL.C)
    pipeline = tf.data.Dataset.from_tensor_slices(x).batch(10)
    pipeline = pipeline.map(lambda x: MATMUL(x, w), num_parallel_calls=4).prefetch(2)
    result = np.concatenate(list(pipeline.as_numpy_iterator()))
    np.testing.assert_allclose(result, x @ MATMUL.to_dense(w.numpy()), atol=1e-5)


def test_fit_on_a_data_pipeline():
    x, y = normal(50, MATMUL.C), normal(50, 32, seed=1)
    pipeline = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(50, seed=0).batch(16).repeat(3)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([BlockSparseDense(64, 16, activation="relu"), keras.layers.Dense(32)])
    model.compile("adam", "mse", jit_compile=False)
    history = model.fit(pipeline, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]


# Devices must be cut up before TensorFlow starts, and determinism is for the whole process: each
# of these runs in a process of its own.

MIRRORED = """
import keras, numpy as np, tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
device = (gpus or tf.config.list_physical_devices("CPU"))[0]
options = {"memory_limit": 2048} if gpus else {}
tf.config.set_logical_device_configuration(
    device, [tf.config.LogicalDeviceConfiguration(**options)] * 2)
from bsparse_tf.keras import BlockSparseDense
logical = [each.name for each in tf.config.list_logical_devices(device.device_type)]
assert len(logical) == 2

def trained(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((128,)),
            BlockSparseDense(96, 16, "ba:m=2,seed=0", activation="relu"),
            BlockSparseDense(32, 16, "dense", activation="gelu")])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((64, n)).astype("float32") for n in (128, 32))
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

# NCCL takes no two parts of one GPU.
one_device = tf.distribute.ReductionToOneDevice()
mirrored = trained(tf.distribute.MirroredStrategy(logical, cross_device_ops=one_device))
alone = trained(tf.distribute.OneDeviceStrategy(logical[0]))
for one, two in zip(alone, mirrored):
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
"""

DETERMINISTIC = """
import keras, numpy as np, tensorflow as tf
tf.config.experimental.enable_op_determinism()
from bsparse_tf.keras import BlockSparseDense

def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        BlockSparseDense(256, 16, "ba:m=3,seed=0", activation="relu"),
        BlockSparseDense(64, 16, activation="gelu")])
    model.compile("adam", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((96, n)).astype("float32") for n in (256, 64))
    model.fit(x, y, epochs=2, verbose=0)
    layer = model.layers[0]
    dense = layer.matmul.to_dense(tf.convert_to_tensor(layer.kernel))
    return [*model.get_weights(), dense.numpy(), layer.matmul.from_dense(dense).numpy()]

for first, second in zip(trained(), trained()):
    np.testing.assert_array_equal(first, second)
"""


@pytest.mark.parametrize(
    "script", [MIRRORED, DETERMINISTIC], ids=["mirrored_strategy", "op_determinism"]
)
def test_whole_process(script):
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
