"""Keras layers with block-sparse weights. They need Keras's TensorFlow backend."""

from bsparse_tf.keras.dense import BlockSparseDense
from bsparse_tf.keras.layer_norm import LayerNorm
from bsparse_tf.keras.lstm import BlockSparseLSTM, BlockSparseLSTMCell
from bsparse_tf.keras.small_world_lstm import SmallWorldLSTM, SmallWorldLSTMCell

__all__ = [
    "BlockSparseDense",
    "BlockSparseLSTM",
    "BlockSparseLSTMCell",
    "LayerNorm",
    "SmallWorldLSTM",
    "SmallWorldLSTMCell",
]
