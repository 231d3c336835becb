"""SmallWorldLSTM: against the reference in float64, and in Keras models."""

import json

import keras
import numpy as np
import problems
import pytest
import recurrent_reference as reference
import tensorflow as tf

from bsparse_tf import layouts, native
from bsparse_tf.keras import SmallWorldLSTM, SmallWorldLSTMCell

T, N, F, U, BLOCK = 5, 256, 12, 48, 8
ARRAY = layouts.from_spec("random:density=0.5,seed=1", 6) | np.eye(6, dtype=bool)
MASK = np.tile(np.array([[0, 1, 1, 0, 1], [1] * 5, [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool),
               (N // 4, 1))

needs_xla = pytest.mark.skipif(native.xla_status() is not None, reason=str(native.xla_status()))


def normal(*shape, seed=0, dtype="float32"):
    return problems.rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def built(**kwargs):
    """A layer with random weights, gains and biases."""
    settings = {"block_size": BLOCK, "layout": "ba:m=2,seed={step}", "internal_steps": 3}
    layer = SmallWorldLSTM(U, return_sequences=True, return_state=True, **{**settings, **kwargs})
    layer.build((None, T, F))
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        values = rng.standard_normal(variable.shape)
        scale, shift = (0.3, 1.0) if "gain" in variable.name else (0.3, 0.0)
        values = problems.rounded(scale * values + shift, layer.compute_dtype)
        variable.assign(values.astype(variable.dtype if variable.dtype != "bfloat16" else "f"))
    return layer


def names(layer):
    return ["input_m", "input_a", *[f"hidden_{j}" for j in range(layer.cell.internal_steps)],
            "gates"]


def to_dense(layer, values):
    """The values of the weights, or their gradients, by the reference's names; matrices dense."""
    result = {}
    for i, (name, kernel, (gain, bias)) in enumerate(
            zip(names(layer), layer.cell.kernels, layer.cell.norms)):
        value = np.asarray(values[id(kernel)])
        if value.ndim == 3:
            square = layer.cell._maps[i - 2]
            if name == "gates":
                value = np.hstack([square.to_dense(part) for part in gate_blocks(square, value)])
            else:
                value = square.to_dense(value)
        result[name] = value
        result[name + "_gain"], result[name + "_bias"] = (
            np.asarray(values[id(p)]) for p in (gain, bias))
    return result


def gate_blocks(square, blocks):
    """The blocks of each gate, found by their place in the layout of four gates side by side."""
    coords = np.argwhere(np.tile(square.layout, (1, 4)))
    return [blocks[coords[:, 1] // square.KB == gate] for gate in range(4)]


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("options", [
    {"recompute": True}, {"internal_steps": 2, "stride": 1}, {"layout": "dense", "stride": 4},
    {"layout": [ARRAY, "dense", "ws:k=2,p=0.2,seed=0", None], "masked": True},
])
def test_accuracy(policy, options):
    """A batch large enough that both computations take the wrong side of about as many relus."""
    if policy == "float64" and problems.has_gpu():
        pytest.skip("float64 has CPU kernels only")
    options = dict(options)
    mask = MASK if options.pop("masked", False) else None
    layer = built(dtype=policy, **options)
    dtype, stride = layer.compute_dtype, layer.cell.stride
    operands = {"x": normal(T, N, F, dtype=dtype), "h": normal(N, U, seed=1, dtype=dtype),
                "c": normal(N, U, seed=2, dtype=dtype)}
    weights = to_dense(layer, {id(v): v.numpy() for v in layer.weights})
    # The outputs are every stride-th unit; Keras shows zeros until the first step that counts.
    shown = np.zeros((1, 1, U))
    shown[..., ::stride] = 1
    if mask is not None:
        shown = shown * (np.cumsum(mask.T, axis=0)[..., None] > 0)
    dhidden = shown * normal(T, N, U, seed=3, dtype=dtype).astype("d")
    dc = normal(N, U, seed=4, dtype=dtype).astype("d")

    def dense(dtype):
        numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
        given = {name: value.astype(numpy_dtype) for name, value in operands.items()}
        cast = {name: value.astype(numpy_dtype) for name, value in weights.items()}
        times = None if mask is None else mask.T
        hidden, c, caches = reference.small_world(*given.values(), cast, stride, times)
        gradients = reference.small_world_gradients(
            dhidden.astype(numpy_dtype), dc.astype(numpy_dtype), cast, stride, caches, times)
        return {"hidden": hidden * shown.astype(numpy_dtype), "last_c": c}, gradients

    tensors = {name: tf.constant(value) for name, value in operands.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(tensors.values()))
        hidden, _, c = layer(tf.transpose(tensors["x"], (1, 0, 2)), training=True,
                             initial_state=[tensors["h"], tensors["c"]],
                             mask=None if mask is None else tf.constant(mask))
        wanted = dhidden[..., ::stride].transpose(1, 0, 2)
        loss = tf.reduce_sum(tf.cast(hidden, "float64") * wanted)
        loss += tf.reduce_sum(tf.cast(c, "float64") * dc)
    variables = list(layer.weights)
    found = tape.gradient(loss, [*tensors.values(), *[v.value for v in variables]])
    gradients = dict(zip(tensors, found))
    gradients |= to_dense(layer, {id(v): g for v, g in zip(variables, found[3:])})

    (truth, truth_gradients), (same, same_gradients) = dense("float64"), dense(dtype)
    stored = to_dense(layer, {id(v): np.ones(v.shape) for v in variables})
    for all_gradients in (truth_gradients, same_gradients):
        for name, ones in stored.items():
            all_gradients[name] = np.asarray(all_gradients[name]) * ones
    every = tf.transpose(hidden, (1, 0, 2)).numpy()
    widened = np.zeros((T, N, U))
    widened[..., ::stride] = every
    for name, value in (("hidden", widened), ("last_c", c)):
        problems.assert_as_accurate(value, truth[name], problems.errors(same[name], truth[name]),
                                    problems.FORWARD, name)
    for name, value in gradients.items():
        problems.assert_as_accurate(value, truth_gradients[name],
                                    problems.errors(same_gradients[name], truth_gradients[name]),
                                    problems.BACKWARD, name)


@pytest.mark.parametrize("options, kind", [
    ({}, "Bsparse>SmallWorldLstm"), ({"recompute": True}, "Bsparse>SmallWorldLstm"),
    ({"update_dropout": 0.1}, "While"), ({"layout": "dense"}, "While"), ({"masked": True}, "While"),
])
def test_one_op_for_the_sequence_where_it_can_be(options, kind):
    """And with a mask that hides nothing, step by step, the same numbers."""
    options = dict(options)
    masked = options.pop("masked", False)
    layer = built(dtype="float32", **options)
    x = tf.constant(normal(3, T, F))
    mask = tf.ones((3, T), tf.bool) if masked else None

    @tf.function(autograph=False)
    def run(x):
        return layer(x, mask=mask, training=True)

    graph = run.get_concrete_function(x).graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert any(kind in node.op for node in nodes)
    if masked:
        for one, other in zip(run(x), layer(x, training=True)):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)



# As a Keras layer.


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_its_cell_in_kerass_rnn(go_backwards, masked):
    layer = built(go_backwards=go_backwards)
    cell = SmallWorldLSTMCell.from_config(layer.cell.get_config())
    rnn = keras.layers.RNN(cell, return_sequences=True, return_state=True,
                           go_backwards=go_backwards)
    rnn.build((None, T, F))
    cell.set_weights(layer.cell.get_weights())
    arguments = {"mask": tf.constant(MASK) if masked else None,
                 "initial_state": [normal(N, U, seed=1), normal(N, U, seed=2)]}
    x = normal(N, T, F)
    for one, other in zip(layer(x, **arguments), rnn(x, **arguments), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_stateful_reads_a_sequence_in_pieces():
    whole = built()
    parts = SmallWorldLSTM(U, BLOCK, "ba:m=2,seed={step}", 3, stateful=True)
    parts.build((N, T, F))
    parts.cell.set_weights(whole.cell.get_weights())
    x = normal(N, T, F)
    expected = whole(x)[0][:, -1]
    parts(x[:, :2])
    np.testing.assert_allclose(parts(x[:, 2:]), expected, atol=1e-6)
    assert np.abs(parts(x[:, 2:]) - expected).max() > 1e-3
    parts.reset_state()
    np.testing.assert_allclose(parts(x), expected, atol=1e-6)


def test_sizes():
    layer = SmallWorldLSTM(U, BLOCK, stride=3, return_sequences=True, return_state=True)
    outputs = layer(keras.Input((T, F)))
    assert [tuple(y.shape) for y in outputs] == [(None, T, U // 3), (None, U), (None, U)]
    results = layer(normal(N, T, F))
    assert [tuple(y.shape) for y in results] == [(N, T, U // 3), (N, U), (N, U)]
    cell = layer.cell
    assert len(cell.matmuls) == 5
    assert len({layouts.digest(m.layout) for m in cell.matmuls}) == 5  # Each step has its own.
    stored = sum(m.blocks for m in cell.matmuls[:-1]) + 4 * cell.matmuls[-1].blocks
    norms = 2 * (2 * (U // 3) + 4 * U + 4 * U)
    assert layer.count_params() == stored * BLOCK**2 + 2 * F * (U // 3) + norms


@pytest.mark.parametrize("layout", ["ba:m=2,seed={step}", "dense"])
def test_identity_at_the_start(layout):
    layer = SmallWorldLSTM(U, BLOCK, layout)
    layer.build((None, T, F))
    weights = to_dense(layer, {id(v): v.numpy() for v in layer.weights})
    for name in names(layer)[2:-1]:
        np.testing.assert_array_equal(weights[name], np.eye(U))
    np.testing.assert_array_equal(weights["gates"], np.hstack([np.eye(U)] * 4))
    np.testing.assert_array_equal(weights["gates_bias"], np.repeat([0, 1, 0, 0], U))


@pytest.mark.parametrize("layout", ["ba:m=2,seed=0", "dense"])
@pytest.mark.parametrize("seed", [None, 7])
def test_random_matrices_differ(layout, seed):
    initializer = keras.initializers.RandomNormal(seed=seed)
    layer = SmallWorldLSTM(U, BLOCK, layout, recurrent_initializer=initializer,
                           kernel_initializer=initializer)
    layer.build((None, T, F))
    weights = to_dense(layer, {id(v): v.numpy() for v in layer.weights})
    matrices = [weights[name] for name in names(layer)[2:-1]]
    matrices += np.split(weights["gates"], 4, axis=1)
    matrices = np.stack(matrices).reshape(len(matrices), -1)
    matrices = matrices[:, matrices[0] != 0]
    assert np.abs(np.corrcoef(matrices) - np.eye(len(matrices))).max() < 0.2
    assert np.abs(weights["input_m"] - weights["input_a"]).max() > 0.01


def model_and_data(jit_compile, **kwargs):
    keras.utils.set_random_seed(0)
    settings = {"block_size": BLOCK, "layout": "ba:m=2,seed={step}", "internal_steps": 3}
    model = keras.Sequential([keras.Input((T, F)), SmallWorldLSTM(U, **{**settings, **kwargs}),
                              keras.layers.Dense(3, dtype="float32")])
    model.compile(keras.optimizers.Adam(3e-3), "mse", jit_compile=jit_compile)
    x = normal(64, T, F)
    return model, x, np.tanh(x.sum(1) @ normal(F, 3, seed=1) / 4)


@pytest.mark.parametrize("options", [
    {}, {"layout": "dense", "recompute": True}, {"update_dropout": 0.2, "seed": 1},
    {"dtype": "mixed_bfloat16"}, {"dtype": "mixed_float16", "update_dropout": 0.1, "epsilon": 1e-3},
])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
def test_learns(options, jit_compile):
    model, x, y = model_and_data(jit_compile, **options)
    losses = model.fit(x, y, batch_size=16, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_recomputing_changes_no_bit():
    x, dy = normal(32, T, F), normal(32, U, seed=1)
    results = []
    for recompute in (False, True):
        layer = built(recompute=recompute, update_dropout=0.3, seed=5)
        with tf.GradientTape() as tape:
            _, h, c = layer(x, training=True)
            loss = tf.reduce_sum((h + c) * dy)
        results.append([h, c, *tape.gradient(loss, layer.trainable_variables)])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


def test_dropout():
    layer = built(update_dropout=0.5, seed=0)
    x = normal(N, T, F)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
    assert np.abs(layer(x)[0] - layer(x, training=True)[0]).max() > 0.01
    mask = layer.cell._dropout(tf.zeros((100, U)))
    masks = [mask(tf.constant(t)).numpy() for t in (0, 1, 0)]
    np.testing.assert_array_equal(masks[0], masks[2])
    assert set(np.unique(masks[0])) == {0, 2}
    assert 0.4 < np.mean(masks[0] == masks[1]) < 0.6


@pytest.mark.parametrize("layout", [
    "ba:m=2,seed={step}", None, ARRAY, ["dense", ARRAY, None, "dense"],
])
def test_saving(tmp_path, layout):
    model, x, y = model_and_data(False, layout=layout, recurrent_initializer="orthogonal")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.layers[0].get_config() == model.layers[0].get_config()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), model.predict(x, verbose=0), atol=1e-6)


def test_a_spec_that_changed_its_meaning_is_noticed():
    layer = built()
    config = layer.get_build_config()
    other = SmallWorldLSTM(U, BLOCK, "ba:m=2,seed=9", 3)
    with pytest.raises(ValueError, match="another pattern"):
        other.build_from_config(config)


@pytest.mark.parametrize("arguments, message", [
    ({"units": 100}, "units .* block_size=32; got 100, nearest: 96 or 128"),
    ({"units": 64, "block_size": 48}, "block_size must be one of"),
    ({"units": 64, "stride": 3}, "multiple of stride=3.*got 64"),
    ({"units": 64, "stride": 0}, "stride must be .* got 0"),
    ({"units": 64, "internal_steps": 1}, "internal_steps must be .* at least 2; got 1"),
    ({"units": 64, "layout": ["dense"] * 3}, "layout has 3 entries; expected 5"),
    ({"units": 64, "layout": np.ones((3, 3))}, r"\(3, 3\).* 2 x 2 blocks"),
    ({"units": 64, "layout": "ba:m=9"}, "m must be"),
    ({"units": 64, "update_dropout": 1.0}, "update_dropout must be .* got 1.0"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmallWorldLSTM(**arguments)
