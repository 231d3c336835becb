"""y = x W by the CUDA kernels through their C API, without TensorFlow, in every cell (cuda_checks.py).

    pytest tests/cuda_matmul_api_test.py
"""

import itertools

import numpy as np
import pytest

import cuda_binding as cuda
import cuda_plans
from cuda_checks import (
    BLOCK_SIZES, CELLS, MANY, MODES, check_matmul, dense_layouts, dense_tile, float64, union_tile,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_at_any_batch(kernels, mode, block_size, feature_axis, transpose):
    for batch in (0, 1, 3, 16, 63, 64, 65, 136, 257, 513):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=batch)


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_with_everything(kernels, mode, block_size, feature_axis, transpose):
    for seed, (batch, activation) in enumerate(
            itertools.product((40, 77, 264, 301), ("none", "relu", "gelu"))):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=seed,
                     segment=2, use_gate=seed % 2 == 0, use_bias=seed % 3 != 0,
                     activation=activation)


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_of_unaligned_memory(kernels, mode, block_size, feature_axis, transpose):
    for batch in (5, 128):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, misaligned=True)


@pytest.mark.parametrize("residual", ("apart", "y"))
@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_with_a_residual(kernels, mode, block_size, feature_axis, transpose, residual):
    for batch in (0, 1, 3, 16, 40, 65, 136, 257, 513):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=batch,
                     residual=residual)
    for seed, (batch, activation) in enumerate(
            itertools.product((40, 77, 264, 301), ("none", "relu", "gelu"))):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=seed,
                     segment=2, use_gate=seed % 2 == 0, use_bias=seed % 3 != 0,
                     activation=activation, residual=residual)
    for batch in (5, 128):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, misaligned=True,
                     residual=residual)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_matmul_of_many_items(kernels, block_size):
    """More items than a rasterisation chunk, long columns, several batch groups."""
    for feature_axis, density in ((0, 0.3), (1, 1.0)):
        check_matmul(kernels, "bfloat16", block_size, feature_axis, False, 1100, shape=(37, 41),
                     density=density)


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_by_the_dense_matrix(kernels, mode, block_size, feature_axis, transpose):
    for seed, activation in enumerate(("none", "relu", "gelu")):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, 77, seed=seed,
                     use_bias=seed > 0, activation=activation, tile=dense_tile())


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_a_residual_by_the_dense_matrix(kernels, mode, block_size, feature_axis, transpose):
    for seed, (activation, residual) in enumerate(
            itertools.product(("none", "relu", "gelu"), ("apart", "y"))):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, 77, seed=seed,
                     use_bias=seed % 2 == 1, activation=activation, residual=residual,
                     tile=dense_tile())


@pytest.mark.parametrize("mode, block_size, transpose",
                         list(itertools.product(MODES, BLOCK_SIZES, (False, True))))
def test_dense_matrices_of_any_shape(kernels, mode, block_size, transpose):
    # On an H200 cuBLAS's float32 kernel for 40 batch entries errs 2.5 times as much as that for the MANY which the
    # error is taken over, and ours is cuBLAS here.
    batch = MANY if mode == "float32" else 40
    for seed, (shape, density) in enumerate(dense_layouts(block_size)):
        check_matmul(kernels, mode, block_size, seed % 2, transpose, batch, seed=seed, shape=shape,
                     density=density, tile=dense_tile())


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_dense_matrices_of_blocks_turned_round(kernels, block_size):
    """Hopper's TF32 products of large batches with features first."""
    for seed, batch in enumerate((512, 515)):
        check_matmul(kernels, "tf32", block_size, 0, False, batch, seed=seed, shape=(9, 14), density=0.6,
                     use_bias=seed > 0, misaligned=seed > 0, tile=dense_tile())


def test_a_split_plan_does_not_go_by_the_dense_matrix(kernels):
    layout = np.ones((4, 4), bool)
    x, w = (torch.ones(shape, device="cuda") for shape in ((32, 32), (16, 8, 8)))
    call = kernels.prepare_matmul("float32", 8, 1, layout.shape,
                                  cuda_plans.matmul_plan(layout, dense_tile(), segment=2), x, w,
                                  torch.empty_like(x))
    with pytest.raises(cuda.CudaError, match="plan.num_items is 8"):
        call()


def test_dense_layouts_of_small_blocks_go_by_the_dense_matrix(kernels):
    for density, kernel in ((1.0, cuda.DENSE), (0.01, None)):
        tile = kernels.tile("bfloat16", 8, 8192, blocks=(1024, 1024), density=density)
        assert (tile.kernel == cuda.DENSE) == (kernel == cuda.DENSE)


@pytest.mark.parametrize("feature_axis", (0, 1))
def test_a_layout_without_blocks_gives_the_activated_bias(kernels, feature_axis):
    layout = np.zeros((2, 3), bool)
    x = torch.full((20, 20), float("nan"), device="cuda")[:, :16].contiguous()
    bias = torch.linspace(-1, 1, 24, device="cuda")
    y = torch.full((20, 24), float("nan"), device="cuda")
    y = y if feature_axis == 1 else y.t().contiguous()
    plan = cuda_plans.matmul_plan(layout, kernels.tile("float32", 8, 20))
    kernels.prepare_matmul("float32", 8, feature_axis, layout.shape, plan, x,
                           torch.empty(0, device="cuda"), y, bias=bias, activation="relu",
                           batch=20)()
    wanted = bias.clamp(min=0).expand(20, 24)
    assert torch.equal(y if feature_axis == 1 else y.t(), wanted)


@pytest.mark.parametrize("activation", ("none", "relu", "gelu"))
@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size, batch", [
    *(("bfloat16", *cell) for cell in ((16, 136), (32, 72), (64, 72), (16, 520), (32, 520), (64, 520))),
    *(("tf32", *cell) for cell in ((16, 136), (16, 96), (32, 136), (32, 96), (64, 136), (128, 96)))])
