"""Plans of sweeps, made at random: other groups, boxes and stages than the planner's must do as well."""

import numpy as np

SUMS = 32768  # BSPARSE_SWEEP_SUMS, of a multiprocessor
BOX_ROW_BYTES = 128
MOST_BOXES = 8  # BSPARSE_SWEEP_BOXES, of a stage and multiprocessor
RECORD_BYTES = 1024
HEADER_BYTES = 16  # of a warp
WARPS = 16
STAGE_KIB = 75  # no stage has more


def sweep_tables(numbering, tile, seed):
    """(items, words behind them, groups, numbers of the plan) of blocks by input and output, or -1.

    Columns are dealt to warps at random, and so are the boxes of an item to its stages, in any order;
    some stages take boxes that no column of theirs uses. A box too full for a stage comes in several, each
    with a row of blocks.
    """
    random = np.random.default_rng(seed)
    inputs, outputs = numbering.shape
    ctas, warp_columns = tile.columns // tile.cta_columns, tile.cta_columns // WARPS
    block_size = SUMS // tile.batch_tile // tile.cta_columns
    box_bytes, block_bytes = BOX_ROW_BYTES * tile.batch_tile, BOX_ROW_BYTES // tile.chunk_blocks * block_size

    def fits(boxes, most):
        size = RECORD_BYTES + box_bytes * boxes + block_bytes * most
        return size <= 1024 * STAGE_KIB and HEADER_BYTES * WARPS + most <= RECORD_BYTES

    groups = np.full((-(-outputs // tile.columns), tile.columns), -1)
    groups.flat[:outputs] = np.arange(outputs)
    groups = random.permutation(groups.ravel()).reshape(groups.shape)
    items, stages, order, records, kib = [], [], [], [], 1
    for number, group in enumerate(groups):
        first = len(stages)
        by_warp = group.reshape(ctas, WARPS, warp_columns)
        boxes = random.permutation(-(-inputs // tile.chunk_blocks)).tolist()
        every_row = range(tile.chunk_blocks)
        parts = []  # of each stage its boxes, and the rows of blocks that it takes of each
        while boxes:
            taken, wanted = [], int(random.integers(1, ctas * MOST_BOXES + 1))
            while boxes and len(taken) < wanted:
                together = [*taken, boxes[0]]
                most = max(len(_blocks(numbering, mine, together, every_row, tile)[0]) for mine in by_warp)
                if taken and not fits(len(together), most):
                    break
                taken.append(boxes.pop(0))
                if not fits(len(taken), most):
                    parts += [(taken, [row]) for row in random.permutation(tile.chunk_blocks).tolist()]
                    taken = []
                    break
            if taken:
                parts.append((taken, every_row))
        for taken, rows in parts:
            row = []
            for cta in range(ctas):
                places, weights, headers = _blocks(numbering, by_warp[cta], taken, rows, tile)
                size = RECORD_BYTES + box_bytes * len(taken) + block_bytes * len(places)
                kib = max(kib, -(-size // 1024))
                record = headers.tobytes() + bytes(places)
                record += bytes(-len(record) % 16)
                numbers = np.zeros(MOST_BOXES, np.uint16)
                numbers[:len(taken[cta::ctas])] = taken[cta::ctas]
                row += [len(records) // 16, len(record) // 16 | len(taken) << 16, len(order),
                        len(weights), *numbers.view(np.int32).tolist()]
                records += record
                order += weights
            stages.append(row)
        items.append((number, first, len(stages), -1))
    filling = [-1] * (-len(order) % 4)
    words = np.concatenate([np.asarray(part, np.int32).ravel() for part in (stages, order, filling)])
    words = np.concatenate([words, np.frombuffer(bytes(records), np.int32)])
    numbers = dict(num_items=len(items), num_entries=len(stages), num_packed=len(order),
                   fullest_stage=kib)
    return items, words, groups, numbers


def _blocks(numbering, columns, boxes, rows, tile):
    """(places in the boxes, weight blocks, headers of the warps) of a CTA in a stage.

    rows: of blocks, that are taken of each box.
    """
    places, weights = [], []
    headers = np.zeros((WARPS, HEADER_BYTES // 4), np.uint32)
    for warp, mine in enumerate(columns):
        begin = len(places)
        for c, column in enumerate(mine):
            before = len(places)
            for at, box in enumerate(boxes):
                for row in rows if column >= 0 else ():
                    source = box * tile.chunk_blocks + row
                    if source < len(numbering) and numbering[source, column] >= 0:
                        places.append(at * tile.chunk_blocks + row)
                        weights.append(int(numbering[source, column]))
            headers[warp, c // 4] |= np.uint32((len(places) - before) << c % 4 * 8)
        headers[warp, 2] = begin | len(boxes) << 16
    return places, weights, headers
