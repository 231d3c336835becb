"""The C++ planner's C API (cc/plan/plan_c_api.h): what it is asked, and what it answers."""

import ctypes

import numpy as np

from bsparse_tf import native

# An H100's streaming multiprocessors, and the tile of the kernels for sm_80 and newer: what plans are
# cut for unless the caller names another device.
DEFAULT_SM_COUNT = 132
DEFAULT_BATCH_TILE = 128
DEFAULT_CTAS_PER_SM = 2


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


def build_plan(function, options, coords, target):
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
