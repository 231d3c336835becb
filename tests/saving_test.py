"""Models with block-sparse layers, saved and loaded in every way there is."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import bsparse_tf
from bsparse_tf import initializers, layouts
from bsparse_tf.keras import BlockSparseDense

ARRAY = layouts.from_spec("random:density=0.4,seed=5", 4, 6)
X = np.random.default_rng(0).standard_normal((5, 64)).astype("float32")


def make_model(trained=True):
    """A spec, an array, the default layout; both axes; a custom initializer and a policy."""
    inputs = keras.Input((64,))
    hidden = BlockSparseDense(96, block_size=16, layout=ARRAY, activation="relu")(inputs)
    hidden = bsparse_tf.to_features_first(hidden)
    hidden = BlockSparseDense(
        64,
        block_size=16,
        layout="ws:k=2,p=0.2,seed=3",
        feature_axis=0,
        activation="gelu",
        kernel_initializer=initializers.Orthogonal(gain=0.5, seed=1),
        kernel_regularizer=keras.regularizers.L2(1e-3),
        kernel_constraint=keras.constraints.NonNeg(),
        dtype="mixed_bfloat16",
    )(hidden)
    hidden = bsparse_tf.to_features_last(hidden)
    outputs = BlockSparseDense(32, block_size=8, use_bias=False, dtype="float32")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", jit_compile=False)
    if trained:
        model.fit(X, np.zeros((5, 32)), verbose=0)  # Gives the optimizer something to save.
    return model


@pytest.fixture(scope="module", name="model")
def trained_model():
    return make_model()


def assert_same_predictions(model, other):
    np.testing.assert_array_equal(model(X), other(X))


# Configuration.


def test_config_is_plain_json(model):
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    copy.set_weights(model.get_weights())
    assert_same_predictions(copy, model)


@pytest.mark.parametrize("layout", [None, "ba:m=2,seed=1", ARRAY, ARRAY.tolist()])
def test_layer_config(layout):
    layer = BlockSparseDense(96, block_size=16, layout=layout, precision="tf32x3", name="sparse")
    config = json.loads(json.dumps(layer.get_config()))
    if layout is None or isinstance(layout, str):
        assert config["layout"] == layout
    else:
        assert config["layout"] == {"shape": [4, 6], "bits": config["layout"]["bits"]}
    copy = BlockSparseDense.from_config(config)
    for made in (layer, copy):
        made.build((None, 64))
    assert copy.get_config() == layer.get_config()
    assert copy.precision == "tf32x3"
    assert copy.matmul == layer.matmul


def test_a_spec_that_changed_its_meaning_is_noticed():
    layer = BlockSparseDense(64, block_size=8, layout="ba:m=2,seed=1")
    layer.build((None, 64))
    saved = keras.saving.serialize_keras_object(layer)
    keras.saving.deserialize_keras_object(saved)
    saved["config"]["layout"] = "ba:m=2,seed=2"
    with pytest.raises(ValueError, match="another pattern"):
        keras.saving.deserialize_keras_object(saved)


# Files.


def test_keras_file_goes_on_training(model, tmp_path):
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert_same_predictions(copy, model)
    assert copy.summary(print_fn=lambda *args, **kwargs: None) is None
    twin = keras.models.load_model(tmp_path / "model.keras")
    for each in (copy, twin):
        each.fit(X, np.ones((5, 32)), epochs=2, shuffle=False, verbose=0)
    assert_same_predictions(copy, twin)
    assert copy.optimizer.iterations == 3  # One step before saving, two after.


def test_weights_file(model, tmp_path):
    model.save_weights(tmp_path / "only.weights.h5")
    other = make_model(trained=False)
    other.load_weights(tmp_path / "only.weights.h5")
    assert_same_predictions(other, model)


def test_checkpoint(model, tmp_path):
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    other = make_model(trained=False)
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    assert_same_predictions(other, model)
    # Layouts are no state: nothing but kernels, biases and bookkeeping is stored.
    shapes = [shape for name, shape in tf.train.list_variables(path) if "optimizer" not in name]
    stored = sum(int(np.prod(shape)) for shape in shapes if len(shape) == 3)
    assert stored == sum(weight.numpy().size for weight in model.weights if weight.ndim == 3)


def test_weights_of_another_layout_are_refused(tmp_path):
    def one_layer(layout):
        return keras.Sequential([keras.Input((64,)), BlockSparseDense(64, 16, layout)])

    one_layer("dense").save_weights(tmp_path / "dense.weights.h5")
    with pytest.raises(ValueError, match=r"\(16, 16, 16\)"):
        one_layer("banded:bandwidth=1").load_weights(tmp_path / "dense.weights.h5")


# Without Keras.


LOADER = """
import sys
import numpy as np
import tensorflow as tf
library, x, *folders = sys.argv[1:]
tf.config.experimental.enable_tensor_float_32_execution(False)  # as in conftest.py
tf.load_op_library(library)
for folder in folders:
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    (result,) = serve(tf.constant(np.load(x))).values()
    np.save(folder + ".npy", result.numpy())
assert not any(name.startswith("bsparse_tf") for name in sys.modules)
"""


def test_a_process_that_only_loads_the_op_library(model, tmp_path):
    folders = [str(tmp_path / name) for name in ("exported", "saved_model")]
    model.export(folders[0], verbose=False)
    tf.saved_model.save(model, folders[1])
    x = str(tmp_path / "x.npy")
    np.save(x, X[:3])  # Another batch than the model was traced with.
    command = [sys.executable, "-c", LOADER, bsparse_tf.ops_library_path(), x, *folders]
    subprocess.run(command, check=True, cwd=tmp_path)
    for folder in folders:
        np.testing.assert_array_equal(np.load(folder + ".npy"), model(X[:3]))


def test_saved_model_of_a_plain_module(tmp_path):
    """BlocksparseMatMul in a tf.Module, differentiated after loading."""

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.product = bsparse_tf.BlocksparseMatMul(ARRAY, block_size=16)
            self.w = tf.Variable(initializers.HeNormal(seed=0)(self.product))

        @tf.function(input_signature=[tf.TensorSpec((None, 64))])
        def __call__(self, x):
            return self.product(x, self.w, activation="relu")

    module = Module()
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded(X), module(X))
    gradients = []
    for each in (module, loaded):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(each(tf.constant(X))))
        gradients.append(tape.gradient(loss, each.w))
    np.testing.assert_array_equal(*gradients)
