"""The C API of the CUDA library through ctypes, on PyTorch's memory.

For tests and benchmarks of the kernels alone: a GPU host needs PyTorch, and no TensorFlow. `Planner` makes
the plans that TensorFlow's kernels would use, cuda_plans.py others.
"""

import ctypes
import dataclasses
import pathlib

import cuda_sweep_plan
import numpy as np

try:
    import torch
except ImportError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
API_VERSION = 15
DTYPES = {"float32": 0, "tf32": 0, "tf32x3": 0, "float16": 1, "bfloat16": 2}
FLOAT32_MATH = {"tf32": 1, "tf32x3": 2}  # exact otherwise
ELEMENT_BYTES = {dtype: 2 if number else 4 for dtype, number in DTYPES.items()}
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}
OK, INVALID_ARGUMENT, UNSUPPORTED, CUDA_ERROR = range(4)
SUMS_IN_PARAM_DTYPE, SUMS_IN_FLOAT32, SUMS_ADDED = range(3)
PACKED_RECORD_WORDS = 4
SM80, SM80_SMALL, SM90, DENSE, SM90_STREAM, SM90_DW_TILES, SM90_SWEEP = range(7)
SWEEP_STAGE_WORDS = 8  # BSPARSE_SWEEP_STAGE_WORDS
SWEEP_BOX_ROW_BYTES = cuda_sweep_plan.BOX_ROW_BYTES

_pointer, _int, _long, _size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t


class Device(ctypes.Structure):
    _fields_ = [("sm_count", _int), ("compute_capability", _int)]


class TileRequest(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("dtype", "block_size", "feature_axis", "in_blocks", "out_blocks", "is_dw",
                 "float32_math", "gated", "aligned", "num_pairs")]
    _fields_ += [("density", ctypes.c_float), ("union_density", ctypes.c_float), ("batch", _long)]


class Tile(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("kernel", "batch_tile", "ctas_per_sm", "columns", "cta_columns", "shared_columns",
                 "entry_blocks", "column_blocks", "packed", "block_cells",
                 "chunk_blocks", "chunks")]


class Choice(ctypes.Structure):
    """bsparse_choice"""

    _fields_ = [("tile", Tile), ("dense_reason", _int), ("hopper_reason", _int),
                ("sparse_seconds", ctypes.c_double), ("dense_seconds", ctypes.c_double),
                ("name", ctypes.c_char * 64)]


class MatmulPlan(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("kernel", "columns", "num_items", "num_splits", "num_partials", "num_entries",
                 "num_blocks", "num_packed", "fullest_stage")]
    _fields_ += [(name, _pointer) for name in ("items", "entries", "splits", "groups")]


class MatmulArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("dtype", "activation", "block_size", "feature_axis", "transpose", "in_blocks",
                 "out_blocks", "float32_math")]
    _fields_ += [("batch", _long), ("settled", _int), ("max_ctas", _int)]
    _fields_ += [(name, _pointer) for name in ("x", "w", "gate", "bias", "residual", "y")]
    _fields_ += [("plan", MatmulPlan), ("workspace", _pointer), ("workspace_bytes", _size)]


class MatmulDwPlan(ctypes.Structure):
    _fields_ = [(name, _int) for name in ("kernel", "num_blocks", "batch_splits", "num_items",
                                          "ctas", "chunks", "whole_items")]
    _fields_ += [("blocks", _pointer), ("items", _pointer)]


class DwPair(ctypes.Structure):
    _fields_ = [("x", _pointer), ("dy", _pointer), ("batch", _long)]


class MatmulDwArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("dtype", "out_dtype", "block_size", "feature_axis", "in_blocks", "out_blocks",
                 "float32_math", "max_ctas", "num_pairs")]
    _fields_ += [("pairs", ctypes.POINTER(DwPair))]
    _fields_ += [(name, _pointer) for name in ("gate", "addend", "dw")]
    _fields_ += [("plan", MatmulDwPlan), ("workspace", _pointer), ("workspace_bytes", _size)]


