"""cuSPARSE's product of a BSR matrix and a dense one, by ctypes on the library PyTorch loads."""

import contextlib
import ctypes

import numpy as np
from cuda_binding import torch

LIBRARY = "libcusparse.so.12"
# Names of the numbers in cusparse.h and library_types.h.
OK = 0
INDEX_32 = 2
BASE_ZERO = 0
COLUMN_MAJOR, ROW_MAJOR = 1, 2
NO_TRANSPOSE = 0
SPMM_BSR_ALG1 = 14
STATUS = {1: "not initialized", 2: "allocation failed", 3: "invalid value", 4: "arch mismatch",
          6: "execution failed", 7: "internal error", 8: "matrix type not supported",
          10: "not supported", 11: "insufficient resources"}
VALUE_TYPE = {"float32": 0, "tf32": 0, "float16": 2, "bfloat16": 14}
COMPUTE_FLOAT32 = 0

_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Refused(RuntimeError):
    """cuSPARSE has no such product: the function that said so, and what it said."""


def _load():
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Refused(str(error)) from error
    matrix = [_pointer] * 2  # where the descriptor goes comes first
    product = [_pointer, _int, _int, _pointer, *matrix, _pointer, _pointer, _int, _int]
    signatures = {
        "cusparseCreate": [_pointer],
        "cusparseDestroy": [_pointer],
        "cusparseSetStream": [_pointer, _pointer],
        "cusparseCreateBsr": [_pointer, *[_long] * 5, *[_pointer] * 3, *[_int] * 5],
        "cusparseCreateDnMat": [_pointer, *[_long] * 3, _pointer, _int, _int],
        "cusparseDestroySpMat": [_pointer],
        "cusparseDestroyDnMat": [_pointer],
        "cusparseSpMM_bufferSize": [*product, _pointer],
        "cusparseSpMM": [*product, _pointer],
    }
    for name, arguments in signatures.items():
        if not hasattr(library, name):
            raise Refused(f"{LIBRARY} has no {name}")
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _int
    return library


@contextlib.contextmanager
def bsr_product(layout, block_size, feature_axis, dtype, x, w, y):
    """A function that enqueues y = x W, as long as the context lasts.

    Args:
      layout: bool [CB, KB].
      block_size, feature_axis: of the layer.
      dtype: "bfloat16", "float16", "float32" or "tf32".
      x, w, y: tensors on the GPU; w [blocks, bs, bs] in the order of np.argwhere(layout).

    Raises:
      Refused: cuSPARSE returned an error, on entering or when the function is called.
    """
    library = _load()

    def check(name, *arguments):
        status = getattr(library, name)(*arguments)
        if status != OK:
            raise Refused(f"{name}: {STATUS.get(status, 'status')} ({status})")

    # yᵀ = Wᵀ xᵀ: block rows are outputs.
    coords = np.argwhere(layout)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    offsets = np.searchsorted(coords[order, 1], np.arange(layout.shape[1] + 1))
    row_offsets = torch.tensor(offsets, dtype=torch.int32, device="cuda")
    columns = torch.tensor(coords[order, 0], dtype=torch.int32, device="cuda")
    values = w[torch.tensor(order, device="cuda")].transpose(1, 2).contiguous()
    value_type = VALUE_TYPE[dtype]
    batch = x.shape[0] if feature_axis == 1 else x.shape[1]

    with contextlib.ExitStack() as cleanup:
        def create(make, destroy, *arguments):
            made = _pointer()
            check(make, ctypes.byref(made), *arguments)
            cleanup.callback(getattr(library, destroy), made)
            return made

        def dense(tensor, features):
            major = COLUMN_MAJOR if feature_axis == 1 else ROW_MAJOR
            leading = features if feature_axis == 1 else batch
            return create("cusparseCreateDnMat", "cusparseDestroyDnMat", features, batch, leading,
                          tensor.data_ptr(), value_type, major)

        handle = create("cusparseCreate", "cusparseDestroy")
        matrix = create("cusparseCreateBsr", "cusparseDestroySpMat", layout.shape[1],
                        layout.shape[0], len(coords), block_size, block_size,
                        row_offsets.data_ptr(), columns.data_ptr(), values.data_ptr(), INDEX_32,
                        INDEX_32, BASE_ZERO, value_type, ROW_MAJOR)
        x_matrix = dense(x, layout.shape[0] * block_size)
        y_matrix = dense(y, layout.shape[1] * block_size)
        one, zero, size = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_size_t()
        arguments = (handle, NO_TRANSPOSE, NO_TRANSPOSE, ctypes.addressof(one), matrix, x_matrix,
                     ctypes.addressof(zero), y_matrix, COMPUTE_FLOAT32, SPMM_BSR_ALG1)
        check("cusparseSpMM_bufferSize", *arguments, ctypes.addressof(size))
        workspace = torch.empty(max(1, size.value), dtype=torch.uint8, device="cuda")

        def call():
            check("cusparseSetStream", handle, torch.cuda.current_stream().cuda_stream)
            check("cusparseSpMM", *arguments, workspace.data_ptr())

        yield call
        torch.cuda.synchronize()  # before what it reads goes away
