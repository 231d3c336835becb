"""Keras layers with block-sparse weights. They need Keras's TensorFlow backend."""

from bsparse_tf.keras.dense import BlockSparseDense

__all__ = ["BlockSparseDense"]