class PrepareWeightsArgs(ctypes.Structure):
    _fields_ = [("in_dtype", _int), ("out_dtype", _int), ("block_size", _int),
                ("num_blocks", _long), ("in_", _pointer), ("gate", _pointer), ("out", _pointer)]


class LayerNormArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in ("dtype", "param_dtype", "feature_axis", "relu")]
    _fields_ += [(name, _long) for name in ("batch", "features", "segments", "operand_stride")]
    _fields_ += [("epsilon", ctypes.c_float)]
    _fields_ += [(name, _pointer) for name in
                 ("x", "gain", "bias", "multiplier", "addend", "y", "mean", "rstd", "workspace")]
    _fields_ += [("workspace_bytes", _size)]


class LayerNormGradArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in ("dtype", "param_dtype", "feature_axis", "relu", "sums")]
    _fields_ += [(name, _long) for name in ("batch", "features", "segments", "operand_stride")]
    _fields_ += [(name, _pointer) for name in
                 ("dy", "x", "gain", "bias", "mean", "rstd", "multiplier", "addend", "dx", "dz",
                  "doperand", "dgain", "dbias", "workspace")]
    _fields_ += [("workspace_bytes", _size)]


class LstmGatesArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in ("dtype", "cell_dtype", "bias_dtype", "feature_axis")]
    _fields_ += [("forget_bias", ctypes.c_float), ("batch", _long), ("units", _long)]
    _fields_ += [(name, _pointer) for name in
                 ("c", "gates", "bias", "gain", "mean", "rstd", "c_next", "h", "dc_next", "dh",
                  "dh_more", "dc", "dgates")]


class ActivationGradArgs(ctypes.Structure):
    _fields_ = [(name, _int) for name in ("dtype", "bias_dtype", "activation", "feature_axis")]
    _fields_ += [(name, _long) for name in ("batch", "features")]
    _fields_ += [(name, _pointer) for name in ("dy", "values", "dz", "dbias", "workspace")]
    _fields_ += [("workspace_bytes", _size)]


_status = ctypes.c_int


class Api(ctypes.Structure):
    """bsparse_cuda_api."""

    _fields_ = [
        ("version", _int),
        ("get_device", ctypes.CFUNCTYPE(_status, ctypes.POINTER(Device))),
        ("get_tile", ctypes.CFUNCTYPE(_status, ctypes.POINTER(TileRequest),
                                      ctypes.POINTER(Device), ctypes.POINTER(Tile))),
        ("matmul_workspace", ctypes.CFUNCTYPE(_size, ctypes.POINTER(MatmulArgs))),
        ("matmul", ctypes.CFUNCTYPE(_status, ctypes.POINTER(MatmulArgs), _pointer)),
        ("matmul_dw_workspace", ctypes.CFUNCTYPE(_size, ctypes.POINTER(MatmulDwArgs))),
        ("matmul_dw", ctypes.CFUNCTYPE(_status, ctypes.POINTER(MatmulDwArgs), _pointer)),
        ("prepare_weights",
         ctypes.CFUNCTYPE(_status, ctypes.POINTER(PrepareWeightsArgs), _pointer)),
        ("copy_to_device", ctypes.CFUNCTYPE(_status, _pointer, _pointer, _size, _pointer)),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("kernel_name", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(MatmulArgs))),
        ("layer_norm_workspace", ctypes.CFUNCTYPE(_size, ctypes.POINTER(LayerNormArgs))),
        ("layer_norm", ctypes.CFUNCTYPE(_status, ctypes.POINTER(LayerNormArgs), _pointer)),
        ("layer_norm_grad_workspace",
         ctypes.CFUNCTYPE(_size, ctypes.POINTER(LayerNormGradArgs))),
        ("layer_norm_grad",
         ctypes.CFUNCTYPE(_status, ctypes.POINTER(LayerNormGradArgs), _pointer)),
        ("lstm_gates", ctypes.CFUNCTYPE(_status, ctypes.POINTER(LstmGatesArgs), _pointer)),
        ("lstm_gates_grad", ctypes.CFUNCTYPE(_status, ctypes.POINTER(LstmGatesArgs), _pointer)),
        ("explain", ctypes.CFUNCTYPE(_status, ctypes.POINTER(TileRequest),
                                     ctypes.POINTER(Device), _int, ctypes.POINTER(Choice))),
        ("activation_grad_workspace",
         ctypes.CFUNCTYPE(_size, ctypes.POINTER(ActivationGradArgs))),
        ("activation_grad",
         ctypes.CFUNCTYPE(_status, ctypes.POINTER(ActivationGradArgs), _pointer)),
    ]


