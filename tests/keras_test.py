"""BlockSparseDense in Keras models."""

import keras
import numpy as np
import problems
import pytest
import tensorflow as tf

import bsparse_tf
from bsparse_tf import layouts, native
from bsparse_tf.keras import BlockSparseDense

LAYOUT = layouts.from_spec("ba:m=2,seed=1", 8, 6)
INPUTS, UNITS = 8 * 16, 6 * 16

needs_xla = pytest.mark.skipif(native.xla_status() is not None, reason=str(native.xla_status()))


def normal(*shape, seed=0, dtype="float32"):
    return problems.rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def layer(**kwargs):
    settings = {"block_size": 16, "layout": LAYOUT, "bias_initializer": "random_normal"}
    return BlockSparseDense(UNITS, **{**settings, **kwargs})


def built(**kwargs):
    result = layer(**kwargs)
    result.build((None, INPUTS) if result.feature_axis == 1 else (INPUTS, None))
    return result


def dense_product(x, sparse_layer):
    """x W + bias in float64, features last."""
    kernel = sparse_layer.matmul.to_dense(np.asarray(sparse_layer.kernel, np.float64))
    return x.astype(np.float64) @ kernel + np.asarray(sparse_layer.bias, np.float64)


def small_model(**compile_options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            layer(activation="relu", kernel_initializer="he_normal"),
            BlockSparseDense(64, block_size=16, layout="ws:k=2,p=0.2,seed=0", activation="gelu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile(optimizer="adam", loss="mse", **compile_options)
    return model


# What it computes.


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "tanh", keras.ops.square])
@pytest.mark.parametrize("training", [False, True])
def test_activations(activation, training):
    sparse = built(activation=activation)
    x = normal(5, INPUTS)
    expected = keras.activations.get(activation)(tf.constant(dense_product(x, sparse)))
    np.testing.assert_allclose(sparse(x, training=training), expected, atol=1e-5)


def test_fused_where_that_pays():
    """relu always; gelu only where no gradient will want the sum that it hides."""

    def ops_of(activation, training):
        sparse = built(activation=activation)
        call = tf.function(lambda x: sparse(x, training=training))
        graph = call.get_concrete_function(tf.TensorSpec((None, INPUTS))).graph
        product = [op for op in graph.get_operations() if op.type == "Bsparse>Matmul"]
        assert len(product) == 1 and product[0].get_attr("num_biases") == 1
        return product[0].get_attr("activation").decode()

    assert ops_of("relu", True) == ops_of("relu", False) == "relu"
    assert ops_of("gelu", False) == "gelu"
    assert ops_of("gelu", True) == ops_of("tanh", False) == "none"


def test_the_gradient_of_gelu_in_training_is_one_op_and_one_for_the_bias():
    sparse = built(activation="gelu")

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(sparse(x, training=True))
        return tape.gradient(loss, sparse.trainable_variables)

    graph = gradients.get_concrete_function(tf.TensorSpec((None, INPUTS))).graph
    gradient = [op for op in graph.get_operations() if op.type == "Bsparse>ActivationGrad"]
    assert sorted(op.get_attr("activation") for op in gradient) == [b"gelu", b"none"]
    assert not [op for op in graph.get_operations() if op.type in ("Exp", "ErfGrad")]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_leading_dimensions(shape):
    sparse = built()
    x = normal(*shape, INPUTS)
    y = sparse(x)
    assert y.shape == (*shape, UNITS) == sparse.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, dense_product(x, sparse), atol=1e-5)


def test_features_first():
    sparse = built(feature_axis=0)
    x = normal(7, INPUTS)
    assert sparse.compute_output_shape((INPUTS, None)) == (UNITS, None)
    np.testing.assert_allclose(sparse(x.T), dense_product(x, sparse).T, atol=1e-5)
    assert built(feature_axis=-1).feature_axis == 1


@pytest.mark.parametrize("use_bias", [False, True])
def test_only_stored_weights_count(use_bias):
    sparse = built(use_bias=use_bias)
    stored = int(LAYOUT.sum()) * 16 * 16
    assert sparse.count_params() == stored + use_bias * UNITS
    lines = []
    keras.Sequential([keras.Input((INPUTS,)), sparse]).summary(print_fn=lines.append)
    assert f"{sparse.count_params():,}" in "\n".join(map(str, lines))


