"""Which kernel serves a product on a device, and why: asked of the native libraries.

On a GPU the CUDA library chooses (cuda/choose_kernel.cu); it can also be asked about GPUs that are
not here. `bsparse_tf.plan.explain` is what users call.
"""

import ctypes
import dataclasses
import re

import numpy as np
import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import native

PRODUCTS = ("fprop", "dx", "dw")
CPU_DTYPES = ("float32", "float16", "bfloat16", "float64")
GPU_DTYPES = ("float32", "float16", "bfloat16")  # in the order of the C enumeration bsparse_dtype

# Multiprocessors of the GPU that each compute capability is best known for: A100 and H100.
SM_COUNTS = {80: 108, 90: 132}

# By the number of the C enumeration bsparse_kernel.
FAMILIES = ("sm80", "sm80 small", "sm90", "dense", "sm90 stream", "sm90 dw tiles", "sm90 sweep")

# By the numbers of bsparse_dense_reason; {sparse} and {dense} are modelled times.
_DENSE_REASONS = (
    "modelled on Hopper GPUs the sparse kernels take {sparse}, the dense matrix {dense}: sparse (dense "
    "must win clearly)",
    "modelled on Hopper GPUs the sparse kernels take {sparse}, the dense matrix {dense}: dense",
    "the dense matrix would be faster ({dense} against {sparse}, modelled on Hopper GPUs), but it is "
    "not used with a gate: a block that is switched off may hold NaN",
    "the dense matrix would be faster ({dense} against {sparse}, modelled on Hopper GPUs), but this "
    "process finds no cuBLAS",
    "the dense matrix would be faster ({dense} against {sparse}, modelled on Hopper GPUs), but cuBLAS "
    "takes batches of 1 to 2^31 - 1",
)

# By the numbers of bsparse_hopper_reason.
_HOPPER_REASONS = (
    "the Hopper family suits it: compute capability 9.0, this dtype, block size and batch",
    "not the Hopper family: that needs compute capability 9.0",
    "not the Hopper family: that is for float16, bfloat16 and TF32",
    "not the Hopper family: with TF32 its blocks are 16 and more, or 8 in large products of low density",
    "not the Hopper family: that needs activations at multiples of 16 bytes",
    "not the Hopper family: that needs a batch of at least 1, with features first a multiple of 8, with "
    "TF32 of 4",
    "not the Hopper family: with TF32 that is for streams, up to a batch of 4096, or for dense products of 2^29 "
    "multiplications and more, since smaller ones are computed more exactly otherwise",
)

# Why one of a family's kernels and not another.
_VARIANT_REASONS = {
    "sm80 small": "the small variant: a large tile would be mostly empty at this batch",
    "sm90 stream": "streams of weights: every multiprocessor takes an equal list of blocks, and all "
    "at once, as a small product asks for, which has few tiles",
    "sm90 sweep": "sweeps over x: small blocks of low density would fill tiles of several columns with zeros; "
    "here all of x passes by many output columns, and only stored blocks are multiplied",
    "sm90 dw tiles": "tiles of the layout: blocks that share inputs and outputs share their loads",
}

# Of "sm80 small" with batches that would fill larger tiles.
_SMALL_TF32_REASON = (
    "the small variant: it adds a small product's sums in TF32 outside the tensor cores, and errs less"
)

_SMALL_DW_REASON = (
    "the small variant, which all GPUs have: with so few batch entries operands go from memory to registers, "
    "as many at once as these hold"
)

_CLUSTER_REASON = (
    "in clusters of {ctas}: of multiprocessors that need the same block of x one reads it for all, "
    "which was measured to be faster for this block size and density"
)


class _Request(ctypes.Structure):  # bsparse_tile_request
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("feature_axis", ctypes.c_int32),
        ("in_blocks", ctypes.c_int32),
        ("out_blocks", ctypes.c_int32),
        ("is_dw", ctypes.c_int32),
        ("float32_math", ctypes.c_int32),
        ("gated", ctypes.c_int32),
        ("aligned", ctypes.c_int32),
        ("num_pairs", ctypes.c_int32),
        ("density", ctypes.c_float),
        ("union_density", ctypes.c_float),
        ("batch", ctypes.c_int64),
    ]


