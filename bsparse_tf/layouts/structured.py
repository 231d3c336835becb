"""Layouts without randomness: dense, ring lattice, block diagonal, banded, butterfly.

Each is first made for the shorter side alone, as a square, and then stretched to the rectangle
(`geometry.stretch`).
"""

import numpy as np

from bsparse_tf.layouts import arguments
from bsparse_tf.layouts.density import resolve
from bsparse_tf.layouts.geometry import stretch, stretched_count


def dense(n: int, *, out_blocks: int | None = None) -> np.ndarray:
    """All blocks.

    Args:
      n: number of input blocks.
      out_blocks: number of output blocks; `n` if left out.

    Returns:
      bool array [n, out_blocks].
    """
    return np.ones(arguments.sizes("n", n, out_blocks), dtype=bool)


def ring_lattice(
    n: int, k: int | None = None, *, out_blocks: int | None = None, density: float | None = None
) -> np.ndarray:
    """Joins each block to itself and its k nearest neighbours on a ring, k/2 on either side.

    The starting point of Watts and Strogatz: strongly clustered, but far from one end to the other.

    Rectangular: each block of the longer side is joined to the block it faces on the shorter side
    and to that block's k nearest neighbours.

    Args:
      n: number of input blocks.
      k: neighbours, an even number up to the length of the shorter side (which means all blocks).
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of k.

    Returns:
      bool array [n, out_blocks] with max(n, out_blocks) * (k + 1) blocks; symmetric if square.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    k = resolve_neighbours("ring_lattice", k, density, sizes)
    return stretch(ring(min(sizes), k), *sizes)


def resolve_neighbours(family, k, density, sizes):
    """Returns k, the even number of neighbours on a ring; shared with `watts_strogatz`."""
    shortest, longest = sorted(sizes)

    def count(neighbours):
        return longest * min(neighbours + 1, shortest)

    return resolve(family, "k", k, density, sizes, range(0, shortest + 1, 2), count)


def ring(n, k):
    """Returns bool [n, n]: each joined to itself and the k around it (odd k: one more after it)."""
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None] + k // 2) % n
    return distance <= k


def block_diagonal(
    n: int, size: int | None = None, *, out_blocks: int | None = None, density: float | None = None
) -> np.ndarray:
    """Cuts the blocks into groups that are dense inside and not joined to each other.

    What a grouped convolution does (Xie et al., 2017: "Aggregated Residual Transformations for Deep
    Neural Networks"). Nothing ever passes from one group to another.

    Rectangular: both sides are cut into the same number of groups.

    Args:
      n: number of input blocks.
      size: input blocks per group. There are ceil(n / size) groups, as equal as the sides allow.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of size.

    Returns:
      bool array [n, out_blocks]; symmetric if square.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    shortest = min(sizes)

    def groups(size):
        return np.arange(shortest) * -(-sizes[0] // size) // shortest  # [shortest]

    def count(size):
        members = np.bincount(groups(size))
        return stretched_count(members[groups(size)], *sizes)

    smallest = -(-sizes[0] // shortest)  # no more groups than blocks on the shorter side
    choices = range(smallest, sizes[0] + 1)
    size = resolve("block_diagonal", "size", size, density, sizes, choices, count)
    group = groups(size)
    return stretch(group[:, None] == group[None, :], *sizes)


def banded(
    n: int,
    bandwidth: int | None = None,
    *,
    out_blocks: int | None = None,
    density: float | None = None,
) -> np.ndarray:
    """Joins blocks whose numbers differ by at most `bandwidth`: a ring lattice that is not closed.

    Rectangular: the numbers are those of the blocks on the shorter side, or faced there.

    Args:
      n: number of input blocks.
      bandwidth: diagonals on either side of the main one.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of bandwidth.

    Returns:
      bool array [n, out_blocks]; symmetric if square.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    shortest = min(sizes)
    index = np.arange(shortest)

    def count(width):
        degrees = np.minimum(index, width) + np.minimum(shortest - 1 - index, width) + 1
        return stretched_count(degrees, *sizes)

    bandwidth = resolve("banded", "bandwidth", bandwidth, density, sizes, range(shortest), count)
    return stretch(np.abs(index[:, None] - index[None, :]) <= bandwidth, *sizes)


def butterfly(
    n: int, radix: int | None = None, *, out_blocks: int | None = None, density: float | None = None
) -> np.ndarray:
    """Joins blocks whose numbers, written in base `radix`, differ in at most one digit.

    One hop changes one digit, so any block reaches any other in as many hops as there are digits.
    If the shorter side is no power of the radix, the pattern of the next power is cut off; that
    costs no hop, because a way that first lowers digits and then raises others stays inside.

    Radix 2 is the flat butterfly of Chen et al. (2022), "Pixelated Butterfly: Simple and Efficient
    Sparse Training for Neural Network Models": the stages of the fast Fourier transform laid over
    each other. Larger radices, which reach higher densities, are those of the flattened butterfly
    of Kim, Dally and Abts (2007), "Flattened Butterfly: A Cost-Efficient Topology for High-Radix
    Networks".

    Rectangular: the numbers are those of the blocks on the shorter side, or faced there.

    Args:
      n: number of input blocks.
      radix: base of the numbers, 2 or more; 2 if neither it nor density is given.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of radix.

    Returns:
      bool array [n, out_blocks]; symmetric if square.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    shortest = min(sizes)
    if radix is None and density is None:
        radix = 2

    def count(radix):
        # A block is joined to itself and, for each digit, to those that share all other digits.
        degrees = 1 + sum(np.bincount(rest)[rest] - 1 for rest in _without_a_digit(shortest, radix))
        return stretched_count(degrees, *sizes)

    choices = range(2, max(2, shortest) + 1)
    radix = resolve("butterfly", "radix", radix, density, sizes, choices, count)
    square = np.eye(shortest, dtype=bool)
    for rest in _without_a_digit(shortest, radix):
        square |= rest[:, None] == rest[None, :]
    return stretch(square, *sizes)


def _without_a_digit(n, radix):
    """Yields, for each digit, the numbers below n with that digit set to 0: [n]."""
    numbers = np.arange(n)
    weight = 1
    while weight < n:
        yield numbers - numbers // weight % radix * weight
        weight *= radix
