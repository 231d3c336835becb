"""How the work of a product would be cut for a GPU: the planner's tables, for people and tests.

The planner is C++ (cc/plan); it builds and caches plans when ops run. This module asks it for the
same plans and describes them.
"""

import ctypes
import dataclasses

import numpy as np

from bsparse_tf import choice as choices
from bsparse_tf import native

# An H100's streaming multiprocessors, and the tile of the kernels for sm_80 and newer: what
# `matmul_plan` describes unless the caller names another device.
_DEFAULT_SM_COUNT = 132
_DEFAULT_BATCH_TILE = 128
DEFAULT_CTAS_PER_SM = 2

STREAM = "sm90 stream"
SWEEP = "sm90 sweep"
DW_TILES = "sm90 dw tiles"

_TILE_WARPS = 8  # BSPARSE_DW_TILE_WARPS

_PACKED_RECORD_WORDS = 4  # BSPARSE_PACKED_RECORD_WORDS
_SWEEP_STAGE_WORDS = 8  # BSPARSE_SWEEP_STAGE_WORDS


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
        ("cta_columns", ctypes.c_int32),
        ("shared_columns", ctypes.c_int32),
        ("entry_blocks", ctypes.c_int32),
        ("column_blocks", ctypes.c_int32),
        ("packed", ctypes.c_int32),
        ("block_cells", ctypes.c_int32),
        ("chunk_blocks", ctypes.c_int32),
        ("chunks", ctypes.c_int32),
    ]


class _Summary(ctypes.Structure):
    _fields_ = [
        ("num_items", ctypes.c_int32),
        ("num_splits", ctypes.c_int32),
        ("num_partials", ctypes.c_int32),
        ("num_entries", ctypes.c_int32),
        ("num_packed", ctypes.c_int32),
        ("fullest_stage", ctypes.c_int32),
        ("num_blocks", ctypes.c_int32),
        ("batch_splits", ctypes.c_int32),
        ("ctas", ctypes.c_int32),
        ("chunks", ctypes.c_int32),
        ("whole_items", ctypes.c_int32),
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


def matmul_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    transpose=False,
    sm_count=_DEFAULT_SM_COUNT,
    batch_tile=_DEFAULT_BATCH_TILE,
    ctas_per_sm=DEFAULT_CTAS_PER_SM,
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
    summary, tables = _build(
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


def stream_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    transpose=False,
    sm_count=_DEFAULT_SM_COUNT,
    batch_tile=_DEFAULT_BATCH_TILE,
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
    summary, tables = _build(
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
    sm_count=_DEFAULT_SM_COUNT,
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
    summary, tables = _build(
        "bsparse_plan_matmul",
        (int(transpose),),
        coords,
        (in_blocks, out_blocks, batch, sm_count, batch_tile, ctas_per_sm,
         choices.FAMILIES.index(SWEEP), columns, cta_columns, 1, 1, column_blocks, 1, 0,
         chunk_blocks, chunks),
    )
    ctas = columns // cta_columns
    entries = tables[summary.entries_offset : summary.splits_offset]
    order = summary.num_entries * ctas * _SWEEP_STAGE_WORDS
    return SweepPlan(
        items=tables[: summary.entries_offset].reshape(-1, 4),
        stages=entries[:order].reshape(-1, ctas, _SWEEP_STAGE_WORDS),
        order=entries[order : order + summary.num_packed],
        groups=tables[summary.groups_offset :].reshape(-1, columns),
        batch_tiles=max(1, -(-batch // batch_tile)),
        stage_kib=summary.fullest_stage,
        box_blocks=chunk_blocks,
    )


def matmul_dw_plan(
    coords,
    in_blocks,
    out_blocks,
    batch,
    *,
    sm_count=_DEFAULT_SM_COUNT,
    batch_tile=_DEFAULT_BATCH_TILE,
    ctas_per_sm=DEFAULT_CTAS_PER_SM,
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
    summary, tables = _build(
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
    sm_count=_DEFAULT_SM_COUNT,
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
    summary, tables = _build(
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


def _build(function, options, coords, target):
    """(summary, a copy of the tables) of a plan. Raises ValueError if the layout is not valid."""
    coords = np.ascontiguousarray(coords, dtype=np.int32)
    library = ctypes.CDLL(native.ops_library_path())
    build = getattr(library, function)
    build.restype = ctypes.c_void_p
    request = _Request(coords.ctypes.data, len(coords), *target)  # what it does not name is 0
    error = ctypes.create_string_buffer(512)
    handle = build(ctypes.byref(request), *options, error, ctypes.c_size_t(len(error)))
    if not handle:
        raise ValueError(error.value.decode())
    try:
        summary = _Summary()
        library.bsparse_plan_describe(ctypes.c_void_p(handle), ctypes.byref(summary))
        # A copy: the tables belong to the plan. (as_array cannot take a null pointer.)
        size = summary.tables_size
        tables = np.zeros(0, np.int32)
        if size:
            tables = np.ctypeslib.as_array(summary.tables, (size,)).copy()
    finally:
        library.bsparse_plan_free(ctypes.c_void_p(handle))
    return summary, tables
