"""Random layouts without further structure: `random` and `balanced_random`.

Both draw from `numpy.random.RandomState`, whose stream NumPy has promised never to change (NEP 19).
"""

import numpy as np

from bsparse_tf.layouts import arguments, geometry
from bsparse_tf.layouts.density import resolve
from bsparse_tf.layouts.structured import ring

# A connection stays with its block in half of the trades it takes part in, so after this many
# rounds about 2**-16 of them have never moved; each move is to a random partner.
_TRADING_ROUNDS = 16


def random(
    n: int,
    density: float | None = None,
    seed: int = 0,
    *,
    blocks: int | None = None,
    out_blocks: int | None = None,
    self_connections: bool = False,
) -> np.ndarray:
    """Chooses an exact number of blocks, each set of that many equally likely.

    Args:
      n: number of input blocks.
      density: share of all n * out_blocks blocks, rounded to a whole number of blocks.
      seed: whole number from 0 to 2**32 - 1.
      blocks: the number of blocks, instead of density.
      out_blocks: number of output blocks; `n` if left out.
      self_connections: True to place the self connections first and only the rest by chance, so
        that no row or column is empty. The uniform choice leaves some empty at low densities.

    Returns:
      bool array [n, out_blocks].
    """
    rows, columns = arguments.sizes("n", n, out_blocks)
    seed = arguments.seed(seed)
    if not isinstance(self_connections, (bool, np.bool_)):
        raise TypeError(f"self_connections must be True or False, but got {self_connections!r}")
    if (blocks is None) == (density is None):
        came = "neither" if blocks is None else "both"
        raise ValueError(f"random needs either density or blocks, but got {came}")
    cells = rows * columns
    if self_connections:
        layout = geometry.self_connections(rows, columns)
    else:
        layout = np.zeros((rows, columns), dtype=bool)
    least = max(1, np.count_nonzero(layout))
    if blocks is not None:
        blocks = arguments.integer("blocks", blocks, least, cells)
    else:
        density = arguments.density(density)
        blocks = round(density * cells)
        if blocks < least:
            why = " that are self connections" if self_connections else ""
            raise ValueError(
                f"density must give at least the {least} of {rows} x {columns} blocks{why}, "
                f"but got {density:g}, which is {blocks}"
            )
    rest = blocks - np.count_nonzero(layout)
    free = np.flatnonzero(~layout)
    layout.flat[np.random.RandomState(seed).permutation(free)[:rest]] = True
    return layout


def balanced_random(
    n: int,
    k: int | None = None,
    seed: int = 0,
    *,
    out_blocks: int | None = None,
    density: float | None = None,
) -> np.ndarray:
    """Joins each block to itself and k others at random, such that all have equally many.

    Every row and column of a square layout has k + 1 blocks, so all units have the same fan-in and
    the work divides evenly. A ring lattice is randomised by trades: two blocks pool the neighbours
    that only one of them has and deal them out again, which keeps all row and column sums
    ("curveball": Strona et al., 2014, "A fast and unbiased procedure to randomize ecological binary
    matrices with fixed row and column totals", with everyone trading in pairs at the same time as
    in Carstens et al., 2018, "Parallel and I/O-efficient randomisation of massive networks using
    global curveball trades"). Self connections are never traded. Not symmetric.

    Rectangular: each block of the longer side has k + 1 blocks; those of the shorter side share
    them out evenly, to within one.

    Args:
      n: number of input blocks.
      k: connections besides the self connection, less than the length of the shorter side.
      seed: whole number from 0 to 2**32 - 1.
      out_blocks: number of output blocks; `n` if left out.
      density: target density, instead of k.

    Returns:
      bool array [n, out_blocks] with max(n, out_blocks) * (k + 1) blocks.
    """
    sizes = arguments.sizes("n", n, out_blocks)
    shortest, longest = sorted(sizes)
    seed = arguments.seed(seed)
    k = resolve(
        "balanced_random", "k", k, density, sizes, range(shortest), lambda k: longest * (k + 1)
    )
    layout = geometry.stretch(ring(shortest, k), longest, shortest)
    _trade(layout, geometry.facing(longest, shortest), np.random.RandomState(seed))
    return geometry.from_longer_side(layout, *sizes)


def _trade(layout, own, rng):
    """Randomises `layout` [rows, columns] in place; row i never gives column own[i] away."""
    for _ in range(_TRADING_ROUNDS):
        order = rng.permutation(len(layout))
        for a, b in zip(order[0::2], order[1::2]):
            pool = np.flatnonzero(layout[a] != layout[b])
            pool = pool[(pool != own[a]) & (pool != own[b])]
            dealt = rng.permutation(layout[a, pool])
            layout[a, pool] = dealt
            layout[b, pool] = ~dealt
