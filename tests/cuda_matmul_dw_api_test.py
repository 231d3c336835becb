"""Weight gradients by the CUDA kernels through their C API, without TensorFlow (cuda_checks.py).

    pytest tests/cuda_matmul_dw_api_test.py
"""

import itertools

import numpy as np
import pytest

import cuda_binding as cuda
import cuda_plans
from cuda_checks import (
    BLOCK_SIZES, MODES, check_list_of_pairs, check_matmul_dw, dense_layouts, dense_tile,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


@pytest.mark.parametrize("mode, block_size, feature_axis",
                         list(itertools.product(MODES, BLOCK_SIZES, (0, 1))))
def test_matmul_dw(kernels, mode, block_size, feature_axis):
    for batch in (0, 1, 3, 31, 64, 200, 333):
        check_matmul_dw(kernels, mode, block_size, feature_axis, batch, seed=batch)
    for seed, (batch, batch_splits, use_gate, float_output) in enumerate(
            itertools.product((40, 264, 301), (1, 3, 20), (False, True), (False, True))):
        check_matmul_dw(kernels, mode, block_size, feature_axis, batch, seed=seed,
                        batch_splits=batch_splits, use_gate=use_gate, float_output=float_output)
    check_matmul_dw(kernels, mode, block_size, feature_axis, 128, misaligned=True)


@pytest.mark.parametrize("block_size, feature_axis", list(itertools.product(BLOCK_SIZES, (0, 1))))
def test_long_sums_of_exact_float32(kernels, block_size, feature_axis):
    """So long that a kernel puts its sums aside and adds to them, twice or more."""
    check_matmul_dw(kernels, "float32", block_size, feature_axis, 8300, batch_splits=1)
    check_list_of_pairs(kernels, "float32", block_size, feature_axis, (4200, 4101), seed=0,
                        batch_splits=1)


LISTS = ((64,), (40, 0, 16, 72), (8, 24) * 4, (16,) * 9, (8,) * 10, (8, 16, 24, 0) * 6, (0, 0),
         (3, 17, 64, 1))


@pytest.mark.parametrize("mode, block_size, feature_axis",
                         list(itertools.product(MODES, BLOCK_SIZES, (0, 1))))
def test_matmul_dw_of_lists(kernels, mode, block_size, feature_axis):
    for seed, (batches, batch_splits) in enumerate(itertools.product(LISTS, (1, 3))):
        check_list_of_pairs(kernels, mode, block_size, feature_axis, batches, seed=seed,
                            batch_splits=batch_splits)
    for seed in (0, 1):
        check_list_of_pairs(kernels, mode, block_size, feature_axis, (40, 0, 16, 72), seed=seed,
                            tile=dense_tile())


@pytest.mark.parametrize("mode, block_size, feature_axis",
                         list(itertools.product(("bfloat16", "float16", "tf32"), BLOCK_SIZES, (0, 1))))
def test_small_dw_whatever_the_policy_prefers(kernels, mode, block_size, feature_axis):
    tile = kernels.tile(mode, block_size, 16, is_dw=True, feature_axis=feature_axis)
    assert tile.kernel == cuda.SM80_SMALL
    for seed, (batches, splits) in enumerate(itertools.product((*LISTS, (200, 136)), (1, 3))):
        if feature_axis == 1 or all(n % 8 == 0 for n in batches):
            check_list_of_pairs(kernels, mode, block_size, feature_axis, batches, seed=seed,
                                batch_splits=splits, tile=tile)
    for batch in (8, 72, 264):
        check_matmul_dw(kernels, mode, block_size, feature_axis, batch, seed=batch, tile=tile)


# Those that are the choice at some density.
COLUMNS = [*itertools.product(("bfloat16", "float16", "tf32"), BLOCK_SIZES[1:], (0,)),
           *itertools.product(("bfloat16", "float16", "tf32"), BLOCK_SIZES[2:], (1,))]


@pytest.mark.parametrize("many", (128, 1024))  # blocks, of which items are short or long
@pytest.mark.parametrize("mode, block_size, feature_axis", COLUMNS)
def test_dw_by_columns(kernels, mode, block_size, feature_axis, many):
    if kernels.device().compute_capability != 90:
        pytest.skip("columns are for compute capability 9.0")
    tile = kernels.tile(mode, block_size, 4096, is_dw=True, feature_axis=feature_axis,
                        blocks=(many, many), density=0.01 if block_size < 64 else 0.1)
    assert tile.kernel == cuda.SM90
    for seed, batches in enumerate(((40, 0, 16, 72), (8, 24) * 4, (64,) * 8, (16,) * 9, (0, 0))):
        check_list_of_pairs(kernels, mode, block_size, feature_axis, batches, seed=seed, tile=tile)
    for seed, (batch, batch_splits) in enumerate(itertools.product((8, 72, 264, 1096), (1, 3))):
        check_matmul_dw(kernels, mode, block_size, feature_axis, batch, seed=seed,
                        batch_splits=batch_splits, use_gate=seed % 2 == 0, float_output=seed % 3 == 0,
                        tile=tile)
    if feature_axis == 1:
        check_list_of_pairs(kernels, mode, block_size, 1, (3, 17, 64, 1), seed=0, tile=tile)


@pytest.mark.parametrize("mode, block_size, feature_axis",
                         list(itertools.product(MODES, BLOCK_SIZES, (0, 1))))
def test_matmul_dw_by_the_dense_matrix(kernels, mode, block_size, feature_axis):
    for seed, (use_gate, float_output) in enumerate(itertools.product((False, True), repeat=2)):
        check_matmul_dw(kernels, mode, block_size, feature_axis, 200, seed=seed, use_gate=use_gate,
                        float_output=float_output, tile=dense_tile())


@pytest.mark.parametrize("mode, block_size", list(itertools.product(MODES, BLOCK_SIZES)))
def test_weight_gradients_by_dense_matrices_of_any_shape(kernels, mode, block_size):
    """Of one pair and of several, whose sums are float32; gated, with an addend, and without."""
    for seed, (shape, density) in enumerate(dense_layouts(block_size)):
        check_matmul_dw(kernels, mode, block_size, seed % 2, 72, seed=seed, shape=shape,
                        density=density, use_gate=seed % 3 == 0, float_output=seed % 2 == 0,
                        tile=dense_tile())
        for number, batches in enumerate(((72,), (40, 24))):
            check_list_of_pairs(kernels, mode, block_size, (seed + number) % 2, batches,
                                seed=2 * seed + number, shape=shape, density=density,
                                tile=dense_tile())
            check_list_of_pairs(kernels, mode, block_size, (seed + number) % 2, batches,
                                seed=2 * seed + 1 - number, shape=shape, density=density,
                                tile=dense_tile())


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_weight_gradients_by_dense_matrices_of_activations_turned_round(kernels, block_size):
    """Hopper's TF32 products of many features, last: of x and dy the one that has fewer."""
    many = 1024 // block_size + 1
    for seed, shape in enumerate(((3, many), (many, 3))):
        check_matmul_dw(kernels, "tf32", block_size, 1, 77, seed=seed, shape=shape, misaligned=seed > 0,
                        tile=dense_tile())
        check_list_of_pairs(kernels, "tf32", block_size, 1, (40, 3, 24), seed=seed, shape=shape, tile=dense_tile())


@pytest.mark.parametrize("mode, block_size", list(itertools.product(MODES, BLOCK_SIZES)))
def test_what_a_gate_shuts_out_does_not_reach_dw(kernels, mode, block_size):
    """NaN in the dense gradient, under blocks whose gate is 0; with dw at a multiple of 8 bytes only,
    too."""
    layout = np.ones((3, 5), bool)
    x, dy = (torch.ones((24, side * block_size), dtype=cuda.torch_dtype(mode), device="cuda")
             for side in layout.shape)
    x[3, block_size] = float("nan")  # so that a row of every block of block row 1 is NaN
    gate = torch.ones(15, device="cuda")
    gate[5:10] = 0.0
    addend = torch.arange(15.0, device="cuda")[:, None, None].expand(15, block_size, block_size)
    plan = cuda_plans.matmul_dw_plan(layout, dense_tile())
    wanted = (addend + 24 * gate[:, None, None]).to(x.dtype)
    for shift in (0, 8 // x.element_size()):
        dw, more = (torch.full((addend.numel() + shift,), float("nan"), dtype=x.dtype,
                               device="cuda")[shift:].view(addend.shape) for _ in range(2))
        more.copy_(addend)
        kernels.prepare_matmul_dw(mode, block_size, 1, layout.shape, plan, x, dy, dw, gate, more)()
        assert torch.equal(dw, wanted)


# In 16 bit, and in TF32, where larger blocks are cells of 32.
DW_TILES = ([("bfloat16", block_size) for block_size in (8, 16, 32)]
            + [("tf32", block_size) for block_size in BLOCK_SIZES])


def dw_tile(kernels, mode, block_size, ctas):
    """As get_tile gives it where the policy prefers so many CTAs."""
    if kernels.device().compute_capability != 90:
        pytest.skip("tiles of the layout are for compute capability 9.0")
    tile = kernels.tile(mode, block_size, 4096, is_dw=True)
    assert tile.kernel == cuda.SM90_DW_TILES
    tile.columns = ctas * tile.cta_columns
    return tile


def dw_layouts(block_size):
    """{name: layout} of everything that makes tiles of other shapes."""
    rng = np.random.default_rng(block_size)
    chunk = max(1, 64 // block_size)
    c, k = np.indices((9 * chunk + 3, 7 * chunk + 1))
    sparse = rng.random(c.shape) < 0.03
    sparse[2 * chunk:4 * chunk] = sparse[:, 3 * chunk:5 * chunk] = False
    hubs = rng.random(c.shape) < 0.02
    hubs[chunk + 1] = hubs[:, 2 * chunk] = True
    return {"sparse": sparse, "hubs": hubs, "full": np.ones_like(sparse),
            "banded": abs(c - k) <= 2, "patches": c // chunk == k // chunk,
            "one row": np.ones((1, 70), bool), "one column": np.ones((70, 1), bool),
            "one block": np.ones((1, 1), bool)}


@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size", DW_TILES)
@pytest.mark.parametrize("ctas", (1, 2, 4))
def test_dw_tiles_whatever_the_policy_prefers(kernels, ctas, mode, block_size, feature_axis):
    tile = dw_tile(kernels, mode, block_size, ctas)
    other = "float16" if mode == "bfloat16" else mode
    for seed, (name, layout) in enumerate(dw_layouts(block_size).items()):
        for precision, batch, batch_splits in (
                (mode, 72, 1), (other, 504, 3), (mode, 2052 if mode == "tf32" else 2056, 7)):
            check_matmul_dw(kernels, precision, block_size, feature_axis, batch, seed=seed,
                            batch_splits=batch_splits, use_gate=seed % 2 == 0,
                            float_output=seed % 3 == 0, tile=tile, layout=layout)
    for seed, (batches, batch_splits) in enumerate(itertools.product(LISTS, (1, 3))):
        if feature_axis == 1 or all(n % 8 == 0 for n in batches):
            check_list_of_pairs(kernels, mode, block_size, feature_axis, batches, seed=seed,
                                batch_splits=batch_splits, tile=tile)


@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size", DW_TILES)
@pytest.mark.parametrize("ctas", (1, 2, 4))
def test_planned_dw_tiles(kernels, ctas, mode, block_size, feature_axis):
    """The planner's tiles, whose neighbours share operands, in large products again and again."""
    if cuda.find_library("libbsparse_plan.so") is None:
        pytest.skip("libbsparse_plan.so is not built")
    tile = dw_tile(kernels, mode, block_size, ctas)
    planner, device = cuda.Planner(), kernels.device()
    layouts = dw_layouts(block_size)
    side = 4096 // block_size
    for density in (0.01, 0.1, 0.4):
        layouts[f"{density:g}"] = np.random.default_rng(0).random((side, side)) < density
    for name, layout in layouts.items():
        for batch in (64, 1000, 4096):
            shapes = [(batch, n * block_size) if feature_axis == 1 else (n * block_size, batch)
                      for n in layout.shape]
            generator = torch.Generator("cuda").manual_seed(batch)
            x, dy = (torch.randint(-2, 3, shape, generator=generator, device="cuda",
                                   dtype=torch.int32).to(cuda.torch_dtype(mode))
                     for shape in shapes)
            dw = torch.full((int(layout.sum()), block_size, block_size), float("nan"),
                            device="cuda")
            plan = planner.matmul_dw(layout, batch, device, tile)
            call = kernels.prepare_matmul_dw(mode, block_size, feature_axis, layout.shape,
                                             plan, x, dy, dw)
            call()
            first = dw.clone()
            x, dy = (t if feature_axis == 1 else t.t() for t in (x, dy))
            dense = torch.mm(x.t().float(), dy.float())
            stored = dense.reshape(layout.shape[0], block_size, layout.shape[1], block_size)
            stored = stored.permute(0, 2, 1, 3)[torch.tensor(layout).cuda()]
            assert torch.equal(first, stored), f"{name}, batch {batch}: wrong"  # integers
            for _ in range(5):
                dw.fill_(float("nan"))
                call()
                assert torch.equal(first, dw), f"{name}, batch {batch}: other bits"