class PlanRequest(ctypes.Structure):
    _fields_ = [("coords", _pointer), ("num_blocks", _long), ("in_blocks", _int),
                ("out_blocks", _int), ("batch", _long), ("sm_count", _int), ("batch_tile", _int),
                ("ctas_per_sm", _int), ("kernel", _int), ("columns", _int),
                ("cta_columns", _int), ("shared_columns", _int)]
    _fields_ += [(name, _int) for name in
                 ("entry_blocks", "column_blocks", "packed", "block_cells",
                 "chunk_blocks", "chunks")]


class PlanSummary(ctypes.Structure):
    _fields_ = [(name, _int) for name in
                ("num_items", "num_splits", "num_partials", "num_entries", "num_packed",
                 "fullest_stage", "num_blocks", "batch_splits", "ctas", "chunks", "whole_items")]
    _fields_ += [("tables", ctypes.POINTER(_int)), ("tables_size", _long),
                 ("items_offset", _long), ("entries_offset", _long), ("splits_offset", _long),
                 ("groups_offset", _long), ("balance", ctypes.c_double)]


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
    return getattr(torch, "float32" if dtype in FLOAT32_MATH else dtype)


@dataclasses.dataclass
class Plan:
    """Tables of a product on the device."""

    numbers: dict  # of MatmulPlan or MatmulDwPlan
    tables: dict  # name -> int32 tensor; kept alive here

    def fields(self):
        pointers = {name: table.data_ptr() for name, table in self.tables.items()}
        return {**self.numbers, **pointers}

    def entries(self, tile):
        """int32 [entries, words]"""
        flat = self.tables["entries"].cpu().numpy().ravel()
        return flat[:self.numbers["num_entries"] * entry_words(tile)].reshape(-1, entry_words(tile))


def on_device(rows, width):
    """A table of a plan: int32 [rows, width]."""
    array = np.asarray(rows, np.int32).reshape(-1, width)
    # An address is wanted for empty tables too.
    return torch.tensor(array if len(array) else np.zeros((1, width), np.int32), device="cuda")


