"""The linear maps of a recurrent cell: a block-sparse or a dense matrix under one interface.

A map is used in three ways over a sequence: forward at each step, transposed at each step of the
way back, and once at the end for the gradient of its weights.
"""

import tensorflow as tf

from bsparse_tf import ops


class BlockSparseLinear:
    """x W for a `BlocksparseMatMul` with features last."""

    def __init__(self, matmul):
        self.inputs, self.outputs = matmul.C, matmul.K
        self.matmul = matmul

    def prepare(self, w, dtype):
        """`w` as the products of one sequence take it: rounded once, not at every step."""
        return tf.cast(w, dtype)

    def product(self, x, prepared):
        return self.matmul(x, prepared)

    def transposed(self, dy, prepared):
        return self.matmul.transpose_matmul(dy, prepared)

    def weight_gradient(self, x, dy, dtype):
        """x^T dy on the stored blocks, over all leading dimensions, in `dtype`."""
        return ops.matmul_dw(
            x,
            dy,
            self.matmul.coords,
            block_size=self.matmul.block_size,
            in_blocks=self.matmul.CB,
            out_blocks=self.matmul.KB,
            out_type=dtype,
        )


class DenseLinear:
    """x W for a dense W [inputs, outputs]."""

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs

    def prepare(self, w, dtype):
        return tf.cast(w, dtype)

    def product(self, x, prepared):
        return tf.matmul(x, prepared)

    def transposed(self, dy, prepared):
        return tf.matmul(dy, prepared, transpose_b=True)

    def weight_gradient(self, x, dy, dtype):
        x = tf.reshape(x, [-1, x.shape[-1]])
        dy = tf.reshape(dy, [-1, dy.shape[-1]])
        if x.dtype == dtype:
            return tf.matmul(x, dy, transpose_a=True)
        # Rounded to x's dtype, the sum over a whole sequence would lose what float32 weights need.
        return tf.matmul(tf.cast(x, dtype), tf.cast(dy, dtype), transpose_a=True)
