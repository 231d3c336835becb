"""How the work of a layout would be cut for a device: for people, tests and benchmarks.

The planner itself is C++ (cc/plan); it builds and caches plans when ops run. This module asks it
for the same plan and describes it.
"""

import ctypes
import dataclasses

import numpy as np

from bsparse_tf import native

# An H100's streaming multiprocessors, and the tile of the kernels for sm_80 and newer: what is
# described unless the caller names another device.
_DEFAULT_SM_COUNT = 132
_DEFAULT_BATCH_TILE = 128
_DEFAULT_CTAS_PER_SM = 2


class _Request(ctypes.Structure):
    _fields_ = [
        ("coords", ctypes.c_void_p),
        ("num_blocks", ctypes.c_int64),
        ("in_blocks", ctypes.c_int32),
        ("out_blocks", ctypes.c_int32),
        ("batch", ctypes.c_int64),
        ("sm_count", ctypes.c_int32),
        ("batch_tile", ctypes.c_int32),
        ("ctas_per_sm", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("shared_columns", ctypes.c_int32),
    ]


class _Summary(ctypes.Structure):
    _fields_ = [
        ("num_items", ctypes.c_int32),
        ("num_splits", ctypes.c_int32),
        ("num_partials", ctypes.c_int32),
        ("num_entries", ctypes.c_int32),
        ("num_blocks", ctypes.c_int32),
        ("batch_splits", ctypes.c_int32),
        ("tables", ctypes.POINTER(ctypes.c_int32)),
        ("tables_size", ctypes.c_int64),
        ("items_offset", ctypes.c_int64),
        ("entries_offset", ctypes.c_int64),
        ("splits_offset", ctypes.c_int64),
        ("groups_offset", ctypes.c_int64),
        ("balance", ctypes.c_double),
    ]


@dataclasses.dataclass(frozen=True)
class MatmulPlan:
    """A GPU plan of y = x W.

    Attributes:
      items: int32 [items, 4], (group, first entry, last entry, partial or -1), in launch order.
      entries: int32 [entries, 1 + columns], (input block, weight block of each column or -1) by
        group.
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

    @property
    def tiles(self):
        """CTAs that the product launches."""
        return len(self.items) * self.batch_tiles

    def explain(self):
        """The plan in a few lines of text."""
        length = self.items[:, 2] - self.items[:, 1]
        return "\n".join([
            f"{self.tiles} tiles: {len(self.items)} items x {self.batch_tiles} along the batch",
            f"output columns in an item: {self.groups.shape[1]}",
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
    sm_count=_DEFAULT_SM_COUNT,
    batch_tile=_DEFAULT_BATCH_TILE,
    ctas_per_sm=_DEFAULT_CTAS_PER_SM,
    columns=1,
    shared_columns=1,
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
      columns: output block columns of an item: 1 for sm_80's kernels, 128 / block_size for Hopper's.
      shared_columns: of those, the neighbours that one product instruction covers: 1, or
        64 / block_size.

    Returns:
      A :class:`MatmulPlan`.

    Raises:
      ValueError: coords out of range or repeated.
    """
    coords = np.ascontiguousarray(coords, dtype=np.int32)
    library = ctypes.CDLL(native.ops_library_path())
    build = library.bsparse_plan_matmul
    build.restype = ctypes.c_void_p
    request = _Request(
        coords.ctypes.data, len(coords), in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
        0, columns, shared_columns
    )
    error = ctypes.create_string_buffer(512)
    handle = build(ctypes.byref(request), int(transpose), error, ctypes.c_size_t(len(error)))
    if not handle:
        raise ValueError(error.value.decode())
    try:
        summary = _Summary()
        library.bsparse_plan_describe(ctypes.c_void_p(handle), ctypes.byref(summary))
        # A copy: the tables belong to the plan. (as_array cannot take a null pointer.)
        size = summary.tables_size
        tables = np.ctypeslib.as_array(summary.tables, (size,)).copy() if size else np.zeros(0, np.int32)
    finally:
        library.bsparse_plan_free(ctypes.c_void_p(handle))
    entries = tables[summary.entries_offset : summary.splits_offset]
    return MatmulPlan(
        items=tables[: summary.entries_offset].reshape(-1, 4),
        entries=entries.reshape(summary.num_entries, -1)[:, : 1 + columns],
        splits=tables[summary.splits_offset : summary.groups_offset].reshape(-1, 3),
        groups=tables[summary.groups_offset :].reshape(-1, columns),
        batch_tiles=max(1, -(-batch // batch_tile)),
        balance=summary.balance,
    )
