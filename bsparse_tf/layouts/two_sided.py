"""Small-world layouts between two sides of different length: [longer side, shorter side].

Called by `small_world`, which checks the arguments and describes the result. Cost: a few random
draws and one pass over the shorter side for each block of the longer side.
"""

import random

import numpy as np

from bsparse_tf.layouts.geometry import facing, stretch
from bsparse_tf.layouts.structured import ring


def watts_strogatz(longest, shortest, k, p, seed):
    """Returns bool [longest, shortest]; every row has min(k + 1, shortest) blocks."""
    rng = np.random.RandomState(seed)
    layout = stretch(ring(shortest, k), longest, shortest)
    for row, own in zip(layout, facing(longest, shortest)):
        neighbours = np.flatnonzero(row)
        neighbours = neighbours[neighbours != own]
        leaving = neighbours[rng.random_sample(len(neighbours)) < p]
        free = rng.permutation(np.flatnonzero(~row))
        moved = min(len(leaving), len(free))
        row[leaving[:moved]] = False
        row[free[:moved]] = True
    return layout


def barabasi_albert(longest, shortest, m, seed):
    """Returns bool [longest, shortest] with `barabasi_albert_count` blocks."""
    # Python promises that random() alone keeps its stream, so nothing else of it is used.
    uniform = random.Random(seed).random
    layout = np.zeros((longest, shortest), dtype=bool)
    layout[:m, :m] = True
    # Each side's blocks, repeated once per connection: a uniform draw is preferential attachment.
    long_ends = [block for block in range(m) for _ in range(m)]
    short_ends = list(long_ends)

    def attach(ends, count, taken):
        """Draws `count` different blocks from `ends`, none of them in `taken`."""
        chosen = []
        while len(chosen) < count:
            block = ends[int(uniform() * len(ends))]
            if block not in taken:
                taken.add(block)
                chosen.append(block)
        return chosen

    arrived = m  # blocks of the shorter side that are there
    for new, own in enumerate(facing(longest, shortest).tolist()):
        if new < m:
            continue
        if own >= arrived:
            others = attach(long_ends, m, set())
            layout[others, own] = True
            long_ends += others
            short_ends += [own] * m
            arrived = own + 1
        others = attach(short_ends, min(m, arrived - 1), {own})
        layout[new, others] = True
        layout[new, own] = True
        long_ends += [new] * len(others)
        short_ends += others
    return layout


def barabasi_albert_count(longest, shortest, m):
    """Returns the number of blocks of `barabasi_albert`: core, shorter side, longer side."""
    arrived = np.maximum(m, facing(longest, shortest)[m:] + 1)  # [longest - m]
    return m * m + m * (shortest - m) + int(np.sum(1 + np.minimum(m, arrived - 1)))
