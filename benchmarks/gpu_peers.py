"""The products that ours are compared with, beside the dense one: Triton, PyTorch's BSR, cuSPARSE.

A peer either gives a time, checked against float64 like ours, or a sentence that says why not.
"""

import itertools

import gpu_cusparse
import gpu_triton
from cuda_binding import torch

SMALLEST_TRITON_BLOCK = 16  # of tl.dot, and so of PyTorch's BSR
WORST = 4.0  # times the dense product's error; beyond that a result is wrong, not rounded


class NoAnswer(RuntimeError):
    """Why a peer has no product for this cell."""


def time_triton(cell, operation, timer):
    """Seconds of the product in Triton. Raises NoAnswer."""
    if operation == "dx":
        raise NoAnswer("not written: fprop of the transposed layout")
    if cell.block_size < SMALLEST_TRITON_BLOCK:
        raise NoAnswer("tl.dot starts at 16")
    case = (cell.layout, cell.block_size, cell.feature_axis)
    if operation == "dw":
        out = torch.empty_like(cell.w)
        call = gpu_triton.prepare_sdd(*case, cell.x, cell.dy, out)
    else:
        out = torch.empty_like(cell.dy)
        call = gpu_triton.prepare_dsd(*case, cell.x, cell.w, out)
    return _checked(cell, operation, call, out, timer)


def time_torch_bsr(cell, operation, timer):
    """Seconds of PyTorch's BSR product at the best of a grid of its parameters. Raises NoAnswer."""
    if operation != "fprop":
        raise NoAnswer("no transposed product; its SDD is not timed")
    if cell.block_size < SMALLEST_TRITON_BLOCK:
        raise NoAnswer("blocks start at 16")
    from torch.sparse._triton_ops import bsr_dense_addmm

    bsr = cell.dense.t().contiguous().to_sparse_bsr((cell.block_size, cell.block_size))
    out = torch.empty_like(cell.dy)
    x, y = (cell.x.t(), out.t()) if cell.feature_axis == 1 else (cell.x, out)
    best, refusal = None, "no parameters fit the batch"
    for width, stages, warps in itertools.product((64, 128, 256), (1, 4), (4, 8)):
        if x.shape[1] % width or (width, warps) == (64, 8):
            continue
        meta = dict(SPLIT_N=x.shape[1] // width, GROUP_SIZE_ROW=4, num_stages=stages,
                    num_warps=warps)

        def call(meta=meta):
            bsr_dense_addmm(y, bsr, x, beta=0, alpha=1, out=y, meta=meta)

        try:
            seconds = timer(call, repeats=5)
        except Exception as error:  # Triton's own classes: parameters that do not fit this GPU
            refusal = _sentence(error)
            continue
        if best is None or seconds < best[0]:
            best = (seconds, call)
    if best is None:
        raise NoAnswer(refusal)
    return _checked(cell, operation, best[1], out, timer)


def time_cusparse(cell, operation, timer):
    """Seconds of cusparseSpMM on a BSR matrix. Raises NoAnswer."""
    if operation != "fprop":
        raise NoAnswer("no transposed BSR product")
    out = torch.empty_like(cell.dy)
    try:
        with gpu_cusparse.bsr_product(cell.layout, cell.block_size, cell.feature_axis, cell.dtype,
                                      cell.x, cell.w, out) as call:
            return _checked(cell, operation, call, out, timer)
    except gpu_cusparse.Refused as refusal:
        raise NoAnswer(str(refusal)) from refusal


PEERS = {"triton": time_triton, "torch_bsr": time_torch_bsr, "cusparse": time_cusparse}


def time_peers(names, cell, operation, timer):
    """(seconds by name, sentences by the names of those that gave none)"""
    seconds, refusals = {}, {}
    for name in names:
        try:
            seconds[name] = PEERS[name](cell, operation, timer)
        except NoAnswer as refusal:
            refusals[name] = str(refusal)
        except Exception as error:  # a peer's failure must not end the run, and is shown
            refusals[name] = _sentence(error)
    return seconds, refusals


def _checked(cell, operation, call, out, timer):
    out.fill_(float("nan"))
    call()
    error = cell.error_of(operation, out)
    if not error < WORST * cell.dense_error(operation):
        raise NoAnswer(f"wrong result, relative error {error:.2g}")
    return timer(call)


def _sentence(error):
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"
