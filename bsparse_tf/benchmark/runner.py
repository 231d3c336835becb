"""Runs cells: builds the data, checks every contender's answer, then times them."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from bsparse_tf.benchmark import contenders, timing
from bsparse_tf.benchmark.cells import Cell
from bsparse_tf.benchmark.problem import Problem, make_problem

# Our error may be this many times that of the dense product in the same precision (as in the
# tests), and float32's epsilon more.
ERROR_LIMIT = {"fprop": 2.0, "dx": 3.0, "dw": 3.0}
PEERS = ("tf.sparse", "scipy")
# Above this density the peers need seconds for one product and tell nothing new.
MAX_PEER_DENSITY = 0.25


@dataclasses.dataclass
class Result:
    """What one cell showed. Times are seconds of one product; errors are the largest absolute
    difference from float64, divided by the largest absolute value of the answer."""

    cell: Cell
    blocks: int
    density: float
    useful_flops: float
    ours: timing.Times
    dense: timing.Times
    ratio: float  # dense time / our time, median of paired windows
    peers: dict[str, timing.Times]
    error: float
    dense_error: float
    correct: bool

    @property
    def ideal(self) -> float:
        return 1 / self.density

    @property
    def gflops(self) -> float:
        """Useful floating-point operations a nanosecond, from the median time."""
        return self.useful_flops / self.ours.median / 1e9

    def to_json(self) -> dict:
        return {
            **dataclasses.asdict(self.cell),
            "blocks": self.blocks,
            "actual_density": self.density,
            "ours_ms": self.ours.median * 1e3,
            "ours_best_ms": self.ours.best * 1e3,
            "dense_ms": self.dense.median * 1e3,
            "dense_best_ms": self.dense.best * 1e3,
            "ratio_to_dense": self.ratio,
            "ideal_ratio": self.ideal,
            "useful_gflops": self.gflops,
            **{f"{name}_ms": times.best * 1e3 for name, times in self.peers.items()},
            "error": self.error,
            "dense_error": self.dense_error,
            "correct": self.correct,
        }


def relative_error(answer: np.ndarray, truth: np.ndarray) -> float:
    if answer.shape != truth.shape:
        raise ValueError(f"a contender gave shape {answer.shape}, expected {truth.shape}")
    scale = np.abs(truth).max()
    return float(np.abs(answer.astype(np.float64) - truth).max() / scale)


def _check_peer(name: str, problem: Problem, contender: contenders.Contender) -> None:
    error = relative_error(contender.answer(), problem.truth)
    if not error < 1e-4:
        raise RuntimeError(f"{name} computes something else in {problem.cell}: error {error:.1e}")


@contenders.only_as_written()
def run_cell(cell: Cell, rounds: int = 9, window_seconds: float = 0.02,
             peers: Iterable[str] = PEERS) -> Result:
    """Times one cell. `rounds` windows of about `window_seconds` for ours and dense each."""
    problem = make_problem(cell)
    our, dense = contenders.ours(problem), contenders.dense(problem)
    error = relative_error(our.answer(), problem.truth)
    dense_error = relative_error(dense.answer(), problem.truth)
    # One rounding step is always allowed: where most of its terms are zero, dense is nearly exact.
    limit = ERROR_LIMIT[cell.direction] * dense_error + float(np.finfo(np.float32).eps)
    correct = error <= limit

    our_times, dense_times = timing.time_interleaved([our, dense], rounds, window_seconds)
    peer_times = {}
    if problem.density <= MAX_PEER_DENSITY * 1.01:
        makers = {"tf.sparse": contenders.tf_sparse, "scipy": contenders.scipy_bsr}
        for name in peers:
            contender = makers[name](problem)
            if contender is not None:
                _check_peer(name, problem, contender)
                peer_times[name] = timing.time_slow(contender)
    return Result(cell, problem.blocks, problem.density, problem.useful_flops, our_times,
                  dense_times, timing.paired_ratio(dense_times, our_times), peer_times, error,
                  dense_error, correct)


def run_cells(cells: Iterable[Cell], report: Callable[[Result], None] | None = None,
              **options) -> list[Result]:
    """Runs all cells, calling `report` after each; `options` go to `run_cell`."""
    results = []
    for cell in cells:
        results.append(run_cell(cell, **options))
        if report is not None:
            report(results[-1])
    return results
