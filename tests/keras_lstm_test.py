"""BlockSparseLSTM: against keras.layers.LSTM with the same weights, and against the reference."""

import json

import keras
import numpy as np
import problems
import pytest
import recurrent_reference as reference
import tensorflow as tf

from bsparse_tf import layouts, native
from bsparse_tf.keras import BlockSparseLSTM, BlockSparseLSTMCell

T, N, F, U, BLOCK = 6, 4, 16, 32, 8
LAYOUT = layouts.from_spec("random:density=0.5,seed=1", 4)
MASK = np.array([[0, 1, 1, 0, 1, 0], [1] * 6, [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], bool)

needs_xla = pytest.mark.skipif(native.xla_status() is not None, reason=str(native.xla_status()))


def normal(*shape, seed=0, dtype="float32"):
    return problems.rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def built(dtype="float32", **kwargs):
    keras.utils.set_random_seed(0)
    settings = {"block_size": BLOCK, "layout": LAYOUT, "bias_initializer": "random_normal"}
    layer = BlockSparseLSTM(U, dtype=dtype, return_sequences=True, return_state=True,
                            **{**settings, **kwargs})
    layer.build((N, T, F) if layer.stateful else (None, T, F))
    return layer


def dense_twin(layer, **kwargs):
    """A keras.layers.LSTM with the same weights."""
    cell = layer.cell
    twin = keras.layers.LSTM(U, use_bias=cell.use_bias, return_sequences=True, return_state=True,
                             use_cudnn=False, **kwargs)
    twin.build((None, T, F))
    kernel = cell.kernel.numpy()
    if cell.kernel_matmul is not None:
        kernel = cell.kernel_matmul.to_dense(kernel)
    twin.cell.kernel.assign(kernel)
    twin.cell.recurrent_kernel.assign(
        cell.recurrent_matmul.to_dense(cell.recurrent_kernel.numpy()))
    if cell.use_bias:
        twin.cell.bias.assign(cell.bias)
    return twin


def assert_same(results, expected, atol=1e-5):
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


# As Keras's own.


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [
    {}, {"go_backwards": True}, {"zero_output_for_mask": True},
])
@pytest.mark.parametrize("start", [False, True])
def test_equals_keras(masked, options, start):
    layer = built(**options)
    twin = dense_twin(layer, **options)
    state = [normal(N, U, seed=1), normal(N, U, seed=2)] if start else None
    arguments = {"mask": tf.constant(MASK) if masked else None, "initial_state": state}
    x = normal(N, T, F)
    assert_same(layer(x, **arguments), twin(x, **arguments))


@pytest.mark.parametrize("options", [
    {"use_bias": False}, {"layout": np.hstack([LAYOUT, LAYOUT.T, LAYOUT, np.eye(4)])},
    {"layout": None}, {"layout": "dense"}, {"kernel_layout": "ba:m=1,seed=0"},
    {"kernel_layout": np.ones((2, 4)), "layout": "ws:k=2,p=0.2,seed=0"},
])
def test_equals_keras_for_other_weights(options):
    layer = built(**options)
    x = normal(N, T, F)
    assert_same(layer(x), dense_twin(layer)(x))


@pytest.mark.parametrize("returns", [
    {}, {"return_sequences": True}, {"return_state": True},
    {"return_sequences": True, "return_state": True},
])
def test_returns(returns):
    layer = BlockSparseLSTM(U, BLOCK, **returns)
    twin = keras.layers.LSTM(U, **returns)
    inputs = keras.Input((T, F))
    shapes = [tuple(y.shape) for y in keras.tree.flatten(layer(inputs))]
    assert shapes == [tuple(y.shape) for y in keras.tree.flatten(twin(inputs))]
    results = keras.tree.flatten(layer(normal(N, T, F)))
    assert [(None, *y.shape[1:]) for y in results] == shapes