class _Device(ctypes.Structure):  # bsparse_device
    _fields_ = [("sm_count", ctypes.c_int32), ("compute_capability", ctypes.c_int32)]


class _Tile(ctypes.Structure):  # bsparse_tile
    _fields_ = [
        ("kernel", ctypes.c_int32),
        ("batch_tile", ctypes.c_int32),
        ("ctas_per_sm", ctypes.c_int32),
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


class _Choice(ctypes.Structure):  # bsparse_choice
    _fields_ = [
        ("tile", _Tile),
        ("dense_reason", ctypes.c_int32),
        ("hopper_reason", ctypes.c_int32),
        ("sparse_seconds", ctypes.c_double),
        ("dense_seconds", ctypes.c_double),
        ("name", ctypes.c_char * 64),
    ]


@dataclasses.dataclass(frozen=True)
class Tile:
    """How a GPU kernel cuts a product.

    Attributes:
      batch_tile: batch entries of an output tile; of dw: of one step of its sum.
      ctas_per_sm: tiles that one multiprocessor runs at a time (of dw: stored blocks), or None:
        only the GPU itself can tell.
      columns: output block columns of an item; of dw: blocks of one column, or of a tile, at most.
      cta_columns: of those, one multiprocessor's; several send each other the x they share.
      shared_columns: of those, so many neighbours that a missing block of one costs as much as a
        stored one; of dw: ranges of the batch, at least.
      entry_blocks, column_blocks: neighbouring blocks that an entry, and a column, are made of; of
        tiles of dw an entry is what one product computes.
      packed: whether the kernel takes weights packed in the order of their use.
      block_cells: of streams and tiles of dw: cells along each side of a block, counted as blocks.
      chunk_blocks: of tiles of dw and sweeps: blocks side by side that are loaded together.
      chunks: of those, a multiprocessor's, of inputs and of outputs, at most; of sweeps: KiB that a
        stage should have at most.
    """

    batch_tile: int
    ctas_per_sm: int | None
    columns: int
    cta_columns: int
    shared_columns: int
    entry_blocks: int
    column_blocks: int
    packed: bool
    block_cells: int
    chunk_blocks: int
    chunks: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """What serves a product, and why.

    Attributes:
      device: "cpu", or a compute capability such as "sm_90".
      sm_count: multiprocessors of the GPU; None for a CPU.
      family: "cpu", or one of `FAMILIES`.
      kernel: its name, for people.
      reasons: sentences, each one rule that decided.
      sparse_seconds, dense_seconds: of a GPU's kernels, by the model that chooses between them;
        of Hopper GPUs, whatever the device. None for a CPU, which has no such choice.
      tile: a `Tile`; None for a CPU and for the dense matrix.
    """

    device: str
    sm_count: int | None
    family: str
    kernel: str
    reasons: tuple[str, ...]
    sparse_seconds: float | None = None
    dense_seconds: float | None = None
    tile: Tile | None = None


def choose(
    matmul, batch, dtype, product, *, device=None, sm_count=None, gated=False, aligned=True,
    precision=None
):
    """A :class:`Choice`; arguments and errors are those of `bsparse_tf.plan.explain`."""
    if product not in PRODUCTS:
        raise ValueError(f"product must be one of {', '.join(PRODUCTS)}; got {product!r}")
    if isinstance(batch, bool) or int(batch) != batch or batch < 0:
        raise ValueError(f"batch must be a whole number from 0 on; got {batch!r}")
    precision = checks.precision_name(precision)
    dtype = tf.as_dtype(dtype).name
    if device is None:
        device = "gpu" if _has_gpu() else "cpu"
    capability = _capability(device)
    if device == "cpu":
        return _choose_cpu(dtype)
    if dtype not in GPU_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(GPU_DTYPES)} on a GPU; got {dtype}")
    if capability and sm_count is None:
        if capability not in SM_COUNTS:
            known = ", ".join(f"sm_{number}" for number in SM_COUNTS)
            raise ValueError(f"sm_count is needed for {device}: it is known for {known} only")
        sm_count = SM_COUNTS[capability]
    if precision == "default":
        tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
        precision = "tf32" if tf32 else "float32"
    inputs, outputs = (matmul.KB, matmul.CB) if product == "dx" else (matmul.CB, matmul.KB)
    request = _Request(
        dtype=GPU_DTYPES.index(dtype),
        block_size=matmul.block_size,
        feature_axis=matmul.feature_axis,
        in_blocks=inputs,
        out_blocks=outputs,
        is_dw=product == "dw",
        float32_math=checks.PRECISIONS.index(precision),
        gated=bool(gated),
        aligned=bool(aligned),
        num_pairs=1,
        density=matmul.density,
        union_density=_union_density(matmul, product == "dx"),
        batch=int(batch),
    )
    return _choose_gpu(request, _Device(sm_count or 0, capability))