def entry_words(tile):
    if tile.kernel == SM90_STREAM:
        return 4
    if tile.kernel == SM90_SWEEP:
        return SWEEP_STAGE_WORDS * (tile.columns // tile.cta_columns)
    if tile.kernel != SM90:
        return 2
    if tile.packed:
        return PACKED_RECORD_WORDS * (tile.columns // tile.cta_columns)
    words = 2
    while words < tile.cta_columns + 2:
        words *= 2
    return words * (tile.columns // tile.cta_columns)


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
        library.bsparse_plan_union_density.restype = ctypes.c_double
        library.bsparse_plan_union_density.argtypes = [_pointer, _long, _int, _int, _int, _int]

    def union_density(self, layout, block_size, transpose=False):
        """Of a request."""
        coords = np.ascontiguousarray(np.argwhere(layout).astype(np.int32))
        return self._library.bsparse_plan_union_density(
            coords.ctypes.data, len(coords), *layout.shape, int(transpose), block_size)

    def _make(self, layout, batch, device, tile, build):
        coords = np.ascontiguousarray(np.argwhere(layout).astype(np.int32))
        request = PlanRequest(coords.ctypes.data, len(coords), *layout.shape, batch,
                              device.sm_count, tile.batch_tile, tile.ctas_per_sm, tile.kernel,
                              tile.columns, tile.cta_columns, tile.shared_columns,
                              tile.entry_blocks, tile.column_blocks, tile.packed,
                              tile.block_cells, tile.chunk_blocks, tile.chunks)
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
        names = ("num_items", "num_splits", "num_partials", "num_entries", "num_packed",
                 "fullest_stage")
        numbers = dict(kernel=tile.kernel, columns=tile.columns, num_blocks=int(layout.sum()),
                       **{name: getattr(summary, name) for name in names})
        return Plan(numbers, dict(
            items=on_device(tables[:summary.entries_offset], 4),
            entries=on_device(tables[summary.entries_offset:summary.splits_offset],
                               1 if tile.packed else entry_words(tile)),
            splits=on_device(tables[summary.splits_offset:summary.groups_offset], 3),
            groups=on_device(tables[summary.groups_offset:], tile.columns)))

    def matmul_dw(self, layout, batch, device, tile):
        summary, tables = self._make(
            layout, batch, device, tile,
            lambda request, error: self._library.bsparse_plan_matmul_dw(
                ctypes.byref(request), error, len(error)))
        names = ("num_blocks", "batch_splits", "num_items", "ctas", "chunks", "whole_items")
        numbers = dict(kernel=tile.kernel, **{name: getattr(summary, name) for name in names})
        at = summary.entries_offset
        width = 2 + summary.chunks if tile.kernel == SM90_DW_TILES else 4
        return Plan(numbers, dict(items=on_device(tables[:at], width),
                                  blocks=on_device(tables[at:], 3)))


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

    @staticmethod
    def request(dtype, block_size, batch, is_dw=False, feature_axis=1, gated=False, aligned=True,
                blocks=None, density=0.0, union_density=0.0, pairs=1):
        """`blocks`, unless given: such that no kernel is left out because the product is small, nor
        a cluster chosen because it is large."""
        blocks = blocks or ((1, 1) if is_dw else (1 << 23, 1))
        return TileRequest(DTYPES[dtype], block_size, feature_axis, *blocks, is_dw,
                           FLOAT32_MATH.get(dtype, 0), gated, aligned, pairs, density, union_density, batch)

    def tile_of(self, request):
        device, tile = self.device(), Tile()
        self._check(self.api.get_tile(ctypes.byref(request), ctypes.byref(device),
                                      ctypes.byref(tile)))
        return tile

    def tile(self, *args, **kwargs):
        """What `request` takes."""
        return self.tile_of(self.request(*args, **kwargs))

    def explain(self, request, device=None, assume_cublas=False):
        """A Choice, for the current device or for one that need not be here."""
        device, choice = device or self.device(), Choice()
        self._check(self.api.explain(ctypes.byref(request), ctypes.byref(device),
                                     int(assume_cublas), ctypes.byref(choice)))
        return choice

    def prepare_matmul(self, dtype, block_size, feature_axis, layout_shape, plan, x, w, y,
                       transpose=False, gate=None, bias=None, activation="none", batch=None,
                       settled=1, residual=None, max_ctas=0):
        """A function without arguments that enqueues the product, and the kernel's name."""
        blocks = layout_shape[::-1] if transpose else layout_shape
        if batch is None:
            batch = x.shape[0] if feature_axis == 1 else x.shape[1]
        args = MatmulArgs(
            dtype=DTYPES[dtype], activation=ACTIVATIONS[activation], block_size=block_size,
            feature_axis=feature_axis, transpose=int(transpose), in_blocks=blocks[0],
            out_blocks=blocks[1], float32_math=FLOAT32_MATH.get(dtype, 0), batch=batch,
            settled=settled, max_ctas=max_ctas, x=x.data_ptr(),
            w=w.data_ptr(), gate=None if gate is None else gate.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            residual=None if residual is None else residual.data_ptr(), y=y.data_ptr(),
            plan=MatmulPlan(**plan.fields()))
        args.workspace_bytes = self.api.matmul_workspace(ctypes.byref(args))
        workspace = torch.empty(max(1, min(args.workspace_bytes, 1 << 40)), dtype=torch.uint8,
                                device="cuda")
        args.workspace = workspace.data_ptr()
        keep = (x, w, y, plan, gate, bias, residual, workspace)

        def call(keep=keep):
            stream = torch.cuda.current_stream().cuda_stream
            self._check(self.api.matmul(ctypes.byref(args), stream))

        call.kernel = self.api.kernel_name(ctypes.byref(args)).decode()
        return call

    def prepare_matmul_dw(self, dtype, block_size, feature_axis, layout_shape, plan, x, dy, dw,
                          gate=None, addend=None, max_ctas=0):
        """x and dy may be lists of as many tensors."""
        xs, dys = ([t] if torch.is_tensor(t) else list(t) for t in (x, dy))
        pairs = (DwPair * len(xs))(*(
            DwPair(x.data_ptr(), dy.data_ptr(), x.shape[0] if feature_axis == 1 else x.shape[1])
            for x, dy in zip(xs, dys, strict=True)))
        args = MatmulDwArgs(
            dtype=DTYPES[dtype], out_dtype=0 if dw.dtype == torch.float32 else DTYPES[dtype],
            block_size=block_size, feature_axis=feature_axis, in_blocks=layout_shape[0],
            out_blocks=layout_shape[1], float32_math=FLOAT32_MATH.get(dtype, 0),
            max_ctas=max_ctas, num_pairs=len(pairs), pairs=pairs,
            gate=None if gate is None else gate.data_ptr(),
            addend=None if addend is None else addend.data_ptr(), dw=dw.data_ptr(),
            plan=MatmulDwPlan(**plan.fields()))
        args.workspace_bytes = self.api.matmul_dw_workspace(ctypes.byref(args))
        workspace = torch.empty(max(1, args.workspace_bytes), dtype=torch.uint8, device="cuda")
        args.workspace = workspace.data_ptr()
        keep = (xs, dys, pairs, dw, plan, gate, addend, workspace)

        def call(keep=keep):
            stream = torch.cuda.current_stream().cuda_stream
            self._check(self.api.matmul_dw(ctypes.byref(args), stream))

        return call

    def prepare_activation_grad(self, activation, feature_axis, dy, values, dz, dbias):
        """A function without arguments that enqueues dz and dbias. `dy` has rank 2."""
        names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
        features, batch = dy.shape if feature_axis == 0 else dy.shape[::-1]
        tensors = dict(dy=dy, values=values, dz=dz, dbias=dbias)
        args = ActivationGradArgs(
            dtype=names[dy.dtype], bias_dtype=names[dy.dtype if dbias is None else dbias.dtype],
            activation=ACTIVATIONS[activation], feature_axis=feature_axis, batch=batch,
            features=features,
            **{name: t.data_ptr() for name, t in tensors.items() if t is not None})
        args.workspace_bytes = self.api.activation_grad_workspace(ctypes.byref(args))
        workspace = torch.full((max(1, args.workspace_bytes),), 255, dtype=torch.uint8,
                               device="cuda")
        args.workspace = workspace.data_ptr()

        def call(keep=(tensors, workspace)):
            stream = torch.cuda.current_stream().cuda_stream
            self._check(self.api.activation_grad(ctypes.byref(args), stream))

        call.args = args
        return call

    def prepare_weights(self, w, out, gate=None):
        names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
        args = PrepareWeightsArgs(names[w.dtype], names[out.dtype], w.shape[-1], w.shape[0],
                                  w.data_ptr(), None if gate is None else gate.data_ptr(),
                                  out.data_ptr())
        stream = torch.cuda.current_stream().cuda_stream
        self._check(self.api.prepare_weights(ctypes.byref(args), stream))
