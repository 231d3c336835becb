"""How fast a product can be on a GPU: the rates that bound it, and the model made of them.

The limit is the slowest of these, each taken for itself (what they can do together: gpu_mixture.py): the
tensor cores, L2 reads of what the plan loads, the rows that these come in, and every byte that is used once
through memory; of sweeps and tiles of dw also shared memory, what is written there and what is read by
blocks: x and, for every batch tile, weights; or x or dy (the other one a block may share with a neighbour).
What that amounts to for Hopper's kernels for large batches: gpu_traffic.py. L2 reads are
for union tiles the x tiles that the CTAs of an item read, and those that they are sent (and products
are padded to 64 outputs), for sweeps all of x that an item uses, for the others both operands of
every block, at the rate that sharing neighbours see. The dense product is bound by the tensor cores.

The Hopper kernels, streams and dw among them, leave their reading to copy engines (TMA), which take
boxes row by row. Rows of 32 bytes and less, such as a block of 16 and a batch entry with features
last, come so slowly that they, not bytes, are the limit; longer ones come as fast as L2 gives their
bytes. Streams turn x round before where that spares rows. Rows of y, whose rate has not been
measured, are not counted.
"""

import dataclasses
import json
import pathlib

import gpu_traffic
from cuda_binding import DENSE, ELEMENT_BYTES, SM80, SM80_SMALL, SM90_STREAM

SMALL_DW_CELL = 32  # features of a block that a warp of small dw takes at once
SHORT_ROW = 32  # bytes
ROW_BATCH = 64  # batch entries of a box's row with features first, at most


@dataclasses.dataclass(frozen=True)
class Rates:
    """Bytes, rows or operations a second. The defaults were measured on an H100 SXM.

    `wgmma_bf16` is what cuBLAS reaches on large products of random numbers, since power bounds it;
    benchmarks/gpu_constants measures the bare rate.
    """

    l2: float = 7.6e12  # to the SMs, distinct lines
    l2_shared_2: float = 14e12  # delivered, where two neighbours read the same
    l2_multicast_2: float = 14.4e12  # delivered, copies to both CTAs of a cluster
    l2_multicast_4: float = 17.1e12  # to all four of one
    tma_rows_32: float = 1.257e11  # rows of 32 bytes that copy engines take
    shared: float = 29.7e12  # of shared memory: 128 bytes a cycle, 132 multiprocessors, 1.755 GHz; not measured
    dram: float = 3.0e12
    mma_sync_bf16: float = 620e12
    mma_sync_tf32: float = 310e12
    ffma: float = 55e12
    wgmma_bf16: float = 800e12

    @classmethod
    def read(cls, path):
        """Those that benchmarks/gpu_constants wrote; the defaults for what it could not measure.

        Raises:
          ValueError: the file holds no rates.
        """
        rates = json.loads(pathlib.Path(path).read_text()).get("rates")
        if not isinstance(rates, dict):
            raise ValueError(f"{path} has no rates; expected a file of benchmarks/gpu_constants")
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: rate for name, rate in rates.items() if name in known})

    def delivered(self, ctas):
        """To clusters of so many CTAs."""
        if ctas == 1:
            return self.l2
        return self.l2_multicast_2 if ctas == 2 else self.l2_multicast_4

    def mma_sync(self, dtype):
        special = {"tf32": self.mma_sync_tf32, "tf32x3": self.mma_sync_tf32 / 3,
                   "float32": self.ffma}
        return special.get(dtype, self.mma_sync_bf16)


@dataclasses.dataclass(frozen=True)
class Work:
    """A product, as far as the model looks."""

    operation: str  # "fprop", "dx" or "dw"
    dtype: str
    features: tuple  # (C, K)
    batch: int
    block_size: int
    blocks: int
    feature_axis: int
    activations_cached: bool = False  # so that only weights pass through memory
    used: tuple | None = None  # of the features, those that a stored block has; None: all

    @property
    def passing_features(self):
        """Features whose activations pass through memory: those that are read, where they are used, and
        those that are written; of dw both are read."""
        inputs, outputs = self.used or self.features
        return {"fprop": (inputs, self.features[1]), "dx": (outputs, self.features[0]),
                "dw": (inputs, outputs)}[self.operation]

    @property
    def flops(self):
        """Useful ones: those of the stored blocks."""
        return 2.0 * self.blocks * self.block_size**2 * self.batch

    @property
    def size(self):
        """Bytes of an element."""
        return ELEMENT_BYTES[self.dtype]


