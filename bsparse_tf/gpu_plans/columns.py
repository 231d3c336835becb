"""Plans of y = x W whose items are output columns, one or several that share x."""

import dataclasses

import numpy as np

from bsparse_tf import choice as choices
from bsparse_tf.gpu_plans import planner

_PACKED_RECORD_WORDS = 4  # BSPARSE_PACKED_RECORD_WORDS


@dataclasses.dataclass(frozen=True)
class MatmulPlan:
    """A GPU plan of y = x W.

    Attributes:
      items: int32 [items, 4], (group, first entry, last entry, partial or -1), in launch order.
      entries: int32, by group. Of kernels for sm_80 [entries, 2], (input block, weight block). Of
        Hopper's [entries, ctas, 2 + columns / ctas]: in each entry every one of an item's
        multiprocessors takes an input block or -1; the second number has a bit for each of them
        that this one sends it to (0: another sends it); then each column's weight block or -1.
        Where weights are packed [entries, ctas, 4]: the first two likewise, the place in `order` of
        the first square of weights, and a mask of the squares there are, by input and then column.
      order: int32 [squares, blocks of a square], where weights are packed: the weight blocks, or -1, in
        the order in which they are used. Columns and entries may then be several neighbouring blocks,
        and groups and entries count those.
      splits: int32 [splits, 3], (group, first partial, partials): groups cut into segments
        whose partial sums are added in this order.
      groups: int32 [groups, columns], output blocks computed together, or -1.
      batch_tiles: tiles along the batch; each item runs once for each.
      balance: work of the busiest of the device's CTA slots over the mean; 1 is perfect.
    """

    items: np.ndarray
    entries: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    batch_tiles: int
    balance: float
    order: np.ndarray | None = None

    @property
    def tiles(self):
        """Output tiles; each is computed by all multiprocessors of an item."""
        return len(self.items) * self.batch_tiles

    def _sharing(self):
        if self.entries.ndim == 2 or self.entries.shape[1] == 1:
            return ""
        taken, read = ((self.entries[:, :, i] > least).sum() for i, least in ((0, -1), (1, 0)))
        return (f", on {self.entries.shape[1]} multiprocessors that read "
                f"{read / max(1, taken):.2f} of the input blocks they take")

    def explain(self):
        """The plan in a few lines of text."""
        length = self.items[:, 2] - self.items[:, 1]
        return "\n".join([
            f"{self.tiles} tiles: {len(self.items)} items x {self.batch_tiles} along the batch",
            f"output columns in an item: {self.groups.shape[1]}{self._sharing()}",
            f"input blocks of an item: {length.min()} to {length.max()}, mean {length.mean():.1f}",
            f"groups split: {len(self.splits)}",
            f"predicted balance (busiest over mean): {self.balance:.2f}",
        ])


def matmul_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    transpose=False,
    sm_count=planner.DEFAULT_SM_COUNT,
    batch_tile=planner.DEFAULT_BATCH_TILE,
    ctas_per_sm=planner.DEFAULT_CTAS_PER_SM,
    family="sm80",
    columns=1,
    cta_columns=1,
    shared_columns=1,
    entry_blocks=1,
    column_blocks=1,
    packed=False,
):
    """The plan that a GPU with `sm_count` multiprocessors would run.

    Args:
      coords: int32 [blocks, 2].
      in_blocks, out_blocks: CB and KB.
      batch: N.
      transpose: plan x W^T instead.
      sm_count: multiprocessors of the device.
      batch_tile: batch entries of one tile of the kernel.
      ctas_per_sm: tiles that one multiprocessor runs at a time.
      family: of kernels, one of `choice.FAMILIES` but streams and sweeps.
      columns: output block columns of an item: 1 for sm_80's kernels, a multiple of
        128 / block_size for Hopper's.
      cta_columns: of those, one multiprocessor's: 1, or 128 / block_size.
      shared_columns: of those, the neighbours that one product instruction covers: 1, or
        64 / block_size.
      entry_blocks, column_blocks: neighbouring blocks that an entry, and a column, are made of.
      packed: whether the kernel takes weights packed.

    Returns:
      A :class:`MatmulPlan`.

    Raises:
      ValueError: coords out of range or repeated.
    """
    summary, tables = planner.build_plan(
        "bsparse_plan_matmul",
        (int(transpose),),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
         choices.FAMILIES.index(family), columns, cta_columns, shared_columns, entry_blocks,
         column_blocks, int(packed)),
    )
    entries = tables[summary.entries_offset : summary.splits_offset]
    order = None
    if family.startswith("sm90"):
        ctas = columns // cta_columns
        if packed:
            length = summary.num_entries * ctas * _PACKED_RECORD_WORDS
            order = entries[length:].reshape(-1, column_blocks**2)
            entries = entries[:length].reshape(-1, ctas, _PACKED_RECORD_WORDS)
        else:
            words = 1 << (1 + cta_columns).bit_length()  # a power of two
            entries = entries.reshape(-1, ctas, words)[:, :, : 2 + cta_columns]
    else:
        entries = entries.reshape(-1, 2)
    return MatmulPlan(
        items=tables[: summary.entries_offset].reshape(-1, 4),
        entries=entries,
        splits=tables[summary.splits_offset : summary.groups_offset].reshape(-1, 3),
        groups=tables[summary.groups_offset :].reshape(-1, columns),
        batch_tiles=max(1, -(-batch // batch_tile)),
        balance=summary.balance,
        order=order,
    )
