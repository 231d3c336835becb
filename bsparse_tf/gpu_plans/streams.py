"""Plans of y = x W for small batches: lists of blocks, as long for every multiprocessor."""

import dataclasses

import numpy as np

from bsparse_tf import choice as choices
from bsparse_tf.gpu_plans import planner

STREAM = "sm90 stream"


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """A GPU plan of y = x W for kernels whose CTAs all run at once, each with a list of blocks.

    Attributes:
      lists: int32 [lists, length, 4], (output block, input block, weight block, partial). Filling
        has output block -1, a column without blocks input block -1. The partial is -1 for all of a
        column; else the number of the sum that these of its blocks make, or -2 - s: the partial
        sums of split s are added to what they make.
      splits: int32 [splits, 3], (output block, first partial, partials): columns on several lists.
      batch_tiles: tiles along the batch; each list is worked through once for each.
    """

    lists: np.ndarray
    splits: np.ndarray
    batch_tiles: int

    def explain(self):
        """The plan in a few lines of text."""
        return "\n".join([
            f"{len(self.lists)} lists x {self.batch_tiles} along the batch, all at once",
            f"blocks on a list: up to {self.lists.shape[1]}",
            f"output columns on several lists: {len(self.splits)}",
        ])


def stream_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    transpose=False,
    sm_count=planner.DEFAULT_SM_COUNT,
    batch_tile=planner.DEFAULT_BATCH_TILE,
    ctas_per_sm=1,
    entry_blocks=1,
    block_cells=1,
):
    """The plan of a kernel that streams the weights; arguments and errors as for `matmul_plan`.

    Args:
      entry_blocks: entries of a column that are taken at once.
      block_cells: cells along each side of a block, which the plan counts as blocks: those of a stored block
        after those of the one before, along its rows.

    Returns:
      A :class:`StreamPlan`.
    """
    summary, tables = planner.build_plan(
        "bsparse_plan_matmul",
        (int(transpose),),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
         choices.FAMILIES.index(STREAM), 1, 1, 1, entry_blocks, 1, 0, block_cells),
    )
    entries = tables[summary.entries_offset : summary.splits_offset]
    return StreamPlan(
        lists=entries.reshape(summary.num_items, -1, 4),
        splits=tables[summary.splits_offset : summary.groups_offset].reshape(-1, 3),
        batch_tiles=max(1, -(-batch // batch_tile)),
    )
