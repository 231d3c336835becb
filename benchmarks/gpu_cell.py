"""One cell of the GPU benchmark: a layout, dtype and axis; its tensors, the products on them."""

import cuda_binding as cuda
import gpu_limits
import gpu_peers
import gpu_timing
import gpu_traffic
import numpy as np
from cuda_binding import torch

FAMILIES = ("sm80", "sm80 small", "sm90", "dense", "sm90 stream",
            "sm90 dw tiles", "sm90 sweep")
# Against float64, in errors of the dense product of the same precision: the package's own rule.
ALLOWED_ERROR = {"fprop": 2.0, "dx": 2.0, "dw": 3.0}


class Cell:
    """Tensors and the truth of one case (gpu_sections.Case), on the GPU."""

    def __init__(self, case, kernels, planner):
        C, K, self.batch = case.shape
        self.case, self.kernels, self.planner = case, kernels, planner
        self.layout, self.block_size = case.layout, case.block_size
        self.feature_axis, self.dtype = case.feature_axis, case.dtype
        self.blocks = int(self.layout.sum())
        self.type = cuda.torch_dtype(self.dtype)
        self.mask = torch.tensor(self.layout, device="cuda")
        torch.manual_seed(0)
        self.x = self._activations(C)
        self.dy = self._activations(K)
        blocks = (self.blocks, self.block_size, self.block_size)
        self.w = torch.randn(blocks, device="cuda").to(self.type)
        tiles = torch.zeros((*self.layout.shape, *blocks[1:]), dtype=self.type, device="cuda")
        tiles[self.mask] = self.w
        self.dense = tiles.permute(0, 2, 1, 3).reshape(C, K)
        self._truth = None, None
        self._dense_error = {}

    def _activations(self, features):
        shape = (self.batch, features) if self.feature_axis == 1 else (features, self.batch)
        return torch.randn(shape, device="cuda").to(self.type)

    def work(self, operation):
        """What the model of limits is told."""
        return gpu_limits.Work(operation, self.dtype, tuple(self.dense.shape), self.batch,
                               self.block_size, self.blocks, self.feature_axis,
                               self.case.rotates or self.case.warm, self._used_features())

    def _used_features(self):
        return tuple(int(self.layout.any(axis=other).sum()) * self.block_size for other in (1, 0))

    # The dense product, and what is right.

    def dense_operands(self, operation, dense):
        """The two matrices whose product it is; dense: [C, K]."""
        last = self.feature_axis == 1
        if operation == "dw":
            return (self.x.t(), self.dy) if last else (self.x, self.dy.t())
        source = self.x if operation == "fprop" else self.dy
        weights = dense if operation == "fprop" else dense.t()
        return (source, weights) if last else (weights.t(), source)

    def stored(self, matrix):
        """[blocks, bs, bs] of a [C, K] matrix."""
        (CB, KB), bs = self.layout.shape, self.block_size
        return matrix.reshape(CB, bs, KB, bs).permute(0, 2, 1, 3)[self.mask]

    def truth(self, operation):
        """The product in float64; the last one asked for is kept."""
        if self._truth[0] != operation:
            self._truth = None, None  # frees it before the next
            first, second = self.dense_operands(operation, self.dense)
            product = torch.mm(first.double(), second.double())
            self._truth = operation, self.stored(product) if operation == "dw" else product
        return self._truth[1]

    def error_of(self, operation, result):
        """Relative error in the Euclidean norm."""
        truth = self.truth(operation)
        return float((result.double() - truth).norm() / truth.norm())

    def dense_error(self, operation):
        """That of the dense product in the same precision."""
        if operation not in self._dense_error:
            product = torch.mm(*self.dense_operands(operation, self.dense))
            result = self.stored(product) if operation == "dw" else product
            self._dense_error[operation] = self.error_of(operation, result)
        return self._dense_error[operation]

    # Products to be timed. Each is for a set of weights of its own, or of dw a result.

    def prepare_dense(self, operation, dense):
        first, second = self.dense_operands(operation, dense)
        out = dense if operation == "dw" else torch.empty(
            (first.shape[0], second.shape[1]), dtype=self.type, device="cuda")
        return lambda: torch.mm(first, second, out=out)

    def plan(self, operation):
        """(what explain says, tile, plan)"""
        kernels, device = self.kernels, self.kernels.device()
        blocks = self.layout.shape[::-1] if operation == "dx" else self.layout.shape
        asked = dict(is_dw=operation == "dw", feature_axis=self.feature_axis, blocks=blocks,
                     density=self.layout.mean(),
                     union_density=self.planner.union_density(
                         self.layout, self.block_size, operation == "dx"))
        request = kernels.request(self.dtype, self.block_size, self.batch, **asked)
        choice, tile = kernels.explain(request), kernels.tile_of(request)
        if operation == "dw":
            plan = self.planner.matmul_dw(self.layout, self.batch, device, tile)
        else:
            plan = self.planner.matmul(self.layout, self.batch, device, tile, operation == "dx")
        return choice, tile, plan

    def prepare_ours(self, operation, plan, w):
        """(function, its result)"""
        case = (self.dtype, self.block_size, self.feature_axis, self.layout.shape, plan)
        if operation == "dw":
            return self.kernels.prepare_matmul_dw(*case, self.x, self.dy, w), w
        source, like = (self.x, self.dy) if operation == "fprop" else (self.dy, self.x)
        out = torch.full_like(like, float("nan"))
        call = self.kernels.prepare_matmul(*case, source, w, out, transpose=operation == "dx")
        return call, out

    # One row of a table.

    def measure(self, operation, timers, rates, peers=(), mixtures=None):
        """A row: plain values for a table and JSON. With a gpu_mixture.Mixtures also its time, where there is one.

        Raises:
          SystemExit: our result is wrong.
        """
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == "tf32"
        choice, tile, plan = self.plan(operation)
        w = torch.full_like(self.w, float("nan")) if operation == "dw" else self.w
        call, out = self.prepare_ours(operation, plan, w)
        call()
        error, dense_error = self.error_of(operation, out), self.dense_error(operation)
        if not error <= ALLOWED_ERROR[operation] * dense_error + 1e-7:
            raise SystemExit(f"wrong result: relative error {error:.2g}, the dense product's is "
                             f"{dense_error:.2g}, in {operation} of {self.case.title()}")
        rotating = timers.graph if self.case.rotates else timers.lasting
        in_a_row = rotating or (timers.graph if self.case.warm else None)
        timer = (lambda function: in_a_row([function])) if in_a_row else timers.cold
        if rotating is not None:
            seconds = self._rotated_seconds(operation, rotating, plan)
        else:
            dense = self.prepare_dense(operation, self.dense.clone() if operation == "dw"
                                       else self.dense)
            seconds = {"ours": timer(call), "dense": timer(dense)}
        more, refusals = gpu_peers.time_peers(peers, self, operation, timers.cold)
        entries = None
        if tile.kernel == cuda.SM90_DW_TILES:
            entries = plan.tables["items"].cpu().numpy()
        elif operation != "dw":
            entries = plan.entries(tile)
        counts = self.work(operation), tile, plan.numbers["num_items"], entries
        mixture = mixtures.prepare(gpu_traffic.traffic_of(*counts), self.dtype) if mixtures else None
        if mixture is not None:
            seconds["mixture"] = timer(mixture)
        return dict(
            section=self.case.section, layout=self.case.name, shape=self.case.shape,
            dtype=self.dtype, block_size=self.block_size, feature_axis=self.feature_axis,
            density=self.case.density, blocks=self.blocks,
            actual_density=float(self.layout.mean()), operation=operation,
            seconds={**seconds, **more}, no_answer=refusals,
            limit_seconds=gpu_limits.modelled_seconds(rates, *counts),
            relative_error=error, dense_relative_error=dense_error,
            kernel=FAMILIES[tile.kernel], kernel_name=choice.name.decode(),
            modelled_seconds=dict(sparse=choice.sparse_seconds, dense=choice.dense_seconds))

    def _rotated_seconds(self, operation, timer, plan):
        def several(weights, prepare):
            count = gpu_timing.rotated_copies(weights.numel() * weights.element_size())
            return timer([prepare(weights.clone()) for _ in range(count)])

        return {"ours": several(self.w, lambda w: self.prepare_ours(operation, plan, w)[0]),
                "dense": several(self.dense, lambda w: self.prepare_dense(operation, w))}


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(list(values)))))
