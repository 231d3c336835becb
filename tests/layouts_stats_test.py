"""`layouts.stats`: against the paper's table, against networkx, and on layouts known by heart."""

import dataclasses
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsparse_tf import layouts

FIXED = settings(derandomize=True, deadline=None)
NODES = 576  # 18432 units in blocks of 32


def check_published(name, published, half_unit, measured):
    """A published figure lies among those of other seeds, give or take half its last digit."""
    assert min(measured) - half_unit <= published <= max(measured) + half_unit, (name, measured)


@pytest.mark.parametrize(
    "family, arguments, blocks, density, clustering, mean_path, in_degree, reach",
    [
        (
            layouts.barabasi_albert,
            {"m": 8},
            9706, 2.93, 0.08, 2.52, (9, 12, 108), (2.9, 45, 99.8, 100),
        ),
        (
            layouts.watts_strogatz,
            {"k": 16, "p": 0.2},
            9792, 2.95, 0.37, 2.93, (13, 17, 23), (3.0, 20, 85, 100),
        ),
        (
            layouts.random,
            {"blocks": 9706, "self_connections": True},
            9706, 2.93, 0.05, 2.6, (7, 17, 31), (2.9, 37, 99.4, 100),
        ),
    ],
    ids=["barabasi_albert", "watts_strogatz", "random"],
)  # fmt: skip
def test_random_layouts_at_the_scale_of_the_paper(
    family, arguments, blocks, density, clustering, mean_path, in_degree, reach
):
    """Gray, Radford and Kingma (2017): the graphs of their largest model. Only the seed is open."""
    measured = [layouts.stats(family(NODES, seed=seed, **arguments)) for seed in range(10)]
    assert {each.blocks for each in measured} == {blocks}
    assert measured[0].density == pytest.approx(blocks / NODES**2)
    assert 100 * measured[0].density == pytest.approx(density, abs=0.005)
    # 0.05 is the upper end of what is given for the random layout, to one digit.
    half_unit = 0.005 if family is not layouts.random else 0.01
    check_published("clustering", clustering, half_unit, [each.clustering for each in measured])
    half_unit = 0.005 if family is not layouts.random else 0.05
    check_published("mean path", mean_path, half_unit, [each.mean_path for each in measured])
    for field, published in zip(("min", "median", "max"), in_degree):
        degrees = [getattr(each.in_degree, field) for each in measured]
        check_published(f"{field} in-degree", published, 0.5, degrees)
    for hop, published in enumerate(reach):
        half_unit = 0.05 if published != round(published) else 0.5
        check_published(
            f"hop {hop + 1}", published, half_unit, [100 * each.reach[hop] for each in measured]
        )


def test_ring_lattice_at_the_scale_of_the_paper():
    measured = layouts.stats(layouts.ring_lattice(NODES, 16))
    assert measured.blocks == 9792
    assert measured.in_degree == measured.out_degree == (17, 17, 17)
    assert measured.clustering == pytest.approx(0.70)
    # 8 more blocks on either side each hop; in the 36th the one opposite is left, met twice.
    assert measured.hops_to_all == 36
    assert measured.reach[:4] == pytest.approx([17 / 576, 33 / 576, 49 / 576, 65 / 576])
    hops = [16 * hop for hop in range(1, 36)] + [15 * 36]
    assert measured.mean_path == pytest.approx(sum(hops) / 575)
    assert measured.mean_path == pytest.approx(18.5, abs=0.05)


def test_block_diagonal_at_the_scale_of_the_paper():
    measured = layouts.stats(layouts.block_diagonal(NODES, 16))
    assert measured.blocks == 9216
    assert measured.density == pytest.approx(1 / 36)
    assert measured.in_degree == (16, 16, 16)
    assert measured.clustering == 1
    assert measured.mean_path == math.inf
    assert measured.reach == pytest.approx([1 / 36])
    assert measured.hops_to_all is None


