"""The CUDA kernels through their C API, without TensorFlow, in every cell.

Truth is float64 NumPy on the dense weights. A result may err at most 2x (matmul) or 3x (weight
gradient) as much as the dense product in the same precision does; the dense error is taken over
a larger batch of the same numbers, since a handful of elements can be right by chance.

    pytest tests/cuda_api_test.py        or        python tests/cuda_api_test.py [-k words]
"""

import ctypes
import itertools
import sys

import numpy as np
import pytest

import cuda_binding as cuda

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))

BLOCK_SIZES = (8, 16, 32, 64, 128)
# float32: exact; tf32 and tf32x3: float32 storage.
MODES = ("bfloat16", "float16", "float32", "tf32", "tf32x3")
FORWARD, BACKWARD = 2.0, 3.0
MANY = 256  # batch entries that the dense error is taken over


@pytest.fixture(scope="module")
def kernels():
    return cuda.Kernels()


def on_gpu(array, mode):
    return torch.tensor(np.asarray(array), dtype=torch.float64).to(cuda.torch_dtype(mode)).cuda()


def float64(tensor):
    return tensor.double().cpu().numpy()


def guarded(shape, dtype):
    """A NaN-filled tensor between guards; the second result checks that the guards are whole."""
    guard = 1024
    size = int(np.prod(shape))
    whole = torch.full((size + 2 * guard,), float("nan"), dtype=dtype, device="cuda")
    whole[:guard] = 7.0
    whole[guard + size:] = 7.0

    def check():
        assert bool((whole[:guard] == 7.0).all()), "wrote before the output"
        assert bool((whole[guard + size:] == 7.0).all()), "wrote behind the output"

    return whole[guard:guard + size].view(shape), check


def dense_matrix(layout, w, block_size):
    """float64 [C, K] from blocks, by plain loops."""
    dense = np.zeros((layout.shape[0] * block_size, layout.shape[1] * block_size))
    for block, (c, k) in zip(w, np.argwhere(layout)):
        rows = slice(c * block_size, (c + 1) * block_size)
        dense[rows, k * block_size:(k + 1) * block_size] = block
    return dense


