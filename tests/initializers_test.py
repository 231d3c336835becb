"""Initial weights: does every unit get the variance, or the orthogonality, that it is promised?"""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, initializers
from bsparse_tf.keras import BlockSparseDense

# Hubs: between 4 and 20 blocks feed a unit.
HUBS = BlocksparseMatMul.from_spec("ba:m=3,seed=0", 24 * 32, block_size=32)
RECTANGLE = BlocksparseMatMul.from_spec("ba:m=2,seed=0", 16 * 32, 8 * 32, block_size=32)
DENSE = BlocksparseMatMul(np.ones((4, 3)), block_size=16)

SCALINGS = [
    (initializers.GlorotUniform, keras.initializers.GlorotUniform),
    (initializers.GlorotNormal, keras.initializers.GlorotNormal),
    (initializers.HeUniform, keras.initializers.HeUniform),
    (initializers.HeNormal, keras.initializers.HeNormal),
    (initializers.LecunUniform, keras.initializers.LecunUniform),
    (initializers.LecunNormal, keras.initializers.LecunNormal),
]
ALL = [ours for ours, _ in SCALINGS] + [initializers.VarianceScaling, initializers.Orthogonal]


def gains(matmul, w, axis):
    """For each block column (axis 0) or row (axis 1): the mean over its units of the summed w^2."""
    sums = np.square(matmul.to_dense(np.asarray(w, np.float64))).sum(axis)
    return sums.reshape(-1, matmul.block_size).mean(1)


# A column's gain is a mean over a thousand squares or more, each about as wide as its mean: one
# standard error is 3 % at most.
TOLERANCE = 0.1


@pytest.mark.parametrize("matmul", [HUBS, RECTANGLE, DENSE], ids=["hubs", "rectangle", "dense"])
@pytest.mark.parametrize(
    "cls, gain",
    [
        (initializers.HeUniform, 2),
        (initializers.HeNormal, 2),
        (initializers.LecunUniform, 1),
        (initializers.LecunNormal, 1),
        (initializers.GlorotUniform, None),
        (initializers.GlorotNormal, None),
    ],
)
def test_every_output_unit_has_its_gain(matmul, cls, gain):
    if gain is None:
        gain = 2 * matmul.C / (matmul.C + matmul.K)
    np.testing.assert_allclose(gains(matmul, cls(seed=1)(matmul), 0), gain, rtol=TOLERANCE)


def test_fan_out_gives_every_input_unit_its_gain():
    init = initializers.VarianceScaling(3.0, "fan_out", "untruncated_normal", seed=1)
    np.testing.assert_allclose(gains(HUBS, init(HUBS), 1), 3.0, rtol=TOLERANCE)


def test_plain_glorot_variances_would_have_favoured_hubs():
    """What the factor in each column is for: see block_variances."""
    c, k = HUBS.coords.T
    degree_in, degree_out = HUBS.layout.sum(0), HUBS.layout.sum(1)
    plain = np.bincount(k, 2 / (degree_in[k] + degree_out[c]))
    assert plain.max() > 1.3
    ours = 32 * np.bincount(k, initializers.block_variances(HUBS, 1.0, "fan_avg"))
    np.testing.assert_allclose(ours, 1.0)


@pytest.mark.parametrize("ours, theirs", SCALINGS)
def test_dense_layout_means_what_keras_means(ours, theirs):
    layout = BlocksparseMatMul(np.ones((12, 6)), block_size=16)
    w = np.asarray(ours(seed=0)(layout))
    reference = np.asarray(theirs(seed=0)((layout.C, layout.K)))
    np.testing.assert_allclose(w.std(), reference.std(), rtol=0.02)
    np.testing.assert_allclose(np.abs(w).max(), np.abs(reference).max(), rtol=0.02)


def test_empty_columns_are_no_trouble():
    matmul = BlocksparseMatMul([[1, 0, 1], [0, 0, 1]], block_size=8)
    for cls in ALL:
        w = np.asarray(cls(seed=0)(matmul))
        assert w.shape == matmul.w_shape and np.isfinite(w).all()


# Identity.


def test_identity_on_a_square_layout():
    np.testing.assert_array_equal(
        HUBS.to_dense(initializers.Identity(scale=0.5)(HUBS)), 0.5 * np.eye(HUBS.C)
    )


@pytest.mark.parametrize("shape, facing", [((4, 2), [0, 0, 1, 1]), ((2, 4), [0, 0, 1, 1])])
def test_identity_stretches_along_the_longer_side(shape, facing):
    matmul = BlocksparseMatMul(np.ones(shape), block_size=8)
    expected = np.zeros((matmul.C, matmul.K))
    for longer, shorter in enumerate(facing):
        c, k = (longer, shorter) if shape[0] > shape[1] else (shorter, longer)
        expected[8 * c : 8 * c + 8, 8 * k : 8 * k + 8] = np.eye(8)
    np.testing.assert_array_equal(matmul.to_dense(initializers.Identity()(matmul)), expected)


