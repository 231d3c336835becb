"""Plans of y = x W by sweeps: all of x passes by many output columns."""

import dataclasses

import numpy as np

from bsparse_tf import choice as choices
from bsparse_tf.gpu_plans import planner

SWEEP = "sm90 sweep"

_STAGE_WORDS = 8  # BSPARSE_SWEEP_STAGE_WORDS


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """A GPU plan of y = x W for kernels by whose columns all of x passes.

    Attributes:
      items: int32 [items, 4], (group, first stage, end, -1), in launch order.
      stages: int32 [stages, ctas, 8], what each multiprocessor of an item takes at once: where its
        record is, and in which size; the place in `order` of its first block, and how many it has;
        boxes of x that it copies for all of them (cuda/bsparse_cuda.h has the bits).
      order: int32 [blocks], the weight blocks in the order in which they are used.
      groups: int32 [items, columns], output blocks computed together, or -1; those of a warp are
        neighbours.
      batch_tiles: tiles along the batch; each item runs once for each.
      stage_kib: of the fullest stage.
      box_blocks: blocks along a box.
    """

    items: np.ndarray
    stages: np.ndarray
    order: np.ndarray
    groups: np.ndarray
    batch_tiles: int
    stage_kib: int
    box_blocks: int

    @property
    def boxes(self):
        """int [stages], of x."""
        return self.stages[:, 0, 1] >> 16

    def explain(self):
        """The plan in a few lines of text."""
        blocks, ctas = self.stages[..., 3], self.stages.shape[1]
        sharing = f", on {ctas} multiprocessors that share x" if ctas > 1 else ""
        return "\n".join([
            f"{len(self.items) * self.batch_tiles} tiles: {len(self.items)} items x "
            f"{self.batch_tiles} along the batch",
            f"output columns in an item: {self.groups.shape[1]}{sharing}",
            f"stages of an item: {len(self.stages) / max(1, len(self.items)):.1f}, of "
            f"{self.boxes.mean() if len(blocks) else 0:.1f} boxes of {self.box_blocks} blocks of inputs and "
            f"{blocks.mean() if len(blocks) else 0:.1f} blocks, up to {self.stage_kib} KiB",
        ])


def sweep_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    columns,
    cta_columns,
    chunk_blocks,
    chunks,
    column_blocks=1,
    transpose=False,
    sm_count=planner.DEFAULT_SM_COUNT,
    batch_tile=64,
    ctas_per_sm=1,
):
    """The plan of a kernel that sweeps over x; arguments and errors as for `matmul_plan`.

    Args:
      columns: output block columns of an item.
      cta_columns: of those, one multiprocessor's.
      chunk_blocks: blocks along a box of x.
      chunks: KiB that a stage should have at most.
      column_blocks: neighbouring columns that stay together.

    Returns:
      A :class:`SweepPlan`.

    Raises:
      ValueError: also if columns fill no 16 warps, or inputs more than 65536 boxes.
    """
    if columns % cta_columns or cta_columns % (16 * column_blocks):
        raise ValueError(
            f"cta_columns must be a multiple of {16 * column_blocks} and divide columns ({columns}); "
            f"got {cta_columns}"
        )
    if (out_blocks if transpose else in_blocks) > chunk_blocks << 16:
        raise ValueError(f"chunk_blocks must be at least a 65536th of the inputs; got {chunk_blocks}")
    summary, tables = planner.build_plan(
        "bsparse_plan_matmul",
        (int(transpose),),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
         choices.FAMILIES.index(SWEEP), columns, cta_columns, 1, 1, column_blocks, 1, 0,
         chunk_blocks, chunks),
    )
    ctas = columns // cta_columns
    entries = tables[summary.entries_offset : summary.splits_offset]
    order = summary.num_entries * ctas * _STAGE_WORDS
    return SweepPlan(
        items=tables[: summary.entries_offset].reshape(-1, 4),
        stages=entries[:order].reshape(-1, ctas, _STAGE_WORDS),
        order=entries[order : order + summary.num_packed],
        groups=tables[summary.groups_offset :].reshape(-1, columns),
        batch_tiles=max(1, -(-batch // batch_tile)),
        stage_kib=summary.fullest_stage,
        box_blocks=chunk_blocks,
    )
