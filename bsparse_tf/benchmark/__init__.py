"""Times block-sparse products beside their peers: dense, tf.sparse and SciPy's BSR.

`python -m bsparse_tf bench` and `benchmarks/matmul.py` are thin entries to `run_cells`.
"""

from bsparse_tf.benchmark.cells import Cell, DIRECTIONS, DTYPES, grid
from bsparse_tf.benchmark.machine import describe_machine
from bsparse_tf.benchmark.runner import PEERS, Result, run_cell, run_cells

__all__ = [
    "Cell",
    "DIRECTIONS",
    "DTYPES",
    "PEERS",
    "Result",
    "describe_machine",
    "grid",
    "run_cell",
    "run_cells",
]
