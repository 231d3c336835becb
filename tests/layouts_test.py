"""The layout families: what each promises, for all sizes; what a density gives; bad arguments."""

import random
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsparse_tf import layouts

FIXED = settings(derandomize=True, deadline=None, max_examples=60)

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 40)

# Family -> (name of its own argument, values it may take on a shorter side of s blocks).
FAMILIES = {
    layouts.watts_strogatz: ("k", lambda rows, columns: range(0, min(rows, columns) + 1, 2)),
    layouts.barabasi_albert: ("m", lambda rows, columns: range(1, min(rows, columns) + 1)),
    layouts.balanced_random: ("k", lambda rows, columns: range(min(rows, columns))),
    layouts.ring_lattice: ("k", lambda rows, columns: range(0, min(rows, columns) + 1, 2)),
    layouts.block_diagonal: (
        "size",
        lambda rows, columns: range(-(-rows // min(rows, columns)), rows + 1),
    ),
    layouts.banded: ("bandwidth", lambda rows, columns: range(min(rows, columns))),
    layouts.butterfly: ("radix", lambda rows, columns: range(2, max(2, min(rows, columns)) + 1)),
}
RANDOM_FAMILIES = (layouts.watts_strogatz, layouts.barabasi_albert, layouts.balanced_random)

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


@st.composite
def cases(draw, family, square=False):
    """Draws (input blocks, output blocks, the family's other arguments)."""
    rows = draw(SIDES)
    columns = rows if square else draw(SIDES)
    name, values = FAMILIES[family]
    arguments = {name: draw(st.sampled_from(values(rows, columns)))}
    if family in RANDOM_FAMILIES:
        arguments["seed"] = draw(SEEDS)
    return rows, columns, arguments


@families
@FIXED
@given(st.data())
def test_shape_dtype_and_self_connections(family, data):
    rows, columns, arguments = data.draw(cases(family))
    layout = family(rows, out_blocks=columns, **arguments)
    assert layout.shape == (rows, columns) and layout.dtype == np.bool_
    assert layout.flags.c_contiguous and layout.flags.writeable
    assert layout[layouts.self_connections(rows, columns)].all()
    assert layout.any(axis=0).all() and layout.any(axis=1).all()


@families
@FIXED
@given(st.data())
def test_same_arguments_and_seed_give_the_same_layout(family, data):
    rows, columns, arguments = data.draw(cases(family))
    one = family(rows, out_blocks=columns, **arguments)
    np.random.seed(rows)  # The global generators must play no part.
    random.seed(columns)
    two = family(np.int64(rows), out_blocks=np.int32(columns), **arguments)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if family is not layouts.balanced_random],
    ids=lambda family: family.__name__,
)
@FIXED
@given(st.data())
def test_square_layouts_are_symmetric(family, data):
    n, _, arguments = data.draw(cases(family, square=True))
    layout = family(n, **arguments)
    np.testing.assert_array_equal(layout, layout.T)


@pytest.mark.parametrize(
    "family",
    # The size of block_diagonal counts input blocks, so it means something else the other way.
    [family for family in FAMILIES if family is not layouts.block_diagonal],
    ids=lambda family: family.__name__,
)
@FIXED
@given(st.data())
def test_swapping_the_sides_transposes(family, data):
    rows, columns, arguments = data.draw(cases(family).filter(lambda case: case[0] != case[1]))
    np.testing.assert_array_equal(
        family(rows, out_blocks=columns, **arguments),
        family(columns, out_blocks=rows, **arguments).T,
    )


