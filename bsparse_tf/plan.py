"""What would run for a product on a device, why, and how its work would be cut.

`explain` says it in words; the plans themselves are those of `bsparse_tf.gpu_plans`.
"""

import dataclasses

import tensorflow as tf

from bsparse_tf import choice as choices
from bsparse_tf import gpu_plans
from bsparse_tf.gpu_plans import MatmulDwPlan, MatmulPlan, StreamPlan, SweepPlan


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What serves a product, why, and how its work is cut; `str` of it is a text to read.

    Attributes:
      subject: the product in words.
      choice: a `bsparse_tf.choice.Choice`: kernel, family, tile, modelled times, reasons.
      plan: a :class:`MatmulPlan`, a :class:`StreamPlan` or a :class:`SweepPlan`, of dw a
        :class:`MatmulDwPlan`; None where nothing is cut ahead: on a CPU, for the dense matrix, for an
        empty batch.
    """

    subject: str
    choice: choices.Choice
    plan: MatmulPlan | StreamPlan | SweepPlan | MatmulDwPlan | None

    def __str__(self):
        choice = self.choice
        where = "a CPU" if choice.sm_count is None else (
            f"{choice.device} with {choice.sm_count} multiprocessors"
        )
        lines = [f"{self.subject}, on {where}", f"kernel: {choice.kernel} ({choice.family})"]
        if choice.tile is not None:
            tile, per_sm = choice.tile, choice.tile.ctas_per_sm or "unknown"
            lines.append(
                f"tile: {tile.batch_tile} along the batch, {tile.columns} block columns; on a "
                f"multiprocessor at a time: {per_sm}"
            )
        lines += ["why:", *(f"  - {reason}" for reason in choice.reasons)]
        if self.plan is not None:
            lines += ["work:", *(f"  {line}" for line in self.plan.explain().splitlines())]
        return "\n".join(lines)


def explain(
    matmul,
    batch,
    dtype="float32",
    product="fprop",
    *,
    device=None,
    sm_count=None,
    gated=False,
    aligned=True,
    precision=None,
):
    """Which kernel and tile serve a product of `matmul`, and why.

        print(bsparse_tf.plan.explain(matmul, batch=8192, dtype="bfloat16", device="sm_90"))

    Args:
      matmul: a `BlocksparseMatMul`.
      batch: N, the number of batch entries in all.
      dtype: of the activations: float32, float16, bfloat16, or float64 on a CPU.
      product: "fprop" (y = x W), "dx" (dx = dy W^T) or "dw" (the weight gradient).
      device: "cpu", "gpu" (the current one), or a compute capability such as "sm_90" of a GPU
        that need not be here and is taken to have cuBLAS. By default the GPU if there is one with
        kernels for it, else the CPU.
      sm_count: multiprocessors of the GPU named by a compute capability; by default an A100's for
        "sm_80" and an H100's for "sm_90".
      gated: whether a gate is given.
      aligned: whether activations lie at multiples of 16 bytes, as tensors of their own do.
      precision: how a GPU multiplies float32 numbers, as of `bsparse_tf.ops.matmul`.

    Returns:
      An :class:`Explanation`.

    Raises:
      ValueError: an argument that makes no sense, or a dtype without kernels on the device.
      RuntimeError: there is no CUDA library or no GPU to ask, or none of its kernels run on it.
    """
    made = choices.choose(
        matmul,
        batch,
        dtype,
        product,
        device=device,
        sm_count=sm_count,
        gated=gated,
        aligned=aligned,
        precision=precision,
    )
    C, K = (matmul.K, matmul.C) if product == "dx" else (matmul.C, matmul.K)
    subject = (
        f"{product} of {C} -> {K}, block size {matmul.block_size}, density {matmul.density:.3g}, "
        f"features {'last' if matmul.feature_axis == 1 else 'first'}, batch {batch}, "
        f"{tf.as_dtype(dtype).name}{', gated' if gated else ''}"
    )
    return Explanation(subject, made, _plan_of(matmul, batch, product, made))


def _plan_of(matmul, batch, product, made):
    """The plan that fits a Choice, or None."""
    if made.tile is None or batch == 0:
        return None
    # Hopper's kernels fill a multiprocessor.
    ctas_per_sm = 1 if made.family.startswith("sm90") else gpu_plans.DEFAULT_CTAS_PER_SM
    options = dict(
        sm_count=made.sm_count,
        batch_tile=made.tile.batch_tile,
        ctas_per_sm=made.tile.ctas_per_sm or ctas_per_sm,
    )
    layout = (matmul.coords, matmul.CB, matmul.KB, batch)
    tile = made.tile
    if made.family == gpu_plans.DW_TILES:
        return gpu_plans.dw_tiles_plan(*layout, chunk_blocks=tile.chunk_blocks, chunks=tile.chunks,
                                       block_cells=tile.block_cells, entry_blocks=tile.entry_blocks,
                                       cta_blocks=tile.cta_columns,
                                       ctas=tile.columns // tile.cta_columns, **options)
    if product == "dw":
        return gpu_plans.matmul_dw_plan(*layout, columns=tile.columns,
                                        least_splits=tile.shared_columns, **options)
    options["transpose"] = product == "dx"
    if made.family == gpu_plans.STREAM:
        return gpu_plans.stream_plan(*layout, entry_blocks=tile.entry_blocks,
                                     block_cells=tile.block_cells, **options)
    if made.family == gpu_plans.SWEEP:
        return gpu_plans.sweep_plan(*layout, columns=tile.columns, cta_columns=tile.cta_columns,
                                    chunk_blocks=tile.chunk_blocks, chunks=tile.chunks,
                                    column_blocks=tile.column_blocks, **options)
    return gpu_plans.matmul_plan(*layout, family=made.family, columns=tile.columns,
                                 cta_columns=tile.cta_columns, shared_columns=tile.shared_columns,
                                 entry_blocks=tile.entry_blocks,
                                 column_blocks=tile.column_blocks, packed=tile.packed, **options)
