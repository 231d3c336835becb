"""What tests of the CUDA kernels through their C API have in common.

Truth is float64 NumPy on the dense weights. A result may err at most 2x (matmul) or 3x (weight
gradient) as much as the dense product in the same precision does; the dense error is taken over
a larger batch of the same numbers, since a handful of elements can be right by chance.
"""

import itertools

import numpy as np

import cuda_binding as cuda
import cuda_plans

torch = cuda.torch

BLOCK_SIZES = (8, 16, 32, 64, 128)
# float32: exact; tf32 and tf32x3: float32 storage.
MODES = ("bfloat16", "float16", "float32", "tf32", "tf32x3")
FORWARD, BACKWARD = 2.0, 3.0
MANY = 256  # batch entries that the dense error is taken over


CELLS = list(itertools.product(MODES, BLOCK_SIZES, (0, 1), (False, True)))


# Kernels whose CTAs take tile after tile.
LARGE_CELLS = ([("bfloat16", block_size) for block_size in (8, 16, 32, 64, 128)]
               + [("tf32", block_size) for block_size in (8, 16, 32, 64, 128)])


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


def dense_tile():
    return cuda.Tile(kernel=cuda.DENSE, batch_tile=2**31 - 1, ctas_per_sm=1, columns=1,
                     cta_columns=1, shared_columns=1)


def dense_layouts(block_size):
    """Shapes and densities: odd counts, a side of one block, every block stored, and more than one
    tile along each side."""
    many, more = (19, 37) if block_size <= 32 else (3, 7)
    return (((1, 1), 1.0), ((1, 9), 0.5), ((11, 2), 1.0), ((many, more), 0.3), ((more, many), 0.9))


def union_tile(kernels, ctas, mode, block_size, feature_axis):
    """As get_tile gives it where the policy prefers so many CTAs."""
    tile = kernels.tile(mode, block_size, 1024, feature_axis=feature_axis)
    assert tile.kernel == cuda.SM90
    tile.columns = ctas * tile.cta_columns
    return tile


def sweep_tile(kernels, ctas, mode, block_size, feature_axis, density=0.1):
    """As get_tile gives it for a large product of this density, on so many CTAs; wide tiles have two."""
    blocks = (8192 // block_size,) * 2
    tile = kernels.tile(mode, block_size, 8192, feature_axis=feature_axis, blocks=blocks, density=density,
                        union_density=1.0)
    assert tile.kernel == cuda.SM90_SWEEP
    wide = density <= 0.02 and block_size * cuda.ELEMENT_BYTES[mode] > 16
    assert tile.batch_tile == (32 if wide else 64)
    tile.columns = ctas * tile.cta_columns
    return tile


def assert_the_same_in_a_graph(prepare, shape, dtype):
    """prepare(y): a call that writes a tensor of this shape."""
    eager, replayed = (torch.empty(shape, dtype=dtype, device="cuda") for _ in range(2))
    calls = [prepare(y) for y in (eager, replayed)]
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls[1]()
    replayed.zero_()
    graph.replay()
    assert torch.equal(eager, replayed)


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

    def chosen_at(density):
        return kernels.tile(mode, block_size, batch, feature_axis=feature_axis, gated=use_gate,
                            aligned=not misaligned, density=density)

    tile = tile or chosen_at(seed % 2 * 0.1)
    if segment and tile.kernel == cuda.DENSE:  # which takes no split plan
        tile = chosen_at(0.0)
    plan = cuda_plans.matmul_plan(layout, tile, transpose, segment, seed)
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
        cuda_plans.matmul_dw_plan(layout, tile, batch_splits, seed), x, dy, dw, torch.tensor(gate, dtype=torch.float32).cuda() if use_gate else None)
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
    plan = cuda_plans.matmul_dw_plan(layout, tile, batch_splits, seed)
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
