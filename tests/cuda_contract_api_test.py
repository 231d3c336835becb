"""What the C API of the CUDA kernels promises besides its products: graphs, plans, copies, choices, errors.

    pytest tests/cuda_contract_api_test.py
"""

import ctypes
import itertools

import numpy as np
import pytest

import cuda_binding as cuda
import cuda_plans
from cuda_checks import (
    BLOCK_SIZES, MODES, assert_the_same_in_a_graph, check_matmul, dense_matrix, dense_tile, float64, on_gpu,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


@pytest.mark.parametrize("transpose", (False, True))
def test_dense_products_inside_a_cuda_graph(kernels, transpose):
    """Kernels that may start early come after those of cuBLAS, which are not launched so."""
    layout = np.random.default_rng(0).random((7, 7)) < 0.5
    x, dy = (torch.randn((192, 56), device="cuda").to(torch.bfloat16) for _ in range(2))
    w = torch.randn((int(layout.sum()), 8, 8), device="cuda").to(torch.bfloat16)
    bias = torch.randn(56, device="cuda").to(torch.bfloat16)
    plan = cuda_plans.matmul_plan(layout, dense_tile(), transpose)
    dw_plan = cuda_plans.matmul_dw_plan(layout, dense_tile())
    eager, replayed = ((torch.empty_like(x), torch.empty_like(w)) for _ in range(2))
    calls = [(kernels.prepare_matmul("bfloat16", 8, 1, layout.shape, plan, x, w, y, transpose,
                                     bias=bias),
              kernels.prepare_matmul_dw("bfloat16", 8, 1, layout.shape, dw_plan, x, dy, dw))
             for y, dw in (eager, replayed)]
    for call in calls[0]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls[1]:
            call()
    for tensor in replayed:
        tensor.fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(*pair) for pair in zip(eager, replayed))


@pytest.mark.parametrize("batch", (192, 640))  # streams and union tiles on Hopper
@pytest.mark.parametrize("feature_axis", (0, 1))
def test_products_inside_a_cuda_graph(kernels, feature_axis, batch):
    layout = np.random.default_rng(0).random((6, 6)) < 0.5
    shape = (batch, 192) if feature_axis == 1 else (192, batch)
    x = torch.randn(shape, device="cuda").to(torch.bfloat16)
    w = torch.randn((int(layout.sum()), 32, 32), device="cuda").to(torch.bfloat16)
    tile = kernels.tile("bfloat16", 32, batch, feature_axis=feature_axis, gated=True)
    plan = cuda_plans.matmul_plan(layout, tile, segment=1)
    gate = torch.tensor(np.arange(len(w)) % 3, dtype=torch.float32, device="cuda")
    assert_the_same_in_a_graph(
        lambda y: kernels.prepare_matmul("bfloat16", 32, feature_axis, layout.shape, plan, x, w, y,
                                         gate=gate), x.shape, x.dtype)


@pytest.mark.parametrize("feature_axis", (0, 1))
def test_offsets_beyond_32_bits(kernels, feature_axis):
    """2^31 elements and more, in x and in y."""
    batch = 2**28 + 24
    need = 2 * 2 * 8 * batch + 2**30
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need >> 30} GiB of device memory")
    x = torch.zeros((batch, 8) if feature_axis == 1 else (8, batch), dtype=torch.bfloat16,
                    device="cuda")
    tail = torch.randn((40, 8), device="cuda").to(x.dtype)
    (x[-40:] if feature_axis == 1 else x[:, -40:].t()).copy_(tail)
    w = torch.randn((1, 8, 8), device="cuda").to(x.dtype)
    y = torch.full_like(x, float("nan"))
    layout = np.ones((1, 1), bool)
    plan = cuda_plans.matmul_plan(layout, kernels.tile("bfloat16", 8, batch, feature_axis=feature_axis))
    kernels.prepare_matmul("bfloat16", 8, feature_axis, (1, 1), plan, x, w, y)()
    got = y[-40:] if feature_axis == 1 else y[:, -40:].t()
    assert torch.allclose(got.float(), tail.float() @ w[0].float(), rtol=0.02, atol=0.02)
    head = y[:-40] if feature_axis == 1 else y[:, :-40]
    assert bool((head == 0).all())
    dw = torch.full((1, 8, 8), float("nan"), device="cuda")
    tile = kernels.tile("bfloat16", 8, batch, is_dw=True, feature_axis=feature_axis)
    kernels.prepare_matmul_dw("bfloat16", 8, feature_axis, (1, 1),
                              cuda_plans.matmul_dw_plan(layout, tile, 64), x, x, dw)()
    assert torch.allclose(dw[0], tail.float().t() @ tail.float(), rtol=1e-3, atol=1e-3)


