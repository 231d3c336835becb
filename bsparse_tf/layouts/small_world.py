"""The two small-world families of the paper: Watts-Strogatz and Barabási-Albert.

"GPU Kernels for Block-Sparse Weights" (Gray, Radford and Kingma, 2017) takes a graph whose nodes
are blocks of units; the layout is its adjacency matrix plus self connections. Square layouts are
networkx's own graphs. Rectangular ones, for which networkx has no generator, are in `two_sided`.
"""

import random

import networkx as nx
import numpy as np

from bsparse_tf.layouts import arguments, two_sided
from bsparse_tf.layouts.density import resolve
from bsparse_tf.layouts.geometry import from_longer_side
from bsparse_tf.layouts.structured import resolve_neighbours


def watts_strogatz(
    n: int,
    k: int | None = None,
    p: float = 0.2,
    seed: int = 0,
    *,
    out_blocks: int | None = None,
    density: float | None = None,
) -> np.ndarray:
    """Joins each block to itself and its k nearest neighbours on a ring, then rewires some.

    Watts and Strogatz (1998), "Collective dynamics of 'small-world' networks": each connection is
    moved with probability p to a random block. A few moved ones make all paths short, while
    neighbours stay clustered.

    Rectangular: both sides lie on one ring. Each block of the longer side is joined to the block it
    faces on the shorter side and to that block's k nearest neighbours; then each connection except
    the self connection is moved with probability p to a random block of the shorter side.

    Args:
      n: number of input blocks.
      k: neighbours, an even number up to the length of the shorter side (which means all blocks).
      p: probability of rewiring a connection; 0 gives a ring lattice. The paper uses 0.2.
      seed: whole number from 0 to 2**32 - 1.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of k.

    Returns:
      bool array [n, out_blocks] with max(n, out_blocks) * (k + 1) blocks; symmetric if square.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    p = arguments.probability("p", p)
    seed = arguments.seed(seed)
    k = resolve_neighbours("watts_strogatz", k, density, sizes)
    if sizes[0] == sizes[1]:
        return _adjacency(nx.watts_strogatz_graph(sizes[0], k, p, seed=random.Random(seed)))
    return from_longer_side(two_sided.watts_strogatz(max(sizes), min(sizes), k, p, seed), *sizes)


def barabasi_albert(
    n: int,
    m: int | None = None,
    seed: int = 0,
    *,
    out_blocks: int | None = None,
    density: float | None = None,
) -> np.ndarray:
    """Grows a graph in which each new block joins m others, preferring those with many connections.

    Barabási and Albert (1999), "Emergence of scaling in random networks". A few blocks become hubs
    with very many connections, which keep all paths short. The first m blocks are joined to each
    other (the paper's "fully connected initial nodes"). Growth starts from a star of m + 1 blocks,
    as in networkx.

    Rectangular: preferential attachment between two sides. The first m blocks of both sides form a
    dense core; then blocks arrive along the common line, those of the shorter side before the ones
    they face. Each joins m blocks of the other side that are there already, with probability
    proportional to their connections, and, if it is of the longer side, also the block it faces.

    Args:
      n: number of input blocks.
      m: connections of each new block, up to the length of the shorter side (which means all
        blocks).
      seed: whole number from 0 to 2**32 - 1.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of m.

    Returns:
      bool array [n, out_blocks]; symmetric if square, then with 2 m (n - m) + n + (m - 1)(m - 2)
      blocks for m < n.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    seed = arguments.seed(seed)
    shortest, longest = sorted(sizes)
    square = shortest == longest

    def count(m):
        if not square:
            return two_sided.barabasi_albert_count(longest, shortest, m)
        if m == shortest:
            return shortest**2
        return 2 * m * (shortest - m) + shortest + (m - 1) * (m - 2)

    choices = range(1, shortest + 1)
    m = resolve("barabasi_albert", "m", m, density, sizes, choices, count)
    if not square:
        layout = two_sided.barabasi_albert(longest, shortest, m, seed)
        return from_longer_side(layout, *sizes)
    if m == shortest:
        return np.ones(sizes, dtype=bool)
    # The start is passed explicitly because networkx's default has changed once: old versions began
    # with m blocks and no connections.
    start = nx.star_graph(m)
    graph = nx.barabasi_albert_graph(shortest, m, seed=random.Random(seed), initial_graph=start)
    layout = _adjacency(graph)
    layout[:m, :m] = True
    return layout


def _adjacency(graph):
    """Returns bool [n, n]: the adjacency matrix of a graph on 0 to n - 1, with its diagonal set."""
    layout = np.eye(len(graph), dtype=bool)
    for a, b in graph.edges:
        layout[a, b] = layout[b, a] = True
    return layout
