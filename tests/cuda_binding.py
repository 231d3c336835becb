"""The C API of the CUDA library through ctypes, on PyTorch's memory.

For tests and benchmarks of the kernels alone: a GPU host needs PyTorch, and no TensorFlow. Plans
are made here in NumPy, so that tests choose how columns are split; `planned` asks the planner.
"""

import ctypes
import dataclasses
import pathlib

import numpy as np

try:
    import torch
except ImportError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
API_VERSION = 1
DTYPES = {"float32": 0, "tf32": 0, "float16": 1, "bfloat16": 2}
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}
OK, INVALID_ARGUMENT, UNSUPPORTED, CUDA_ERROR = range(4)

_pointer, _int, _long, _size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t


class Device(ctypes.Structure):
    _fields_ = [("sm_count", _int), ("compute_capability", _int)]


class Tile(ctypes.Structure):
    _fields_ = [("batch_tile", _int), ("ctas_per_sm", _int)]


class MatmulPlan(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("num_items", "num_splits", "num_partials", "batch_tile", "num_blocks")]
    _fields_ += [(name, _pointer) for name in ("items", "entries", "splits")]


class MatmulArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("dtype", "activation", "block_size", "feature_axis", "transpose", "in_blocks",
                 "out_blocks", "allow_tf32")]
    _fields_ += [("batch", _long)]
    _fields_ += [(name, _pointer) for name in ("x", "w", "gate", "bias", "y")]
    _fields_ += [("plan", MatmulPlan), ("workspace", _pointer), ("workspace_bytes", _size)]


class MatmulDwPlan(ctypes.Structure):
    _fields_ = [("num_blocks", _int), ("batch_splits", _int), ("blocks", _pointer)]


class MatmulDwArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("dtype", "out_dtype", "block_size", "feature_axis", "in_blocks", "out_blocks",
                 "allow_tf32")]
    _fields_ += [("batch", _long)]
    _fields_ += [(name, _pointer) for name in ("x", "dy", "gate", "dw")]
    _fields_ += [("plan", MatmulDwPlan), ("workspace", _pointer), ("workspace_bytes", _size)]


class PrepareWeightsArgs(ctypes.Structure):
    _fields_ = [("in_dtype", _int), ("out_dtype", _int), ("block_size", _int),
                ("num_blocks", _long), ("in_", _pointer), ("gate", _pointer), ("out", _pointer)]


_status = ctypes.c_int


class Api(ctypes.Structure):
    """bsparse_cuda_api."""

    _fields_ = [
        ("version", _int),
        ("get_device", ctypes.CFUNCTYPE(_status, ctypes.POINTER(Device))),
        ("get_tile", ctypes.CFUNCTYPE(_status, _int, _int, _long, _int, ctypes.POINTER(Device),
                                      ctypes.POINTER(Tile))),
        ("matmul_workspace", ctypes.CFUNCTYPE(_size, ctypes.POINTER(MatmulArgs))),
        ("matmul", ctypes.CFUNCTYPE(_status, ctypes.POINTER(MatmulArgs), _pointer)),
        ("matmul_dw_workspace", ctypes.CFUNCTYPE(_size, ctypes.POINTER(MatmulDwArgs))),
        ("matmul_dw", ctypes.CFUNCTYPE(_status, ctypes.POINTER(MatmulDwArgs), _pointer)),
        ("prepare_weights",
         ctypes.CFUNCTYPE(_status, ctypes.POINTER(PrepareWeightsArgs), _pointer)),
        ("copy_to_device", ctypes.CFUNCTYPE(_status, _pointer, _pointer, _size, _pointer)),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("kernel_name", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(MatmulArgs))),
    ]


class PlanRequest(ctypes.Structure):
    _fields_ = [("coords", _pointer), ("num_blocks", _long), ("in_blocks", _int),
                ("out_blocks", _int), ("batch", _long), ("sm_count", _int), ("batch_tile", _int),
                ("ctas_per_sm", _int)]


class PlanSummary(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("num_items", "num_splits", "num_partials", "num_blocks", "batch_splits")]
    _fields_ += [("tables", ctypes.POINTER(_int)), ("tables_size", _long),
                 ("items_offset", _long), ("entries_offset", _long), ("splits_offset", _long),
                 ("balance", ctypes.c_double)]


def find_library(name):
    """The library in the package, or where Bazel leaves it; None if it is not built."""
    for folder in ("bsparse_tf", "bazel-bin/cuda", "bazel-bin/cc/plan"):
        path = ROOT / folder / name
        if path.exists():
            return path
    return None


def unavailable():
    """Why the kernels cannot run here, or None."""
    if torch is None:
        return "PyTorch is not installed: it holds the device memory in these tests"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    if find_library("libbsparse_cuda.so") is None:
        return "libbsparse_cuda.so is not built (make build with BSPARSE_CUDA=1)"
    return None


