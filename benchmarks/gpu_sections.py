"""What the GPU benchmark measures: sections of cases. Nothing here needs a GPU.

    uniform   random layouts at several densities: the speed-up over density that README shows
    layouts   banded, block-diagonal, clustered, Barabasi-Albert and Watts-Strogatz layouts, each
              beside a random one of exactly as many blocks
    small     small batches, weights streamed from memory: the report's benchmark of a constant
              number of weights in ever wider layers (shapes with a batch of 64), and one 12288 wide
    usual     layers of 1024 to 4096 features, batches of 256 to 4096, all in the L2 cache where it fits
    peers     Triton, PyTorch's BSR, cuSPARSE
"""

import dataclasses
import functools
import itertools

import gpu_layouts
import numpy as np

WEIGHTS = 6_553_600  # of every layer of the report's benchmark: 2560 squared
REPORT_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """A layout, and what is multiplied with it."""

    section: str
    name: str  # of the layout
    layout: np.ndarray  # bool [CB, KB]
    shape: tuple  # C, K, N
    block_size: int
    feature_axis: int
    dtype: str
    density: float  # asked for
    rotates: bool = False  # weights come from memory and launches count: gpu_timing.GraphTimer
    warm: bool = False  # launches count, and nothing is turned out of the cache: GraphTimer
    twin: bool = False  # the random layout that the structured one before it is compared with

    def title(self):
        C, K, batch = self.shape
        return (f"{self.name} {C}x{K}x{batch}, {self.dtype}, block {self.block_size}, axis "
                f"{self.feature_axis}, density {self.layout.mean():.4f} "
                f"({int(self.layout.sum())} blocks)")


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a section goes through; the options of the same names replace its values."""

    shapes: tuple
    block_sizes: tuple
    densities: tuple
    axes: tuple
    operations: tuple
    dtypes: tuple = ("bfloat16",)
    layouts: tuple = ("uniform",)
    peers: tuple = ()


SQUARE = (8192, 8192, 8192)
GRIDS = {
    "uniform": Grid((SQUARE,), (8, 16, 32, 64, 128), (1.0, 0.5, 0.25, 0.1, 0.05, 0.01), (1, 0),
                    ("fprop", "dx", "dw")),
    "layouts": Grid((SQUARE,), (16, 32, 64, 128), (0.1,), (1, 0), ("fprop", "dx", "dw"),
                    layouts=("banded", "diagonal", "clustered", "ba", "ws")),
    # The report's, with a batch of 64, have densities that follow from WEIGHTS.
    "small": Grid(tuple((2560 * i, 2560 * i, REPORT_BATCH) for i in range(1, 9))
                  + ((12288, 12288, 32), (8192, 8192, 256)),
                  (64, 32, 16, 8), (0.1, 0.05, 0.01), (0,), ("fprop", "dx", "dw")),
    "usual": Grid(tuple((size, size, batch) for size in (1024, 2048, 4096) for batch in (256, 1024, 4096)),
                  (128, 64, 32, 16, 8), (0.25, 0.1, 0.05), (1,), ("fprop", "dw")),
    "peers": Grid((SQUARE,), (16, 32, 64, 128), (0.5, 0.25, 0.1, 0.05), (1,), ("fprop", "dw"),
                  peers=("triton", "torch_bsr", "cusparse")),
}


def cases(section, grid):
    """Yields the Cases of a section, one layout at a time."""
    make = {"uniform": _random_cases, "peers": _random_cases, "layouts": _layout_cases,
            "small": _small_cases, "usual": functools.partial(_random_cases, warm=True)}[section]
    for shape, dtype, block_size, axis in itertools.product(
            grid.shapes, grid.dtypes, grid.block_sizes, grid.axes):
        if shape[0] % block_size or shape[1] % block_size:
            raise ValueError(f"shape {shape} has no whole number of blocks of {block_size}")
        common = dict(section=section, shape=shape, dtype=dtype, block_size=block_size,
                      feature_axis=axis)
        yield from make(grid, common, (shape[0] // block_size, shape[1] // block_size))


def _uniform(blocks, density, count=None):
    if count is None:
        count = max(1, round(density * blocks[0] * blocks[1]))
    return gpu_layouts.uniform(blocks, count)


def _random_cases(grid, common, blocks, **timed):
    for density in grid.densities:
        yield Case(name="uniform", layout=_uniform(blocks, density), density=density, **timed, **common)


def _layout_cases(grid, common, blocks):
    _demand_square(common["shape"])
    for density, name in itertools.product(grid.densities, grid.layouts):
        layout = gpu_layouts.structured(name, blocks[0], density)
        yield Case(name=name, layout=layout, density=density, **common)
        yield Case(name="uniform", layout=_uniform(blocks, density, int(layout.sum())),
                   density=density, twin=True, **common)


def _small_cases(grid, common, blocks):
    if common["shape"][2] == REPORT_BATCH:
        _demand_square(common["shape"])
        density = WEIGHTS / (common["shape"][0] * common["shape"][1])
        name = "dense" if density >= 1 else "ba"
        layout = gpu_layouts.structured(name, blocks[0], density)
        yield Case(name=name, layout=layout, density=density, rotates=True, **common)
        return
    yield from _random_cases(grid, common, blocks, rotates=True)


def _demand_square(shape):
    if shape[0] != shape[1]:
        raise ValueError(f"shape {shape} is not square, which this section's layouts are")
