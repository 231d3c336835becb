"""The layouts of the GPU benchmark, from bsparse_tf.layouts without TensorFlow."""

import functools
import importlib
import pathlib
import sys
import types

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATCH = 8  # blocks along a side of the dense patches of `clustered`


@functools.cache
def _layouts():
    """The package bsparse_tf.layouts. Its parent imports TensorFlow, so an empty one stands in."""
    stands_in = "bsparse_tf" not in sys.modules
    if stands_in:
        parent = types.ModuleType("bsparse_tf")
        parent.__path__ = [str(ROOT / "bsparse_tf")]
        sys.modules["bsparse_tf"] = parent
    try:
        return importlib.import_module("bsparse_tf.layouts")
    finally:
        if stands_in:  # whoever wants the whole package still gets it
            del sys.modules["bsparse_tf"]


def uniform(shape, blocks, seed=0):
    """Exactly `blocks` blocks, anywhere. shape: (CB, KB)."""
    layout = np.zeros(shape[0] * shape[1], bool)
    layout[np.random.default_rng(seed).permutation(layout.size)[:blocks]] = True
    return layout.reshape(shape)


def clustered(n, density, seed=0):
    """Dense patches of PATCH x PATCH blocks, then rows and columns in random order.

    Columns of a patch share all their inputs, but are not neighbours: whoever wants to use that has
    to find it.
    """
    rng = np.random.default_rng(seed)
    coarse = -(-n // PATCH)
    patches = uniform((coarse, coarse), max(1, round(density * coarse**2)), seed)
    layout = patches.repeat(PATCH, 0).repeat(PATCH, 1)[:n, :n]
    return layout[rng.permutation(n)][:, rng.permutation(n)]


FAMILIES = {
    "banded": lambda n, density: _layouts().banded(n, density=density),
    "diagonal": lambda n, density: _layouts().block_diagonal(n, density=density),
    "clustered": clustered,
    "ba": lambda n, density: _layouts().barabasi_albert(n, density=density),
    "ws": lambda n, density: _layouts().watts_strogatz(n, density=density),
    "dense": lambda n, density: np.ones((n, n), bool),
}


def structured(name, n, density):
    """Bool [n, n] of a family, as near to `density` as its parameter allows."""
    return FAMILIES[name](n, density)