@st.composite
def any_layout(draw, square=None):
    rows = draw(st.integers(1, 12))
    columns = rows if square else draw(st.integers(1, 12))
    share = draw(st.sampled_from([0.1, 0.2, 0.5]))
    random = np.random.RandomState(draw(st.integers(0, 10**6)))
    layout = random.random_sample((rows, columns)) < share
    layout[random.randint(rows), random.randint(columns)] = True
    return layout


@FIXED
@given(any_layout())
def test_counts(layout):
    measured = layouts.stats(layout)
    assert (measured.in_blocks, measured.out_blocks) == layout.shape
    assert measured.blocks == layout.sum()
    assert measured.density == pytest.approx(layout.mean())
    for spread, axis in ((measured.in_degree, 0), (measured.out_degree, 1)):
        degrees = layout.sum(axis=axis)
        assert spread == (degrees.min(), np.median(degrees), degrees.max())


@FIXED
@given(any_layout(square=True))
def test_graph_measures_agree_with_networkx(layout):
    measured = layouts.stats(layout)
    graph = nx.from_numpy_array(layout.astype(int), create_using=nx.DiGraph)
    simple = nx.Graph(graph)
    simple.remove_edges_from(list(nx.selfloop_edges(simple)))
    assert measured.clustering == pytest.approx(nx.average_clustering(simple))
    if nx.is_strongly_connected(graph):
        assert measured.mean_path == pytest.approx(nx.average_shortest_path_length(graph))
    else:
        assert measured.mean_path == math.inf


@FIXED
@given(any_layout())
def test_reach_agrees_with_matrix_powers(layout):
    rows, columns = layout.shape
    steps = [layout, layout] if rows == columns else [layout, layout.T]
    on_inputs = np.zeros((rows, rows), bool)
    reached = [np.zeros_like(layout), on_inputs] if rows != columns else [on_inputs, on_inputs]
    product = np.eye(rows, dtype=bool)  # the ends of walks of exactly as many hops
    reach = []
    for hop in range(60):
        product = product @ steps[hop % 2]
        reached[hop % 2] |= product
        reach.append(reached[hop % 2].mean())
    measured = layouts.stats(layout)
    assert measured.reach == pytest.approx(reach[: len(measured.reach)])
    if measured.hops_to_all is None:
        assert max(reach) < 1
        # Nothing more comes after the last hop given, on either side.
        assert max(reach) == pytest.approx(max(measured.reach))
    else:
        assert measured.hops_to_all == len(measured.reach) == reach.index(1) + 1


def test_one_block():
    measured = layouts.stats([[1]])
    assert measured.clustering == measured.mean_path == 0
    assert measured.reach == (1,) and measured.hops_to_all == 1


def test_a_directed_ring_reaches_all():
    measured = layouts.stats(np.roll(np.eye(5, dtype=bool), 1, axis=1))
    assert measured.reach == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert measured.mean_path == pytest.approx((1 + 2 + 3 + 4) / 4)


def test_rectangular_has_no_graph_measures_but_reach():
    measured = layouts.stats(layouts.self_connections(2, 4))
    assert measured.clustering is None and measured.mean_path is None
    assert measured.reach == (0.5, 0.5) and measured.hops_to_all is None
    assert layouts.stats(layouts.dense(2, out_blocks=4)).hops_to_all == 1


def test_stats_are_frozen_and_print_as_a_table():
    measured = layouts.stats(layouts.watts_strogatz(NODES, 16, 0.2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        measured.blocks = 1
    text = str(measured)
    assert "576 x 576 blocks" in text and "9792 (density 2.95%)" in text
    # Nearly everything is not called 100%.
    assert measured.hops_to_all == 5 and text.count("100%") == 1
    assert "never (at most 2.78%)" in str(layouts.stats(layouts.block_diagonal(NODES, 16)))


def test_stats_rejects_what_is_no_layout():
    with pytest.raises(ValueError, match="layout must be 2-D"):
        layouts.stats([1, 0])