@pytest.mark.parametrize("spec", ["ws:k=2,p=0.1,seed=0", "ba:m=2,seed=0"])
def test_identity_reaches_every_unit_of_a_rectangular_graph(spec):
    matmul = BlocksparseMatMul.from_spec(spec, 8 * 12, 8 * 20, block_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = initializers.Identity()(matmul)
    assert (matmul.to_dense(w.numpy()).sum(0) >= 1).all()


def test_identity_warns_of_units_that_start_at_zero():
    with pytest.warns(UserWarning, match="1 of 2 output blocks"):
        initializers.Identity()(BlocksparseMatMul([[1, 1], [0, 0]], block_size=8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initializers.Identity()(HUBS)


# Orthogonal.


def assert_identity(matrix, scale=1.0):
    np.testing.assert_allclose(matrix, scale * np.eye(len(matrix)), atol=1e-5)


def test_orthogonal_columns_of_every_output_block():
    dense = HUBS.to_dense(np.asarray(initializers.Orthogonal(gain=2.0, seed=0)(HUBS)))
    for k in range(HUBS.KB):
        column = dense[:, 32 * k : 32 * k + 32]
        assert_identity(column.T @ column, 4.0)


@pytest.mark.parametrize("shape", [(4, 4), (5, 2), (2, 5)])
def test_orthogonal_dense_layout_is_one_orthogonal_matrix(shape):
    matmul = BlocksparseMatMul(np.ones(shape), block_size=16)
    dense = matmul.to_dense(np.asarray(initializers.Orthogonal(seed=0)(matmul)))
    assert_identity(dense.T @ dense if shape[0] >= shape[1] else dense @ dense.T)


def test_orthogonal_parts_are_kept_apart():
    """Two dense parts, one with more outputs than inputs, and a column that belongs to neither."""
    layout = np.zeros((5, 6))
    layout[:3, :2] = layout[3:, 2:5] = layout[2:4, 5] = 1
    matmul = BlocksparseMatMul(layout, block_size=8)
    dense = matmul.to_dense(np.asarray(initializers.Orthogonal(seed=0)(matmul)))
    tall, wide, alone = dense[:24, :16], dense[24:, 16:40], dense[:, 40:]
    assert_identity(tall.T @ tall)
    assert_identity(wide @ wide.T)
    assert_identity(alone.T @ alone)


# Seeds, dtypes, Keras.


@pytest.mark.parametrize("cls", ALL)
def test_seeds(cls):
    first, same, other = cls(seed=5), cls(seed=5), cls(seed=6)
    np.testing.assert_array_equal(first(DENSE), same(DENSE))
    np.testing.assert_array_equal(first(DENSE), first(DENSE))
    assert np.abs(np.asarray(first(DENSE) - other(DENSE))).max() > 0
    keras.utils.set_random_seed(1)
    unseeded = cls()(DENSE)
    assert np.abs(np.asarray(unseeded - cls()(DENSE))).max() > 0
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(unseeded, cls()(DENSE))


@pytest.mark.parametrize("cls", ALL + [initializers.Identity])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(cls, dtype):
    assert cls()(DENSE, dtype=dtype).dtype == dtype


@pytest.mark.parametrize(
    "init",
    [cls(seed=3) for cls in ALL]
    + [
        initializers.VarianceScaling(0.3, "fan_out", "uniform", seed=3),
        initializers.Identity(scale=0.7),
        initializers.Orthogonal(gain=0.7, seed=3),
        initializers.GlorotNormal(seed=keras.random.SeedGenerator(4)),
    ],
)
def test_serialisation(init):
    config = keras.initializers.serialize(init)
    copy = keras.initializers.deserialize(config)
    assert type(copy) is type(init)
    np.testing.assert_array_equal(copy(DENSE), keras.initializers.deserialize(config)(DENSE))
    if isinstance(init.seed, int):
        np.testing.assert_array_equal(copy(DENSE), init(DENSE))


@pytest.mark.parametrize(
    "identifier, cls",
    [
        ("glorot_uniform", initializers.GlorotUniform),
        ("he_normal", initializers.HeNormal),
        ("HeUniform", initializers.HeUniform),
        ("orthogonal", initializers.Orthogonal),
        ("identity", initializers.Identity),
        (keras.initializers.LecunNormal, initializers.LecunNormal),
        (initializers.GlorotNormal(), initializers.GlorotNormal),
        ("zeros", keras.initializers.Zeros),
        (keras.initializers.RandomNormal(stddev=0.1), keras.initializers.RandomNormal),
    ],
)
def test_get(identifier, cls):
    assert type(initializers.get(identifier)) is cls


def test_get_keeps_the_settings():
    theirs = keras.initializers.VarianceScaling(0.4, "fan_out", "uniform", seed=9)
    ours = initializers.get(theirs)
    assert type(ours) is initializers.VarianceScaling
    assert (ours.scale, ours.mode, ours.distribution, ours.seed) == (0.4, "fan_out", "uniform", 9)
    assert initializers.get(keras.initializers.Orthogonal(gain=3.0)).gain == 3.0
    assert initializers.get(keras.initializers.Identity(gain=3.0)).scale == 3.0


@pytest.mark.parametrize("identifier", ["he_normal", keras.initializers.HeNormal(seed=2), "zeros"])
def test_in_a_layer(identifier):
    layer = BlockSparseDense(HUBS.K, layout=HUBS.layout, kernel_initializer=identifier)
    layer.build((None, HUBS.C))
    wanted = 0 if identifier == "zeros" else 2
    np.testing.assert_allclose(gains(HUBS, layer.kernel, 0), wanted, rtol=TOLERANCE)


def test_in_graphs():
    """As a v1 graph's variables need it: symbolic, one value at run time."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        values = initializers.Orthogonal(seed=0)(DENSE)
        assert values.shape == DENSE.w_shape
        in_graph = session.run(values)
    np.testing.assert_allclose(in_graph, initializers.Orthogonal(seed=0)(DENSE), atol=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_a_shape_is_not_enough(cls):
    with pytest.raises(TypeError, match="call it with a BlocksparseMatMul"):
        cls()((6, 32, 32))


def test_bad_settings():
    for settings in ({"scale": 0.0}, {"mode": "fan"}, {"distribution": "cauchy"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            initializers.VarianceScaling(**settings)
