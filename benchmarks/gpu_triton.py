"""Triton peers: what a good engineer writes in an afternoon, tuned by Triton itself.

DSD, y = x W: a program an output block column and batch tile, a dot a stored block. SDD, the weight
gradient: a program a stored block, which walks the batch.
"""

import functools

import numpy as np
from cuda_binding import torch


@functools.cache
def _kernels():
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

    @triton.autotune(
        [triton.Config({"BATCH": b}, num_warps=w, num_stages=s)
         for b, w, s in ((32, 4, 4), (64, 4, 3), (64, 4, 4), (64, 8, 3), (128, 4, 3))],
        key=["BS", "x_batch", "count"])
    @triton.jit
    def sdd(x, dy, dw, coords, batch, x_batch, x_feature, dy_batch, dy_feature, count,
            BS: tl.constexpr, BATCH: tl.constexpr):
        b = tl.program_id(0)
        inner = tl.arange(0, BS)
        inputs = (tl.load(coords + 2 * b) * BS + inner).to(tl.int64) * x_feature
        outputs = (tl.load(coords + 2 * b + 1) * BS + inner).to(tl.int64) * dy_feature
        sums = tl.zeros((BS, BS), tl.float32)
        for first in range(0, batch, BATCH):
            rows = (first + tl.arange(0, BATCH)).to(tl.int64)
            inside = rows < batch
            x_tile = tl.load(x + inputs[:, None] + rows[None, :] * x_batch, mask=inside[None, :],
                             other=0.0)
            dy_tile = tl.load(dy + rows[:, None] * dy_batch + outputs[None, :],
                              mask=inside[:, None], other=0.0)
            sums = tl.dot(x_tile, dy_tile, sums)
        tl.store(dw + b.to(tl.int64) * BS * BS + inner[:, None] * BS + inner[None, :],
                 sums.to(dw.dtype.element_ty))

    return triton, dsd, sdd


def _strides(tensor, feature_axis):
    """Of the batch and of the features."""
    return tensor.stride() if feature_axis == 1 else tensor.stride()[::-1]


def prepare_dsd(layout, block_size, feature_axis, x, w, y):
    """A function that enqueues y = x W; w in the order of np.argwhere(layout)."""
    triton, dsd, _ = _kernels()
    coords = np.argwhere(layout)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    offsets = np.searchsorted(coords[order, 1], np.arange(layout.shape[1] + 1))
    entries = np.stack([coords[order, 0], order], 1).astype(np.int32)
    offsets = torch.tensor(offsets, dtype=torch.int32, device="cuda")
    entries = torch.tensor(entries, device="cuda")
    batch = x.shape[0 if feature_axis == 1 else 1]

    def call():
        dsd[lambda meta: (layout.shape[1], triton.cdiv(batch, meta["BATCH"]))](
            x, w, y, offsets, entries, batch, *_strides(x, feature_axis),
            *_strides(y, feature_axis), len(entries), BS=block_size)

    return call


def prepare_sdd(layout, block_size, feature_axis, x, dy, dw):
    """A function that enqueues dw = xᵀ dy at the stored blocks."""
    _, _, sdd = _kernels()
    # argwhere's result lies column by column, and a tensor made of it would too.
    coords = torch.tensor(np.ascontiguousarray(np.argwhere(layout), np.int32), device="cuda")
    batch = x.shape[0 if feature_axis == 1 else 1]

    def call():
        sdd[(len(coords),)](x, dy, dw, coords, batch, *_strides(x, feature_axis),
                            *_strides(dy, feature_axis), len(coords), BS=block_size)

    return call
