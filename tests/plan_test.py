"""Plan inspection from Python; the planner itself is tested in cc/plan."""

import pathlib
import re

import numpy as np
import problems
import pytest
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, choice, gpu_plans, layouts, native, plan

HEADER = pathlib.Path(__file__).resolve().parent.parent / "cuda" / "bsparse_cuda.h"
needs_cuda_library = pytest.mark.skipif(
    native.cuda_status() is not None, reason=str(native.cuda_status())
)


def test_plan_of_a_scale_free_layout_splits_its_hubs():
    layout = layouts.barabasi_albert(200, m=4, seed=0)
    coords = np.argwhere(layout).astype(np.int32)
    found = gpu_plans.matmul_plan(coords, 200, 200, batch=64)
    np.testing.assert_array_equal(np.sort(found.entries[:, 1]), np.arange(len(coords)))
    degree = layout.sum(0)
    length = found.items[:, 2] - found.items[:, 1]
    assert length.sum() == len(coords)
    assert length.max() < degree.max()
    assert degree[found.splits[:, 0]].min() >= length.max()
    assert 1 <= found.balance < 1.5
    assert "groups split" in found.explain()


def test_more_multiprocessors_cut_finer():
    coords = np.argwhere(np.ones((64, 8), bool)).astype(np.int32)
    small = gpu_plans.matmul_plan(coords, 64, 8, batch=64, sm_count=4)
    large = gpu_plans.matmul_plan(coords, 64, 8, batch=64, sm_count=132)
    assert large.tiles > small.tiles


def test_transposed_plan_is_by_input_column():
    coords = np.int32([[0, 0], [0, 1], [1, 1]])
    found = gpu_plans.matmul_plan(coords, 2, 2, batch=1, transpose=True)
    assert len(found.items) == 2
    np.testing.assert_array_equal(found.entries, [[0, 0], [1, 1], [1, 2]])


def test_bad_coords():
    with pytest.raises(ValueError, match=r"coords\[0\] = \(3, 0\) is out of range"):
        gpu_plans.matmul_plan(np.int32([[3, 0]]), 2, 2, batch=1)


def test_weight_gradient_plan_has_every_block_once():
    layout = layouts.random(32, density=0.2, seed=1)
    coords = np.argwhere(layout).astype(np.int32)
    found = gpu_plans.matmul_dw_plan(coords, 32, 32, batch=4096, columns=8)
    np.testing.assert_array_equal(coords[found.blocks[:, 2]], found.blocks[:, :2])
    np.testing.assert_array_equal(np.sort(found.blocks[:, 2]), np.arange(len(coords)))
    for column, first, end, _ in found.items:
        assert 0 < end - first <= 8
        assert (found.blocks[first:end, 1] == column).all()
    assert found.batch_splits >= 1


