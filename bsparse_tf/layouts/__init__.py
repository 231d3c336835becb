"""Layouts: which blocks of a block-sparse matrix exist.

A layout is a NumPy bool array [in_blocks, out_blocks]: row c is an input block, column k an output
block, and True at (c, k) says that the block joining them is stored. Any array of that form will
do; this package makes the well-known ones, measures them and draws them. It needs NumPy and
networkx, and never TensorFlow.

Every family takes `n`, its number of input blocks, and `out_blocks`, its number of output blocks
(`n` if left out). A second argument sets how many connections there are; `density=` may stand in
its place, and picks the value of that argument whose number of blocks comes nearest. Every family
holds the self connections, so no row or column is empty (`random` does so only when asked).

    watts_strogatz   small world: a ring with some of its connections rewired at random
    barabasi_albert  small world with hubs: each new block prefers blocks with many connections
    random           an exact number of blocks, anywhere
    balanced_random  anywhere, but every block has equally many connections
    ring_lattice     each block and its nearest neighbours on a ring
    block_diagonal   groups that only see themselves, as in a grouped convolution
    banded           the blocks near the diagonal
    butterfly        few hops from anywhere to anywhere, without randomness
    dense            all blocks

A rectangular layout places both sides along the same line (or ring): the blocks of the longer side
one by one, those of the shorter side evenly spread, so that a block of the shorter side faces a run
of neighbours on the longer one (`self_connections` shows which).

The same arguments and seed always give the same layout, on every supported version of NumPy and
networkx; `digest` names it.
"""

from bsparse_tf.layouts.draw import plot, render
from bsparse_tf.layouts.files import load, save
from bsparse_tf.layouts.geometry import self_connections
from bsparse_tf.layouts.layout import as_layout, digest, to_coords
from bsparse_tf.layouts.metrics import LayoutStats, Spread, stats
from bsparse_tf.layouts.small_world import barabasi_albert, watts_strogatz
from bsparse_tf.layouts.spec import from_spec
from bsparse_tf.layouts.structured import banded, block_diagonal, butterfly, dense, ring_lattice
from bsparse_tf.layouts.uniform import balanced_random, random

__all__ = [
    "LayoutStats",
    "Spread",
    "as_layout",
    "balanced_random",
    "banded",
    "barabasi_albert",
    "block_diagonal",
    "butterfly",
    "dense",
    "digest",
    "from_spec",
    "load",
    "plot",
    "random",
    "render",
    "ring_lattice",
    "save",
    "self_connections",
    "stats",
    "to_coords",
    "watts_strogatz",
]
