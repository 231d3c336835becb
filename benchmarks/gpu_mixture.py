"""How long a GPU takes for all that a product asks of it, if nothing had to wait: gpu_mixture.cu.

gpu_limits.py takes each of a GPU's parts for itself, and the slowest for the limit. But tensor cores, caches and
memory draw power from one budget, and what one of them draws slows the clock of all. So what they can do together is
measured: `make limits` builds libgpu_mixture.so, which has them do as much as the product, side by side.
"""

import ctypes
import pathlib

from cuda_binding import torch

LIBRARY = pathlib.Path(__file__).resolve().parent.parent / ".bazel/bin/benchmarks/libgpu_mixture.so"
PIECE = 16 << 10  # bytes that are copied at once
RING = 12  # pieces that are received at least
STEP = {"bfloat16": 16, "tf32": 8}  # inputs of a product. float16 is measured as bfloat16
GROUP = 16  # numbers of products are multiples of it


class Mixture(ctypes.Structure):
    """bsparse_mixture"""

    _fields_ = [(name, ctypes.c_int32)
                for name in ("ctas", "tf32", "products", "padding", "own", "shared", "fresh", "stored")]


def mixture_of(traffic, dtype, ctas):
    """The Mixture of a gpu_traffic.Traffic, to the nearest piece and group of products; None if mma.sync multiplies.

    Where clusters of more than two CTAs read less than half of what they receive, the mixture reads a half.
    """
    if traffic.operands:
        return None
    dtype = "tf32" if dtype == "tf32" else "bfloat16"

    def pieces(size):
        return round(size / PIECE / ctas)

    products = GROUP * max(1, round(traffic.flops / (2 * 64 * 256 * STEP[dtype]) / GROUP / (2 * ctas)))
    padding = round(products * traffic.padding / traffic.flops)
    shared = min(pieces(2 * (traffic.delivered - traffic.read)), pieces(traffic.delivered))
    own = pieces(traffic.delivered) - shared
    stored = pieces(traffic.stored)
    received = max(RING, own + shared, stored)
    own = received - shared
    # Of a piece that a pair shares each reads a half.
    fresh = min(received, round(pieces(traffic.fetched) * received / (own + shared / 2)))
    return Mixture(ctas=ctas, tf32=int(dtype == "tf32"), products=products, padding=padding, own=own, shared=shared,
                   fresh=fresh, stored=stored)


class Mixtures:
    """libgpu_mixture.so on the current GPU.

    Raises:
      OSError: the library is not there; `make limits` builds it.
    """

    def __init__(self, path=None):
        self._library = ctypes.CDLL(str(path or LIBRARY))
        pointer, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
        self._library.bsparse_mixture_bytes.argtypes = [pointer, size, size]
        self._library.bsparse_mixture_bytes.restype = None
        self._library.bsparse_mixture_fill.argtypes = [pointer, ctypes.c_int64, pointer]
        self._library.bsparse_mixture_run.argtypes = [pointer] * 5
        # Clusters of two find room on all of a Hopper GPU's multiprocessors.
        self._ctas = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count // 2 * 2

    def prepare(self, traffic, dtype):
        """A function without arguments that enqueues the mixture on PyTorch's current stream; None if there is none."""
        mixture = mixture_of(traffic, dtype, self._ctas)
        if mixture is None:
            return None
        sizes = [ctypes.c_int64() for _ in range(2)]
        self._library.bsparse_mixture_bytes(ctypes.byref(mixture), *(ctypes.byref(size) for size in sizes))
        source, target = (torch.empty(max(1, size.value), dtype=torch.uint8, device="cuda") for size in sizes)
        unused = torch.zeros(1, device="cuda")
        self._check(self._library.bsparse_mixture_fill(source.data_ptr(), source.numel(), _stream()))

        def call(keep=(source, target, unused)):
            self._check(self._library.bsparse_mixture_run(ctypes.byref(mixture), *(each.data_ptr() for each in keep),
                                                          _stream()))

        return call

    @staticmethod
    def _check(error):
        if error:
            raise RuntimeError(f"libgpu_mixture.so: CUDA error {error}")


def _stream():
    return torch.cuda.current_stream().cuda_stream
