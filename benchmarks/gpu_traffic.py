"""What a product on Hopper asks of a GPU by the kernel that was chosen for it: operations and bytes."""

import dataclasses

import numpy as np
from cuda_binding import SM90, SM90_DW_TILES, SM90_SWEEP, SWEEP_BOX_ROW_BYTES, SWEEP_STAGE_WORDS

CHUNK_ROW_BYTES = 128  # of tiles of dw: a chunk's features of a batch entry


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes, but for `flops`."""

    flops: float  # of the tensor cores
    padding: float  # of these, those that multiply by zeros
    operands: float  # out of shared memory, by mma.sync; 0: wgmma reads them
    read: float  # out of L2
    delivered: float  # into shared memory: more than is read where CTAs of a cluster are sent the same
    fetched: float  # from memory, at least
    stored: float  # to memory


def traffic_of(work, tile, num_items=0, entries=None):
    """The Traffic of union tiles, sweeps, and dw by columns or tiles; None for other kernels.

    Args:
      work: a gpu_limits.Work.
      tile: the chosen cuda_binding.Tile.
      num_items: of the plan, for dw by columns.
      entries: int array [rounds, words] of the plan, for fprop and dx; of tiles of dw its items,
        [items * ctas, 2 + chunks].
    """
    if tile.kernel not in (SM90, SM90_SWEEP, SM90_DW_TILES):
        return None
    weights = work.blocks * work.block_size**2 * work.size
    passing = [0 if work.activations_cached else work.batch * features * work.size
               for features in work.passing_features]
    if work.operation == "dw":
        memory = dict(fetched=sum(passing), stored=weights)
        if tile.kernel == SM90_DW_TILES:
            return Traffic(**_dw_tiles(work, tile, entries), **memory)
        read = (work.blocks + num_items) * work.batch * work.block_size * work.size
        return Traffic(work.flops, 0, 0, read, read, **memory)
    count = _sweep if tile.kernel == SM90_SWEEP else _union_tiles
    return Traffic(**count(work, tile, entries), fetched=passing[0] + weights, stored=passing[1])


def _batch_tiles(work, tile):
    return -(-work.batch // tile.batch_tile)


def _dw_tiles(work, tile, items):
    """A chunk of x or dy is read once by the CTAs that share it; blocks find one of the two with a neighbour."""
    ctas = tile.columns // tile.cta_columns
    chunk = CHUNK_ROW_BYTES * work.batch
    inputs, outputs = (int(items[:, i].sum()) for i in (0, 1))
    operands = work.blocks * max(1, tile.block_cells) * work.batch * work.block_size * work.size
    return dict(flops=work.flops, padding=0, operands=operands, read=(inputs / ctas + outputs) * chunk,
                delivered=(inputs + outputs) * chunk)


def _sweep(work, tile, entries):
    """All of x that an item uses; blocks find their x in shared memory and, for every batch tile, their weights."""
    stages = entries.reshape(-1, tile.columns // tile.cta_columns, SWEEP_STAGE_WORDS)
    x = int((stages[:, 0, 1] >> 16).sum()) * SWEEP_BOX_ROW_BYTES * work.batch
    weights = work.blocks * _batch_tiles(work, tile) * work.block_size**2 * work.size
    return dict(flops=work.flops, padding=0, operands=work.blocks * work.batch * work.block_size * work.size + weights,
                read=x + weights, delivered=stages.shape[1] * x + weights)


def _union_tiles(work, tile, entries):
    # A record for each CTA and round: input block, whom it is sent to, weights.
    records = entries.reshape(-1, entries.shape[1] * tile.cta_columns // tile.columns)
    weights = work.blocks * work.block_size**2
    if tile.packed:
        side = work.block_size * tile.column_blocks
        squares = tile.cta_columns * tile.entry_blocks // tile.column_blocks  # of a record
        stored = records[:, 3:4].astype(np.uint32) >> np.arange(squares, dtype=np.uint32) & 1 > 0
        weights = int(stored.sum()) * side**2
    else:
        side, stored = work.block_size, records[:, 2 : 2 + tile.cta_columns] >= 0
    # The groups of columns that share a product and have a block.
    products = int(stored.reshape(-1, tile.shared_columns).any(axis=1).sum())
    x = work.batch * work.block_size * tile.entry_blocks * work.size
    weights *= _batch_tiles(work, tile) * work.size
    sent, taken = int((records[:, 1] != 0).sum()), int((records[:, 0] >= 0).sum())
    flops = 2.0 * products * side * tile.shared_columns * side * work.batch
    return dict(flops=flops, padding=flops - work.flops, operands=0, read=sent * x + weights,
                delivered=taken * x + weights)
