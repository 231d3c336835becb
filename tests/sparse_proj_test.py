"""SparseProj against plain NumPy indexing."""

import numpy as np
import problems
import pytest
import tensorflow as tf

from bsparse_tf import SparseProj

_CPU = "/device:CPU:0"


def _moved(array, axis):
    """Features last to where `axis` says."""
    return np.moveaxis(array, -1, 0) if axis == 0 else array


@pytest.mark.parametrize("dtype", problems.dtypes())
@pytest.mark.parametrize("axis", [0, 1])
def test_values(axis, dtype):
    rng = np.random.default_rng(0)
    indices = [7, 2, 9, 0]
    proj = SparseProj(10, indices=indices, feature_axis=axis)
    x = problems.rounded(rng.standard_normal((2, 3, 10)), dtype)
    y = problems.rounded(rng.standard_normal((2, 3, 4)), dtype)
    zeros = np.zeros_like(x)
    scattered, added, multiplied = zeros.copy(), x.copy(), x.copy()
    scattered[..., indices] = y
    added[..., indices] += y
    multiplied[..., indices] *= y
    x, y = _moved(x, axis), _moved(y, axis)
    for result, expected in (
        (proj.gather(x), np.take(x, indices, 0 if axis == 0 else -1)),
        (proj.scatter(y), _moved(scattered, axis)),
        (proj.scatter_add(x, y), _moved(added, axis)),
        (proj.scatter_mul(x, y), _moved(multiplied, axis)),
    ):
        assert result.dtype.name == dtype
        np.testing.assert_array_equal(problems.as_float64(result), expected.astype(np.float64))


@pytest.mark.parametrize("axis", [0, 1])
def test_first_and_second_derivatives(axis):
    rng = np.random.default_rng(1)
    proj = SparseProj(6, nproj=3, feature_axis=axis, seed=5)
    x, y = _moved(rng.standard_normal((2, 6)), axis), _moved(rng.standard_normal((2, 3)), axis)

    def check(function, operands):
        def first(*operands):
            with tf.GradientTape() as tape:
                tape.watch(operands)
                loss = tf.reduce_sum(tf.sin(function(*operands)))
            return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, operands)], 0)

        for differentiated in (function, first):
            theory, numeric = tf.test.compute_gradient(differentiated, operands, delta=1e-5)
            for ours, theirs in zip(theory, numeric):
                assert np.abs(ours).max() > 0
                np.testing.assert_allclose(ours, theirs, atol=1e-8)

    with tf.device(_CPU):
        check(proj.gather, [x])
        check(proj.scatter, [y])
        check(proj.scatter_add, [x, y])
        check(proj.scatter_mul, [x, y])


def test_nan_stays_where_it_is():
    proj = SparseProj(4, indices=[1, 3])
    x = np.float32([[np.nan, 1, 2, 3]])
    y = np.float32([[np.nan, 2]])
    np.testing.assert_array_equal(proj.scatter(y), [[0, np.nan, 0, 2]])
    np.testing.assert_array_equal(proj.scatter_mul(x, y), [[np.nan, np.nan, 2, 6]])
    np.testing.assert_array_equal(proj.gather(x), [[1, 3]])


def test_choices_of_features():
    np.testing.assert_array_equal(SparseProj(10, proj_stride=3).indices, [0, 3, 6, 9])
    np.testing.assert_array_equal(SparseProj(10, proj_stride=2, block_size=4).indices, [0, 2, 4, 6])
    chosen = SparseProj(100, nproj=40, seed=3).indices
    assert len(np.unique(chosen)) == 40 and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, SparseProj(100, nproj=40, seed=3).indices)
    assert (chosen != SparseProj(100, nproj=40, seed=4).indices).any()
    assert SparseProj(5, nproj=5).nproj == 5


def test_in_a_function_of_unknown_batch_and_in_a_session():
    proj = SparseProj(6, proj_stride=2)
    traced = tf.function(proj.gather, input_signature=[tf.TensorSpec([None, 6])])
    np.testing.assert_array_equal(traced(np.ones((3, 6), np.float32)), np.ones((3, 3)))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y = tf.compat.v1.placeholder(tf.float32, [None, 3])
        x = proj.scatter(y)
        (dy,) = tf.gradients(x * x, [y])
        value = np.float32([[1, 2, 3]])
        np.testing.assert_array_equal(session.run(dy, {y: value}), 2 * value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(), "exactly one of nproj, proj_stride and indices"),
        (dict(nproj=2, proj_stride=2), "exactly one of nproj, proj_stride and indices"),
        (dict(nproj=9), "nproj must be between 1 and nhidden=8; got 9"),
        (dict(proj_stride=0), "proj_stride must be between 1 and nhidden=8; got 0"),
        (dict(proj_stride=4, block_size=4), "leaves 2 of nhidden=8"),
        (dict(indices=[0, 8]), "indices run from 0 to 8; expected 0 to nhidden - 1 = 7"),
        (dict(indices=[-1, 3]), "indices run from -1 to 3"),
        (dict(indices=[1, 2, 1]), "indices hold 1 more than once"),
        (dict(indices=[]), "not empty"),
        (dict(indices=[0.5]), "a vector of integers"),
        (dict(nproj=2, feature_axis=2), "feature_axis must be 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseProj(8, **arguments)


def test_bad_inputs():
    proj = SparseProj(8, nproj=2)
    with pytest.raises(ValueError, match=r"x has shape \(3, 7\); expected nhidden=8 features"):
        proj.gather(tf.ones([3, 7]))
    with pytest.raises(ValueError, match="y has shape .* expected nproj=2 features"):
        proj.scatter_add(tf.ones([3, 8]), tf.ones([3, 8]))
    with pytest.raises(TypeError, match="x has dtype float32 and y float16"):
        proj.scatter_mul(tf.ones([3, 8]), tf.ones([3, 2], tf.float16))
