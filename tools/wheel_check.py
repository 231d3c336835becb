"""Uses an installed bsparse_tf from outside its source tree: trains, saves, serves.

Run in an empty directory with the Python into which the wheel was installed. Writes `saved/` there.
"""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import bsparse_tf

# A process that knows nothing of the package but where its op library lies.
SERVE = """
import sys
import numpy as np, tensorflow as tf

library, model, inputs, outputs = sys.argv[1:]
tf.load_op_library(library)
loaded = tf.saved_model.load(model)
np.testing.assert_allclose(loaded.serve(np.load(inputs)), np.load(outputs), rtol=1e-5, atol=1e-6)
assert "bsparse_tf" not in sys.modules
"""


def main():
    package = pathlib.Path(bsparse_tf.__file__).resolve().parent
    here = pathlib.Path.cwd().resolve()
    assert "site-packages" in package.parts, f"{package} is no installed package"
    assert bsparse_tf.native.xla_status() is None, bsparse_tf.native.xla_status()
    cuda = bsparse_tf.native.cuda_status()
    print(f"bsparse_tf {bsparse_tf.__version__} in {package}\nCUDA kernels: {cuda or 'there'}")

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            bsparse_tf.keras.BlockSparseDense(
                128, block_size=16, layout="ba:m=2,seed=0", activation="relu"
            ),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer="adam", loss="mse", jit_compile=True)
    x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    y = x[:, :1] * x[:, 1:2]
    losses = model.fit(x, y, epochs=3, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    print(f"trained with XLA: loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    model.export(str(here / "saved"), verbose=False)
    np.save(here / "x.npy", x[:5])
    np.save(here / "y.npy", model(x[:5]).numpy())
    command = [sys.executable, "-I", "-c", SERVE, bsparse_tf.ops_library_path()]
    subprocess.run([*command, here / "saved", here / "x.npy", here / "y.npy"], check=True)
    print("the SavedModel runs in a process that loaded the op library only")
    print(f"TensorFlow {tf.__version__}: the wheel works")


if __name__ == "__main__":
    main()
