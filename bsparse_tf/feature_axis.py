"""The two places where activations may keep their features, and how to cross over.

Feature axis 1 is "features last", [..., C]; feature axis 0 is "features first", [C, ...]. Features
last is what Keras and most models hold; features first keeps the batch contiguous, which suits
narrow blocks. A model may hold activations in either and cross over where it must.
"""

import keras
import numpy as np
import tensorflow as tf


def to_features_first(x):
    """[..., C] -> [C, ...]: moves the last axis to the front.

    Args:
      x: tensor, KerasTensor or array of rank 1 or more, any dtype. NumPy in gives NumPy out.

    Raises:
      ValueError: if `x` is a scalar.
    """
    return _move_axis(x, source=-1, destination=0)


def to_features_last(x):
    """[C, ...] -> [..., C]: moves the first axis to the end. The inverse of `to_features_first`.

    Args:
      x: tensor, KerasTensor or array of rank 1 or more, any dtype. NumPy in gives NumPy out.

    Raises:
      ValueError: if `x` is a scalar.
    """
    return _move_axis(x, source=0, destination=-1)


def _move_axis(x, source, destination):
    if isinstance(x, np.ndarray):
        _check_rank(x.ndim)
        return np.ascontiguousarray(np.moveaxis(x, source, destination))
    if keras.utils.is_keras_tensor(x):
        _check_rank(len(x.shape))
        return keras.ops.moveaxis(x, source, destination)
    x = tf.convert_to_tensor(x)
    if x.shape.rank is not None:
        _check_rank(x.shape.rank)
        axes = list(range(x.shape.rank))
        axes.insert(destination % len(axes), axes.pop(source))
        return tf.transpose(x, axes)
    axes = tf.range(tf.rank(x))
    return tf.transpose(x, tf.roll(axes, 1 if source == -1 else -1, axis=0))


def _check_rank(rank):
    if rank == 0:
        raise ValueError("x is a scalar: it has no feature axis to move; expected rank 1 or more")
