"""How fast a product can be on a GPU: the rates that bound it, and the model made of them.

The limit is the slowest of these: the tensor cores, L2 reads of what the plan loads, the rows that
these come in, and every byte that is used once through memory; of sweeps also reads of shared
memory, where every block finds its x and, for every batch tile, its weights; of tiles of dw what is
written there, and x or dy of every block (the other one it may share with a neighbour). L2 reads are
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

import numpy as np
from cuda_binding import (DENSE, ELEMENT_BYTES, SM80, SM80_SMALL, SM90_DW_TILES, SM90_STREAM, SM90_SWEEP,
                          SWEEP_BOX_ROW_BYTES, SWEEP_STAGE_WORDS)

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
        """Features whose activations pass through memory: read where they are used, written in any case."""
        inputs, outputs = self.used or self.features
        return {"fprop": inputs + self.features[1], "dx": self.features[0] + outputs,
                "dw": inputs + outputs}[self.operation]

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
    features = sum(work.features) if tile.kernel == DENSE else work.passing_features
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
    if tile.kernel == SM90_DW_TILES:
        ctas = tile.columns // tile.cta_columns
        chunk = 128 * batch
        inputs, outputs = (int(entries[:, i].sum()) for i in (0, 1))
        read = (inputs / ctas + outputs) * chunk / rates.l2
        taken = (inputs + outputs) * chunk
        operands = (work.blocks * max(1, tile.block_cells) * batch * bs * size + taken) / rates.shared
        return max(work.flops / rates.mma_sync(work.dtype), read, taken / rates.delivered(ctas), operands, dram)
    if tile.kernel == SM90_SWEEP:
        stages = entries.reshape(-1, tile.columns // tile.cta_columns, SWEEP_STAGE_WORDS)
        box_bytes = SWEEP_BOX_ROW_BYTES * batch
        boxes = int((stages[:, 0, 1] >> 16).sum())
        weights = work.blocks * tiles * bs**2 * size
        read = (boxes * box_bytes + weights) / rates.l2
        delivered = boxes * stages.shape[1] * box_bytes + weights
        delivered /= rates.delivered(stages.shape[1])
        operands = (work.blocks * batch * bs * size + weights) / rates.shared
        return max(work.flops / rates.mma_sync(work.dtype), read, delivered, operands, dram)
    if work.operation == "dw":
        l2 = (work.blocks + num_items) * batch * bs * size
        rows = (work.blocks + num_items) * _short_activation_rows(work, tile) / rates.tma_rows_32
        return max(work.flops / _wgmma_rate(rates, work.dtype), l2 / rates.l2, rows, dram)
    # A record for each CTA and round: input block, whom it is sent to, weights.
    records = entries.reshape(-1, entries.shape[1] * tile.cta_columns // tile.columns)
    if tile.packed:
        side = bs * tile.column_blocks
        squares = tile.cta_columns * tile.entry_blocks // tile.column_blocks  # of a record
        stored = records[:, 3:4].astype(np.uint32) >> np.arange(squares, dtype=np.uint32) & 1 > 0
        weights = int(stored.sum()) * side**2
    else:
        side, stored = bs, records[:, 2 : 2 + tile.cta_columns] >= 0
    # The groups of columns that share a product and have a block.
    products = int(stored.reshape(-1, tile.shared_columns).any(axis=1).sum())
    multiplied = 2.0 * products * side * tile.shared_columns * side * batch
    multiplied /= _wgmma_rate(rates, work.dtype)
    x_bytes = batch * bs * tile.entry_blocks * size
    w_bytes = weights * tiles * size
    sent = int((records[:, 1] != 0).sum())
    read = (sent * x_bytes + w_bytes) / rates.l2
    taken = int((records[:, 0] >= 0).sum())
    delivered = (taken * x_bytes + w_bytes) / rates.delivered(tile.columns // tile.cta_columns)
    return max(multiplied, read, delivered, dram)


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
