"""The cells of the benchmark: which product, on which layout, in which precision."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

BLOCK_SIZES = (8, 16, 32, 64, 128)
DENSITIES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
FEATURE_AXES = (0, 1)
DIRECTIONS = ("fprop", "dx", "dw")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One product to time: `size` inputs to `size` outputs, for a batch of `batch`."""

    block_size: int
    density: float  # asked for; the layout has the nearest possible number of blocks
    feature_axis: int
    direction: str  # "fprop": y = x W; "dx": dx = dy W^T; "dw": dw = x^T dy
    dtype: str
    size: int
    batch: int
    seed: int = 0

    def __post_init__(self):
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction: got {self.direction!r}, expected one of {DIRECTIONS}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: got {self.dtype!r}, expected one of {DTYPES}")
        if self.feature_axis not in FEATURE_AXES:
            raise ValueError(f"feature_axis: got {self.feature_axis!r}, expected 0 or 1")
        if self.size <= 0 or self.size % self.block_size:
            raise ValueError(f"size: got {self.size}, expected a positive multiple of the "
                             f"block size {self.block_size}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density: got {self.density}, expected 0 < density <= 1")
        if self.batch < 1:
            raise ValueError(f"batch: got {self.batch}, expected at least 1")


def grid(block_sizes: Iterable[int] = BLOCK_SIZES, densities: Iterable[float] = DENSITIES,
         feature_axes: Iterable[int] = FEATURE_AXES, directions: Iterable[str] = DIRECTIONS,
         dtypes: Iterable[str] = DTYPES[:2], size: int = 2048, batch: int = 192,
         seed: int = 0) -> Sequence[Cell]:
    """All combinations, ordered so that neighbours in a table are measured close in time."""
    return [Cell(block_size, density, axis, direction, dtype, size, batch, seed)
            for dtype, direction, axis, block_size, density in itertools.product(
                dtypes, directions, feature_axes, block_sizes, densities)]