def rounded_to_tf32(array):
    """float32 with 10 bits of mantissa, to nearest: what TF32 tensor cores are fed."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def low_precision_product(a, b, mode):
    """What dense hardware gives: operands exact in the mode's type, float32 accumulation.

    A transposed view is multiplied as one: cuBLAS has other kernels for it, which err otherwise.
    """
    if mode == "tf32":
        a, b = rounded_to_tf32(a), rounded_to_tf32(b)
    if mode == "tf32x3":
        # Each factor in two parts, and the product of the small ones left out.
        (big_a, small_a), (big_b, small_b) = (
            (big, rounded_to_tf32(np.float32(m) - big))
            for m, big in ((m, rounded_to_tf32(m)) for m in (a, b)))
        return (low_precision_product(small_a, big_b, "float32")
                + low_precision_product(big_a, small_b, "float32")
                + low_precision_product(big_a, big_b, "float32"))

    def operand(m):
        if m.flags.f_contiguous:
            return torch.tensor(m.T, dtype=torch.float32).cuda().t()
        return torch.tensor(m, dtype=torch.float32).cuda()

    return operand(a) @ operand(b)


def activate(z, activation):
    """float64 NumPy."""
    if activation == "relu":
        return np.maximum(z, 0.0)
    if activation == "gelu":
        return float64(torch.nn.functional.gelu(torch.tensor(z)))
    return z


def norms(difference):
    if difference.size == 0:
        return 0.0, 0.0
    return np.sqrt(np.mean(np.square(difference))), np.abs(difference).max()


def assert_as_accurate(result, truth, dense_difference, factor, scale):
    assert result.shape == truth.shape
    assert np.isfinite(result).all(), "result is not finite: something was not written"
    for name, ours, theirs in zip(("rms", "largest"), norms(result - truth),
                                  norms(dense_difference)):
        limit = factor * theirs + np.finfo(np.float32).eps * scale
        assert ours <= limit, f"{name} error {ours:.3g}, dense errs {theirs:.3g}"


def random_layout(rng, shape, density):
    layout = rng.random(shape) < density
    if shape[1] > 2:
        layout[:, 1] = False  # a column without blocks
    if shape[0] > 1:
        layout[:, 0] = True  # a hub column
    return layout


def check_matmul(kernels, mode, block_size, feature_axis, transpose, batch, *, seed=0,
                 shape=None, density=0.4, segment=None, use_gate=False, use_bias=False,
                 activation="none", misaligned=False, tile=None, residual=None):
    """`residual`: None, or where it lies: "apart", or in "y"."""
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, shape or ((7, 5) if block_size <= 32 else (3, 4)), density)
    inputs, outputs = (n * block_size for n in (layout.shape[::-1] if transpose else layout.shape))
    w = on_gpu(rng.standard_normal((int(layout.sum()), block_size, block_size)), mode)
    gate = rng.choice([0.0, 0.5, 1.0], len(w)) if use_gate else None
    many = max(batch, MANY)
    x = on_gpu(rng.standard_normal((many, inputs)), mode)
    bias = on_gpu(rng.standard_normal(outputs) * 3, mode) if use_bias else None

    prepared, gate_gpu = w, None
    if use_gate:
        gate_gpu = torch.tensor(gate, dtype=torch.float32).cuda()
        w = w.clone()
        w[torch.tensor(gate == 0).cuda()] = float("nan")  # must not travel
        prepared = torch.empty_like(w)
        kernels.prepare_weights(w, prepared, gate_gpu)
    dense = dense_matrix(layout, float64(prepared), block_size)
    dense = dense.T if transpose else dense
    add = float64(bias) if use_bias else 0.0
    truth = activate(float64(x) @ dense + add, activation)
    rough = float64(low_precision_product(float64(x), dense, mode))
    rough = activate(rough + add, activation)
    added = on_gpu(rng.standard_normal((many, outputs)) * 3, mode) if residual else None
    if residual:
        truth, rough = truth + float64(added), rough + float64(added)
    rough = float64(on_gpu(rough, mode))

    def placed(rows):
        rows = rows[:batch] if feature_axis == 1 else rows[:batch].t()
        storage = torch.empty(rows.numel() + 1, dtype=x.dtype, device="cuda")
        offset = int(misaligned)
        return storage[offset:offset + rows.numel()].view(rows.shape).copy_(rows)

    x_in = placed(x)
    added = placed(added) if residual else None
    y, check_guards = guarded((batch, outputs) if feature_axis == 1 else (outputs, batch), x.dtype)
    tile = tile or kernels.tile(mode, block_size, batch, feature_axis=feature_axis, gated=use_gate,
                                aligned=not misaligned, density=seed % 2 * 0.1)
    plan = cuda.matmul_plan(layout, tile, transpose, segment, seed)
    call, again = (
        kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape, plan, x_in, prepared,
                               y, transpose, gate_gpu, bias, activation, batch=batch,
                               settled=settled, residual=y if residual == "y" else added)
        for settled in (seed % 2, 3))

    def reset():
        if residual == "y":
            y.copy_(added)
        else:
            y.fill_(float("nan"))

    reset()
    call()
    torch.cuda.synchronize()
    check_guards()
    result = float64(y if feature_axis == 1 else y.t())
    assert_as_accurate(result, truth[:batch], rough - truth, FORWARD, np.abs(truth).max())
    first = y.clone()
    reset()
    call()
    if residual == "y":
        reset()
    # It may start while the one before still runs; the first has settled the weights.
    again()
    assert torch.equal(first, y), "the same inputs gave other bits"


CELLS = list(itertools.product(MODES, BLOCK_SIZES, (0, 1), (False, True)))


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


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_a_residual_by_the_dense_matrix(kernels, mode, block_size, feature_axis, transpose):
    for seed, (activation, residual) in enumerate(
            itertools.product(("none", "relu", "gelu"), ("apart", "y"))):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, 77, seed=seed,
                     use_bias=seed % 2 == 1, activation=activation, residual=residual,
                     tile=dense_tile())


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_matmul_of_many_items(kernels, block_size):
    """More items than a rasterisation chunk, long columns, several batch groups."""
    for feature_axis, density in ((0, 0.3), (1, 1.0)):
        check_matmul(kernels, "bfloat16", block_size, feature_axis, False, 1100, shape=(37, 41),
                     density=density)


def check_matmul_dw(kernels, mode, block_size, feature_axis, batch, *, seed=0, batch_splits=1,
                    shape=None, density=0.4, use_gate=False, float_output=False, misaligned=False,
                    tile=None, layout=None):
    rng = np.random.default_rng(seed)
    if layout is None:
        layout = random_layout(rng, shape or ((7, 5) if block_size <= 32 else (3, 4)), density)
    many = max(batch, 1)
    x = on_gpu(rng.standard_normal((many, layout.shape[0] * block_size)), mode)
    dy = on_gpu(rng.standard_normal((many, layout.shape[1] * block_size)), mode)
    x, dy = x[:batch], dy[:batch]
    truth = float64(x).T @ float64(dy)
    out_dtype = torch.float32 if float_output else x.dtype
    if float_output and x.dtype != torch.float32:
        # Nothing is rounded away here, so the tensor cores' own accumulation is what counts.
        rough = float64(torch.mm(x.t(), dy, out_dtype=torch.float32))
    else:
        rough = low_precision_product(float64(x).T, float64(dy), mode)
        rough = float64(rough.to(out_dtype))

    blocks = int(layout.sum())
    gate = rng.choice([0.0, 0.5, 1.0], blocks) if use_gate else np.ones(blocks)
    dw, check_guards = guarded((blocks, block_size, block_size), out_dtype)
    if feature_axis == 0:
        x, dy = x.t().contiguous(), dy.t().contiguous()
    if misaligned:
        storage = torch.empty(x.numel() + 1, dtype=x.dtype, device="cuda")
        x = storage[1:].view(x.shape).copy_(x)
    tile = tile or kernels.tile(mode, block_size, batch, is_dw=True, feature_axis=feature_axis,
                                gated=use_gate, aligned=not misaligned)
    call = kernels.prepare_matmul_dw(
        mode, block_size, feature_axis, layout.shape,
        cuda.matmul_dw_plan(layout, tile, batch_splits, seed), x, dy, dw, torch.tensor(gate, dtype=torch.float32).cuda() if use_gate else None)
    call()
    torch.cuda.synchronize()
    check_guards()
    result = float64(dw)
    assert (result[gate == 0] == 0).all()
    wanted = np.stack([g * truth[c * block_size:(c + 1) * block_size,
                                 k * block_size:(k + 1) * block_size]
                       for g, (c, k) in zip(gate, np.argwhere(layout))])
    assert_as_accurate(result, wanted, rough - truth, BACKWARD, np.abs(truth).max())
    first = dw.clone()
    dw.fill_(float("nan"))
    call()
    assert torch.equal(first, dw), "the same inputs gave other bits"


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


def check_list_of_pairs(kernels, mode, block_size, feature_axis, batches, *, seed, batch_splits=1,
                        shape=None, density=0.4, tile=None, max_ctas=0):
    """dw of several uses of the weights, gated, upon an addend that may be dw itself."""
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, shape or ((7, 5) if block_size <= 32 else (3, 4)), density)
    blocks = int(layout.sum())
    xs, dys = ([on_gpu(rng.standard_normal((n, side * block_size)), mode) for n in batches]
               for side in layout.shape)
    out_dtype = torch.float32 if seed % 2 else xs[0].dtype
    gate = rng.choice([0.0, 0.5, 1.0], blocks)
    addend = torch.tensor(rng.standard_normal((blocks, block_size, block_size))).to(out_dtype).cuda()
    x, dy = (np.concatenate([float64(t) for t in ts]) for ts in (xs, dys))
    truth = x.T @ dy
    if out_dtype == torch.float32 and xs[0].dtype != torch.float32 and len(x):
        rough = float64(torch.mm(torch.cat(xs).t(), torch.cat(dys), out_dtype=torch.float32))
    else:
        rough = float64(low_precision_product(x.T, dy, mode).to(out_dtype))
    if feature_axis == 0:
        xs, dys = ([t.t().contiguous() for t in ts] for ts in (xs, dys))
    tile = tile or kernels.tile(
        mode, block_size, sum(batches), is_dw=True, feature_axis=feature_axis, gated=True,
        aligned=feature_axis == 1 or all(n % 8 == 0 for n in batches), pairs=len(batches))
    plan = cuda.matmul_dw_plan(layout, tile, batch_splits, seed)
    gate_gpu = torch.tensor(gate, dtype=torch.float32).cuda()
    wanted = np.stack([g * truth[c * block_size:(c + 1) * block_size,
                                 k * block_size:(k + 1) * block_size]
                       for g, (c, k) in zip(gate, np.argwhere(layout))]) + float64(addend)
    results = []
    for in_place in (False, True):
        dw, check_guards = guarded(tuple(addend.shape), out_dtype)
        if in_place:
            dw.copy_(addend)
        kernels.prepare_matmul_dw(mode, block_size, feature_axis, layout.shape, plan, xs, dys, dw,
                                  gate_gpu, dw if in_place else addend, max_ctas)()
        torch.cuda.synchronize()
        check_guards()
        results.append(dw)
    assert torch.equal(*results), "an addend in place gave other bits"
    # The addend's sum is rounded once more.
    rounding = np.abs(wanted).max() * (0 if out_dtype == torch.float32 else
                                       float(torch.finfo(out_dtype).eps) / 4)
    difference = np.abs(rough - truth) + rounding
    assert_as_accurate(float64(results[0]), wanted, difference, BACKWARD, np.abs(wanted).max())
    return results[0]


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


# Kernels whose CTAs take tile after tile.
LARGE_CELLS = ([("bfloat16", block_size) for block_size in (8, 16, 32, 64, 128)]
               + [("tf32", block_size) for block_size in (16, 32, 64, 128)])


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
    for ctas in (1, 2, 4, 8):
        tile = union_tile(kernels, ctas, mode, block_size, feature_axis)
        plan = cuda.matmul_plan(layout, tile, segment=5)
        results = []
        for max_ctas in (0, 1, 12, 64, 131):
            result = torch.full_like(y, float("nan"))
            kernels.prepare_matmul(mode, block_size, feature_axis, layout.shape, plan, x, w,
                                   result, max_ctas=max_ctas)()
            results.append(result)
        assert bool(torch.isfinite(results[0]).all())
        assert all(torch.equal(results[0], other) for other in results[1:])
    tile = kernels.tile(mode, block_size, batch, is_dw=True, feature_axis=feature_axis)
    if tile.kernel not in (cuda.SM90, cuda.SM90_DW_TILES):
        return
    gradients = []
    for max_ctas in (0, 1, 13, 64, 131):
        dw = torch.full_like(w, float("nan"))
        kernels.prepare_matmul_dw(mode, block_size, feature_axis, layout.shape,
                                  cuda.matmul_dw_plan(layout, tile, 5), x, y, dw,
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
                                      cuda.matmul_dw_plan(layout, tile), x, y, dw,
                                      max_ctas=max_ctas)()
            gradients.append(dw)
        assert bool(torch.isfinite(gradients[0]).all())
        assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size", LARGE_CELLS)
def test_large_products_give_the_same_bits(kernels, mode, block_size, feature_axis, transpose):
    """As many tiles as fill the GPU for a millisecond, again and again: what a load that comes too
    late spoils, it spoils in some runs of these only."""
    if cuda.find_library("libbsparse_plan.so") is None:
        pytest.skip("libbsparse_plan.so is not built")
    size, batch = 8192, 8192
    density = {8: 0.05, 16: 0.1}.get(block_size, 0.4)  # above, the dense matrix would be taken
    blocks = size // block_size
    layout = np.random.default_rng(block_size).random((blocks, blocks)) < density
    dtype = torch.float32 if mode == "tf32" else torch.bfloat16
    generator = torch.Generator("cuda").manual_seed(block_size)

    def normal(*shape):
        # TF32 holds such numbers exactly, too.
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16).to(dtype)

    tile = kernels.tile(mode, block_size, batch, feature_axis=feature_axis,
                        blocks=layout.shape, density=density)
    assert tile.kernel != cuda.DENSE
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


def dense_tile():
    return cuda.Tile(kernel=cuda.DENSE, batch_tile=2**31 - 1, ctas_per_sm=1, columns=1,
                     cta_columns=1, shared_columns=1)


@pytest.mark.parametrize("mode, block_size, feature_axis, transpose", CELLS)
def test_matmul_by_the_dense_matrix(kernels, mode, block_size, feature_axis, transpose):
    for seed, activation in enumerate(("none", "relu", "gelu")):
        check_matmul(kernels, mode, block_size, feature_axis, transpose, 77, seed=seed,
                     use_bias=seed > 0, activation=activation, tile=dense_tile())


@pytest.mark.parametrize("mode, block_size, feature_axis",
                         list(itertools.product(MODES, BLOCK_SIZES, (0, 1))))
def test_matmul_dw_by_the_dense_matrix(kernels, mode, block_size, feature_axis):
    for seed, (use_gate, float_output) in enumerate(itertools.product((False, True), repeat=2)):
        check_matmul_dw(kernels, mode, block_size, feature_axis, 200, seed=seed, use_gate=use_gate,
                        float_output=float_output, tile=dense_tile())


def dense_layouts(block_size):
    """Shapes and densities: odd counts, a side of one block, every block stored, and more than one
    tile along each side."""
    many, more = (19, 37) if block_size <= 32 else (3, 7)
    return (((1, 1), 1.0), ((1, 9), 0.5), ((11, 2), 1.0), ((many, more), 0.3), ((more, many), 0.9))


@pytest.mark.parametrize("mode, block_size, transpose",
                         list(itertools.product(MODES, BLOCK_SIZES, (False, True))))
def test_dense_matrices_of_any_shape(kernels, mode, block_size, transpose):
    for seed, (shape, density) in enumerate(dense_layouts(block_size)):
        check_matmul(kernels, mode, block_size, seed % 2, transpose, 40, seed=seed, shape=shape,
                     density=density, tile=dense_tile())


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
    plan = cuda.matmul_dw_plan(layout, dense_tile())
    wanted = (addend + 24 * gate[:, None, None]).to(x.dtype)
    for shift in (0, 8 // x.element_size()):
        dw, more = (torch.full((addend.numel() + shift,), float("nan"), dtype=x.dtype,
                               device="cuda")[shift:].view(addend.shape) for _ in range(2))
        more.copy_(addend)
        kernels.prepare_matmul_dw(mode, block_size, 1, layout.shape, plan, x, dy, dw, gate, more)()
        assert torch.equal(dw, wanted)


@pytest.mark.parametrize("transpose", (False, True))
def test_dense_products_inside_a_cuda_graph(kernels, transpose):
    """Kernels that may start early come after those of cuBLAS, which are not launched so."""
    layout = np.random.default_rng(0).random((7, 7)) < 0.5
    x, dy = (torch.randn((192, 56), device="cuda").to(torch.bfloat16) for _ in range(2))
    w = torch.randn((int(layout.sum()), 8, 8), device="cuda").to(torch.bfloat16)
    bias = torch.randn(56, device="cuda").to(torch.bfloat16)
    plan = cuda.matmul_plan(layout, dense_tile(), transpose)
    dw_plan = cuda.matmul_dw_plan(layout, dense_tile())
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


def test_a_split_plan_does_not_go_by_the_dense_matrix(kernels):
    layout = np.ones((4, 4), bool)
    x, w = (torch.ones(shape, device="cuda") for shape in ((32, 32), (16, 8, 8)))
    call = kernels.prepare_matmul("float32", 8, 1, layout.shape,
                                  cuda.matmul_plan(layout, dense_tile(), segment=2), x, w,
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
    plan = cuda.matmul_plan(layout, kernels.tile("float32", 8, 20))
    kernels.prepare_matmul("float32", 8, feature_axis, layout.shape, plan, x,
                           torch.empty(0, device="cuda"), y, bias=bias, activation="relu",
                           batch=20)()
    wanted = bias.clamp(min=0).expand(20, 24)
    assert torch.equal(y if feature_axis == 1 else y.t(), wanted)


@pytest.mark.parametrize("activation", ("none", "relu", "gelu"))
@pytest.mark.parametrize("feature_axis", (0, 1))
@pytest.mark.parametrize("mode, block_size, batch", [
    *(("bfloat16", *cell) for cell in ((16, 136), (32, 72), (32, 136), (64, 72))),
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
                           cuda.matmul_plan(layout, tile), x_in, w, y, activation=activation)()
    got = float64(y if feature_axis == 1 else y.t())
    assert np.isnan(got[3]).all() and np.isinf(got[9, :block_size]).all()
    assert np.isfinite(np.delete(got, (3, 9), 0)).all()
    if tile.shared_columns == 1:
        assert np.isfinite(got[9, block_size:]).all()


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
    plan = cuda.matmul_plan(layout, kernels.tile("bfloat16", 8, batch, feature_axis=feature_axis))
    kernels.prepare_matmul("bfloat16", 8, feature_axis, (1, 1), plan, x, w, y)()
    got = y[-40:] if feature_axis == 1 else y[:, -40:].t()
    assert torch.allclose(got.float(), tail.float() @ w[0].float(), rtol=0.02, atol=0.02)
    head = y[:-40] if feature_axis == 1 else y[:, :-40]
    assert bool((head == 0).all())
    dw = torch.full((1, 8, 8), float("nan"), device="cuda")
    tile = kernels.tile("bfloat16", 8, batch, is_dw=True, feature_axis=feature_axis)
    kernels.prepare_matmul_dw("bfloat16", 8, feature_axis, (1, 1),
                              cuda.matmul_dw_plan(layout, tile, 64), x, x, dw)()
    assert torch.allclose(dw[0], tail.float().t() @ tail.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("feature_axis", (0, 1))
def test_products_inside_a_cuda_graph(kernels, feature_axis):
    layout = np.random.default_rng(0).random((6, 6)) < 0.5
    x = torch.randn((192, 192), device="cuda").to(torch.bfloat16)
    w = torch.randn((int(layout.sum()), 32, 32), device="cuda").to(torch.bfloat16)
    eager, replayed = torch.empty_like(x), torch.empty_like(x)
    tile = kernels.tile("bfloat16", 32, 192, feature_axis=feature_axis, gated=True)
    plan = cuda.matmul_plan(layout, tile, segment=1)
    gate = torch.tensor(np.arange(len(w)) % 3, dtype=torch.float32, device="cuda")
    calls = [kernels.prepare_matmul("bfloat16", 32, feature_axis, layout.shape, plan, x, w, y,
                                    gate=gate) for y in (eager, replayed)]
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls[1]()
    replayed.zero_()
    graph.replay()
    assert torch.equal(eager, replayed)


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


def union_tile(kernels, ctas, mode, block_size, feature_axis):
    """As get_tile gives it where the policy prefers so many CTAs."""
    tile = kernels.tile(mode, block_size, 1024, feature_axis=feature_axis)
    assert tile.kernel == cuda.SM90
    tile.columns = ctas * tile.cta_columns
    return tile


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


@pytest.mark.parametrize("mode, block_size", [*itertools.product(("bfloat16", "tf32"), (8, 16, 32)),
                                              ("float16", 64), ("tf32", 128)])
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
    plan = cuda.matmul_plan(layout, kernels.tile("float32", 32, 64))
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


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", *sys.argv[1:]]))
