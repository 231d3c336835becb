"""The CUDA kernels give the same bits on any grid, and run after run.

    pytest tests/cuda_bits_api_test.py
"""

import numpy as np
import pytest

import cuda_binding as cuda
import cuda_plans
from cuda_checks import (
    BLOCK_SIZES, LARGE_CELLS, on_gpu, random_layout, sweep_tile, union_tile,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size", LARGE_CELLS)
def test_bits_do_not_depend_on_the_grid(kernels, mode, block_size, feature_axis):
    """The same plan on few and on many multiprocessors: kernels whose CTAs take tile after tile, of
    which some are alone where no cluster finds room and the batch is long enough."""
    if kernels.device().compute_capability != 90:
        pytest.skip("unions are for compute capability 9.0")
    rng, batch = np.random.default_rng(block_size), 5128
    layout = random_layout(rng, (37, 41) if block_size < 64 else (19, 21), 0.2)
    w = on_gpu(rng.standard_normal((int(layout.sum()), block_size, block_size)), mode)
    x, y = (on_gpu(rng.standard_normal((batch, side * block_size)), mode)
            for side in layout.shape)
    x, y = (t if feature_axis == 1 else t.t().contiguous() for t in (x, y))
    tiles = []
    if (mode, block_size) != ("tf32", 8):  # for which there are no union tiles
        tiles += [union_tile(kernels, ctas, mode, block_size, feature_axis) for ctas in (1, 2, 4, 8)]
    if mode != "float16" and block_size <= 16:
        tiles += [sweep_tile(kernels, ctas, mode, block_size, feature_axis, density)
                  for ctas, density in ((1, 0.1), (2, 0.1), (2, 0.01))]
    for tile in tiles:
        plan = cuda_plans.matmul_plan(layout, tile, segment=5)
        results = []
        for max_ctas in (0, 1, 12, 64, 131):
            result = torch.full_like(y, float("nan"))
            kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape, plan, x, w,
                                   result, max_ctas=max_ctas)()
            results.append(result)
        assert bool(torch.isfinite(results[0]).all())
        assert all(torch.equal(results[0], other) for other in results[1:])
    # So dense that all kinds of tiles come up, in TF32 also those of columns.
    tile = kernels.tile(mode, block_size, batch, is_dw=True, feature_axis=feature_axis,
                        blocks=(128, 128), density=0.05)
    if tile.kernel not in (cuda.SM90, cuda.SM90_DW_TILES):
        return
    gradients = []
    for max_ctas in (0, 1, 13, 64, 131):
        dw = torch.full_like(w, float("nan"))
        kernels.prepare_matmul_dw(mode, block_size, feature_axis, layout.shape,
                                  cuda_plans.matmul_dw_plan(layout, tile, 5), x, y, dw,
                                  max_ctas=max_ctas)()
        gradients.append(dw)
    assert bool(torch.isfinite(gradients[0]).all())
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("mode", ("bfloat16", "float16", "tf32"))
def test_bits_of_small_dw_do_not_depend_on_the_grid(kernels, mode, block_size, feature_axis):
    """With few CTAs a warp has more cells than it looks up at once."""
    rng = np.random.default_rng(block_size)
    layout = random_layout(rng, (181, 67) if block_size < 64 else (41, 19), 0.3)
    tile = kernels.tile(mode, block_size, 32, is_dw=True, feature_axis=feature_axis)
    assert tile.kernel == cuda.SM80_SMALL
    for batch in (32, 200):  # one stage, and several
        x, y = (on_gpu(rng.standard_normal((batch, side * block_size)), mode)
                for side in layout.shape)
        x, y = (t if feature_axis == 1 else t.t().contiguous() for t in (x, y))
        gradients = []
        for max_ctas in (0, 1, 13, 131):
            dw = torch.full((int(layout.sum()), block_size, block_size), float("nan"),
                            dtype=x.dtype, device="cuda")
            kernels.prepare_matmul_dw(mode, block_size, feature_axis, layout.shape,
                                      cuda_plans.matmul_dw_plan(layout, tile), x, y, dw,
                                      max_ctas=max_ctas)()
            gradients.append(dw)
        assert bool(torch.isfinite(gradients[0]).all())
        assert all(torch.equal(gradients[0], other) for other in gradients[1:])


# Density, and that of union tiles, which says whether these or sweeps are taken; at much higher ones the dense matrix
# would be.
LARGE_LAYOUTS = {("bfloat16", 8): ((0.05, 0.5), (0.1, 0.01)), ("bfloat16", 16): ((0.1, 0.5), (0.1, 0.01)),
                 ("tf32", 16): ((0.1, 0.5), (0.1, 0.01)), ("tf32", 8): ((0.05, 0.0),)}


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size, density, union_density", [
    (*cell, *densities) for cell in LARGE_CELLS
    for densities in LARGE_LAYOUTS.get(cell, ((0.4, 0.0),))])
def test_large_products_give_the_same_bits(kernels, mode, block_size, density, union_density,
                                           feature_axis, transpose):
    """As many tiles as fill the GPU for a millisecond, again and again: what a load that comes too
    late spoils, it spoils in some runs of these only."""
    if cuda.find_library("libbsparse_plan.so") is None:
        pytest.skip("libbsparse_plan.so is not built")
    size, batch = 8192, 8192
    blocks = size // block_size
    layout = np.random.default_rng(block_size).random((blocks, blocks)) < density
    dtype = torch.float32 if mode == "tf32" else torch.bfloat16
    generator = torch.Generator("cuda").manual_seed(block_size)

    def normal(*shape):
        # TF32 holds such numbers exactly, too.
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16).to(dtype)

    tile = kernels.tile(mode, block_size, batch, feature_axis=feature_axis,
                        blocks=layout.shape, density=density, union_density=union_density)
    sweeps = block_size <= 16 and union_density != 0.01
    assert tile.kernel == (cuda.SM90_SWEEP if sweeps else cuda.SM90)
    plan = cuda.Planner().matmul(layout, batch, kernels.device(), tile, transpose)
    w, x = normal(int(layout.sum()), block_size, block_size), normal(batch, size)
    y = torch.empty(size, size, device="cuda", dtype=dtype)
    call = kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape, plan, x, w, y,
                                  transpose, batch=batch)
    call()
    first = y.clone()

    dense = torch.zeros(blocks, blocks, block_size, block_size, device="cuda")
    dense[torch.tensor(layout).cuda()] = w.float()
    dense = dense.permute(0, 2, 1, 3).reshape(size, size)
    rows = x if feature_axis == 1 else x.t()
    truth = rows.float() @ (dense.t() if transpose else dense)
    # Sums of thousands of numbers near 1; one tile of x that came too late adds some units.
    torch.testing.assert_close((first if feature_axis == 1 else first.t()).float(), truth,
                               rtol=2.0**-8, atol=0.02)
    for _ in range(20):
        y.fill_(float("nan"))
        call()
        assert torch.equal(first, y)