def test_nan_and_inf_travel_as_in_a_dense_product(kernels, mode, block_size, batch, feature_axis,
                                                  activation):
    """To all outputs joined to them, and to no other batch entry. Missing blocks count as zeros
    where columns share a product."""
    layout = np.array([[True, True], [True, False]])
    dtype = torch.float32 if mode == "tf32" else torch.bfloat16
    w = torch.ones((3, block_size, block_size), dtype=dtype, device="cuda")
    x = torch.ones((batch, 2 * block_size), dtype=dtype, device="cuda")
    x[3, 5], x[9, block_size + 8] = float("nan"), float("inf")
    x_in = x if feature_axis == 1 else x.t().contiguous()
    y = torch.zeros_like(x_in)
    tile = kernels.tile(mode, block_size, batch, feature_axis=feature_axis)
    kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape,
                           cuda_plans.matmul_plan(layout, tile), x_in, w, y, activation=activation)()
    got = float64(y if feature_axis == 1 else y.t())
    assert np.isnan(got[3]).all() and np.isinf(got[9, :block_size]).all()
    assert np.isfinite(np.delete(got, (3, 9), 0)).all()
    if tile.shared_columns == 1:
        assert np.isfinite(got[9, block_size:]).all()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("ctas", [1, 2, 4, 8])
def test_unions_whatever_the_policy_prefers(kernels, ctas, block_size):
    if kernels.device().compute_capability != 90:
        pytest.skip("unions are for compute capability 9.0")

    def tile(mode, feature_axis=1):
        return union_tile(kernels, ctas, mode, block_size, feature_axis)

    for seed, (feature_axis, transpose, batch) in enumerate(
            itertools.product((0, 1), (False, True), (200, 520, 1096))):
        mode = ("bfloat16", "float16")[seed % 2]
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=seed,
                     segment=(None, 2)[seed % 2], tile=tile(mode, feature_axis), shape=(9, 7),
                     use_gate=seed % 3 == 0, use_bias=True,
                     activation=("none", "relu")[seed % 2])
        if batch == 520:
            check_matmul(kernels, "bfloat16", block_size, feature_axis, transpose, batch, seed=seed,
                         segment=(None, 2)[seed // 3 % 2], tile=tile("bfloat16", feature_axis),
                         shape=(9, 7), use_bias=True, activation="gelu",
                         residual=("apart", "y")[seed // 3 % 2])
    for seed, (feature_axis, transpose, batch) in enumerate(
            itertools.product((0, 1), (False, True), (96, 200, 520, 1088))
            if block_size > 8 else ()):
        check_matmul(kernels, "tf32", block_size, feature_axis, transpose, batch, seed=seed,
                     segment=(None, 2)[seed // 4 % 2], tile=tile("tf32", feature_axis),
                     shape=(9, 7), use_gate=seed % 3 == 0, use_bias=seed % 5 != 1,
                     activation=("none", "gelu")[seed // 2 % 2],
                     residual=(None, "apart", "y")[seed // 2 % 3])
    # More tiles than a ring has stages, more items than clusters run at once.
    for residual in (None, "apart", "y"):
        check_matmul(kernels, "bfloat16", block_size, 1, False, 1500, shape=(37, 41),
                     tile=tile("bfloat16"), residual=residual)
    for feature_axis in (0, 1) if block_size > 8 else ():
        check_matmul(kernels, "tf32", block_size, feature_axis, False, 1500, shape=(37, 41),
                     tile=tile("tf32", feature_axis))


@pytest.mark.parametrize("block_size", (32, 64, 128))
@pytest.mark.parametrize("ctas", [1, 2, 4, 8])
def test_tf32_inputs_turned_round(kernels, ctas, block_size):
    """With features first, where so many weights are stored for each input that turning x round pays."""
    if kernels.device().compute_capability != 90:
        pytest.skip("unions are for compute capability 9.0")
    tile = union_tile(kernels, ctas, "tf32", block_size, 0)
    many = 1408 // block_size
    for seed, (transpose, batch) in enumerate(
            itertools.product((False, True), (96, 200, 520, 1088))):
        # Of inputs by outputs one column stays empty (random_layout).
        check_matmul(kernels, "tf32", block_size, 0, transpose, batch, seed=seed, density=1.0,
                     shape=(many, 2) if transpose else (5, many), segment=(None, 2)[seed // 2 % 2],
                     tile=tile, use_gate=seed % 3 == 0, use_bias=seed % 5 != 1,
                     activation=("none", "gelu")[seed // 2 % 2],
                     residual=(None, "apart", "y")[seed // 2 % 3])


@pytest.mark.parametrize("mode, block_size", [("bfloat16", 8), ("bfloat16", 16), ("bfloat16", 32),
                                              ("tf32", 16), ("tf32", 32), ("float16", 64),
                                              ("tf32", 128)])
@pytest.mark.parametrize("segment", [None, 9])
def test_streams_longer_than_their_rings(kernels, mode, block_size, segment):
    """Lists of hundreds of entries for each warp, with columns of all lengths across warps."""
    tile = kernels.tile(mode, block_size, 40)
    if tile.kernel != cuda.SM90_STREAM:
        pytest.skip("no streams on this GPU")
    for feature_axis in (0, 1):
        for residual, batch in itertools.product((None, "apart", "y"), (8, 24, 40)):
            shape = (61, 43) if block_size <= 32 else (19, 13)
            check_matmul(kernels, mode, block_size, feature_axis, False, batch, seed=5,
                         shape=shape, density=0.5, segment=segment, use_bias=True,
                         use_gate=batch == 24, residual=residual)
