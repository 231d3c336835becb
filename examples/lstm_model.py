"""The byte-level language model around SmallWorldLSTM."""

import keras
import tensorflow as tf

from bsparse_tf.keras import SmallWorldLSTM
from lstm_arms import BYTES, Arm


class LanguageModel(keras.Model):
    """Bytes int [N, T] and states [h, c] to logits float32 [N, T, 256] and the states after.

    Under a mixed policy only the recurrent layer, which has nearly all parameters, is 16-bit.
    """

    def __init__(self, arm: Arm, recompute: bool = False, dtype: str = "float32"):
        super().__init__()
        self.embedding = keras.layers.Embedding(BYTES, arm.embedding)
        self.lstm = SmallWorldLSTM(
            arm.units, arm.block_size, arm.layout, arm.internal_steps, arm.stride,
            recompute=recompute, return_sequences=True, return_state=True, dtype=dtype)
        # With this layer zero, training starts from equally likely bytes.
        self.logits = keras.layers.Dense(BYTES, kernel_initializer="zeros", dtype="float32")
        self(tf.zeros((1, 1), tf.int32), self.zero_states(1))
        if self.count_params() != arm.parameters:
            raise AssertionError(f"{arm.name}: the model has {self.count_params()} parameters, "
                                 f"lstm_arms.py says {arm.parameters}")

    def call(self, inputs, states, training=False):
        hidden, *states = self.lstm(self.embedding(inputs), initial_state=states,
                                    training=training)
        return self.logits(hidden), states

    def zero_states(self, batch: int) -> list[tf.Tensor]:
        return [tf.zeros((batch, size), self.lstm.compute_dtype)
                for size in self.lstm.cell.state_size]


def bits_per_byte(logits, byte):
    """Mean cross entropy in bits."""
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=byte, logits=logits)
    return tf.reduce_mean(nats) / tf.math.log(2.0)
