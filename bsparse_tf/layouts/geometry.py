"""How the two sides of a rectangular layout face each other.

Both sides lie along one line (closed to a ring where the family is a ring). The longer side has one
block at each place; a block of the shorter side takes an equal share of the places. For 6 inputs
and 3 outputs:

    inputs    0  1  2  3  4  5
    outputs   0  0  1  1  2  2
"""

import numpy as np

from bsparse_tf.layouts import arguments


def facing(blocks, shortest):
    """Returns, for each of `blocks` blocks, the block of the shorter side that it faces.

    Args:
      blocks: length of this side, at least `shortest`.
      shortest: length of the shorter side.

    Returns:
      int array [blocks], from 0 up to shortest - 1, each value about blocks / shortest times.
    """
    return np.arange(blocks) * shortest // blocks


def stretch(square, in_blocks, out_blocks):
    """Stretches a layout of the shorter side with itself to the whole rectangle.

    Args:
      square: array [s, s] with s = min(in_blocks, out_blocks).
      in_blocks: rows of the result.
      out_blocks: columns of the result.

    Returns:
      array [in_blocks, out_blocks]: at (c, k) what `square` has where c and k face.
    """
    shortest = min(in_blocks, out_blocks)
    return square[np.ix_(facing(in_blocks, shortest), facing(out_blocks, shortest))]


def stretched_count(degrees, in_blocks, out_blocks):
    """Returns how many blocks `stretch` gives, from the row sums [s] of the square layout."""
    shortest = min(in_blocks, out_blocks)
    repeats = np.bincount(facing(max(in_blocks, out_blocks), shortest))  # [s]
    return int(np.sum(degrees * repeats))


def self_connections(in_blocks: int, out_blocks: int | None = None) -> np.ndarray:
    """The blocks that join each block to the one it faces: the diagonal of a square layout.

    With identity matrices in these blocks and zeros elsewhere, a square layer passes its input on,
    and a rectangular one repeats or adds up neighbouring blocks.

    Args:
      in_blocks: number of input blocks.
      out_blocks: number of output blocks; `in_blocks` if left out.

    Returns:
      bool array [in_blocks, out_blocks], one block per block of the longer side.
    """
    in_blocks, out_blocks = arguments.sizes("in_blocks", in_blocks, out_blocks)
    return stretch(np.eye(min(in_blocks, out_blocks), dtype=bool), in_blocks, out_blocks)


def from_longer_side(layout, in_blocks, out_blocks):
    """Turns a layout [longer side, shorter side] into one [in_blocks, out_blocks]."""
    return layout if in_blocks >= out_blocks else np.ascontiguousarray(layout.T)
