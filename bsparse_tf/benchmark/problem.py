"""Random data of one cell, in block-sparse and in dense form, with the exact answer."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from bsparse_tf import layouts
from bsparse_tf.benchmark.cells import Cell

# Several activations are used in turn, so that a product does not find its input in the first
# levels of cache just because the one before it was the same.
NUM_INPUTS = 4


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(tf.as_dtype(name).as_numpy_dtype)


@functools.lru_cache(maxsize=64)
def make_layout(blocks_a_side: int, density: float, seed: int) -> np.ndarray:
    """Uniformly random, with exactly the number of blocks nearest to `density`, and at least 1."""
    if density == 1:
        return np.ones((blocks_a_side, blocks_a_side), bool)
    density = max(density, 1 / blocks_a_side**2)
    return layouts.from_spec(f"random:density={density!r},seed={seed}",
                             blocks_a_side, blocks_a_side)


@dataclasses.dataclass
class Problem:
    """Operands of a cell. Arrays are in the cell's dtype; `truth` is float64.

    xs, dys: NUM_INPUTS arrays [batch, size] (feature_axis 1) or [size, batch] (feature_axis 0).
    w: [blocks, block_size, block_size]. dense: [C, K], zero where the layout has no block.
    """

    cell: Cell
    layout: np.ndarray
    coords: np.ndarray
    w: np.ndarray
    dense: np.ndarray
    xs: list[np.ndarray]
    dys: list[np.ndarray]

    @property
    def blocks(self) -> int:
        return len(self.coords)

    @property
    def density(self) -> float:
        return self.blocks / self.layout.size

    @property
    def useful_flops(self) -> float:
        """Multiplications and additions that the stored blocks need."""
        return 2.0 * self.blocks * self.cell.block_size**2 * self.cell.batch

    @functools.cached_property
    def truth(self) -> np.ndarray:
        """The product of the first operands in float64: y, dx, or dw as [blocks, bs, bs]."""
        x, dy, dense = (a.astype(np.float64) for a in (self.xs[0], self.dys[0], self.dense))
        axis, direction = self.cell.feature_axis, self.cell.direction
        if direction == "fprop":
            return x @ dense if axis else dense.T @ x
        if direction == "dx":
            return dy @ dense.T if axis else dense @ dy
        return self.gather_blocks(x.T @ dy if axis else x @ dy.T)

    def gather_blocks(self, matrix: np.ndarray) -> np.ndarray:
        """The stored blocks of a [C, K] matrix, as [blocks, block_size, block_size]."""
        bs = self.cell.block_size
        tiles = matrix.reshape(self.layout.shape[0], bs, self.layout.shape[1], bs)
        return tiles.transpose(0, 2, 1, 3)[self.coords[:, 0], self.coords[:, 1]]


def make_problem(cell: Cell) -> Problem:
    """Normal random activations and weights (scaled to keep outputs near 1)."""
    rng = np.random.default_rng(cell.seed + 1)
    dtype = numpy_dtype(cell.dtype)
    bs, side = cell.block_size, cell.size // cell.block_size
    layout = make_layout(side, cell.density, cell.seed)
    coords = np.argwhere(layout).astype(np.int32)
    scale = np.float32(1 / np.sqrt(max(1.0, layout.mean() * cell.size)))
    w = (rng.standard_normal((len(coords), bs, bs), np.float32) * scale).astype(dtype)
    tiles = np.zeros((side, side, bs, bs), dtype)
    tiles[coords[:, 0], coords[:, 1]] = w
    dense = np.ascontiguousarray(tiles.transpose(0, 2, 1, 3).reshape(cell.size, cell.size))
    shape = (cell.batch, cell.size) if cell.feature_axis else (cell.size, cell.batch)

    def activations():
        return [rng.standard_normal(shape, np.float32).astype(dtype) for _ in range(NUM_INPUTS)]

    return Problem(cell, layout, coords, w, dense, activations(), activations())
