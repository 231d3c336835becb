"""The README's examples run as they stand, each in a process of its own, as a reader's would."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

# What a reader would do next, and what must come out of it.
FOLLOW_UPS = {
    "keras": """
import numpy as np
x, y = np.random.randn(64, 256).astype("float32"), np.random.randint(0, 10, 64)
history = model.fit(x, y, epochs=8, verbose=0).history["loss"]
assert history[-1] < history[0], history
hidden = model.layers[1]
assert model.count_params() < 1024 * 1024 // 2, model.count_params()
""",
    "tf.function": """
dense = tf.Variable(matmul.to_dense(w))
x = tf.random.normal([64, matmul.C])
loss, gradient = loss_and_gradient(x)
with tf.GradientTape() as tape:
    expected = tf.reduce_mean(tf.matmul(x, dense) ** 2)
assert abs(float(loss) - float(expected)) < 1e-4 * float(expected)
error = tf.reduce_max(abs(gradient - matmul.from_dense(tape.gradient(expected, dense))))
assert float(error) < 1e-5, float(error)
""",
    "session": """
assert value < 1.5, value  # 1 + the variance of y at the start; learning lowers it
assert np.isfinite(value)
""",
}


def test_there_are_three_examples():
    assert len(EXAMPLES) == len(FOLLOW_UPS)


@pytest.mark.parametrize("index,name", list(enumerate(FOLLOW_UPS)), ids=list(FOLLOW_UPS))
def test_example(index, name, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[index] + FOLLOW_UPS[name], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"
