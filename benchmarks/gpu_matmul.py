"""The CUDA kernels beside cuBLAS on the dense matrix, PyTorch's BSR and a plain Triton kernel.

Needs PyTorch, Triton and the built libraries, no TensorFlow:

    python benchmarks/gpu_matmul.py --shapes 4096x4096x8192 12288x12288x2048 --output results.json

Every figure is the median of GPU times between events, each after a write that turns over the L2
cache and hides the host's launch; inputs are random. TF/s counts useful operations: those of the
stored blocks. Each timed result is first compared with the dense product.

`limit` is a model, in useful TF/s: the slowest of the tensor cores, L2 reads of what the plan
loads, and every byte once through DRAM. For the Hopper kernels that is the x tile of an entry once
for all columns of an item, and products padded to 64 outputs; for the others both operands of
every block, at the rate that sharing neighbours see; for the dense product cuBLAS's rate.
"""

import argparse
import datetime
import itertools
import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import cuda_binding as cuda  # noqa: E402

# Measured on an H100 SXM: the bare rate of mma.sync, L2 reads that two neighbours share, and DRAM.
MMA_RATE = {"bfloat16": 620e12, "float16": 620e12, "tf32": 310e12, "float32": 55e12}
WGMMA_RATE = 800e12
L2_RATE = 7.6e12  # distinct lines
L2_SHARED_RATE = 14e12
DRAM_RATE = 3.0e12
FAMILIES = ("sm80", "sm80 small", "sm90", "sm90 small", "sm90 pair", "dense")
TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3, "tf32": 2e-3, "float32": 1e-5}


class Timer:
    def __init__(self, repeats):
        self.repeats = repeats
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def __call__(self, function, repeats=None):
        """Median seconds of one call."""
        function()
        pairs = []
        for _ in range(repeats or self.repeats):
            self.flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return float(np.median([start.elapsed_time(end) for start, end in pairs])) * 1e-3


def random_layout(blocks, density, seed=0):
    """Bool [CB, KB] with exactly round(density * CB * KB) blocks."""
    rng = np.random.default_rng(seed)
    layout = np.zeros(blocks[0] * blocks[1], bool)
    layout[rng.permutation(layout.size)[:max(1, round(density * layout.size))]] = True
    return layout.reshape(blocks)