def load_api(path=None):
    """The table of functions. Raises OSError if the library is missing or of another version."""
    path = path or find_library("libbsparse_cuda.so")
    library = ctypes.CDLL(str(path))
    library.bsparse_cuda_get_api.restype = ctypes.POINTER(Api)
    library.bsparse_cuda_get_api.argtypes = [_int]
    table = library.bsparse_cuda_get_api(API_VERSION)
    if not table:
        raise OSError(f"{path} was built from another version of bsparse_cuda.h")
    return table.contents


def torch_dtype(dtype):
    return getattr(torch, "float32" if dtype == "tf32" else dtype)


@dataclasses.dataclass
class Plan:
    """Tables of a product on the device."""

    numbers: dict  # of MatmulPlan or MatmulDwPlan
    tables: dict  # name -> int32 tensor; kept alive here

    def fields(self):
        pointers = {name: table.data_ptr() for name, table in self.tables.items()}
        return {**self.numbers, **pointers}


def _on_device(rows, width):
    array = np.asarray(rows, np.int32).reshape(-1, width)
    # An address is wanted for empty tables too.
    return torch.tensor(array if len(array) else np.zeros((1, width), np.int32), device="cuda")


def matmul_plan(layout, batch_tile, transpose=False, segment=None):
    """Columns longer than `segment` blocks are split. layout: bool [CB, KB]."""
    coords = np.argwhere(layout)
    pairs = coords[:, ::-1] if transpose else coords
    outputs = layout.shape[0] if transpose else layout.shape[1]
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    offsets = np.searchsorted(pairs[order, 1], np.arange(outputs + 1))
    entries = np.stack([pairs[order, 0], order], 1)
    items, splits, partials = [], [], 0
    for k in range(outputs):
        first, end = offsets[k], offsets[k + 1]
        pieces = 1 if segment is None else max(1, -(-(end - first) // segment))
        if pieces > 1:
            splits.append((k, partials, pieces))
        for piece in range(pieces):
            begin = first + (end - first) * piece // pieces
            stop = first + (end - first) * (piece + 1) // pieces
            items.append((k, begin, stop, partials if pieces > 1 else -1))
            partials += pieces > 1
    items.sort(key=lambda item: item[1] - item[2])
    numbers = dict(num_items=len(items), num_splits=len(splits), num_partials=partials,
                   batch_tile=batch_tile, num_blocks=len(coords))
    tables = dict(items=_on_device(items, 4), entries=_on_device(entries, 2),
                  splits=_on_device(splits, 3))
    return Plan(numbers, tables)


def matmul_dw_plan(layout, batch_splits=1):
    coords = np.argwhere(layout)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    blocks = np.concatenate([coords[order], order[:, None]], 1)
    return Plan(dict(num_blocks=len(coords), batch_splits=batch_splits),
                dict(blocks=_on_device(blocks, 3)))


class Planner:
    """libbsparse_plan.so: the plans that TensorFlow's kernels would use."""

    def __init__(self, path=None):
        self._library = library = ctypes.CDLL(str(path or find_library("libbsparse_plan.so")))
        library.bsparse_plan_matmul.restype = _pointer
        library.bsparse_plan_matmul.argtypes = [ctypes.POINTER(PlanRequest), _int, ctypes.c_char_p,
                                                _size]
        library.bsparse_plan_matmul_dw.restype = _pointer
        library.bsparse_plan_matmul_dw.argtypes = [ctypes.POINTER(PlanRequest), ctypes.c_char_p,
                                                   _size]
        library.bsparse_plan_describe.argtypes = [_pointer, ctypes.POINTER(PlanSummary)]
        library.bsparse_plan_free.argtypes = [_pointer]

    def _make(self, layout, batch, device, tile, build):
        coords = np.ascontiguousarray(np.argwhere(layout).astype(np.int32))
        request = PlanRequest(coords.ctypes.data, len(coords), *layout.shape, batch,
                              device.sm_count, tile.batch_tile, tile.ctas_per_sm)
        error = ctypes.create_string_buffer(512)
        plan = build(request, error)
        if not plan:
            raise ValueError(error.value.decode())
        summary = PlanSummary()
        self._library.bsparse_plan_describe(plan, ctypes.byref(summary))
        tables = np.ctypeslib.as_array(summary.tables, (summary.tables_size,)).copy()
        self._library.bsparse_plan_free(plan)
        return summary, tables

    def matmul(self, layout, batch, device, tile, transpose=False):
        summary, tables = self._make(
            layout, batch, device, tile,
            lambda request, error: self._library.bsparse_plan_matmul(
                ctypes.byref(request), int(transpose), error, len(error)))
        numbers = dict(num_items=summary.num_items, num_splits=summary.num_splits,
                       num_partials=summary.num_partials, batch_tile=tile.batch_tile,
                       num_blocks=int(layout.sum()))
        return Plan(numbers, dict(
            items=_on_device(tables[:summary.entries_offset], 4),
            entries=_on_device(tables[summary.entries_offset:summary.splits_offset], 2),
            splits=_on_device(tables[summary.splits_offset:], 3)))

    def matmul_dw(self, layout, batch, device, tile):
        summary, tables = self._make(
            layout, batch, device, tile,
            lambda request, error: self._library.bsparse_plan_matmul_dw(
                ctypes.byref(request), error, len(error)))
        numbers = dict(num_blocks=summary.num_blocks, batch_splits=summary.batch_splits)
        return Plan(numbers, dict(blocks=_on_device(tables, 3)))


class CudaError(RuntimeError):
    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


class Kernels:
    """The C API on PyTorch tensors. Every call goes to PyTorch's current stream."""

    def __init__(self, path=None):
        self.api = load_api(path)

    def _check(self, status):
        if status != OK:
            raise CudaError(status, self.api.last_error().decode())

    def device(self):
        device = Device()
        self._check(self.api.get_device(ctypes.byref(device)))
        return device

    def tile(self, dtype, block_size, batch, is_dw=False):
        device, tile = self.device(), Tile()
        self._check(self.api.get_tile(DTYPES[dtype], block_size, batch, is_dw,
                                      ctypes.byref(device), ctypes.byref(tile)))
        return tile

    def prepare_matmul(self, dtype, block_size, feature_axis, layout_shape, plan, x, w, y,
                       transpose=False, gate=None, bias=None, activation="none", batch=None):
        """A function without arguments that enqueues the product, and the kernel's name."""
        blocks = layout_shape[::-1] if transpose else layout_shape
        if batch is None:
            batch = x.shape[0] if feature_axis == 1 else x.shape[1]
        args = MatmulArgs(
            dtype=DTYPES[dtype], activation=ACTIVATIONS[activation], block_size=block_size,
            feature_axis=feature_axis, transpose=int(transpose), in_blocks=blocks[0],
            out_blocks=blocks[1], allow_tf32=int(dtype == "tf32"), batch=batch, x=x.data_ptr(),
            w=w.data_ptr(), gate=None if gate is None else gate.data_ptr(),
            bias=None if bias is None else bias.data_ptr(), y=y.data_ptr(),
            plan=MatmulPlan(**plan.fields()))
        args.workspace_bytes = self.api.matmul_workspace(ctypes.byref(args))
        workspace = torch.empty(max(1, min(args.workspace_bytes, 1 << 40)), dtype=torch.uint8,
                                device="cuda")
        args.workspace = workspace.data_ptr()
        keep = (x, w, y, plan, gate, bias, workspace)

        def call(keep=keep):
            stream = torch.cuda.current_stream().cuda_stream
            self._check(self.api.matmul(ctypes.byref(args), stream))

        call.kernel = self.api.kernel_name(ctypes.byref(args)).decode()
        return call

    def prepare_matmul_dw(self, dtype, block_size, feature_axis, layout_shape, plan, x, dy, dw,
                          gate=None):
        args = MatmulDwArgs(
            dtype=DTYPES[dtype], out_dtype=0 if dw.dtype == torch.float32 else DTYPES[dtype],
            block_size=block_size, feature_axis=feature_axis, in_blocks=layout_shape[0],
            out_blocks=layout_shape[1], allow_tf32=int(dtype == "tf32"),
            batch=x.shape[0] if feature_axis == 1 else x.shape[1], x=x.data_ptr(),
            dy=dy.data_ptr(), gate=None if gate is None else gate.data_ptr(), dw=dw.data_ptr(),
            plan=MatmulDwPlan(**plan.fields()))
        args.workspace_bytes = self.api.matmul_dw_workspace(ctypes.byref(args))
        workspace = torch.empty(max(1, args.workspace_bytes), dtype=torch.uint8, device="cuda")
        args.workspace = workspace.data_ptr()
        keep = (x, dy, dw, plan, gate, workspace)

        def call(keep=keep):
            stream = torch.cuda.current_stream().cuda_stream
            self._check(self.api.matmul_dw(ctypes.byref(args), stream))

        return call

    def prepare_weights(self, w, out, gate=None):
        names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
        args = PrepareWeightsArgs(names[w.dtype], names[out.dtype], w.shape[-1], w.shape[0],
                                  w.data_ptr(), None if gate is None else gate.data_ptr(),
                                  out.data_ptr())
        stream = torch.cuda.current_stream().cuda_stream
        self._check(self.api.prepare_weights(ctypes.byref(args), stream))