def modelled_seconds(rates, work, tile, num_items=0, entries=None):
    """Seconds that a product cannot beat with the kernel that was chosen for it.

    Args:
      rates: a Rates.
      work: a Work.
      tile: the chosen cuda_binding.Tile.
      num_items: of the plan, for dw on Hopper.
      entries: int array [rounds, words] of the plan, for fprop and dx on Hopper; of tiles of dw
        its items, [items * ctas, 2 + chunks].
    """
    bs, batch, size = work.block_size, work.batch, work.size
    weights = work.blocks * bs**2
    features = sum(work.features if tile.kernel == DENSE else work.passing_features)
    activations = 0 if work.activations_cached else batch * features
    dram = (activations + weights) * size / rates.dram
    if tile.kernel == DENSE:
        C, K = work.features
        return max(2.0 * C * K * batch / _wgmma_rate(rates, work.dtype), dram)
    tiles = 1 if work.operation == "dw" else -(-batch // tile.batch_tile)
    if tile.kernel == SM90_STREAM:
        l2 = work.blocks * (batch * bs * max(1, tile.block_cells) + tiles * bs**2) * size  # x of every cell
        rows = work.blocks * _short_activation_rows(work, tile) / rates.tma_rows_32
        return max(work.flops / rates.mma_sync(work.dtype), l2 / rates.l2_shared_2, rows, dram)
    if tile.kernel in (SM80, SM80_SMALL):
        if work.operation == "dw":  # neighbours share one of the two operands
            cells = max(1, bs // SMALL_DW_CELL) if tile.kernel == SM80_SMALL else 1
            l2 = work.blocks * cells * batch * bs * size
        else:
            l2 = work.blocks * tiles * (tile.batch_tile * bs + bs**2) * size
        return max(work.flops / rates.mma_sync(work.dtype), l2 / rates.l2_shared_2, dram)
    traffic = gpu_traffic.traffic_of(work, tile, num_items, entries)
    l2 = max(traffic.read / rates.l2, traffic.delivered / rates.delivered(tile.columns // tile.cta_columns))
    if traffic.operands:
        shared = (traffic.operands + traffic.delivered) / rates.shared
        return max(traffic.flops / rates.mma_sync(work.dtype), l2, shared, dram)
    rows = 0
    if work.operation == "dw":
        rows = (work.blocks + num_items) * _short_activation_rows(work, tile)
    return max(traffic.flops / _wgmma_rate(rates, work.dtype), l2, rows / rates.tma_rows_32, dram)


def _short_activation_rows(work, tile):
    """Rows of at most SHORT_ROW bytes in which a block's features of the whole batch come."""
    # As stream_turns_inputs of cuda/sm90/policy.cuh.
    cells = max(1, tile.block_cells)  # along a side; each has rows of its own
    features = work.block_size // cells
    turned = (tile.kernel == SM90_STREAM and work.size == 2
              and tile.batch_tile > 2 * features)
    if work.feature_axis == 1 and not turned:
        return cells**2 * work.batch if features * work.size <= SHORT_ROW else 0
    row_batch = min(tile.batch_tile, ROW_BATCH)
    rows = cells**2 * -(-work.batch // row_batch) * features
    return rows if row_batch * work.size <= SHORT_ROW else 0


def _wgmma_rate(rates, dtype):
    """Of the dense product and of the Hopper kernels. Dense float32 has no tensor cores."""
    if dtype in ("float32", "tf32x3"):
        return rates.ffma
    return rates.wgmma_bf16 / 2 if dtype == "tf32" else rates.wgmma_bf16