def test_prepare_weights_converts_and_scales(kernels):
    w = torch.randn((5, 16, 16), device="cuda")
    gate = torch.tensor([0.0, 1.0, -0.5, 2.0, 0.0], device="cuda")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        out = torch.empty(w.shape, dtype=dtype, device="cuda")
        kernels.prepare_weights(w, out)
        assert torch.equal(out, w.to(dtype))
        kernels.prepare_weights(w, out, gate)
        assert torch.equal(out, (w * gate[:, None, None]).to(dtype))


def test_copy_to_device_has_read_the_source_when_it_returns(kernels):
    source = np.arange(1 << 20, dtype=np.int32)
    wanted = source.copy()
    target = torch.zeros(len(source), dtype=torch.int32, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    assert kernels.api.copy_to_device(target.data_ptr(), source.ctypes.data, source.nbytes,
                                      stream) == cuda.OK
    source[:] = -1
    assert np.array_equal(target.cpu().numpy(), wanted)
    assert kernels.api.copy_to_device(None, source.ctypes.data, 4, stream) == cuda.INVALID_ARGUMENT
    assert "null pointer" in kernels.api.last_error().decode()


def test_planner_and_kernels_agree(kernels):
    if cuda.find_library("libbsparse_plan.so") is None:
        pytest.skip("libbsparse_plan.so is not built")
    planner = cuda.Planner()
    layout = np.random.default_rng(1).random((40, 9)) < 0.2
    layout[:, 3] = True  # a hub: split
    dense = None
    for mode, batch, block_size, transpose in itertools.product(
            ("float32", "bfloat16"), (1, 16, 100, 300), (16, 32, 64), (False, True)):
        tile = kernels.tile(mode, block_size, batch)
        plan = planner.matmul(layout, batch, kernels.device(), tile, transpose)
        rng = np.random.default_rng(batch)
        w = on_gpu(rng.standard_normal((int(layout.sum()), block_size, block_size)), mode)
        dense = dense_matrix(layout, float64(w), block_size)
        dense = dense.T if transpose else dense
        x = on_gpu(rng.standard_normal((batch, dense.shape[0])), mode)
        y = torch.empty((batch, dense.shape[1]), device="cuda", dtype=x.dtype)
        kernels.prepare_matmul(mode, block_size, 1, layout.shape, plan, x, w, y, transpose)()
        truth = float64(x) @ dense
        rounding = 2.0**-8 if mode == "bfloat16" else 2.0**-20
        np.testing.assert_allclose(float64(y), truth, rtol=rounding, atol=1e-3)


BAD_MATMULS = {
    "dtype": ("dtype", 9), "block_size": ("block_size", 24), "feature_axis": ("feature_axis", 2),
    "in_blocks": ("in_blocks", 0), "batch": ("batch", -1), "activation": ("activation", 3),
    "x": ("x", None), "w": ("w", 8), "y": ("y", None), "residual": ("residual", 2),
    "too large": ("batch", 2**60),
    "plan.kernel": ("kernel", 100), "plan.columns": ("columns", 65), "plan.num_items": ("num_items", 0),
    "plan.items": ("items", 4), "workspace_bytes": ("num_partials", 1),
}


@pytest.mark.parametrize("words", BAD_MATMULS)
def test_bad_arguments_are_named_and_harm_nothing(kernels, words):
    layout = np.ones((2, 2), bool)
    x = torch.ones((64, 64), device="cuda")
    w = torch.ones((4, 32, 32), device="cuda")
    plan = cuda_plans.matmul_plan(layout, kernels.tile("float32", 32, 64))
    args = cuda.MatmulArgs(dtype=0, block_size=32, feature_axis=1, in_blocks=2, out_blocks=2,
                           batch=64, x=x.data_ptr(), w=w.data_ptr(), y=x.data_ptr(),
                           plan=cuda.MatmulPlan(**plan.fields()))
    field, value = BAD_MATMULS[words]
    setattr(args if hasattr(args, field) else args.plan, field, value)
    assert kernels.api.matmul(ctypes.byref(args), None) == cuda.INVALID_ARGUMENT
    sentence = kernels.api.last_error().decode()
    assert words in sentence, sentence
    torch.cuda.synchronize()
    check_matmul(kernels, "float32", 32, 1, False, 33)


@pytest.mark.parametrize("block_size", (8, 16, 32))
@pytest.mark.parametrize("is_dw", (False, True))
def test_small_products_refuse_unaligned_memory(kernels, is_dw, block_size):
    """Where activations with features last are turned round before, too."""
    tile = kernels.tile("bfloat16", block_size, 64, is_dw=is_dw)
    if tile.kernel not in (cuda.SM90_STREAM, cuda.SM80_SMALL):
        pytest.skip("other kernels on this GPU")
    layout, features = np.ones((2, 2), bool), 2 * block_size
    x = torch.ones(64 * features + 1, dtype=torch.bfloat16, device="cuda")[1:].view(64, features)
    y = torch.ones((64, features), dtype=torch.bfloat16, device="cuda")
    w = torch.ones((4, block_size, block_size), dtype=torch.bfloat16, device="cuda")
    case = ("bfloat16", block_size, 1, layout.shape)
    call = (kernels.prepare_matmul_dw(*case, cuda_plans.matmul_dw_plan(layout, tile), x, y, w) if is_dw
            else kernels.prepare_matmul(*case, cuda_plans.matmul_plan(layout, tile), x, w, y))
    with pytest.raises(cuda.CudaError, match="multiples? of 16|rows of 16 bytes"):
        call()
    torch.cuda.synchronize()


@pytest.mark.parametrize("is_dw", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_explain_tells_what_get_tile_chooses(kernels, mode, is_dw):
    for block_size, axis, batch, gated, density in itertools.product(
            BLOCK_SIZES, (0, 1), (16, 4096), (False, True), (0.05, 0.5)):
        request = kernels.request(mode, block_size, batch, is_dw, axis, gated,
                                  blocks=(8192 // block_size,) * 2, density=density)
        choice, tile = kernels.explain(request), kernels.tile_of(request)
        for name in ("kernel", "columns", "cta_columns", "shared_columns", "batch_tile",
                     "block_cells", "chunk_blocks", "chunks"):
            assert getattr(choice.tile, name) == getattr(tile, name)
        assert (tile.kernel == cuda.DENSE) == (choice.dense_reason == 1)
        assert tile.ctas_per_sm >= 1


def test_get_tile_refuses_old_devices(kernels):
    tile, old = cuda.Tile(), cuda.Device(80, 75)
    request = cuda.TileRequest(dtype=2, block_size=32, batch=64)
    status = kernels.api.get_tile(ctypes.byref(request), ctypes.byref(old), ctypes.byref(tile))
    assert status == cuda.UNSUPPORTED
    assert "7.5" in kernels.api.last_error().decode()


def test_library_of_another_version_is_refused():
    library = ctypes.CDLL(str(cuda.find_library("libbsparse_cuda.so")))
    library.bsparse_cuda_get_api.restype = ctypes.c_void_p
    assert not library.bsparse_cuda_get_api(cuda.API_VERSION + 1)
