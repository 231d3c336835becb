"""Weight norm of block-sparse weights: each output's weights scaled to a length of their own."""

import numpy as np
import tensorflow as tf

from bsparse_tf import argument_checks as checks


@tf.autograph.experimental.do_not_convert
def l2_normalize(w, gain=None, *, coords, out_blocks, epsilon=1e-12, dtype=None):
    """w[b, :, j] / sqrt(max(sum of squares of output k bs + j, epsilon)) * gain, k = coords[b, 1].

    The sum runs over all weights of an output, in all its blocks (Salimans and Kingma 2016, "Weight
    Normalization"). It is taken in float32, or wider, in a fixed order, and so are the gradients.
    `BlocksparseMatMul.l2_normalize` knows coords and out_blocks by itself.

    Args:
      w: [blocks, bs, bs] of a layout's stored blocks; float32, float16, bfloat16 or float64.
      gain: [out_blocks * bs], any of these dtypes; None for ones.
      coords: int array [blocks, 2], (c, k) of each stored block. An array, not a tensor.
      out_blocks: columns of the layout.
      epsilon: the least sum of squares; an output whose weights are all zero stays zero.
      dtype: of the result; w's by default.

    Returns:
      [blocks, bs, bs]. Differentiable any number of times in w and gain.

    Raises:
      ValueError: if a shape does not fit, or a column is out of range.
    """
    w = tf.convert_to_tensor(w, name="w")
    coords = np.asarray(coords)
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise ValueError(f"coords has shape {coords.shape}; expected (blocks, 2)")
    block_size = w.shape[-1]
    checks.check_shape(
        "w", w, (len(coords), block_size, block_size), "one square for each row of coords"
    )
    columns = coords[:, 1].astype(np.int64)
    if len(columns) and not 0 <= columns.min() <= columns.max() < out_blocks:
        raise ValueError(
            f"coords hold columns {columns.min()} to {columns.max()}; expected 0 to out_blocks - 1 "
            f"= {out_blocks - 1}"
        )
    wide = tf.float64 if w.dtype == tf.float64 else tf.float32
    values = tf.cast(w, wide)
    by_column = _Columns(columns, out_blocks)
    squares = by_column.sum(tf.reduce_sum(tf.square(values), 1))  # [out_blocks, bs]
    scale = tf.math.rsqrt(tf.maximum(squares, epsilon))
    if gain is not None:
        gain = tf.convert_to_tensor(gain, name="gain")
        checks.check_shape("gain", gain, (out_blocks * block_size,), "one for each output")
        scale *= tf.reshape(tf.cast(gain, wide), [out_blocks, block_size])
    result = values * by_column.spread(scale)[:, tf.newaxis, :]
    return tf.cast(result, w.dtype if dtype is None else dtype)


class _Columns:
    """Sums over the blocks of a column and its adjoint, both by gathers: no order of additions is
    left to a scatter."""

    def __init__(self, columns, out_blocks):
        self._columns = columns
        counts = np.bincount(columns, minlength=out_blocks)
        # Blocks of each column, padded with the number of a block of zeros.
        self._table = np.full((out_blocks, max(1, counts.max(initial=0))), len(columns), np.int64)
        order = np.argsort(columns, kind="stable")
        place = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._table[columns[order], place] = order

    def sum(self, values):
        """[blocks, bs] -> [out_blocks, bs]."""

        @tf.custom_gradient
        def column_sum(values):
            padded = tf.pad(values, [[0, 1], [0, 0]])
            return tf.reduce_sum(tf.gather(padded, self._table), 1), self.spread

        return column_sum(values)

    def spread(self, values):
        """[out_blocks, bs] -> [blocks, bs]."""

        @tf.custom_gradient
        def spread(values):
            return tf.gather(values, self._columns), self.sum

        return spread(values)
