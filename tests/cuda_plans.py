"""Plans for tests of kernels, in NumPy: how columns are split, grouped and dealt is the test's choice, or random.

What a kernel may be given: any plan of the form that cuda/bsparse_cuda.h describes, not only what the planner makes.
"""

import itertools

import cuda_sweep_plan
import numpy as np
from cuda_binding import (
    PACKED_RECORD_WORDS, SM90, SM90_DW_TILES, SM90_STREAM, SM90_SWEEP, Plan, entry_words, on_device,
)

UNION_OUTPUTS, PACKED_STAGE_INPUTS = 128, 64
DW_TILE_WARPS = 8  # BSPARSE_DW_TILE_WARPS


def _number_blocks(layout, transpose):
    numbering = np.full(layout.shape, -1)
    numbering[layout] = np.arange(int(layout.sum()))
    return numbering.T if transpose else numbering


def _number_units(numbering, *sides):
    """(numbers of the units that hold a block, or -1, [units, units]; their blocks)"""
    padded = np.pad(numbering, [(0, -n % side) for n, side in zip(numbering.shape, sides)],
                    constant_values=-1)
    rows, columns = (n // side for n, side in zip(padded.shape, sides))
    tiles = padded.reshape(rows, sides[0], columns, sides[1]).transpose(0, 2, 1, 3)
    tiles = tiles.reshape(rows, columns, -1)
    used = (tiles >= 0).any(-1)
    numbers = np.full(used.shape, -1)
    numbers[used] = np.arange(int(used.sum()))
    return numbers, tiles[used]


def stream_plan(layout, tile, transpose=False, segment=None, seed=0, lists=3):
    """Columns, or segments of up to `lists` of them, are dealt to lists at random: any will do."""
    numbering = _number_cells(_number_blocks(layout, False), tile.block_cells)
    numbering = numbering.T if transpose else numbering
    random = np.random.default_rng(seed)
    dealt = [([], [], []) for _ in range(lists)]  # partials; whole columns; a sum with partials
    splits, partials = [], 0
    for k in random.permutation(numbering.shape[1]):
        blocks = [(c, b) for c, b in enumerate(numbering[:, k]) if b >= 0] or [(-1, -1)]
        wanted = 1 if segment is None else -(-len(blocks) // segment)
        numbers = sorted(random.permutation(lists)[:wanted])
        last, pieces = numbers[-1], len(numbers)
        if pieces == 1 or dealt[last][2]:  # a list adds up one column
            dealt[last][1].extend((k, c, b, -1) for c, b in blocks)
            continue
        for piece, number in enumerate(numbers):
            share = blocks[len(blocks) * piece // pieces:len(blocks) * (piece + 1) // pieces]
            partial = -2 - len(splits) if number == last else partials + piece
            dealt[number][2 if number == last else 0].extend((k, c, b, partial) for c, b in share)
        splits.append((k, partials, pieces - 1))
        partials += pieces - 1
    def filled(share):
        """What is taken at once is of one column."""
        by_column = [list(rows) for _, rows in itertools.groupby(share, lambda row: row[0])]
        return [row for rows in by_column
                for row in rows + [(rows[0][0], -1, -1, rows[0][3])] * (-len(rows) % tile.entry_blocks)]

    rows = [filled(sum(parts, [])) for parts in dealt]
    length = max(map(len, rows))
    entries = [row for each in rows for row in each + [(-1,) * 4] * (length - len(each))]
    numbers = dict(kernel=tile.kernel, columns=1, num_items=lists, num_splits=len(splits),
                   num_partials=partials, num_entries=len(entries), num_blocks=int(layout.sum()))
    return Plan(numbers, dict(entries=on_device(entries, 4), splits=on_device(splits, 3)))


def sweep_plan(numbering, tile, seed):
    items, words, groups, numbers = cuda_sweep_plan.sweep_tables(numbering, tile, seed)
    numbers.update(kernel=tile.kernel, columns=tile.columns, num_splits=0, num_partials=0,
                   num_blocks=int((numbering >= 0).sum()))
    return Plan(numbers, dict(items=on_device(items, 4), entries=on_device(words, 1),
                              splits=on_device([], 3), groups=on_device(groups, tile.columns)))


def _rounds(numbering, group, tile, seed):
    """Entries of a group's CTAs: who sends to whom is random, and rounds may have holes."""
    random = np.random.default_rng(seed)
    ctas, words = tile.columns // tile.cta_columns, tile.cta_columns + 2
    rows, busy = [], [0] * ctas  # rounds, and those of each CTA that are taken
    for c in range(len(numbering)):
        blocks = np.array([-1 if k < 0 else numbering[c, k] for k in group]).reshape(ctas, -1)
        needing = [r for r in range(ctas) if blocks[r].max() >= 0]
        parts = random.integers(2, size=len(needing))
        for part in range(2):
            served = [r for r, p in zip(needing, parts) if p == part]
            if not served:
                continue
            number = max(busy[r] for r in served)
            while len(rows) <= number:
                rows.append(np.full((ctas, words), -1))
                rows[-1][:, 1] = 0
            for r in served:
                rows[number][r, 0] = c
                rows[number][r, 2:] = blocks[r]
                busy[r] = number + 1
            rows[number][random.choice(served), 1] = sum(1 << r for r in served)
    return rows


def _fill_records(rows, tile):
    """Those of _rounds, as long as the kernel wants them."""
    words = entry_words(tile) // (tile.columns // tile.cta_columns)
    return [np.pad(row, ((0, 0), (0, words - row.shape[1])), constant_values=-1).ravel().tolist()
            for row in rows]


def _pack_records(rows, tile, units, order):
    """Records of a group, of _rounds whose blocks are units, with masks; `order` grows."""
    packed = np.zeros((len(rows), tile.columns // tile.cta_columns, PACKED_RECORD_WORDS), np.int32)
    missing = np.full(units.shape[1], -1)
    for r in range(packed.shape[1]):
        for number, row in enumerate(rows):
            blocks = np.array([units[u] if u >= 0 else missing for u in row[r, 2:]])
            squares = blocks.reshape(tile.cta_columns, -1, tile.column_blocks**2).swapaxes(0, 1)
            squares = squares.reshape(-1, tile.column_blocks**2)
            there = squares.max(axis=1) >= 0
            mask = np.uint32(sum(1 << int(bit) for bit in np.flatnonzero(there)))
            packed[number, r] = *row[r, :2], len(order), mask.view(np.int32)
            order.extend(squares[there])
    return packed.reshape(len(rows), packed[:1].size or 1).tolist()


def _fullest_stage(entries, items, tile):
    """The most squares of a CTA in what it takes at once."""
    side = UNION_OUTPUTS // tile.cta_columns
    stage = PACKED_STAGE_INPUTS * tile.column_blocks // (side * tile.entry_blocks)
    masks = np.array(entries, np.int32).reshape(len(entries), -1, PACKED_RECORD_WORDS)[..., 3]
    squares = [[bin(np.uint32(mask)).count("1") for mask in row] for row in masks.view(np.uint32)]
    return max((int(np.sum(squares[begin:min(begin + stage, end)], axis=0).max())
                for _, first, end, _ in items for begin in range(first, end, stage)), default=0)


def matmul_plan(layout, tile, transpose=False, segment=None, seed=0):
    """Groups of columns with more than `segment` input blocks are split.

    layout: bool [CB, KB]. Groups are random: any grouping must do.
    """
    if tile.kernel == SM90_STREAM:
        return stream_plan(layout, tile, transpose, segment, seed)
    numbering = _number_blocks(layout, transpose)
    if tile.kernel == SM90_SWEEP:
        return sweep_plan(numbering, tile, seed)
    if tile.packed:
        numbering, units = _number_units(numbering, tile.entry_blocks, tile.column_blocks)
    outputs = numbering.shape[1]
    columns = np.arange(outputs)
    if tile.columns > 1:
        columns = np.random.default_rng(seed).permutation(outputs)
    groups = np.full((-(-outputs // tile.columns), tile.columns), -1)
    groups.flat[:outputs] = columns
    entries, items, splits, partials, order = [], [], [], 0, []
    for number, group in enumerate(groups):
        first = len(entries)
        if tile.kernel == SM90:
            rows = _rounds(numbering, group, tile, seed + number)
            entries += (_pack_records(rows, tile, units, order) if tile.packed
                        else _fill_records(rows, tile))
        else:
            entries += [(c, b) for c, b in enumerate(numbering[:, group[0]]) if b >= 0]
        length = len(entries) - first
        pieces = 1 if segment is None else max(1, -(-length // segment))
        if pieces > 1:
            splits.append((number, partials, pieces))
        for piece in range(pieces):
            items.append((number, first + length * piece // pieces,
                          first + length * (piece + 1) // pieces,
                          partials if pieces > 1 else -1))
            partials += pieces > 1
    items.sort(key=lambda item: item[1] - item[2])
    numbers = dict(kernel=tile.kernel, columns=tile.columns, num_items=len(items),
                   num_splits=len(splits), num_partials=partials, num_entries=len(entries),
                   num_blocks=int(layout.sum()), num_packed=len(order))
    tables = dict(items=on_device(items, 4),
                  entries=on_device(entries, entry_words(tile)),
                  splits=on_device(splits, 3), groups=on_device(groups, tile.columns))
    if tile.packed:  # the order lies behind the entries
        flat = np.concatenate([np.ravel(np.asarray(part, np.int32)) for part in (entries, order)])
        numbers["fullest_stage"] = _fullest_stage(entries, items, tile)
        tables["entries"] = on_device(flat, 1)
    return Plan(numbers, tables)


def _number_cells(numbering, cells):
    """Of blocks cut into cells: those of one after the other's, along its rows; -1: not stored."""
    within = np.arange(cells**2).reshape(cells, cells)
    found = numbering[:, None, :, None] * cells**2 + within[:, None, :]
    found = np.where(numbering[:, None, :, None] >= 0, found, -1)
    return found.reshape(np.multiply(numbering.shape, cells))


def _fitting_tile(rows, columns, numbering, tile, spare):
    """(blocks of a CTA in slots, output chunks): as many of `columns`, taken off it, as fit."""
    size, slot_blocks = tile.chunk_blocks, tile.entry_blocks
    slots, chunks = [], []
    while columns and len(chunks) < spare:
        first = columns[0] * size
        more = []
        for k in range(first, min(first + size, numbering.shape[1])):
            stored = [(c, k, numbering[c, k]) for c in rows if numbering[c, k] >= 0]
            while len(stored) % slot_blocks:
                stored.append((*stored[-1][:2], -1))
            more += [stored[i:i + slot_blocks] for i in range(0, len(stored), slot_blocks)]
        if (len(slots) + len(more)) * slot_blocks > tile.cta_columns:
            assert chunks, "a chunk's blocks do not fit a tile"
            break
        slots += more
        chunks.append(columns.pop(0))
    return slots, chunks


def dw_tiles_plan(layout, tile, batch_splits=1, seed=0):
    """Tiles of chunks drawn at random, blocks in random order on random warps: any will do."""
    random = np.random.default_rng(seed)
    numbering = _number_cells(_number_blocks(layout, False), tile.block_cells)
    num_blocks, layout = int(layout.sum()), numbering >= 0
    size, ctas = tile.chunk_blocks, tile.columns // tile.cta_columns
    slot_blocks = tile.entry_blocks
    warp_slots = tile.cta_columns // DW_TILE_WARPS // slot_blocks
    inputs = list(random.permutation(-(-layout.shape[0] // size)))
    found = []  # items: input chunks, [(slots, output chunks) of each CTA]
    while inputs:
        mine = sorted(inputs.pop() for _ in range(min(len(inputs), random.integers(1, 4))))
        rows = [c for chunk in mine for c in range(chunk * size, (chunk + 1) * size)
                if c < layout.shape[0]]
        columns = [k for k in random.permutation(-(-layout.shape[1] // size))
                   if layout[rows, k * size:(k + 1) * size].any()]
        while columns:
            found.append((mine, [_fitting_tile(rows, columns, numbering, tile,
                                               random.integers(1, 5)) for _ in range(ctas)]))
    random.shuffle(found)
    chunks = max((len(mine) + len(outputs) for mine, cut in found for _, outputs in cut), default=2)
    items, blocks = [], []
    for mine, cut in found:
        for slots, outputs in cut:
            row = [len(mine), len(outputs), *mine, *outputs]
            items.append(row + [-1] * (2 + chunks - len(row)))
            place = {**{("in", c): i for i, c in enumerate(mine)},
                     **{("out", k): len(mine) + i for i, k in enumerate(outputs)}}
            warps = [[] for _ in range(DW_TILE_WARPS)]
            for slot in random.permutation(np.array(slots).reshape(-1, slot_blocks, 3)):
                free = [warp for warp in warps if len(warp) < warp_slots]
                free[random.integers(len(free))].append(
                    [(place["in", c // size] * size + c % size,
                      place["out", k // size] * size + k % size, b) for c, k, b in slot])
            for warp in warps:
                filling = [[(-1, -1, -1)] * slot_blocks] * (warp_slots - len(warp))
                blocks += [block for slot in warp + filling for block in slot]
    whole = len(found) if batch_splits == 1 else int(random.integers(len(found) + 1))
    numbers = dict(kernel=tile.kernel, num_blocks=num_blocks, batch_splits=batch_splits,
                   num_items=len(found), ctas=ctas, chunks=chunks, whole_items=whole)
    return Plan(numbers, dict(blocks=on_device(blocks, 3),
                              items=on_device(items, 2 + chunks)))


def matmul_dw_plan(layout, tile, batch_splits=1, seed=0):
    if tile.kernel == SM90_DW_TILES:
        return dw_tiles_plan(layout, tile, batch_splits, seed)
    coords = np.argwhere(layout)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    blocks = np.concatenate([coords[order], order[:, None]], 1)
    items = []
    if tile.columns > 1:
        for k in range(layout.shape[1]):
            first, end = np.searchsorted(blocks[:, 1], [k, k + 1])
            items += [(k, i, min(i + tile.columns, end), 0)
                      for i in range(first, end, tile.columns)]
    return Plan(dict(kernel=tile.kernel, num_blocks=len(coords), batch_splits=batch_splits,
                     num_items=len(items),
                     chunks=max((end - first for _, first, end, _ in items), default=0)),
                dict(blocks=on_device(blocks, 3), items=on_device(items, 4)))