def test_default_layout_fits_every_size():
    for in_blocks, out_blocks in [(1, 1), (1, 5), (7, 2), (3, 3), (32, 32)]:
        sparse = BlockSparseDense(out_blocks * 8, block_size=8)
        assert sparse(np.ones((1, in_blocks * 8), "float32")).shape == (1, out_blocks * 8)
        assert sparse.matmul.layout.shape == (in_blocks, out_blocks)
    assert sparse.matmul.density == pytest.approx(0.25, abs=0.03)


# Kinds of model.


def data(samples=96):
    x = normal(samples, INPUTS)
    return x, np.tanh(x @ normal(INPUTS, 3, seed=1) / 8)


def test_sequential_learns():
    model = small_model()
    x, y = data()
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=32, epochs=8, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.5 * before
    assert model.predict(x[:7], verbose=0).shape == (7, 3)


def test_functional_crossing_between_axes():
    """Features last at the ends, first in between; one layer used twice."""
    inputs = keras.Input((INPUTS,))
    shared = BlockSparseDense(UNITS, 16, np.ones((6, 6)), feature_axis=0, activation="relu")
    first = layer()(inputs)
    hidden = bsparse_tf.to_features_first(first)
    hidden = shared(shared(hidden))
    outputs = bsparse_tf.to_features_last(hidden)
    model = keras.Model(inputs, [first, outputs])
    assert outputs.shape == (None, UNITS)
    x = normal(9, INPUTS)
    before, after = model.predict(x, verbose=0)
    kernel = shared.to_dense().kernel.numpy()
    expected = np.maximum(np.maximum(before @ kernel, 0) @ kernel, 0)
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_subclassed():
    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = layer(activation="relu")
            self.decoder = BlockSparseDense(INPUTS, block_size=16)

        def call(self, inputs):
            return self.decoder(self.encoder(inputs))

    model = Autoencoder()
    model.compile("adam", "mse")
    x, _ = data()
    history = model.fit(x, x, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert len(model.trainable_weights) == 4


def test_regularizers_constraints_and_initializers():
    sparse = built(
        kernel_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_regularizer="l1",
        bias_initializer="ones",
        activity_regularizer=keras.regularizers.L1(1.0),
        kernel_constraint="non_neg",
        bias_constraint="non_neg",
    )
    sparse(np.zeros((2, INPUTS), "float32"))
    stored = LAYOUT.sum() * 256
    losses = sorted(float(loss) for loss in sparse.losses)
    np.testing.assert_allclose(losses, sorted([0.5 * stored, 0.01 * UNITS, UNITS]), rtol=1e-5)
    model = keras.Sequential([sparse])
    model.compile(keras.optimizers.SGD(10.0), "mse")
    model.fit(normal(4, INPUTS), -100 * np.ones((4, UNITS)), verbose=0)
    assert sparse.kernel.numpy().min() == 0 and sparse.bias.numpy().min() == 0


# Precision.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float32"])
def test_policies(policy):
    sparse = built(dtype=policy, activation="relu")
    compute, variable = sparse.compute_dtype, sparse.variable_dtype
    x = normal(32, INPUTS, dtype=compute)
    with tf.GradientTape() as tape:
        y = sparse(x)
    assert y.dtype == compute and sparse.kernel.dtype == variable
    kernel = problems.rounded(np.asarray(sparse.kernel, np.float64), compute)
    bias = problems.rounded(np.asarray(sparse.bias, np.float64), compute)
    dense = sparse.matmul.to_dense(kernel)

    def forward(x, dense, bias):
        return np.maximum(x @ dense + bias, 0)

    exact = [np.asarray(value, np.float64) for value in (x, dense, bias)]
    truth = forward(*exact)
    allowed = problems.dense_error(truth, forward, compute, x, dense, bias)
    problems.assert_as_accurate(y, truth, allowed, problems.FORWARD)
    dw = tape.gradient(y, sparse.kernel.value, output_gradients=tf.ones_like(y))
    assert dw.dtype == variable
    truth = exact[0].T @ (np.asarray(y, np.float64) > 0)
    tolerance = {"float32": 1e-4, "bfloat16": 0.2}[variable]
    np.testing.assert_allclose(
        np.asarray(dw, np.float64), sparse.matmul.from_dense(truth), atol=tolerance
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_training(policy):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layer(activation="relu", dtype=policy), keras.layers.Dense(3, dtype="float32")]
    )
    model.compile("adam", "mse")
    x, y = data()
    history = model.fit(x, y, batch_size=32, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]


