"""Sweeps, Hopper's kernels for small blocks of low density, through the C API.

    pytest tests/cuda_sweep_api_test.py
"""

import ctypes
import itertools

import numpy as np
import pytest

import cuda_binding as cuda
import cuda_plans
from cuda_checks import (
    assert_the_same_in_a_graph, check_matmul, dense_matrix, float64, on_gpu, sweep_tile,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


@pytest.fixture(autouse=True)
def hopper(kernels):
    if kernels.device().compute_capability != 90:
        pytest.skip("sweeps are for compute capability 9.0")


# CTAs of an item, and a density: at low ones tiles are wide.
TILES = ((1, 0.1), (2, 0.1), (2, 0.01))


@pytest.mark.parametrize("block_size", (8, 16))
@pytest.mark.parametrize("mode", ("bfloat16", "float16", "tf32"))
@pytest.mark.parametrize("ctas, tile_density", TILES)
def test_sweeps(kernels, ctas, tile_density, mode, block_size):
    cases = itertools.product((0, 1), (False, True), (8, 64, 200, 520, 1096))
    for seed, (feature_axis, transpose, batch) in enumerate(cases):
        tile = sweep_tile(kernels, ctas, mode, block_size, feature_axis, tile_density)
        # A box that sticks out, columns that fill no warp; stages without blocks; several groups.
        shape, density = (((7, 5), 0.4), ((29, 67), 0.02), ((150, 90), 0.1))[seed % 3]
        check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, seed=seed, tile=tile,
                     shape=shape, density=density, use_gate=seed % 3 == 1, use_bias=seed % 4 != 0,
                     activation=("none", "relu", "gelu")[seed // 2 % 3],
                     residual=(None, "apart", "y")[seed // 3 % 3])
    for feature_axis in (0, 1):
        tile = sweep_tile(kernels, ctas, mode, block_size, feature_axis, tile_density)
        # Features first want rows of 16 bytes, others any batch.
        batch = 77 if feature_axis == 1 else 76 if mode == "tf32" else 72
        check_matmul(kernels, mode, block_size, feature_axis, False, batch, shape=(40, 70), use_bias=True,
                     residual="apart", tile=tile)
        # Every block stored, so that stages are as full as can be, and more tiles than CTAs.
        check_matmul(kernels, mode, block_size, feature_axis, False, 4808, density=1.0,
                     shape=(1024 // block_size, 2048 // block_size), tile=tile)


@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("block_size", (8, 16))
@pytest.mark.parametrize("mode", ("bfloat16", "tf32"))
def test_a_layout_without_blocks_gives_the_activated_bias(kernels, mode, block_size, feature_axis):
    layout = np.zeros((3, 5), bool)
    tile = sweep_tile(kernels, 2, mode, block_size, feature_axis)
    x = on_gpu(np.full((72, 3 * block_size), np.nan), mode)
    y = on_gpu(np.full((72, 5 * block_size), np.nan), mode)
    x, y = (t if feature_axis == 1 else t.t().contiguous() for t in (x, y))
    bias = torch.linspace(-1, 1, 5 * block_size, device="cuda").to(x.dtype)
    kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape,
                           cuda_plans.matmul_plan(layout, tile), x, torch.empty(0, device="cuda"), y,
                           bias=bias, activation="relu")()
    assert torch.equal(y if feature_axis == 1 else y.t(), bias.clamp(min=0).expand(72, -1))


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("density", (0.01, 0.05, 0.15))
@pytest.mark.parametrize("block_size", (8, 16))
@pytest.mark.parametrize("mode", ("bfloat16", "tf32"))
def test_planner_and_kernels_agree(kernels, mode, block_size, density, transpose):
    if cuda.find_library("libbsparse_plan.so") is None:
        pytest.skip("libbsparse_plan.so is not built")
    rng, batch = np.random.default_rng(block_size), 328
    layout = rng.random((2100 // block_size, 1300 // block_size)) < density
    layout[:, 3] = layout[7] = True  # hubs
    # What TF32 does not round.
    w = on_gpu(rng.standard_normal((int(layout.sum()), block_size, block_size)), "bfloat16")
    dense = dense_matrix(layout, float64(w), block_size)
    dense = dense.T if transpose else dense
    x = on_gpu(rng.standard_normal((batch, dense.shape[0])), "bfloat16")
    if mode == "tf32":
        x, w = x.float(), w.float()
    for feature_axis in (0, 1):
        tile = sweep_tile(kernels, 2, mode, block_size, feature_axis, density)
        plan = cuda.Planner().matmul(layout, batch, kernels.device(), tile, transpose)
        x_in = x if feature_axis == 1 else x.t().contiguous()
        y = torch.empty((batch, dense.shape[1]), device="cuda", dtype=x.dtype)
        y = y if feature_axis == 1 else y.t().contiguous()
        kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape, plan, x_in, w, y,
                               transpose)()
        got = float64(y if feature_axis == 1 else y.t())
        np.testing.assert_allclose(got, float64(x) @ dense, rtol=2.0**-8, atol=1e-3)


@pytest.mark.parametrize("block_size", (8, 16))
@pytest.mark.parametrize("mode", ("bfloat16", "tf32"))
def test_nan_travels_along_stored_blocks_only(kernels, mode, block_size):
    layout = np.array([[True, True], [True, False]])
    w = on_gpu(np.ones((3, block_size, block_size)), mode)
    x = on_gpu(np.ones((72, 2 * block_size)), mode)
    x[3, 5], x[9, block_size + 3] = float("nan"), float("inf")
    for feature_axis in (0, 1):
        tile = sweep_tile(kernels, 1, mode, block_size, feature_axis)
        x_in = x if feature_axis == 1 else x.t().contiguous()
        y = torch.zeros_like(x_in)
        kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape,
                               cuda_plans.matmul_plan(layout, tile), x_in, w, y)()
        got = float64(y if feature_axis == 1 else y.t())
        assert np.isnan(got[3]).all() and np.isinf(got[9, :block_size]).all()
        assert np.isfinite(got[9, block_size:]).all()
        assert np.isfinite(np.delete(got, (3, 9), 0)).all()


@pytest.mark.parametrize("feature_axis", (0, 1))
def test_sweeps_inside_a_cuda_graph(kernels, feature_axis):
    layout = np.random.default_rng(0).random((40, 60)) < 0.1
    tile = sweep_tile(kernels, 2, "bfloat16", 16, feature_axis)
    x = torch.randn((640, 640), device="cuda").to(torch.bfloat16)
    w = torch.randn((int(layout.sum()), 16, 16), device="cuda").to(torch.bfloat16)
    gate = torch.tensor(np.arange(len(w)) % 3, dtype=torch.float32, device="cuda")
    plan = cuda_plans.matmul_plan(layout, tile)
    assert_the_same_in_a_graph(
        lambda y: kernels.prepare_matmul("bfloat16", 16, feature_axis, layout.shape, plan, x, w, y,
                                         gate=gate),
        (640, 960) if feature_axis == 1 else (960, 640), x.dtype)


@pytest.mark.parametrize("feature_axis, batch, misplaced", [
    (0, 77, None), (1, 77, "x"), (1, 77, "y"), (1, 77, "residual"), (0, 72, "y")])
def test_sweeps_refuse_unaligned_memory(kernels, feature_axis, batch, misplaced):
    tile = sweep_tile(kernels, 1, "bfloat16", 16, feature_axis)
    layout = np.ones((4, 4), bool)

    def tensor(name):
        storage = torch.zeros(64 * batch + 1, dtype=torch.bfloat16, device="cuda")
        return storage[name == misplaced:][:64 * batch].view(
            (batch, 64) if feature_axis == 1 else (64, batch))

    w = torch.zeros((16, 16, 16), dtype=torch.bfloat16, device="cuda")
    call = kernels.prepare_matmul("bfloat16", 16, feature_axis, layout.shape,
                                  cuda_plans.matmul_plan(layout, tile), tensor("x"), w, tensor("y"),
                                  residual=tensor("residual"))
    with pytest.raises(cuda.CudaError, match="multiples of 16 bytes"):
        call()


@pytest.mark.parametrize("field, value", [
    ("num_items", 2), ("num_splits", 1), ("num_partials", 1), ("num_entries", 0), ("num_packed", 15),
    ("fullest_stage", 0), ("fullest_stage", 76), ("columns", 257), ("columns", 48), ("columns", 96),
    ("entries", None)])
def test_wrong_plans_of_sweeps_are_refused(kernels, field, value):
    layout = np.ones((4, 4), bool)
    x = torch.zeros((64, 64), dtype=torch.bfloat16, device="cuda")
    w = torch.zeros((16, 16, 16), dtype=torch.bfloat16, device="cuda")
    plan = cuda_plans.matmul_plan(layout, sweep_tile(kernels, 1, "bfloat16", 16, 1))
    workspace = torch.zeros(1 << 16, dtype=torch.uint8, device="cuda")
    args = cuda.MatmulArgs(dtype=2, block_size=16, feature_axis=1, in_blocks=4, out_blocks=4, batch=64,
                           x=x.data_ptr(), w=w.data_ptr(), y=x.data_ptr(),
                           plan=cuda.MatmulPlan(**plan.fields()), workspace=workspace.data_ptr(),
                           workspace_bytes=workspace.numel())
    setattr(args.plan, field, value)
    assert kernels.api.matmul(ctypes.byref(args), None) == cuda.INVALID_ARGUMENT
    assert f"plan.{field}" in kernels.api.last_error().decode()