def _union_density(matmul, transpose):
    """How full the tiles of several columns would be (cc/plan/union_density.h)."""
    function = ctypes.CDLL(native.ops_library_path()).bsparse_plan_union_density
    function.restype = ctypes.c_double
    coords = np.ascontiguousarray(matmul.coords, np.int32)
    return function(
        ctypes.c_void_p(coords.ctypes.data), ctypes.c_int64(len(coords)), ctypes.c_int32(matmul.CB),
        ctypes.c_int32(matmul.KB), ctypes.c_int32(transpose), ctypes.c_int32(matmul.block_size),
    )


def _has_gpu():
    return native.cuda_status() is None and bool(tf.config.list_physical_devices("GPU"))


def _capability(device):
    """10 * major + minor of "sm_90"; 0 of "cpu" and "gpu"."""
    if device in ("cpu", "gpu"):
        return 0
    match = re.fullmatch(r"sm_(\d{2,3})", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(
            f"device must be 'cpu', 'gpu' (the current one) or a compute capability such as "
            f"'sm_90'; got {device!r}"
        )
    return int(match[1])


def _choose_cpu(dtype):
    if dtype not in CPU_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(CPU_DTYPES)}; got {dtype}")
    function = ctypes.CDLL(native.ops_library_path()).bsparse_cpu_target
    function.restype = ctypes.c_char_p
    target = function().decode()
    summed = "float64" if dtype == "float64" else "float32"
    reasons = (
        f"{target} is the best instruction set that this machine and this build have in common",
        f"{dtype} is summed in {summed}",
        "a CPU's choices do not depend on density, batch or a gate: there is one family",
    )
    return Choice("cpu", None, "cpu", f"cpu<{target},{dtype}>", reasons)


def _choose_gpu(request, device):
    choice = _Choice()
    error = ctypes.create_string_buffer(512)
    status = ctypes.CDLL(native.ops_library_path()).bsparse_explain(
        ctypes.byref(request),
        ctypes.byref(device),
        ctypes.byref(choice),
        error,
        ctypes.c_size_t(len(error)),
    )
    if status:
        raise RuntimeError(error.value.decode())
    times = {
        "sparse": in_words(choice.sparse_seconds),
        "dense": in_words(choice.dense_seconds),
    }
    family = FAMILIES[choice.tile.kernel]
    reasons = [_DENSE_REASONS[choice.dense_reason].format(**times)]
    if family != "dense":
        reasons.append(_HOPPER_REASONS[choice.hopper_reason])
        if family == "sm80 small" and request.is_dw:
            reasons.append(_SMALL_DW_REASON)
        elif family == "sm80 small" and request.batch > choice.tile.batch_tile:
            reasons.append(_SMALL_TF32_REASON)
        elif family in _VARIANT_REASONS:
            reasons.append(_VARIANT_REASONS[family])
        ctas = choice.tile.columns // choice.tile.cta_columns
        reasons += [_CLUSTER_REASON.format(ctas=ctas)] if ctas > 1 else []
    tile = None
    if family != "dense":
        tile = Tile(
            choice.tile.batch_tile,
            choice.tile.ctas_per_sm or None,
            choice.tile.columns,
            choice.tile.cta_columns,
            choice.tile.shared_columns,
            choice.tile.entry_blocks,
            choice.tile.column_blocks,
            bool(choice.tile.packed),
            choice.tile.block_cells,
            choice.tile.chunk_blocks,
            choice.tile.chunks,
        )
    return Choice(
        f"sm_{device.compute_capability}",
        device.sm_count,
        family,
        choice.name.decode(),
        tuple(reasons),
        choice.sparse_seconds,
        choice.dense_seconds,
        tile,
    )


def in_words(seconds):
    """"12.3 us", "4.56 ms"."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
