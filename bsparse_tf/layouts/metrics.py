"""Measures of a layout: how many blocks, how evenly spread, how fast they mix."""

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bsparse_tf.layouts.layout import as_layout

_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class Spread(NamedTuple):
    """The smallest, the median and the largest of some numbers."""

    min: int
    median: float
    max: int


@dataclasses.dataclass(frozen=True)
class LayoutStats:
    """What `stats` measures.

    Attributes:
      in_blocks: rows of the layout.
      out_blocks: columns of the layout.
      blocks: number of blocks.
      density: blocks / (in_blocks * out_blocks).
      in_degree: spread of the number of blocks per column, that is, of inputs to an output block.
      out_degree: spread of the number of blocks per row, that is, of outputs of an input block.
      clustering: how many of a block's neighbours are joined to each other: mean over all blocks of
        the share of joined pairs (0 where there is no pair), without regard to direction or self
        connections. None for a rectangular layout.
      mean_path: mean number of hops from one block to another on the shortest way; inf if some
        cannot be reached, 0 if there is only one block. None for a rectangular layout.
      reach: reach[s - 1] is the share of pairs (start, end) for which the end is reached after at
        most s hops, up to the hop that reaches all or after which none reaches more. A hop follows
        the layout from input to output; for a rectangular layout the second, fourth, ... hop goes
        back along the transpose, and only the side where the hop ends is counted.
      hops_to_all: number of hops after which all are reached; None if none are enough.
    """

    in_blocks: int
    out_blocks: int
    blocks: int
    density: float
    in_degree: Spread
    out_degree: Spread
    clustering: float | None
    mean_path: float | None
    reach: tuple[float, ...]
    hops_to_all: int | None

    def __str__(self):
        first = self.reach[:8]
        reach = ", ".join(map(_percent, first))
        more = ", ..." if len(self.reach) > len(first) else ""
        never = f"never (at most {_percent(self.reach[-1])})"
        lines = [
            ("size", f"{self.in_blocks} x {self.out_blocks} blocks"),
            ("blocks", f"{self.blocks} (density {_percent(self.density)})"),
            ("in-degree", "min {}, median {:g}, max {}".format(*self.in_degree)),
            ("out-degree", "min {}, median {:g}, max {}".format(*self.out_degree)),
            ("reach per hop", reach + more),
            ("hops to all", never if self.hops_to_all is None else str(self.hops_to_all)),
        ]
        if self.clustering is not None:
            lines.insert(4, ("clustering", f"{self.clustering:.3g}"))
            lines.insert(5, ("mean path", f"{self.mean_path:.4g}"))
        return "\n".join(f"{name:<14} {value}" for name, value in lines)


def stats(layout: npt.ArrayLike) -> LayoutStats:
    """Measures a layout.

    Cost, with n blocks to a side: n**3 multiplications for the clustering, and for each hop a
    bitwise OR of n / 8 bytes per block of the layout. A tenth of a second with 576 blocks to a
    side, two or three with 4096, more if the layout is nearly dense or takes hundreds of hops.

    Args:
      layout: array [in_blocks, out_blocks], as `as_layout` takes.

    Returns:
      LayoutStats.
    """
    layout = as_layout(layout)
    in_blocks, out_blocks = layout.shape
    square = in_blocks == out_blocks
    blocks = int(np.count_nonzero(layout))
    reach, mean_path = _walk_square(layout) if square else (_walk_between(layout), None)
    return LayoutStats(
        in_blocks=in_blocks,
        out_blocks=out_blocks,
        blocks=blocks,
        density=blocks / layout.size,
        in_degree=_spread(layout.sum(axis=0)),
        out_degree=_spread(layout.sum(axis=1)),
        clustering=_clustering(layout) if square else None,
        mean_path=mean_path,
        reach=tuple(reach),
        hops_to_all=len(reach) if reach[-1] == 1 else None,
    )


def _percent(share):
    """Returns a share as a text; only a full one is called 100%."""
    text = f"{100 * share:.3g}%"
    return text if share == 1 or text != "100%" else f"{min(100 * share, 99.999):.5g}%"


def _spread(degrees):
    return Spread(int(degrees.min()), float(np.median(degrees)), int(degrees.max()))


def _clustering(layout):
    """Returns the mean local clustering coefficient (Watts and Strogatz, 1998)."""
    joined = (layout | layout.T).astype(np.float32)  # counts up to n are exact
    np.fill_diagonal(joined, 0)
    degrees = joined.sum(axis=1, dtype=np.float64)
    # Of the paths of two steps from a block, those that a third closes: each joined pair twice.
    closed = np.sum((joined @ joined) * joined, axis=1, dtype=np.float64)
    pairs = degrees * (degrees - 1)
    return float(np.mean(np.divide(closed, pairs, out=np.zeros_like(pairs), where=pairs > 0)))


def _walk_square(layout):
    """Returns (reach, mean path) of a square layout."""
    n = len(layout)
    targets = _targets(layout)
    start = np.packbits(np.eye(n, dtype=bool), axis=1)
    # Row i, as bits: what block i reaches in 1 to s hops. It reaches itself if a path leads back.
    reached = np.zeros_like(start)
    reach, pairs, pairs_reached, hops_of_all = [], n * (n - 1), 0, 0
    while not reach or reach[-1] < 1:
        further = _step(targets, reached | start)
        if np.array_equal(further, reached):
            break
        reached = further
        reach.append(_count(reached) / n**2)
        new_pairs = _count(reached | start) - n - pairs_reached
        pairs_reached += new_pairs
        hops_of_all += new_pairs * len(reach)
    if pairs_reached < pairs:
        return reach, float("inf")
    return reach, hops_of_all / pairs if pairs else 0.0


def _walk_between(layout):
    """Returns the reach of a rectangular layout, along it and back in turn."""
    in_blocks, out_blocks = layout.shape
    forth, back = _targets(layout), _targets(layout.T)
    # What the blocks of each side reach; the two take the same number of hops.
    from_in = np.packbits(np.eye(in_blocks, dtype=bool), axis=1)
    from_out = np.packbits(np.eye(out_blocks, dtype=bool), axis=1)
    two_hops_ago = one_hop_ago = None
    reach = []
    while True:
        from_in, from_out = _step(forth, from_out), _step(back, from_in)
        # Once a hop there and back adds nothing, nothing ever will.
        if two_hops_ago is not None and np.array_equal(from_in, two_hops_ago):
            return reach
        two_hops_ago, one_hop_ago = one_hop_ago, from_in
        ends = in_blocks if len(reach) % 2 else out_blocks
        reach.append(_count(from_in) / (in_blocks * ends))
        if reach[-1] == 1:
            return reach


def _targets(layout):
    """Returns, for each row, the columns that have a block."""
    return [np.flatnonzero(row) for row in layout]


def _step(targets, reached):
    """Returns the bits that row i reaches in one hop more: the union of its targets' bits."""
    result = np.zeros((len(targets), reached.shape[1]), dtype=np.uint8)
    for row, columns in zip(result, targets):
        np.bitwise_or.reduce(reached[columns], axis=0, out=row)
    return result


def _count(bits):
    return int(_BITS_SET[bits].sum(dtype=np.int64))