def modelled_limit(cell, operation, tile, plan):
    """Seconds that a product cannot beat: see the module's docstring."""
    bs, batch = cell.block_size, cell.batch
    size = cell.w.element_size()
    weights = cell.blocks * bs**2
    tiles = 1 if operation == "dw" else -(-batch // tile.batch_tile)
    dram = (batch * sum(cell.dense.shape) + weights) * size / DRAM_RATE
    if tile.kernel == cuda.DENSE:
        rate = WGMMA_RATE if size == 2 else MMA_RATE[cell.dtype]
        return max(cell.flops / cell.layout.mean() / rate, dram)
    if tile.kernel < cuda.SM90:
        if operation == "dw":
            l2 = cell.blocks * batch * bs * size  # neighbours share one of the two operands
        else:
            l2 = cell.blocks * tiles * (tile.batch_tile * bs + bs**2) * size
        return max(cell.flops / MMA_RATE[cell.dtype], l2 / L2_SHARED_RATE, dram)
    if operation == "dw":
        multiplied = cell.flops
        l2 = (cell.blocks + plan.numbers["num_items"]) * batch * bs * size
    else:
        # Of each entry, the groups of columns that share a product and have a block.
        stored = plan.tables["entries"][:, 1:1 + tile.columns].reshape(-1, tile.shared_columns)
        products = int((stored >= 0).any(dim=1).sum())
        multiplied = 2.0 * products * bs * tile.shared_columns * bs * batch
        l2 = (plan.numbers["num_entries"] * batch * bs + weights * tiles) * size
    return max(multiplied / WGMMA_RATE, l2 / L2_RATE, dram)


def triton_kernel():
    """What a good engineer writes in an afternoon: a program an output block, a dot a block."""
    import triton
    import triton.language as tl

    @triton.autotune(
        [triton.Config({"BATCH": b}, num_warps=w, num_stages=s)
         for b, w, s in ((64, 4, 4), (128, 4, 3), (128, 4, 4), (128, 8, 3), (256, 8, 3))],
        key=["BS", "x_batch", "count"])
    @triton.jit
    def dsd(x, w, y, offsets, entries, batch, x_batch, x_feature, y_batch, y_feature, count,
            BS: tl.constexpr, BATCH: tl.constexpr):
        k = tl.program_id(0)
        rows = tl.program_id(1) * BATCH + tl.arange(0, BATCH)
        inner = tl.arange(0, BS)
        inside = rows[:, None] < batch
        sums = tl.zeros((BATCH, BS), tl.float32)
        for e in range(tl.load(offsets + k), tl.load(offsets + k + 1)):
            c = tl.load(entries + 2 * e)
            b = tl.load(entries + 2 * e + 1)
            x_tile = tl.load(x + rows[:, None].to(tl.int64) * x_batch
                             + (c * BS + inner).to(tl.int64)[None, :] * x_feature, mask=inside)
            w_tile = tl.load(w + b.to(tl.int64) * BS * BS + inner[:, None] * BS + inner[None, :])
            sums = tl.dot(x_tile, w_tile, sums)
        tl.store(y + rows[:, None].to(tl.int64) * y_batch
                 + (k * BS + inner).to(tl.int64)[None, :] * y_feature,
                 sums.to(y.dtype.element_ty), mask=inside)

    def prepare(layout, block_size, feature_axis, x, w, y):
        coords = np.argwhere(layout)
        order = np.lexsort((coords[:, 0], coords[:, 1]))
        offsets = np.searchsorted(coords[order, 1], np.arange(layout.shape[1] + 1))
        entries = np.stack([coords[order, 0], order], 1).astype(np.int32)
        offsets = torch.tensor(offsets, dtype=torch.int32, device="cuda")
        entries = torch.tensor(entries, device="cuda")
        at = (1, 0) if feature_axis == 0 else (0, 1)
        batch = x.shape[at[0]]

        def call():
            dsd[lambda meta: (layout.shape[1], triton.cdiv(batch, meta["BATCH"]))](
                x, w, y, offsets, entries, batch, x.stride(at[0]), x.stride(at[1]),
                y.stride(at[0]), y.stride(at[1]), len(entries), BS=block_size)

        return call

    return prepare


def torch_bsr(dense, block_size, feature_axis, x, y, timer):
    """PyTorch's BSR product at the best of a grid of its parameters; None where it has none."""
    from torch.sparse._triton_ops import bsr_dense_addmm

    bsr = dense.t().contiguous().to_sparse_bsr((block_size, block_size))
    x, y = (x.t(), y.t()) if feature_axis == 1 else (x, y)
    best = None
    for width, stages, warps in itertools.product((64, 128), (1, 4), (4,)):
        if x.shape[1] % width:
            continue
        meta = dict(SPLIT_N=x.shape[1] // width, GROUP_SIZE_ROW=4, num_stages=stages,
                    num_warps=warps)
        try:
            seconds = timer(lambda: bsr_dense_addmm(y, bsr, x, beta=0, alpha=1, out=y, meta=meta),
                            repeats=5)
        except Exception:  # a configuration that does not fit this GPU
            continue
        best = seconds if best is None else min(best, seconds)
    return best


class Cell:
    """One layout, dtype and axis: tensors, and the products timed on them."""

    def __init__(self, kernels, planner, timer, shape, block_size, density, feature_axis, dtype):
        C, K, batch = shape
        self.kernels, self.planner, self.timer = kernels, planner, timer
        self.block_size, self.feature_axis, self.dtype, self.batch = (
            block_size, feature_axis, dtype, batch)
        self.layout = random_layout((C // block_size, K // block_size), density)
        self.blocks = int(self.layout.sum())
        self.type = cuda.torch_dtype(dtype)
        torch.manual_seed(0)
        self.x = self.activations(C)
        self.dy = self.activations(K)
        self.w = torch.randn((self.blocks, block_size, block_size), device="cuda").to(self.type)
        mask = torch.tensor(self.layout, device="cuda")
        dense = torch.zeros((*self.layout.shape, block_size, block_size), dtype=self.type,
                            device="cuda")
        dense[mask] = self.w
        self.dense = dense.permute(0, 2, 1, 3).reshape(C, K)
        self.flops = 2.0 * self.blocks * block_size**2 * batch

    def activations(self, features):
        shape = (self.batch, features) if self.feature_axis == 1 else (features, self.batch)
        return torch.randn(shape, device="cuda").to(self.type)

    def dense_product(self, operation):
        """(function, its result) of cuBLAS."""
        first, second = self.feature_axis == 1, None
        if operation == "dw":
            first, second = (self.x.t(), self.dy) if first else (self.x, self.dy.t())
        else:
            source = self.x if operation == "fprop" else self.dy
            weights = self.dense if operation == "fprop" else self.dense.t()
            first, second = (source, weights) if first else (weights.t(), source)
        out = torch.mm(first, second)
        return lambda: torch.mm(first, second, out=out), out

    def ours(self, operation):
        """(function, its result, tile, plan)"""
        device = self.kernels.device()
        tile = self.kernels.tile(self.dtype, self.block_size, self.batch, operation == "dw",
                                 self.feature_axis, blocks=self.layout.shape,
                                 density=self.layout.mean())
        if operation == "dw":
            plan = self.planner.matmul_dw(self.layout, self.batch, device, tile)
            out = torch.full_like(self.w, float("nan"))
            call = self.kernels.prepare_matmul_dw(self.dtype, self.block_size, self.feature_axis,
                                                  self.layout.shape, plan, self.x, self.dy, out)
            return call, out, tile, plan
        transpose = operation == "dx"
        source, like = (self.dy, self.x) if transpose else (self.x, self.dy)
        out = torch.full_like(like, float("nan"))
        plan = self.planner.matmul(self.layout, self.batch, device, tile, transpose)
        call = self.kernels.prepare_matmul(self.dtype, self.block_size, self.feature_axis,
                                           self.layout.shape, plan, source, self.w, out, transpose)
        return call, out, tile, plan

    def measure(self, operation, peers):
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == "tf32"
        dense_call, dense_out = self.dense_product(operation)
        call, out, tile, plan = self.ours(operation)
        call()
        if operation == "dw":
            bs = self.block_size
            grid = dense_out.reshape(self.layout.shape[0], bs, self.layout.shape[1], bs)
            wanted = grid.permute(0, 2, 1, 3)[torch.tensor(self.layout, device="cuda")]
        else:
            wanted = dense_out
        error = float((out.float() - wanted.float()).norm() / wanted.float().norm())
        if not error < TOLERANCE[self.dtype]:
            raise SystemExit(f"wrong result: relative error {error:.2g} in {operation} of "
                             f"block {self.block_size} axis {self.feature_axis} {self.dtype}")
        seconds = {"ours": self.timer(call), "dense": self.timer(dense_call)}
        if peers and operation == "fprop" and self.block_size >= 16:
            peer_out = torch.empty_like(out)
            triton = peers(self.layout, self.block_size, self.feature_axis, self.x, self.w,
                           peer_out)
            seconds["triton"] = self.timer(triton)
            seconds["torch_bsr"] = torch_bsr(self.dense, self.block_size, self.feature_axis,
                                             self.x, peer_out, self.timer)
        limit = modelled_limit(self, operation, tile, plan)
        return seconds, limit, error, FAMILIES[tile.kernel]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4096x4096x8192", "12288x12288x2048"],
                        help="CxKxN")
    parser.add_argument("--block-sizes", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--densities", nargs="+", type=float, default=[1.0, 0.5, 0.1])
    parser.add_argument("--axes", nargs="+", type=int, default=[1, 0])
    parser.add_argument("--operations", nargs="+", default=["fprop", "dx", "dw"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--peers", action="store_true", help="time Triton and torch BSR too")
    parser.add_argument("--library", help="libbsparse_cuda.so to time")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    if cuda.unavailable():
        sys.exit(cuda.unavailable())
    kernels = cuda.Kernels(options.library)
    planner = cuda.Planner()
    timer = Timer(options.repeats)
    peers = triton_kernel() if options.peers else None
    rows = []
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, "
          f"{datetime.date.today()}; useful TF/s; 'x dense' is speed over cuBLAS")
    print(f"{'C x K x N':>18} {'dtype':>8} {'bs':>3} {'ax':>2} {'d':>5} {'op':>5} {'ours':>6} "
          f"{'limit':>6} {'x dense':>7} {'1/d':>5} {'dense':>6} {'triton':>6} {'bsr':>6}  kernel")
    for shape_name, dtype, block_size, axis, density in itertools.product(
            options.shapes, options.dtypes, options.block_sizes, options.axes, options.densities):
        shape = tuple(int(n) for n in shape_name.split("x"))
        cell = Cell(kernels, planner, timer, shape, block_size, density, axis, dtype)
        for operation in options.operations:
            seconds, limit, error, family = cell.measure(operation, peers)
            rate = {name: cell.flops / s * 1e-12 if s else None for name, s in seconds.items()}
            dense_rate = 2e-12 * np.prod(shape) / seconds["dense"]
            show = ["     -" if rate.get(name) is None else f"{rate[name]:6.0f}"
                    for name in ("triton", "torch_bsr")]
            print(f"{shape_name:>18} {dtype:>8} {block_size:3d} {axis:2d} {density:5.2f} "
                  f"{operation:>5} {rate['ours']:6.0f} {cell.flops / limit * 1e-12:6.0f} "
                  f"{seconds['dense'] / seconds['ours']:7.2f} {1 / density:5.1f} "
                  f"{dense_rate:6.0f} {' '.join(show)}  {family}", flush=True)
            rows.append(dict(shape=shape, dtype=dtype, block_size=block_size, feature_axis=axis,
                             density=density, operation=operation, seconds=seconds,
                             limit_seconds=limit, relative_error=error, kernel=family))
        del cell
    if options.output:
        report = dict(device=torch.cuda.get_device_name(), torch=torch.__version__,
                      date=str(datetime.date.today()), repeats=options.repeats,
                      method="median of event times, L2 turned over before each", rows=rows)
        pathlib.Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