@pytest.mark.parametrize("family", RANDOM_FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("out_blocks", [64, 48])
def test_seeds_differ(family, out_blocks):
    name, _ = FAMILIES[family]
    seen = {
        layouts.digest(family(64, out_blocks=out_blocks, seed=seed, **{name: 4}))
        for seed in range(10)
    }
    assert len(seen) == 10


@families
@settings(FIXED, max_examples=15)
@given(SIDES, SIDES, st.floats(1e-3, 1))
def test_density_is_reached_within_half_a_step(family, rows, columns, density):
    name, values = FAMILIES[family]

    def blocks(**arguments):
        return np.count_nonzero(family(rows, out_blocks=columns, **arguments))

    # The layout of every value there is: the truth about which one is nearest.
    counts = np.unique([blocks(**{name: value}) for value in values(rows, columns)])
    target = density * rows * columns
    step = counts[1] - counts[0] if len(counts) > 1 else 0
    if target < counts[0] - step / 2:
        with pytest.raises(ValueError, match="density must be at least"):
            blocks(density=density)
    else:
        distance = abs(blocks(density=density) - target)
        assert distance == pytest.approx(np.abs(counts - target).min())


def test_watts_strogatz_is_networkx_graph_with_self_connections():
    for n, k, p, seed in [(30, 4, 0.2, 0), (31, 6, 1.0, 5), (8, 8, 0.3, 1)]:
        expected = nx.to_numpy_array(nx.watts_strogatz_graph(n, k, p, seed)) + np.eye(n)
        np.testing.assert_array_equal(layouts.watts_strogatz(n, k, p, seed), expected > 0)


def test_barabasi_albert_is_networkx_graph_with_self_connections_and_core():
    for n, m, seed in [(30, 4, 0), (31, 1, 5), (9, 8, 1)]:
        graph = nx.barabasi_albert_graph(n, m, seed, nx.star_graph(m))
        expected = nx.to_numpy_array(graph) + np.eye(n)
        expected[:m, :m] = 1
        np.testing.assert_array_equal(layouts.barabasi_albert(n, m, seed), expected > 0)


@FIXED
@given(cases(layouts.watts_strogatz), st.floats(0, 1))
def test_watts_strogatz_moves_blocks_but_keeps_their_number(case, p):
    rows, columns, arguments = case
    k = arguments["k"]
    layout = layouts.watts_strogatz(rows, p=p, out_blocks=columns, **arguments)
    shortest, longest = sorted((rows, columns))
    assert np.count_nonzero(layout) == longest * min(k + 1, shortest)
    if p == 0:
        np.testing.assert_array_equal(layout, layouts.ring_lattice(rows, k, out_blocks=columns))


@pytest.mark.parametrize("out_blocks", [200, 150])
def test_watts_strogatz_moves_the_share_asked_for(out_blocks):
    lattice = layouts.ring_lattice(200, 16, out_blocks=out_blocks)
    for p in (0.2, 0.8):
        layout = layouts.watts_strogatz(200, 16, p, seed=3, out_blocks=out_blocks)
        kept = (layout & lattice).sum() - 200  # without the self connections
        # A moved one lands in the lattice again now and then; five standard deviations.
        assert kept / (200 * 16) == pytest.approx(1 - p, abs=0.06)


@pytest.mark.parametrize("out_blocks", [400, 300])
def test_barabasi_albert_has_hubs(out_blocks):
    degrees = layouts.barabasi_albert(400, 4, seed=1, out_blocks=out_blocks).sum(axis=0)
    uniform = layouts.balanced_random(400, 8, seed=1, out_blocks=out_blocks).sum(axis=0)
    assert degrees.max() > 5 * np.median(degrees)
    assert degrees.max() > 3 * uniform.max()
    # The oldest blocks have had the most time to collect connections.
    assert degrees[:40].mean() > 2 * degrees[-40:].mean()


@FIXED
@given(SIDES, SIDES, st.data(), SEEDS)
def test_random_has_exactly_the_blocks_asked_for(rows, columns, data, seed):
    blocks = data.draw(st.integers(1, rows * columns))
    layout = layouts.random(rows, blocks=blocks, seed=seed, out_blocks=columns)
    assert layout.shape == (rows, columns) and layout.dtype == np.bool_
    assert np.count_nonzero(layout) == blocks
    density = blocks / (rows * columns)
    same = layouts.random(rows, density, seed, out_blocks=columns)
    np.testing.assert_array_equal(layout, same)


@FIXED
@given(SIDES, SIDES, st.data(), SEEDS)
def test_random_with_self_connections(rows, columns, data, seed):
    blocks = data.draw(st.integers(max(rows, columns), rows * columns))
    layout = layouts.random(
        rows, blocks=blocks, seed=seed, out_blocks=columns, self_connections=True
    )
    assert np.count_nonzero(layout) == blocks
    assert layout[layouts.self_connections(rows, columns)].all()


def test_random_is_uniform():
    total = sum(layouts.random(6, 0.25, seed, out_blocks=4).astype(int) for seed in range(2000))
    # 2000 draws of 6 blocks out of 24: mean 500, standard deviation 19.4; five of them.
    assert np.abs(total - 500).max() < 97


@FIXED
@given(cases(layouts.balanced_random))
def test_balanced_random_has_equal_degrees(case):
    rows, columns, arguments = case
    layout = layouts.balanced_random(rows, out_blocks=columns, **arguments)
    longer = 1 if rows >= columns else 0
    assert (layout.sum(axis=longer) == arguments["k"] + 1).all()
    degrees = layout.sum(axis=1 - longer)
    assert degrees.max() - degrees.min() <= (0 if rows == columns else 1)


@pytest.mark.parametrize("out_blocks", [12, 9])
def test_balanced_random_is_uniform_beside_the_self_connections(out_blocks):
    draws = 400
    total = sum(
        layouts.balanced_random(12, 3, seed, out_blocks=out_blocks).astype(int)
        for seed in range(draws)
    )
    others = total[~layouts.self_connections(12, out_blocks)] / draws
    expected = 3 / (out_blocks - 1)
    # Five standard deviations; where out_blocks does not divide 12, columns differ by one block.
    unevenness = 0 if out_blocks == 12 else 1 / 12
    tolerance = unevenness + 5 * np.sqrt(expected * (1 - expected) / draws)
    assert np.abs(others - expected).max() < tolerance


def test_ring_lattice_joins_nearest_neighbours():
    layout = layouts.ring_lattice(7, 4)
    for c in range(7):
        assert set(np.flatnonzero(layout[c])) == {(c + step) % 7 for step in (-2, -1, 0, 1, 2)}


def test_block_diagonal_has_groups():
    expected = np.kron(np.eye(3), np.ones((4, 4)))
    np.testing.assert_array_equal(layouts.block_diagonal(12, 4), expected)
    np.testing.assert_array_equal(
        layouts.block_diagonal(12, 4, out_blocks=6), np.kron(np.eye(3), np.ones((4, 2)))
    )
    sizes = np.unique(layouts.block_diagonal(14, 4).sum(axis=0))
    assert sizes.tolist() == [3, 4]


def test_banded_is_a_band():
    expected = np.tri(9, k=2) - np.tri(9, k=-3)
    np.testing.assert_array_equal(layouts.banded(9, 2), expected)


def test_butterfly_of_radix_2_joins_numbers_that_differ_in_one_bit():
    layout = layouts.butterfly(13)
    for c, k in np.ndindex(13, 13):
        assert layout[c, k] == (bin(c ^ k).count("1") <= 1)


@FIXED
@given(st.integers(2, 60), st.data())
def test_butterfly_reaches_all_in_as_many_hops_as_digits(n, data):
    radix = data.draw(st.integers(2, n))
    digits = 1
    while radix**digits < n:
        digits += 1
    assert layouts.stats(layouts.butterfly(n, radix)).hops_to_all <= digits


def test_dense_has_all_blocks():
    np.testing.assert_array_equal(layouts.dense(3, out_blocks=5), np.ones((3, 5), bool))


def test_self_connections_spread_the_shorter_side_evenly():
    np.testing.assert_array_equal(layouts.self_connections(4), np.eye(4))
    columns = layouts.self_connections(6, 3).argmax(axis=1)
    assert columns.tolist() == [0, 0, 1, 1, 2, 2]
    for rows, columns in [(7, 3), (3, 7), (40, 39)]:
        layout = layouts.self_connections(rows, columns)
        assert np.count_nonzero(layout) == max(rows, columns)
        for axis in (0, 1):
            degrees = layout.sum(axis=axis)
            assert degrees.min() >= 1 and degrees.max() - degrees.min() <= 1


BAD_ARGUMENTS = [
    (lambda: layouts.dense(0), ValueError, "n must be .* at least 1, but got 0"),
    (lambda: layouts.dense(2.5), TypeError, "n must be .* but got 2.5"),
    (lambda: layouts.dense(True), TypeError, "n must be .* but got True"),
    (lambda: layouts.dense(4, out_blocks=-1), ValueError, "out_blocks must .* but got -1"),
    (lambda: layouts.self_connections(0), ValueError, "in_blocks must .* but got 0"),
    (lambda: layouts.watts_strogatz(8), ValueError, "k or density, but got neither"),
    (lambda: layouts.watts_strogatz(8, 2, density=0.5), ValueError, "but got both"),
    (lambda: layouts.watts_strogatz(8, 3), ValueError, "k must be an even .* 0 to 8 .*got 3"),
    (lambda: layouts.watts_strogatz(8, 10), ValueError, "k must be an even .* 0 to 8 .*got 10"),
    (lambda: layouts.watts_strogatz(8, -2), ValueError, "k must be .* at least 0, but got -2"),
    (lambda: layouts.watts_strogatz(8, 4, 1.5), ValueError, "p must .* from 0 to 1, but got 1.5"),
    (lambda: layouts.watts_strogatz(8, 4, np.nan), ValueError, "p must .* but got nan"),
    (lambda: layouts.watts_strogatz(8, 4, "x"), TypeError, "p must .* but got 'x'"),
    (lambda: layouts.watts_strogatz(8, 4, 0.2, -1), ValueError, "seed must .* but got -1"),
    (lambda: layouts.watts_strogatz(8, 4, 0.2, 2**32), ValueError, "seed must .* 4294967295"),
    (lambda: layouts.watts_strogatz(8, 4, 0.2, None), TypeError, "seed must .* but got None"),
    (lambda: layouts.barabasi_albert(8, 0), ValueError, "m must be .* at least 1, but got 0"),
    (lambda: layouts.barabasi_albert(8, 6, out_blocks=5), ValueError, "8 x 5 blocks, but got 6"),
    (lambda: layouts.barabasi_albert(8, 2.0), TypeError, "m must be .* but got 2.0"),
    (lambda: layouts.balanced_random(8, 8), ValueError, "k must be .* 0 to 7 .* but got 8"),
    (lambda: layouts.random(8), ValueError, "density or blocks, but got neither"),
    (lambda: layouts.random(8, 0.1, blocks=6), ValueError, "but got both"),
    (lambda: layouts.random(8, 0.0), ValueError, "density must .* above 0 .* but got 0"),
    (lambda: layouts.random(8, 1.1), ValueError, "density must .* at most 1, but got 1.1"),
    (lambda: layouts.random(8, 0.001), ValueError, "density must give at least the 1 of 8 x 8"),
    (
        lambda: layouts.random(8, 0.05, self_connections=True),
        ValueError,
        "at least the 8 of 8 x 8 blocks that are self connections, but got 0.05, which is 3",
    ),
    (lambda: layouts.random(8, blocks=65), ValueError, "blocks must .* 1 to 64, but got 65"),
    (lambda: layouts.random(8, 0.5, self_connections=1), TypeError, "True or False, but got 1"),
    (lambda: layouts.block_diagonal(12, 2, out_blocks=4), ValueError, "size .* 3, but got 2"),
    (lambda: layouts.banded(8, 8), ValueError, "bandwidth must .* 0 to 7 .* but got 8"),
    (lambda: layouts.butterfly(8, 1), ValueError, "radix must .* at least 2, but got 1"),
    (lambda: layouts.butterfly(64, density=0.01), ValueError, "density must be at least 0.1094"),
    (lambda: layouts.ring_lattice(8, density="x"), TypeError, "density must .* but got 'x'"),
]


@pytest.mark.parametrize("call, error, message", BAD_ARGUMENTS)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_layouts_need_no_tensorflow():
    # A bare package stands in for bsparse_tf, whose import would load TensorFlow.
    program = f"""
import sys, types
package = types.ModuleType("bsparse_tf")
package.__path__ = {list(sys.modules["bsparse_tf"].__path__)!r}
sys.modules["bsparse_tf"] = package
from bsparse_tf import layouts
layouts.stats(layouts.from_spec("ba:m=2", 20))
layouts.render(layouts.from_spec("ws:k=2", 20))
loaded = {{"tensorflow", "keras", "matplotlib", "scipy"}} & set(sys.modules)
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
