"""Plans of sweeps, made at random: other groups, boxes and stages than the planner's must do as well."""

import numpy as np

BOX_FEATURES = 64  # BSPARSE_SWEEP_BOX_FEATURES
BOX_BYTES = 8192
MOST_BOXES = 8  # BSPARSE_SWEEP_BOXES, of a stage
RECORD_BYTES = 1024
HEADER_BYTES = 8  # of a warp
WARPS = 16
STAGE_KIB = 75  # no stage has more


def sweep_tables(numbering, tile, seed):
    """(items, words behind them, groups, numbers of the plan) of blocks by input and output, or -1.

    Columns are dealt to warps at random, and so are the boxes of an item to its stages, in any order;
    some stages take boxes that no column of theirs uses.
    """
    random = np.random.default_rng(seed)
    inputs, outputs = numbering.shape
    ctas, warp_columns = tile.columns // tile.cta_columns, tile.cta_columns // WARPS
    block_size = BOX_FEATURES // tile.chunk_blocks
    groups = np.full((-(-outputs // tile.columns), tile.columns), -1)
    groups.flat[:outputs] = np.arange(outputs)
    groups = random.permutation(groups.ravel()).reshape(groups.shape)
    items, stages, order, records, kib = [], [], [], [], 1
    for number, group in enumerate(groups):
        first = len(stages)
        by_warp = group.reshape(ctas, WARPS, warp_columns)
        boxes = random.permutation(-(-inputs // tile.chunk_blocks)).tolist()
        while boxes:
            taken, wanted = [], int(random.integers(1, MOST_BOXES + 1))
            while boxes and len(taken) < wanted:
                found = [_blocks(numbering, by_warp[cta], [*taken, boxes[0]], tile) for cta in range(ctas)]
                most = max(len(places) for places, _, _ in found)
                size = RECORD_BYTES + BOX_BYTES * (len(taken) + 1) + 2 * block_size**2 * most
                if taken and (size > 1024 * STAGE_KIB or HEADER_BYTES * WARPS + most > RECORD_BYTES):
                    break
                taken.append(boxes.pop(0))
                kib = max(kib, -(-size // 1024))
            row = []
            for cta in range(ctas):
                places, weights, headers = _blocks(numbering, by_warp[cta], taken, tile)
                record = headers.tobytes() + bytes(places)
                record += bytes(-len(record) % 16)
                numbers = np.zeros(MOST_BOXES, np.uint16)
                numbers[:len(taken)] = taken
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


def _blocks(numbering, columns, boxes, tile):
    """(places in the boxes, weight blocks, headers of the warps) of a CTA in a stage."""
    places, weights = [], []
    headers = np.zeros((WARPS, 2), np.uint32)
    for warp, mine in enumerate(columns):
        begin = len(places)
        for c, column in enumerate(mine):
            before = len(places)
            for at, box in enumerate(boxes):
                first = box * tile.chunk_blocks
                rows = np.arange(first, min(first + tile.chunk_blocks, len(numbering)))
                for row in rows[numbering[rows, column] >= 0] if column >= 0 else ():
                    places.append(at * tile.chunk_blocks + int(row) - first)
                    weights.append(int(numbering[row, column]))
            headers[warp, 0] |= np.uint32((len(places) - before) << 8 * c)
        headers[warp, 1] = begin | len(boxes) << 16
    return places, weights, headers