# Dense and back.


def test_from_dense_and_back():
    dense = keras.layers.Dense(UNITS, "relu", bias_initializer="random_normal", dtype="float64")
    dense.build((None, INPUTS))
    dense.kernel_regularizer = keras.regularizers.L2(0.1)
    sparse = BlockSparseDense.from_dense(dense, LAYOUT, block_size=16, name="sparse")
    assert sparse.name == "sparse" and sparse.dtype_policy.name == "float64"
    assert sparse.kernel_regularizer is dense.kernel_regularizer
    stored = np.kron(LAYOUT, np.ones((16, 16)))
    x = normal(4, INPUTS, dtype="float64")
    expected = np.maximum(x @ (dense.kernel.numpy() * stored) + dense.bias.numpy(), 0)
    if not problems.has_gpu():  # float64 has CPU kernels only.
        np.testing.assert_allclose(sparse(x), expected)
    again = sparse.to_dense()
    np.testing.assert_allclose(again(x), expected)
    np.testing.assert_array_equal(again.kernel, dense.kernel.numpy() * stored)


def test_from_dense_for_features_first():
    dense = keras.layers.Dense(UNITS)
    dense.build((None, INPUTS))
    sparse = BlockSparseDense.from_dense(dense, "dense", block_size=16, feature_axis=0)
    x = normal(4, INPUTS)
    np.testing.assert_allclose(sparse(x.T), np.transpose(dense(x)), atol=1e-5)
    np.testing.assert_allclose(sparse.to_dense()(x), dense(x), atol=1e-6)


def test_conversion_needs_weights():
    with pytest.raises(ValueError, match="not built"):
        BlockSparseDense.from_dense(keras.layers.Dense(UNITS), LAYOUT, 16)
    with pytest.raises(ValueError, match="not built"):
        layer().to_dense()


# XLA.


def test_xla_is_allowed_when_there_are_kernels_for_it():
    assert layer().supports_jit == (native.xla_status() is None)


@needs_xla
def test_fit_with_xla_equals_fit_without():
    x, y = data()
    weights = []
    for jit_compile in (False, True):
        model = small_model(jit_compile=jit_compile)
        model.fit(x, y, batch_size=48, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    # Ours are the same bits; Keras's loss, dense layer and optimizer are XLA's own.
    for plain, compiled in zip(*weights):
        np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-5)


@needs_xla
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_layer_has_the_same_bits_with_xla(activation):
    sparse = built(activation=activation)
    x = tf.constant(normal(33, INPUTS))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sparse(x)
        return y, *tape.gradient(y, (x, sparse.kernel.value), output_gradients=x[:, :UNITS])

    plain = tf.function(step)(x)
    compiled = tf.function(step, jit_compile=True)(x)
    for expected, result in zip(plain, compiled):
        np.testing.assert_array_equal(result, expected)


# Misuse.


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": 100}, "units .* block_size=32; got 100, nearest: 96 or 128"),
        ({"units": 0}, "nearest: 32"),
        ({"units": 64, "block_size": 48}, "block_size must be one of"),
        ({"units": 64, "feature_axis": 2}, "feature_axis"),
        ({"units": 64, "layout": np.ones((3, 3))}, r"units=64 make 2"),
        ({"units": 64, "layout": np.zeros((2, 2))}, "at least one block"),
        ({"units": 64, "activation": "no_such"}, "no_such"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseDense(**arguments)


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        ({}, (None, 100), r"axis -1 .* got 100, nearest: 96 or 128"),
        ({}, (None, None), "must be known"),
        ({"feature_axis": 0}, (100, None), "axis 0 .* got 100"),
        ({"layout": np.ones((3, 2))}, (None, 64), r"\(3, 2\).* 2 x 2 blocks"),
        ({"layout": "no_such"}, (None, 64), "no_such"),
        ({"layout": "ba:m=40"}, (None, 64), "m must be"),
    ],
)
def test_inputs_that_do_not_fit(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseDense(64, **arguments).build(shape)


def test_a_built_layer_refuses_other_inputs():
    sparse = built()
    for shape in [(2, INPUTS + 16), (INPUTS,)]:
        with pytest.raises(ValueError, match="is incompatible with the layer"):
            sparse(np.ones(shape, "float32"))
    assert sparse(np.ones((1, INPUTS), "float32")).shape == (1, UNITS)
