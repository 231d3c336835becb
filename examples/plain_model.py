"""The network of arms.py without Keras: variables and one function of them.

Used by the tf.function example and by the graph-and-session example alike: BlocksparseMatMul is
called in the same way in both.
"""

import numpy as np
import tensorflow as tf

from arms import BYTES, Arm
from bsparse_tf import BlocksparseMatMul


def initial_values(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """He-normal weights that count only the inputs a unit has; zero biases and last layer, so that
    training starts from equally likely bytes."""
    rng = np.random.default_rng(seed)
    values = {"embedding": rng.uniform(-.05, .05, (BYTES, arm.embedding))}
    for i, ((inputs, outputs), layout) in enumerate(zip(arm.shapes, arm.layouts)):
        if layout is None:
            weights = rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs))
        else:
            size = arm.block_size
            # Every block feeds one block column, which has `fan_in` inputs.
            fan_in = layout.sum(axis=0)[np.argwhere(layout)[:, 1]] * size
            weights = (rng.normal(0, 1, (len(fan_in), size, size))
                       * np.sqrt(2 / fan_in)[:, np.newaxis, np.newaxis])
        values[f"weights_{i}"] = weights * (i < len(arm.shapes) - 1)
        values[f"bias_{i}"] = np.zeros(outputs)
    return {name: value.astype(np.float32) for name, value in values.items()}


class Network:
    """Logits of a window. Holds no variables: they are passed in, by `initial_values`' names."""

    def __init__(self, arm: Arm):
        self._matmuls = [None if layout is None
                         else BlocksparseMatMul(layout, block_size=arm.block_size)
                         for layout in arm.layouts]

    def __call__(self, variables, window):
        """Bytes int32 [batch, window] to logits float32 [batch, 256]."""
        looked_up = tf.gather(variables["embedding"], window)
        inputs = window.shape[1] * variables["embedding"].shape[1]
        hidden = self._layer(0, variables, tf.reshape(looked_up, [-1, inputs]), "relu")
        last = len(self._matmuls) - 1
        for i in range(1, last):
            hidden += self._layer(i, variables, hidden, "relu")
        return self._layer(last, variables, hidden)

    def _layer(self, i, variables, x, activation=None):
        weights, bias = variables[f"weights_{i}"], variables[f"bias_{i}"]
        matmul = self._matmuls[i]
        if matmul is not None:
            return matmul(x, weights, bias=bias, activation=activation)
        y = tf.nn.bias_add(tf.matmul(x, weights), bias)
        return tf.nn.relu(y) if activation == "relu" else y


def bits_per_byte(logits, byte):
    """Mean cross entropy in bits, a scalar."""
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=byte, logits=logits)
    return tf.reduce_mean(nats) / np.log(2).astype(np.float32)