def test_tiles_of_a_weight_gradient_have_every_block_once():
    layout = layouts.random(50, density=0.2, seed=1)
    coords = np.argwhere(layout).astype(np.int32)
    found = gpu_plans.dw_tiles_plan(coords, 50, 50, batch=4096, chunk_blocks=4, ctas=2)
    stored = []
    for item, blocks in zip(found.items.reshape(-1, found.items.shape[-1]),
                            found.blocks.reshape(-1, 192, 3)):
        chunks = item[2:]
        for c, k, block in blocks[blocks[:, 2] >= 0]:
            assert c // 4 < item[0] <= k // 4 < item[0] + item[1]
            stored.append((block, *(4 * chunks[n // 4] + n % 4 for n in (c, k))))
    stored = np.array(sorted(stored))
    np.testing.assert_array_equal(stored[:, 0], np.arange(len(coords)))
    np.testing.assert_array_equal(stored[:, 1:], coords)
    assert found.whole_items <= len(found.items) and "items of 2 tiles" in found.explain()


@pytest.mark.parametrize("at_once", (1, 2, 4))
def test_streams_hold_every_block_once(at_once):
    layout = layouts.barabasi_albert(60, 3, seed=0)
    coords = np.argwhere(layout)
    found = gpu_plans.stream_plan(coords, 60, 60, batch=100, batch_tile=64, sm_count=20,
                                  entry_blocks=at_once)
    assert len(found.lists) == 10 and found.batch_tiles == 2
    entries = found.lists.reshape(-1, 4)
    stored = entries[entries[:, 1] >= 0]
    assert sorted(stored[:, 2]) == list(range(len(coords)))
    np.testing.assert_array_equal(coords[stored[:, 2]], stored[:, [1, 0]])
    assert found.lists.shape[1] <= len(coords) / 10 + 8
    columns = found.lists[:, :, 0].reshape(-1, at_once)
    np.testing.assert_array_equal(columns, np.broadcast_to(columns[:, :1], columns.shape))
    assert "10 lists x 2" in found.explain()


@pytest.mark.parametrize("transpose", (False, True))
def test_streams_take_large_blocks_in_cells(transpose):
    layout = layouts.random(12, out_blocks=9, density=0.3, seed=1)
    coords = np.argwhere(layout)
    found = gpu_plans.stream_plan(coords, 12, 9, batch=64, batch_tile=64, sm_count=10, block_cells=2,
                                  transpose=transpose)
    entries = found.lists.reshape(-1, 4)
    stored = entries[entries[:, 1] >= 0]
    assert sorted(stored[:, 2]) == list(range(4 * len(coords)))
    cells = 2 * coords[stored[:, 2] // 4] + np.stack([stored[:, 2] % 4 // 2, stored[:, 2] % 2], 1)
    np.testing.assert_array_equal(cells, stored[:, [0, 1] if transpose else [1, 0]])


def test_weight_gradients_cut_the_batch_as_often_as_asked():
    coords = np.argwhere(np.ones((64, 64), bool))
    assert gpu_plans.matmul_dw_plan(coords, 64, 64, batch=8192, columns=16).batch_splits == 1
    found = gpu_plans.matmul_dw_plan(coords, 64, 64, batch=8192, columns=16, least_splits=8)
    assert found.batch_splits >= 8


# What is chosen, and why. A GPU is not needed, as the CUDA library can be asked about another.


def matmul(block_size, density, feature_axis=1, features=8192):
    layout = layouts.random(features // block_size, density=density)
    return BlocksparseMatMul(layout, block_size, feature_axis)


@needs_cuda_library
@pytest.mark.parametrize(
    "problem, batch, dtype, options, family, reasons",
    [
        # Hopper and its variants.
        ((64, 0.1), 8192, "bfloat16", {}, "sm90", ["sparse kernels", "suits", "clusters of 8"]),
        ((32, 0.1), 8192, "float16", {}, "sm90", ["sparse kernels", "suits", "clusters of 8"]),
        ((64, 0.1), 16, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((128, 0.1, 0), 256, "float16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((8, 0.05), 512, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((64, 0.25), 512, "bfloat16", {}, "sm90", ["sparse kernels", "suits", "clusters of"]),
        ((8, 0.15), 256, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((32, 0.5, 0), 256, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((8, 0.5), 256, "bfloat16", {}, "dense", [": dense"]),
        ((16, 0.7), 256, "float16", {}, "dense", [": dense"]),
        ((64, 0.1), 8192, "bfloat16", dict(product="dw"), "sm90", ["sparse kernels", "suits"]),
        ((16, 0.1), 8192, "bfloat16", dict(product="dw"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((32, 0.1), 8192, "bfloat16", dict(product="dw"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((32, 0.01), 8192, "bfloat16", dict(product="dw"), "sm90", ["sparse", "suits"]),
        ((64, 0.05), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((32, 0.05), 8192, "float32", dict(product="dw", precision="tf32"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((64, 0.1), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((64, 0.25, 0), 8192, "float32", dict(product="dw", precision="tf32"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((64, 0.1, 0), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((32, 0.01, 0), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((32, 0.01), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((64, 0.5), 8192, "bfloat16", dict(product="dw"), "sm90", ["sparse kernels", "suits"]),
        ((128, 0.1, 0), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((128, 0.1), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((128, 0.02), 8192, "float32", dict(product="dw", precision="tf32"), "sm90",
         ["sparse kernels", "suits"]),
        ((8, 0.05, 0), 8192, "float16", dict(product="dw"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((16, 0.01, 0), 8192, "bfloat16", dict(product="dw"), "sm90", ["sparse", "suits"]),
        ((8, 0.05), 8192, "bfloat16", dict(product="dw", device="sm_80"), "sm80",
         ["sparse kernels", "capability 9.0"]),
        ((32, 0.1), 64, "bfloat16", dict(product="dw"), "sm80 small",
         ["sparse kernels", "suits", "operands go from memory to registers"]),
        ((16, 0.1, 0), 256, "float16", dict(product="dw"), "sm80 small",
         ["sparse kernels", "suits", "operands go from memory to registers"]),
        ((8, 0.25, 0), 256, "float16", dict(product="dw"), "dense", [": dense"]),
        ((32, 0.5, 0), 64, "float16", dict(product="dw"), "sm80 small",
         ["sparse kernels", "suits", "operands go from memory to registers"]),
        ((128, 0.5, 0), 256, "float16", dict(product="dw"), "sm90", ["sparse kernels", "suits"]),
        ((16, 0.1, 1), 256, "float16", dict(product="dw"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((128, 0.1, 0), 64, "float32", dict(product="dw", precision="tf32", device="sm_80"),
         "sm80 small", ["sparse kernels", "capability 9.0", "operands go from memory to registers"]),
        ((32, 0.1), 64, "float32", dict(product="dw", precision="tf32"), "sm80 small",
         ["sparse kernels", "suits", "operands go from memory to registers"]),
        ((32, 0.1), 128, "float32", dict(product="dw", precision="tf32"), "sm90 dw tiles",
         ["sparse kernels", "suits", "tiles of the layout", "clusters of 2"]),
        ((64, 0.1), 8192, "bfloat16", dict(gated=True), "sm90", ["sparse", "suits", "clusters of"]),
        # TF32 has CTAs alone in some cells.
        ((64, 0.1), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits"]),
        ((32, 0.1, 0), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits"]),
        ((128, 0.1), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits", "clusters of 4"]),
        ((64, 0.25, 0), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits"]),
        ((128, 0.25, 0), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits", "clusters of 4"]),
        ((32, 0.1), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits", "clusters of 8"]),
        ((32, 0.1), 64, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((16, 0.1, 0), 128, "float16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((32, 0.1), 513, "bfloat16", {}, "sm90", ["sparse kernels", "suits", "clusters of 8"]),
        ((16, 0.1, 0), 8192, "bfloat16", {}, "sm90 sweep", ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((16, 0.05), 8192, "float16", {}, "sm90 sweep", ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((8, 0.15), 8192, "bfloat16", dict(product="dx", gated=True), "sm90 sweep",
         ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((8, 0.01), 16384, "bfloat16", {}, "sm90 sweep", ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((16, 0.25, 0), 8192, "bfloat16", {}, "sm90", ["sparse", "suits", "clusters of 2"]),
        ((16, 0.01, 0), 8192, "float16", {}, "sm90", ["sparse", "suits", "clusters of"]),
        ((16, 0.01), 8192, "float16", {}, "sm90 sweep", ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((16, 0.1, 0), 1024, "bfloat16", {}, "sm90", ["sparse", "suits", "clusters of 2"]),
        ((16, 0.1), 8192, "float32", dict(precision="tf32"), "sm90 sweep",
         ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((16, 0.25, 0), 8192, "float32", dict(precision="tf32"), "sm90 sweep",
         ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((16, 0.01, 0), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits", "clusters"]),
        ((8, 0.01), 8192, "float32", dict(precision="tf32"), "sm90 sweep",
         ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((8, 0.1, 0), 8192, "float32", dict(precision="tf32"), "sm90 sweep",
         ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((8, 0.1, 0), 8190, "float32", dict(precision="tf32"), "dense", [": dense"]),
        ((8, 0.01), 1024, "float32", dict(precision="tf32"), "sm80", ["sparse", "with TF32"]),
        ((64, 0.1), 8192, "float32", dict(precision="tf32x3"), "sm80", ["sparse", "for float16"]),
        # What keeps a product from them, one thing at a time.
        ((64, 0.1), 8192, "bfloat16", dict(device="sm_80"), "sm80", ["sparse", "capability 9.0"]),
        ((64, 0.1), 8192, "float32", {}, "sm80", ["sparse", "for float16"]),
        ((64, 0.1, 0), 64, "float32", dict(precision="tf32"), "sm90 stream", ["sparse", "suits", "streams"]),
        ((8, 0.05), 16, "float32", dict(precision="tf32"), "sm80 small", ["sparse", "with TF32", "small variant"]),
        ((16, 0.05), 16, "float32", dict(precision="tf32"), "sm90 stream", ["sparse", "suits", "streams"]),
        ((128, 0.05), 256, "float32", dict(precision="tf32"), "sm90 stream", ["sparse", "suits", "streams"]),
        ((8, 0.05), 64, "float32", dict(precision="tf32", device="sm_80"), "sm80 small",
         ["sparse", "capability 9.0", "small variant"]),
        ((8, 0.1), 64, "bfloat16", {}, "sm90 stream", ["sparse kernels", "suits", "streams"]),
        ((8, 0.01), 1024, "bfloat16", {}, "sm90", ["sparse", "suits", "clusters of"]),
        ((8, 0.01), 4200, "bfloat16", {}, "sm90 sweep", ["sparse", "suits", "sweeps", "clusters of 2"]),
        ((64, 0.1), 8192, "bfloat16", dict(aligned=False), "sm80", ["sparse", "16 bytes"]),
        ((64, 0.1, 0), 8190, "bfloat16", {}, "sm80", ["sparse", "multiple of 8"]),
        ((64, 0.2, 1, 1024), 256, "float32", dict(precision="tf32"), "sm90 stream",
         ["sparse", "suits", "streams"]),
        ((64, 0.5, 1, 256), 4160, "float32", dict(precision="tf32"), "sm80 small",
         ["sparse", "2^29", "outside the tensor cores"]),
        # Layers of usual sizes.
        ((32, 0.1, 1, 2048), 1024, "bfloat16", {}, "sm90 stream", ["sparse", "suits", "streams"]),
        ((64, 0.1, 0, 4096), 1024, "bfloat16", {}, "sm90", ["sparse", "suits", "clusters of"]),
        ((8, 0.5, 1, 1024), 1024, "bfloat16", {}, "dense", [": dense"]),
        ((16, 0.25, 1, 1024), 1024, "bfloat16", dict(product="dw"), "dense", [": dense"]),
        ((64, 0.1, 0), 12, "bfloat16", {}, "sm80 small", ["sparse", "multiple of 8", "mostly empty"]),
        # The dense matrix. Where Hopper's kernels do not suit, it wins earlier.
        ((32, 0.4, 0), 8192, "float32", dict(precision="tf32"), "sm90", ["sparse", "suits", "clusters"]),
        ((32, 0.4, 0), 8195, "float32", dict(precision="tf32"), "dense", [": dense"]),
        ((8, 0.5), 8192, "bfloat16", {}, "dense", [": dense"]),
        ((8, 0.5), 8192, "bfloat16", dict(product="dw", gated=True), "dense", [": dense"]),
        ((8, 0.5), 8192, "bfloat16", dict(gated=True), "sm90",
         ["with a gate", "suits", "clusters of 2"]),
    ],
)
def test_family_and_the_rules_that_chose_it(problem, batch, dtype, options, family, reasons):
    layer = matmul(*problem)
    found = plan.explain(layer, batch, dtype, **{"device": "sm_90", **options})
    assert found.choice.family == family
    assert len(found.choice.reasons) == len(reasons)
    for reason, words in zip(found.choice.reasons, reasons):
        assert words in reason
        assert reason in str(found)
    assert found.choice.kernel in str(found)
    assert found.choice.sparse_seconds > 0 and found.choice.dense_seconds > 0
    if family == "dense":
        assert found.choice.dense_seconds < found.choice.sparse_seconds
        assert found.choice.tile is None and found.plan is None
    else:
        assert family.split()[0] in found.choice.kernel
        assert found.choice.tile.ctas_per_sm is None  # no GPU was asked
        assert found.choice.tile.columns >= found.choice.tile.shared_columns >= 1


@needs_cuda_library
def test_modelled_times_follow_density_and_batch():
    thin, thick = (plan.explain(matmul(128, density), 8192, "bfloat16", device="sm_90").choice
                   for density in (0.25, 0.5))
    assert thin.sparse_seconds < thick.sparse_seconds
    half = plan.explain(matmul(128, 0.25), 4096, "bfloat16", device="sm_90").choice
    launch = 2 * half.sparse_seconds - thin.sparse_seconds
    assert 1e-6 < launch < 0.02 * thin.sparse_seconds
    problem = matmul(128, 0.25)
    one = plan.explain(problem, 1, "bfloat16", device="sm_90").choice
    bytes_of_weights = problem.blocks * 128**2 * 2
    assert one.sparse_seconds > launch + bytes_of_weights / 3.4e12  # an H100's memory


@needs_cuda_library
@pytest.mark.parametrize("enabled", [False, True])
def test_tensor_float_32_is_tensorflows_switch_unless_said(enabled):
    layer = matmul(64, 0.1)
    switch = tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    try:
        switch.enable_tensor_float_32_execution(enabled)
        assert {True: "tf32", False: "fp32"}[enabled] in plan.explain(
            layer, 8192, device="sm_90").choice.kernel
        said = plan.explain(layer, 8192, device="sm_90", precision="float32" if enabled else "tf32")
    finally:
        switch.enable_tensor_float_32_execution(before)
    assert {True: "fp32", False: "tf32"}[enabled] in said.choice.kernel
    split = plan.explain(layer, 8192, device="sm_90", precision="tf32x3")
    assert "tf32x3" in split.choice.kernel


@needs_cuda_library
@pytest.mark.parametrize("product", choice.PRODUCTS)
def test_the_plan_is_cut_for_the_chosen_tile(product):
    layer = BlocksparseMatMul(layouts.barabasi_albert(64, m=4, out_blocks=96), block_size=32)
    found = plan.explain(layer, 8000, "bfloat16", product, device="sm_90")
    tile = found.choice.tile
    if product == "dw":
        stored = found.plan.blocks[..., 2]
        stored = stored[stored >= 0]
    else:
        assert found.plan.groups.shape[1] == tile.columns
        assert found.plan.batch_tiles == -(-8000 // tile.batch_tile)
        outputs = layer.CB if product == "dx" else layer.KB
        columns = found.plan.groups[found.plan.groups >= 0]
        np.testing.assert_array_equal(np.sort(columns), np.arange(outputs))
        stored = found.plan.order[found.plan.order >= 0]  # blocks of 32 are packed
    np.testing.assert_array_equal(np.sort(stored), np.arange(layer.blocks))
    assert f"{product} of {3072 if product == 'dx' else 2048} ->" in str(found)


@needs_cuda_library
@pytest.mark.parametrize("block_size, spec, family", [
    (16, "random:density=0.1", "sm90 sweep"),
    (8, "ba:m=50", "sm90 sweep"),
    (8, "ws:k=100,p=0.1", "sm90"),
    (16, "ws:k=50,p=0.1", "sm90"),
    (16, "block_diagonal:size=16", "sm90"),
])
def test_columns_with_much_in_common_go_by_unions(block_size, spec, family):
    layer = BlocksparseMatMul.from_spec(spec, 8192, 8192, block_size)
    for product in ("fprop", "dx"):
        assert plan.explain(layer, 8192, "bfloat16", product, device="sm_90").choice.family == family


@needs_cuda_library
@pytest.mark.parametrize("feature_axis", [0, 1])
def test_what_tests_take_for_a_sweep_is_one(feature_axis):
    problem = problems.swept(feature_axis)
    layer = BlocksparseMatMul(problem.layout, problem.block_size, feature_axis)
    for product in ("fprop", "dx"):
        found = plan.explain(layer, problem.batch, problem.dtype, product, device="sm_90")
        assert found.choice.family == "sm90 sweep"


@needs_cuda_library
@pytest.mark.parametrize("product", ["fprop", "dx"])
@pytest.mark.parametrize("block_size, dtype, density", [
    (8, "bfloat16", 0.05), (16, "bfloat16", 0.05), (8, "float32", 0.05), (16, "float32", 0.05),
    (8, "float32", 0.02)])
def test_a_sweep_has_every_block_and_column_once(block_size, dtype, density, product):
    layer = matmul(block_size, density)
    found = plan.explain(layer, 8192, dtype, product, device="sm_90", precision="tf32")
    tile, cut = found.choice.tile, found.plan
    assert isinstance(cut, plan.SweepPlan)
    np.testing.assert_array_equal(np.sort(cut.order), np.arange(layer.blocks))
    np.testing.assert_array_equal(np.sort(cut.groups[cut.groups >= 0]), np.arange(layer.KB))
    assert cut.groups.shape[1] == tile.columns and cut.stages.shape[1] == 2
    assert cut.stage_kib <= tile.chunks
    blocks = cut.stages[..., 3]
    assert blocks.sum() == layer.blocks
    assert 1 <= cut.boxes.min() and cut.boxes.max() <= 16
    assert tile.batch_tile == (64 if density > 0.02 else 32)
    assert "share x" in cut.explain()


@needs_cuda_library
def test_an_empty_batch_has_no_plan():
    assert plan.explain(matmul(64, 0.1), 0, "bfloat16", device="sm_90").plan is None


@needs_cuda_library
def test_old_gpu_has_no_kernels():
    with pytest.raises(RuntimeError, match="capability 7.0; expected 8.0 or newer"):
        plan.explain(matmul(64, 0.1), 16, device="sm_70", sm_count=80)


@pytest.mark.skipif(native.cuda_status() is None, reason="a build with CUDA kernels")
def test_without_the_cuda_library_a_gpu_cannot_be_explained():
    with pytest.raises(RuntimeError, match="no CUDA kernels here"):
        plan.explain(matmul(64, 0.1), 16, device="sm_90")


@pytest.mark.parametrize("dtype", choice.CPU_DTYPES)
def test_cpu(dtype):
    found = plan.explain(matmul(64, 0.1), 16, dtype, device="cpu")
    assert found.choice.family == found.choice.device == "cpu"
    assert dtype in found.choice.kernel and "on a CPU" in str(found)
    assert found.plan is None and found.choice.tile is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(device="h100"), "device must be .* 'sm_90'; got 'h100'"),
        (dict(device="sm_100"), "sm_count is needed for sm_100"),
        (dict(product="forward"), "product must be one of fprop, dx, dw; got 'forward'"),
        (dict(batch=-1), "batch must be a whole number from 0 on; got -1"),
        (dict(batch=1.5), "got 1.5"),
        (dict(dtype="float64", device="sm_90"), "on a GPU; got float64"),
        (dict(dtype="int32", device="cpu"), "dtype must be one of .* got int32"),
        (dict(precision="tf16", device="cpu"), "precision must be None, .*; got 'tf16'"),
    ],
)
def test_explain_names_a_bad_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan.explain(matmul(64, 0.1), **{"batch": 16, **arguments})


def enumerators(name):
    """The names in an enumeration of the C header, by their numbers."""
    body = re.search(r"typedef enum \{([^}]*)\} %s;" % name, HEADER.read_text())[1]
    named = {int(number): word for word, number in re.findall(r"(BSPARSE_\w+) = (\d+)", body)}
    assert sorted(named) == list(range(len(named)))
    return [named[number].removeprefix("BSPARSE_").lower() for number in range(len(named))]


def test_every_number_of_the_c_interface_has_words():
    families = [name.replace("_", " ") for name in enumerators("bsparse_kernel")]
    assert families == list(choice.FAMILIES)
    assert enumerators("bsparse_dtype") == list(choice.GPU_DTYPES)
    assert len(enumerators("bsparse_dense_reason")) == len(choice._DENSE_REASONS)
    assert len(enumerators("bsparse_hopper_reason")) == len(choice._HOPPER_REASONS)
