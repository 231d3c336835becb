"""l2_normalize against the columns of the dense matrix."""

import numpy as np
import problems
import pytest
import tensorflow as tf

import bsparse_tf
from bsparse_tf import BlocksparseMatMul

_CPU = "/device:CPU:0"
# An empty column, a hub column, an empty row.
LAYOUT = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]], bool)


def _dense(matmul, w, gain=None, epsilon=1e-12):
    """The normalised blocks, by way of the whole matrix, in w's precision."""
    dense = matmul.to_dense(w)
    scale = 1 / np.sqrt(np.maximum(np.square(dense).sum(0), dense.dtype.type(epsilon)))
    return matmul.from_dense(dense * scale * (1 if gain is None else gain))


@pytest.mark.parametrize("has_gain", [False, True])
@pytest.mark.parametrize("block_size", [8, 32])
@pytest.mark.parametrize("dtype", problems.dtypes())
def test_values(dtype, block_size, has_gain):
    rng = np.random.default_rng(0)
    matmul = BlocksparseMatMul(LAYOUT, block_size)
    w = problems.rounded(rng.standard_normal(matmul.w_shape), dtype)
    gain = problems.rounded(rng.standard_normal(matmul.K), dtype) if has_gain else None
    operands = (w,) if gain is None else (w, gain)
    truth = _dense(matmul, *[o.astype(np.float64) for o in operands])
    allowed = problems.dense_error(truth, lambda *o: _dense(matmul, *o), dtype, *operands)
    result = matmul.l2_normalize(w, gain)
    assert result.dtype.name == dtype
    problems.assert_as_accurate(result, truth, allowed, problems.FORWARD)


def test_columns_get_the_length_of_the_gain():
    rng = np.random.default_rng(1)
    matmul = BlocksparseMatMul(LAYOUT, 16)
    w = rng.standard_normal(matmul.w_shape).astype(np.float32)
    gain = rng.random(matmul.K).astype(np.float32)
    lengths = np.linalg.norm(matmul.to_dense(matmul.l2_normalize(w, gain).numpy()), axis=0)
    stored = np.repeat(LAYOUT.any(0), 16)
    np.testing.assert_allclose(lengths, np.where(stored, gain, 0), rtol=1e-6)


@pytest.mark.parametrize("has_gain", [False, True])
def test_first_and_second_derivatives(has_gain):
    rng = np.random.default_rng(2)
    matmul = BlocksparseMatMul(np.array([[1, 0], [1, 1]], bool), 8)
    w = rng.standard_normal(matmul.w_shape)[:, :3]  # Three rows of each block keep the test short.
    rows = tf.constant(rng.standard_normal((3, 5, 8)))
    operands = [w] + ([rng.standard_normal(matmul.K)] if has_gain else [])
    weights = rng.standard_normal((3, 8, 8))

    def function(w, *gain):
        return weights * matmul.l2_normalize(tf.concat([w, rows], 1), *gain)

    def first(*operands):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            loss = tf.reduce_sum(tf.sin(function(*operands)))
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, operands)], 0)

    with tf.device(_CPU):
        for differentiated in (function, first):
            theory, numeric = tf.test.compute_gradient(differentiated, operands, delta=1e-5)
            for ours, theirs in zip(theory, numeric):
                assert np.abs(ours).max() > 0
                np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_gradients_are_as_accurate_as_dense():
    rng = np.random.default_rng(3)
    matmul = BlocksparseMatMul(LAYOUT, 32)
    w = rng.standard_normal(matmul.w_shape).astype(np.float32)
    gain = rng.standard_normal(matmul.K).astype(np.float32)
    dy = rng.standard_normal(matmul.w_shape).astype(np.float32)

    def dense(w, gain, dy):
        norm = np.sqrt(np.square(matmul.to_dense(w)).sum(0))
        norm = np.where(norm == 0, norm.dtype.type(1), norm)
        unit = matmul.to_dense(w) / norm
        along = (matmul.to_dense(dy) * unit).sum(0)
        return matmul.from_dense((matmul.to_dense(dy) - unit * along) * gain / norm), along

    with tf.GradientTape() as tape:
        operands = [tf.constant(w), tf.constant(gain)]
        tape.watch(operands)
        result = matmul.l2_normalize(*operands)
    ours = tape.gradient(result, operands, tf.constant(dy))
    truth = dense(*[a.astype(np.float64) for a in (w, gain, dy)])
    for i in range(2):
        allowed = problems.dense_error(
            truth[i], lambda *o: dense(*o)[i], "float32", w, gain, dy
        )
        problems.assert_as_accurate(ours[i], truth[i], allowed, problems.BACKWARD, f"gradient {i}")


def test_zero_weights_stay_zero_and_trainable():
    matmul = BlocksparseMatMul(LAYOUT, 8)
    w = tf.zeros(matmul.w_shape)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = matmul.l2_normalize(w, epsilon=1e-4)
    assert not np.asarray(y).any()
    np.testing.assert_allclose(tape.gradient(y, w), np.full(matmul.w_shape, 100), rtol=1e-5)


def test_float32_weights_for_a_16_bit_product():
    matmul = BlocksparseMatMul(LAYOUT, 8)
    w = tf.constant(np.random.default_rng(4).standard_normal(matmul.w_shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = matmul.l2_normalize(w, dtype=tf.bfloat16)
    assert y.dtype == tf.bfloat16
    assert tape.gradient(y, w).dtype == tf.float32


def test_bad_arguments():
    matmul = BlocksparseMatMul(LAYOUT, 8)
    w = np.ones(matmul.w_shape, np.float32)
    with pytest.raises(ValueError, match=r"w has shape \(4, 8, 8\); expected \(5, 8, 8\)"):
        matmul.l2_normalize(w[:4])
    with pytest.raises(ValueError, match=r"gain has shape \(8,\); expected \(24,\)"):
        matmul.l2_normalize(w, np.ones(8, np.float32))
    with pytest.raises(ValueError, match="columns 0 to 2; expected 0 to out_blocks - 1 = 1"):
        bsparse_tf.l2_normalize(w, coords=matmul.coords, out_blocks=2)
    with pytest.raises(ValueError, match=r"coords has shape \(5,\); expected \(blocks, 2\)"):
        bsparse_tf.l2_normalize(w, coords=matmul.coords[:, 0], out_blocks=3)
