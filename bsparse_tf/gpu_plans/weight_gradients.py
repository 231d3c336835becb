"""Plans of dw = x^T dy."""

import dataclasses

import numpy as np

from bsparse_tf import choice as choices
from bsparse_tf.gpu_plans import planner

DW_TILES = "sm90 dw tiles"

_TILE_WARPS = 8  # BSPARSE_DW_TILE_WARPS


@dataclasses.dataclass(frozen=True)
class MatmulDwPlan:
    """A GPU plan of dw = x^T dy.

    Attributes:
      blocks: int32 [blocks, 3], (input block, output block, weight block), in the order of work.
      items: int32 [items, 4], (output block, first and end of its blocks, 0); none for kernels
        that take blocks as they come.
      batch_splits: ranges that the batch is cut into, whose partial sums are added in order.
    """

    blocks: np.ndarray
    items: np.ndarray
    batch_splits: int

    def explain(self):
        """The plan in a few lines of text."""
        lines = [f"{len(self.blocks)} blocks"]
        if len(self.items):
            length = self.items[:, 2] - self.items[:, 1]
            lines[0] += f" in {len(self.items)} items of {length.min()} to {length.max()}"
        lines.append(f"the batch in {self.batch_splits} ranges")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class DwTilesPlan:
    """A GPU plan of dw = x^T dy by tiles of the layout.

    Attributes:
      items: int32 [items, ctas, 2 + chunks]: for each multiprocessor of an item the numbers of its
        input chunks, which all have, and of its output chunks; then these chunks of 64 features.
      blocks: int32 [items, ctas, warps, blocks, 3]: where a block's input and output lie in its
        multiprocessor's chunks, in blocks from the first on; its weight block, or -1.
      whole_items: the first items, which take the whole batch.
      batch_splits: ranges that the others cut it into, whose partial sums are added in order.
    """

    items: np.ndarray
    blocks: np.ndarray
    whole_items: int
    batch_splits: int

    def explain(self):
        """The plan in a few lines of text."""
        inputs, outputs = self.items[..., 0], self.items[..., 1]
        count = (self.blocks[..., 2] >= 0).sum((2, 3))
        return "\n".join([
            f"{count.sum()} blocks in {len(self.items)} items of {self.items.shape[1]} tiles, "
            f"of up to {count.max()} blocks",
            f"chunks of a tile: {inputs.mean():.1f} of inputs, {outputs.mean():.1f} of outputs",
            f"{self.whole_items} items take the whole batch, others {self.batch_splits} ranges of it",
        ])


def matmul_dw_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    sm_count=planner.DEFAULT_SM_COUNT,
    batch_tile=planner.DEFAULT_BATCH_TILE,
    ctas_per_sm=planner.DEFAULT_CTAS_PER_SM,
    columns=1,
    least_splits=1,
):
    """The plan of the weight gradient; arguments and errors as for :func:`matmul_plan`.

    Args:
      coords, in_blocks, out_blocks, batch, sm_count: as for `matmul_plan`.
      batch_tile: batch entries of one step of the kernel's sum.
      ctas_per_sm: stored blocks that one multiprocessor computes at a time.
      columns: blocks of one output column that are computed at once, at most.
      least_splits: ranges that the batch is cut into, at least, if it has so many steps.

    Returns:
      A :class:`MatmulDwPlan`.
    """
    summary, tables = planner.build_plan(
        "bsparse_plan_matmul_dw",
        (),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm, 0, columns, columns,
         least_splits),
    )
    return MatmulDwPlan(
        blocks=tables[summary.entries_offset :].reshape(-1, 3),
        items=tables[: summary.entries_offset].reshape(-1, 4),
        batch_splits=summary.batch_splits,
    )


def dw_tiles_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    chunk_blocks,
    block_cells=1,
    entry_blocks=1,
    chunks=28,
    cta_blocks=192,
    ctas=1,
    sm_count=planner.DEFAULT_SM_COUNT,
    batch_tile=32,
    ctas_per_sm=1,
):
    """The plan of the weight gradient by tiles; arguments and errors as for `matmul_dw_plan`.

    Args:
      coords, in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm: as for
        `matmul_dw_plan`.
      chunk_blocks: blocks side by side that are loaded together.
      block_cells: cells along each side of a block; this and what is said of blocks otherwise, the
        plan's included, is about cells.
      entry_blocks: blocks of the same output that one product computes: 1 or 2.
      chunks: of a multiprocessor, of inputs and of outputs, at most.
      cta_blocks: blocks of a multiprocessor, at most.
      ctas: multiprocessors that share their input chunks.

    Returns:
      A :class:`DwTilesPlan`.
    """
    summary, tables = planner.build_plan(
        "bsparse_plan_matmul_dw",
        (),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
         choices.FAMILIES.index(DW_TILES), ctas * cta_blocks, cta_blocks, 1, entry_blocks, 1, 0,
         block_cells, chunk_blocks, chunks),
    )
    warp_blocks = cta_blocks // _TILE_WARPS
    return DwTilesPlan(
        items=tables[: summary.entries_offset].reshape(-1, ctas, 2 + summary.chunks),
        blocks=tables[summary.entries_offset :].reshape(-1, ctas, _TILE_WARPS, warp_blocks, 3),
        whole_items=summary.whole_items,
        batch_splits=summary.batch_splits,
    )