def test_stateful_reads_a_sequence_in_pieces():
    whole = built()
    parts = built(stateful=True)
    parts.cell.set_weights(whole.cell.get_weights())
    x = normal(N, T, F)
    expected, h, c = whole(x)
    for _ in range(2):
        pieces = [parts(x[:, :T // 2])[0], *parts(x[:, T // 2:])]
        assert_same([np.concatenate(pieces[:2], 1), *pieces[2:]], [expected, h, c], atol=1e-6)
        parts.reset_state()


def test_masking_layers_are_heard():
    keras.utils.set_random_seed(0)
    lstm = BlockSparseLSTM(U, BLOCK)
    model = keras.Sequential([keras.Input((T,)), keras.layers.Embedding(9, F, mask_zero=True),
                              lstm])
    padded = np.array([[3, 4, 5, 0, 0, 0]])
    short = keras.Sequential([keras.Input((3,)), model.layers[0], lstm])
    np.testing.assert_allclose(model(padded), short(padded[:, :3]), atol=1e-6)


def test_the_cell_in_kerass_rnn():
    layer = built()
    cell = BlockSparseLSTMCell.from_config(layer.cell.get_config())
    rnn = keras.layers.RNN(cell, return_sequences=True, return_state=True)
    rnn.build((None, T, F))
    cell.set_weights(layer.cell.get_weights())
    x = normal(N, T, F)
    assert_same(rnn(x), layer(x), atol=1e-6)


# Against float64.


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_accuracy(policy, masked, recompute):
    if policy == "float64" and problems.has_gpu():
        pytest.skip("float64 has CPU kernels only")
    layer = built(dtype=policy, recompute=recompute)
    dtype = layer.compute_dtype
    for variable in layer.weights:  # What 16-bit products see of the weights is exact.
        variable.assign(np.asarray(problems.rounded(variable.numpy(), dtype), "float64"))
    mask = MASK if masked else None
    operands = {"x": normal(T, N, F, dtype=dtype), "h": normal(N, U, seed=1, dtype=dtype),
                "c": normal(N, U, seed=2, dtype=dtype)}
    weights = {"kernel": layer.cell.kernel.numpy(),
               "recurrent_kernel": layer.cell.recurrent_matmul.to_dense(
                   layer.cell.recurrent_kernel.numpy()),
               "bias": layer.cell.bias.numpy()}
    dhidden, dc = normal(T, N, U, seed=3, dtype=dtype), normal(N, U, seed=4, dtype=dtype)
    # Keras shows zeros until the first step that counts.
    shown = np.ones((T, N, 1)) if mask is None else np.cumsum(mask.T, axis=0)[..., None] > 0
    dhidden *= shown.astype(dhidden.dtype)

    def dense(dtype):
        given = {name: np.asarray(value).astype(tf.as_dtype(dtype).as_numpy_dtype)
                 for name, value in {**operands, **weights}.items()}
        times = None if mask is None else mask.T
        hidden, c, caches = reference.lstm(**given, mask=times)
        gradients = reference.lstm_gradients(
            dhidden.astype(hidden.dtype), dc.astype(c.dtype), given["x"], given["kernel"],
            given["recurrent_kernel"], caches, times)
        return {"hidden": hidden * shown.astype(hidden.dtype), "last_c": c}, gradients

    variables = [v.value for v in (layer.cell.kernel, layer.cell.recurrent_kernel,
                                   layer.cell.bias)]
    tensors = {name: tf.constant(value) for name, value in operands.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(tensors.values()))
        hidden, _, c = layer(tf.transpose(tensors["x"], (1, 0, 2)), training=True,
                             initial_state=[tensors["h"], tensors["c"]],
                             mask=None if mask is None else tf.constant(mask))
        loss = tf.reduce_sum(tf.cast(hidden, "float64") * dhidden.transpose(1, 0, 2).astype("d"))
        loss += tf.reduce_sum(tf.cast(c, "float64") * dc.astype("d"))
    gradients = tape.gradient(loss, [*tensors.values(), *variables])
    gradients = dict(zip(("x", "h", "c", "kernel", "recurrent_kernel", "bias"), gradients))
    assert gradients["recurrent_kernel"].dtype == layer.variable_dtype
    gradients["recurrent_kernel"] = layer.cell.recurrent_matmul.to_dense(
        gradients["recurrent_kernel"])

    (truth, truth_gradients), (same, same_gradients) = dense("float64"), dense(dtype)
    stored = np.kron(layer.cell.recurrent_matmul.layout, np.ones((BLOCK, BLOCK)))
    for all_gradients in (truth_gradients, same_gradients):
        all_gradients["recurrent_kernel"] = all_gradients["recurrent_kernel"] * stored
    for name, value in (("hidden", tf.transpose(hidden, (1, 0, 2))), ("last_c", c)):
        problems.assert_as_accurate(value, truth[name], problems.errors(same[name], truth[name]),
                                    problems.FORWARD, name)
    for name, value in gradients.items():
        problems.assert_as_accurate(value, truth_gradients[name],
                                    problems.errors(same_gradients[name], truth_gradients[name]),
                                    problems.BACKWARD, name)


# Training.


def model_and_data(jit_compile, layout=LAYOUT, **kwargs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((T, F)), BlockSparseLSTM(U, BLOCK, layout, **kwargs),
                              keras.layers.Dense(3, dtype="float32")])
    model.compile("adam", "mse", jit_compile=jit_compile)
    x = normal(64, T, F)
    return model, x, np.tanh(x.sum(1) @ normal(F, 3, seed=1) / 4)


@pytest.mark.parametrize("options", [
    {}, {"recompute": True}, {"dropout": 0.2, "recurrent_dropout": 0.2, "seed": 1},
    {"dtype": "mixed_bfloat16"}, {"dtype": "mixed_float16", "dropout": 0.1},
])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
def test_learns(options, jit_compile):
    model, x, y = model_and_data(jit_compile, **options)
    losses = model.fit(x, y, batch_size=16, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_recomputing_changes_no_bit():
    x, dy = normal(32, T, F), normal(32, U, seed=1)
    results = []
    for recompute in (False, True):
        layer = built(recompute=recompute, recurrent_dropout=0.3, seed=5)
        with tf.GradientTape() as tape:
            _, h, c = layer(x, training=True)
            loss = tf.reduce_sum((h + c) * dy)
        results.append([h, c, *tape.gradient(loss, layer.trainable_variables)])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


def test_dropout_only_in_training():
    layer = built(dropout=0.5, recurrent_dropout=0.5, seed=0)
    x = normal(N, T, F)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
    assert np.abs(layer(x)[0] - layer(x, training=True)[0]).max() > 0.01
    ones = np.ones((2000, 1, F), "float32")
    layer.cell.kernel.assign(np.eye(F, 4 * U))
    layer.cell.recurrent_kernel.assign(np.zeros(layer.cell.recurrent_kernel.shape))
    z, _, _, inputs, _ = layer.cell.prepare(
        tf.transpose(ones, (1, 0, 2)), [tf.zeros((2000, U))] * 2, None, True)
    kept = inputs[0].numpy()[0, :, :F] - layer.cell.bias.numpy()[:F]
    assert sorted(np.unique(np.round(kept, 4))) == [0, 2]
    assert abs(kept.mean() - 1) < 0.05


# Saving.


@pytest.mark.parametrize("layout", ["ba:m=1,seed=2", LAYOUT, None])
def test_saving(tmp_path, layout):
    model, x, y = model_and_data(False, layout, recompute=True, recurrent_regularizer="l2")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.layers[0].get_config() == model.layers[0].get_config()
    assert copy.layers[0].recompute
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), model.predict(x, verbose=0), atol=1e-6)


def test_from_dense():
    dense = keras.layers.LSTM(U, go_backwards=True, return_sequences=True, dropout=0.25)
    dense.build((None, T, F))
    sparse = BlockSparseLSTM.from_dense(dense, LAYOUT, BLOCK, name="sparse")
    assert sparse.name == "sparse" and sparse.cell.dropout == 0.25
    stored = np.kron(np.tile(LAYOUT, (1, 4)), np.ones((BLOCK, BLOCK)))
    dense.cell.recurrent_kernel.assign(dense.cell.recurrent_kernel.numpy() * stored)
    x = normal(N, T, F)
    assert_same([sparse(x)], [dense(x)])


# Misuse.


@pytest.mark.parametrize("arguments, message", [
    ({"units": 100}, "units .* block_size=32; got 100, nearest: 96 or 128"),
    ({"units": 64, "block_size": 48}, "block_size must be one of"),
    ({"units": 64, "layout": np.ones((3, 3))}, r"\(3, 3\).* 2 x 2 blocks"),
    ({"units": 64, "layout": np.zeros((2, 2))}, "at least one block"),
    ({"units": 64, "layout": "ba:m=9"}, "m must be"),
    ({"units": 64, "dropout": 1.0}, "dropout must be .* got 1.0"),
    ({"units": 64, "recurrent_dropout": -0.1}, "recurrent_dropout must be"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseLSTM(**arguments)


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match="must be known"):
        BlockSparseLSTM(U, BLOCK).build((None, None, None))
    with pytest.raises(ValueError, match=r"last axis of .* got 12, nearest: 8 or 16"):
        BlockSparseLSTM(U, BLOCK, kernel_layout="dense").build((None, None, 12))
    layer = built()
    for shape in [(N, T, F + 1), (N, F)]:
        with pytest.raises(ValueError, match="is incompatible with the layer"):
            layer(np.ones(shape, "float32"))
    with pytest.raises(ValueError, match="not built"):
        BlockSparseLSTM.from_dense(keras.layers.LSTM(U))
    relu = keras.layers.LSTM(U, activation="relu")
    relu.build((None, T, F))
    with pytest.raises(ValueError, match="activation='relu'.*expected 'tanh'"):
        BlockSparseLSTM.from_dense(relu)


def test_a_batch_or_a_sequence_of_one():
    layer = built()
    twin = dense_twin(layer)
    for shape in [(1, T, F), (N, 1, F), (1, 1, F)]:
        assert_same(layer(normal(*shape)), twin(normal(*shape)))
