"""How long a GPU takes for all that a product asks of it, if nothing had to wait: gpu_mixture.cu.

gpu_limits.py takes each of a GPU's parts for itself, and the slowest for the limit. But tensor cores, caches and
memory draw power from one budget, and what one of them draws slows the clock of all. So what they can do together is
measured: `make limits` builds libgpu_mixture.so, which has them do as much as the product, side by side.

    python benchmarks/gpu_mixture.py [LIBRARY]

prints what a few of them take, and at what clock: docs/kernel-notes.md, "Where the time goes".
"""

import argparse
import ctypes
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import cuda_binding as cuda  # noqa: E402
import gpu_timing  # noqa: E402
from cuda_binding import torch  # noqa: E402
from gpu_traffic import Traffic  # noqa: E402

LIBRARY = ROOT / ".bazel/bin/benchmarks/libgpu_mixture.so"
PIECE = 16 << 10  # bytes that are copied at once
RING = 12  # pieces that are received at least
STEP = {"bfloat16": 16, "tf32": 8}  # inputs of a product. float16 is measured as bfloat16
GROUP = 16  # numbers of products are multiples of it


class Mixture(ctypes.Structure):
    """bsparse_mixture"""

    _fields_ = [(name, ctypes.c_int32)
                for name in ("ctas", "tf32", "products", "padding", "own", "shared", "fresh", "stored")]


def mixture_of(traffic, dtype, ctas):
    """The Mixture of a Traffic, to the nearest piece and group of products; None if there is no traffic, or mma.sync
    multiplies.

    Where clusters of more than two CTAs read less than half of what they receive, the mixture reads a half.
    """
    if traffic is None or traffic.operands:
        return None
    dtype = "tf32" if dtype == "tf32" else "bfloat16"

    def pieces(size):
        return round(size / PIECE / ctas)

    products = GROUP * max(1, round(traffic.flops / (2 * 64 * 256 * STEP[dtype]) / GROUP / (2 * ctas)))
    padding = round(products * traffic.padding / traffic.flops) if traffic.padding else 0
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
      OSError: the library is not there.
    """

    def __init__(self, path=None):
        try:
            self._library = ctypes.CDLL(str(path or LIBRARY))
        except OSError as error:
            raise OSError(f"{error}; make limits builds libgpu_mixture.so") from error
        pointer, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
        self._library.bsparse_mixture_bytes.argtypes = [pointer, size, size]
        self._library.bsparse_mixture_bytes.restype = None
        self._library.bsparse_mixture_fill.argtypes = [pointer, ctypes.c_int64, pointer]
        self._library.bsparse_mixture_run.argtypes = [pointer] * 5
        # Clusters of two find room on all of a Hopper GPU's multiprocessors.
        self._ctas = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count // 2 * 2

    def prepare(self, traffic, dtype):
        """A function without arguments that enqueues the mixture on PyTorch's current stream; None if there is none.

        Its `clocks`, int64 [2, 2] on the GPU, are cycles and nanoseconds of products and of copies, in one CTA.
        """
        mixture = mixture_of(traffic, dtype, self._ctas)
        if mixture is None:
            return None
        sizes = [ctypes.c_int64() for _ in range(2)]
        self._library.bsparse_mixture_bytes(ctypes.byref(mixture), *(ctypes.byref(size) for size in sizes))
        source, target = (torch.empty(max(1, size.value), dtype=torch.uint8, device="cuda") for size in sizes)
        clocks = torch.zeros((2, 2), dtype=torch.int64, device="cuda")
        self._check(self._library.bsparse_mixture_fill(source.data_ptr(), source.numel(), _stream()))

        def call(keep=(source, target, clocks)):
            self._check(self._library.bsparse_mixture_run(ctypes.byref(mixture), *(each.data_ptr() for each in keep),
                                                          _stream()))

        call.clocks = clocks
        return call

    @staticmethod
    def _check(error):
        if error:
            raise RuntimeError(f"libgpu_mixture.so: CUDA error {error}")


def _stream():
    return torch.cuda.current_stream().cuda_stream


# The products of blocks of 128 at 0.1 and 0.05, C = K = N = 8192, in bfloat16, and parts of what they copy.
EXAMPLES = [
    ("110 GF", Traffic(110e9, 0, 0, 0, 0, 0, 0)),
    ("1 GB out of L2", Traffic(0, 0, 0, 1e9, 1e9, 0, 0)),
    ("1 GB out of L2 to two each", Traffic(0, 0, 0, 1e9, 2e9, 0, 0)),
    ("134 MB from memory, 134 MB to it", Traffic(0, 0, 0, 134e6, 134e6, 134e6, 134e6)),
    ("110 GF, 0.5 GB out of L2", Traffic(110e9, 0, 0, 0.5e9, 0.5e9, 0, 0)),
    ("110 GF, 1 GB out of L2", Traffic(110e9, 0, 0, 1e9, 1e9, 0, 0)),
    ("110 GF, 2 GB out of L2", Traffic(110e9, 0, 0, 2e9, 2e9, 0, 0)),
    ("the same with 1 GB, and memory", Traffic(110e9, 0, 0, 1e9, 1e9, 134e6, 134e6)),
    ("128 at 0.1", Traffic(110e9, 0, 0, 1009e6, 1290e6, 148e6, 134e6)),
    ("128 at 0.1, nothing to memory", Traffic(110e9, 0, 0, 1009e6, 1290e6, 148e6, 0)),
    ("128 at 0.1, no memory", Traffic(110e9, 0, 0, 1009e6, 1290e6, 0, 0)),
    ("128 at 0.05", Traffic(55e9, 0, 0, 553e6, 645e6, 141e6, 134e6)),
    ("128 at 0.05, half of L2's", Traffic(55e9, 0, 0, 276e6, 322e6, 141e6, 134e6)),
    ("128 at 0.05, no memory", Traffic(55e9, 0, 0, 553e6, 645e6, 0, 0)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?", default=LIBRARY)
    options = parser.parse_args()
    if cuda.unavailable():
        sys.exit(cuda.unavailable())
    try:
        mixtures = Mixtures(options.library)
    except OSError as error:
        sys.exit(str(error))
    timer = gpu_timing.ColdTimer(15)
    print(f"{torch.cuda.get_device_name()}\n{'us':>40} {'GHz':>5} {'1000 cycles of products':>24} {'of copies':>10}")
    for words, traffic in EXAMPLES:
        call = mixtures.prepare(traffic, "bfloat16")
        seconds = timer(call)
        longer = max(call.clocks.tolist())
        cycles = [cycles / 1e3 for cycles, _ in call.clocks.tolist()]
        print(f"{words:33} {seconds * 1e6:6.0f} {longer[0] / longer[1]:5.2f} {cycles[0]:24.0f} {cycles[1]:10.0f}")


if __name__ == "__main__":
    main()
