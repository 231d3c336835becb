"""Layer norm, LSTM gates and activation gradients on a GPU through their C API, without TensorFlow.

Truth is PyTorch's float64 on the same numbers; a result may err at most 2x (forward) or 3x
(backward) as much as the same formula in float32, rounded once to the result's type.

    pytest tests/cuda_pointwise_api_test.py
"""

import ctypes
import itertools

import numpy as np
import pytest

import cuda_binding as cuda

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))

DTYPES = ("float32", "float16", "bfloat16")
FORWARD, BACKWARD = 2.0, 3.0
MANY = 128  # batch entries that the dense error is taken over


@pytest.fixture(scope="module")
def api():
    return cuda.load_api()


def stream():
    return torch.cuda.current_stream().cuda_stream


def check(api, status):
    assert status == cuda.OK, api.last_error().decode()


def random(rng, shape, dtype, scale=1.0, mean=0.0, offset=0):
    """Values exact in `dtype`; `offset` elements off the allocation's alignment."""
    values = torch.tensor(rng.standard_normal(shape) * scale + mean, dtype=cuda.torch_dtype(dtype))
    whole = torch.empty(values.numel() + offset, dtype=values.dtype, device="cuda")
    view = whole[offset:].view(shape)
    view.copy_(values)
    return view


class Output:
    """A NaN-filled tensor between guards."""

    def __init__(self, shape, dtype, offset=0):
        size, guard = int(np.prod(shape)), 64 + offset
        self._whole = torch.full((size + guard + 64,), float("nan"), device="cuda",
                                 dtype=cuda.torch_dtype(dtype))
        self._whole[:guard] = self._whole[guard + size:] = 7.0
        self._guard, self._size = guard, size
        self.tensor = self._whole[guard:guard + size].view(shape)

    def data_ptr(self):
        return self.tensor.data_ptr()

    def checked(self):
        guards = [self._whole[:self._guard], self._whole[self._guard + self._size:]]
        assert all(bool((g == 7.0).all()) for g in guards), "wrote beside the output"
        return self.tensor


def assert_as_accurate(result, truth, dense, factor, what, many=None):
    """`many`: (truth, dense) of more entries, to measure what dense errs."""
    exact, approximate = many or (truth, dense)
    difference = approximate.to(result.dtype).double() - exact
    error = result.double() - truth
    assert torch.isfinite(error).all(), f"{what} is not finite: something was not written"
    scale = float(truth.abs().max()) if truth.numel() else 0.0
    for name, norm in (("rms", lambda v: float(v.square().mean().sqrt())),
                       ("largest", lambda v: float(v.abs().max()))):
        if truth.numel() == 0:
            continue
        ours, theirs = norm(error), norm(difference)
        limit = factor * theirs + np.finfo(np.float32).eps * scale
        assert ours <= limit, f"{what}: {name} error {ours:.3g}, dense errs {theirs:.3g}"


# ---- layer norm ----


def layer_norm_reference(x, gain, bias, axis, segments, relu, epsilon=1e-6):
    last = x.T if axis == 0 else x
    parts = last.reshape(last.shape[0], segments, -1)
    centred = parts - parts.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    y = (centred / torch.sqrt(variance + epsilon)).reshape(last.shape) * gain + bias
    y = torch.relu(y) if relu else y
    return y.T if axis == 0 else y


def reference_gradients(function, operands, upstream, dtype):
    operands = [None if o is None else o.to(dtype).requires_grad_() for o in operands]
    results = function(*operands)
    results = results if isinstance(results, tuple) else (results,)
    given = [o for o in operands if o is not None]
    gradients = torch.autograd.grad(results, given, [u.to(dtype) for u in upstream])
    return [r.detach() for r in results] + list(gradients)


class LayerNormCall:
    """Forward and backward of one problem; the outputs are kept by name."""

    def __init__(self, api, x, dy, gain, bias, axis, segments, relu, offset=0):
        self.api = api
        features, batch = x.shape if axis == 0 else x.shape[::-1]
        names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
        common = dict(dtype=names[x.dtype], param_dtype=names[gain.dtype], feature_axis=axis,
                      relu=int(relu), batch=batch, features=features, segments=segments,
                      x=x.data_ptr(), gain=gain.data_ptr(), bias=bias.data_ptr())
        dtype = str(x.dtype).removeprefix("torch.")
        stored = str(gain.dtype).removeprefix("torch.")
        statistics = (segments, batch) if axis == 0 else (batch, segments)
        self.outputs = dict(y=Output(x.shape, dtype, offset), dx=Output(x.shape, dtype, offset),
                            mean=Output(statistics, "float32"), rstd=Output(statistics, "float32"),
                            dgain=Output((features,), stored), dbias=Output((features,), stored))
        pointers = {name: output.data_ptr() for name, output in self.outputs.items()}
        self._keep = (x, dy, gain, bias)
        self.forward_args = cuda.LayerNormArgs(
            **common, epsilon=1e-6, **{n: pointers[n] for n in ("y", "mean", "rstd")})
        self.backward_args = cuda.LayerNormGradArgs(
            **common, dy=dy.data_ptr(),
            **{n: pointers[n] for n in ("mean", "rstd", "dx", "dgain", "dbias")})
        self._workspaces = []
        for args, size in ((self.forward_args, api.layer_norm_workspace),
                           (self.backward_args, api.layer_norm_grad_workspace)):
            args.workspace_bytes = size(ctypes.byref(args))
            self._workspaces.append(torch.full((max(1, args.workspace_bytes),), 255,
                                               dtype=torch.uint8, device="cuda"))
            args.workspace = self._workspaces[-1].data_ptr()

    def run(self):
        check(self.api, self.api.layer_norm(ctypes.byref(self.forward_args), stream()))
        check(self.api, self.api.layer_norm_grad(ctypes.byref(self.backward_args), stream()))
        torch.cuda.synchronize()
        return [self.outputs[name].checked() for name in ("y", "dx", "dgain", "dbias")]


def check_layer_norm(api, dtype, axis, features, batch, segments=1, relu=False, wide=False,
                     mean=0.0, offset=0, seed=0):
    rng = np.random.default_rng(seed)
    many = max(batch, MANY)
    shape = (features, many) if axis == 0 else (many, features)
    few = (slice(None), slice(batch)) if axis == 0 else slice(batch)
    stored = "float32" if wide else dtype
    x, dy = random(rng, shape, dtype, mean=mean), random(rng, shape, dtype)
    gain = random(rng, (features,), stored, 0.3, 1.0)
    bias = random(rng, (features,), stored, 0.3)

    def reference(x, dy, relu, precision):
        def function(x, gain, bias):
            return layer_norm_reference(x, gain, bias, axis, segments, relu)

        return reference_gradients(function, [x, gain, bias], [dy], precision)

    if relu:  # Away from 0 its slope does not depend on rounding.
        z = reference(x, dy, False, torch.float64)[0]
        dy = torch.where(z.abs() < 0.02, torch.zeros_like(dy), dy)
    x_few, dy_few = (torch.empty(t[few].numel() + offset, dtype=t.dtype, device="cuda")[offset:]
                     .view(t[few].shape).copy_(t[few]) for t in (x, dy))
    results = LayerNormCall(api, x_few, dy_few, gain, bias, axis, segments, relu, offset).run()
    truth, dense = (reference(x_few, dy_few, relu, p) for p in (torch.float64, torch.float32))
    lots = [reference(x, dy, relu, p) for p in (torch.float64, torch.float32)]
    for i, (name, factor) in enumerate(
            [("y", FORWARD), ("dx", BACKWARD), ("dgain", BACKWARD), ("dbias", BACKWARD)]):
        measured = (lots[0][i], lots[1][i]) if i < 2 else None
        assert_as_accurate(results[i], truth[i], dense[i], factor, name, measured)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(api, dtype, axis, wide):
    if wide and dtype == "float32":
        pytest.skip("float32 has no wider parameters")
    for features, batch, segments, relu in (
            (64, 16, 1, False), (257, 33, 1, True), (1024, 129, 4, False), (2048, 128, 1, True),
            (20, 1, 5, False), (8200, 7, 1, False), (4096, 64, 2, True),
            (18432, 1, 1, True), (4100, 3, 1, True), (16388, 2, 2, False)):
        check_layer_norm(api, dtype, axis, features, batch, segments, relu, wide)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_the_reports_size_and_beyond(api, dtype, axis):
    check_layer_norm(api, dtype, axis, 18432, 128, 1, True, True, mean=2.0)
    check_layer_norm(api, dtype, axis, 40000, 3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_many_entries(api, dtype, axis):
    check_layer_norm(api, dtype, axis, 96, 5000, 3, True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_anywhere_in_memory(api, dtype, axis):
    for offset in (1, 2, 3):
        check_layer_norm(api, dtype, axis, 512, 34, 2, True, offset=offset)


@pytest.mark.parametrize("axis", [0, 1])
def test_layer_norm_of_an_empty_batch(api, axis):
    x = torch.empty((8, 0) if axis == 0 else (0, 8), device="cuda")
    gain = torch.ones(8, device="cuda")
    call = LayerNormCall(api, x, x, gain, gain, axis, 2, True)
    _, _, dgain, dbias = call.run()
    assert not dgain.any() and not dbias.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_layer_norm_with_a_mean_far_from_0(api, axis):
    x = np.random.default_rng(0).standard_normal((6, 5000)).astype(np.float32) + 100
    exact = torch.tensor(x).double()
    variance = exact.var(1, correction=0, keepdim=True)
    exact = (exact - exact.mean(1, keepdim=True)) / (variance + 1e-6).sqrt()
    on_gpu = torch.tensor(x.T.copy() if axis == 0 else x).cuda()
    ones, zeros = torch.ones(5000, device="cuda"), torch.zeros(5000, device="cuda")
    y = LayerNormCall(api, on_gpu, on_gpu, ones, zeros, axis, 1, False).run()[0].cpu().double()
    # Half a unit of the mean's last place.
    torch.testing.assert_close(y.T if axis == 0 else y, exact, atol=8e-6, rtol=0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_layer_norm_spoils_one_entry_alone(api, axis, bad):
    x = torch.randn(70, 300, device="cuda")
    x[20, 7] = bad
    x = x.T.contiguous() if axis == 0 else x
    ones = torch.ones(300, device="cuda")
    y = LayerNormCall(api, x, x, ones, ones, axis, 1, True).run()[0]
    y = y.T if axis == 0 else y
    assert bool(torch.isnan(y[20]).all())
    assert bool(torch.isfinite(torch.cat([y[:20], y[21:]])).all())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_gives_the_same_bits(api, dtype, axis):
    rng = np.random.default_rng(1)
    shape = (3000, 130) if axis == 0 else (130, 3000)
    x, dy = random(rng, shape, dtype), random(rng, shape, dtype)
    gain, bias = (random(rng, (3000,), dtype) for _ in range(2))

    def bits():
        results = LayerNormCall(api, x, dy, gain, bias, axis, 3, True).run()
        return [r.cpu().view(torch.uint8).numpy().tobytes() for r in results]

    first = bits()
    assert all(bits() == first for _ in range(5))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_becomes_of_the_sums(api, dtype, axis):
    """One sum in one order: rounded to the parameters' type, in float32, or added."""
    for features, batch, segments in ((96, 20, 2), (96, 1000, 3), (8, 0, 2)):
        rng = np.random.default_rng(batch)
        shape = (features, batch) if axis == 0 else (batch, features)
        x, dy = random(rng, shape, dtype), random(rng, shape, dtype)
        gain, bias = (random(rng, (features,), dtype) for _ in range(2))

        def sums(kind, *begin):
            call = LayerNormCall(api, x, dy, gain, bias, axis, segments, True)
            totals = [Output((features,), "float32") for _ in begin]
            for total, value in zip(totals, begin):
                total.tensor.fill_(value)
            back = call.backward_args
            back.sums, (back.dgain, back.dbias) = kind, (total.data_ptr() for total in totals)
            check(api, api.layer_norm(ctypes.byref(call.forward_args), stream()))
            check(api, api.layer_norm_grad(ctypes.byref(back), stream()))
            torch.cuda.synchronize()
            return [total.checked() for total in totals]

        nan = float("nan")
        dgain, dbias = sums(cuda.SUMS_IN_FLOAT32, nan, nan)
        rounded = LayerNormCall(api, x, dy, gain, bias, axis, segments, True).run()[2:]
        assert torch.equal(rounded[0], dgain.to(gain.dtype))
        assert torch.equal(rounded[1], dbias.to(gain.dtype))
        added = sums(cuda.SUMS_ADDED, 3.0, -5.0)
        assert torch.equal(added[0], 3.0 + dgain) and torch.equal(added[1], -5.0 + dbias)


def test_bad_layer_norm_arguments(api):
    x, gain = torch.ones(4, 8, device="cuda"), torch.ones(8, device="cuda")
    for change, message in (
            (dict(segments=3), "segments is 3; expected a divisor of features (8)"),
            (dict(feature_axis=2), "feature_axis is 2"),
            (dict(features=0), "features is 0"),
            (dict(batch=-1), "batch is -1"),
            (dict(x=None), "x is a null pointer"),
            (dict(gain=gain.data_ptr() + 1), "gain is at address"),
            (dict(param_dtype=1), "param_dtype is 1; expected dtype (0) or 0 (float32)")):
        call = LayerNormCall(api, x, x, gain, gain, 1, 1, False)
        for args, function in ((call.forward_args, api.layer_norm),
                               (call.backward_args, api.layer_norm_grad)):
            for name, value in change.items():
                setattr(args, name, value)
            assert function(ctypes.byref(args), stream()) == cuda.INVALID_ARGUMENT
            assert message in api.last_error().decode()
    call = LayerNormCall(api, x, x, gain, gain, 0, 1, False)
    call.backward_args.workspace_bytes -= 1
    assert (api.layer_norm_grad(ctypes.byref(call.backward_args), stream())
            == cuda.INVALID_ARGUMENT)
    assert "workspace_bytes" in api.last_error().decode()


# ---- layer norm with something between it and relu ----


def check_layer_norm_with_operand(api, dtype, kind, features, batch, relu, wide, stride, offset=0):
    """kind: "multiplier" or "addend". The sums are added to what is there."""
    rng = np.random.default_rng(features + batch)
    many = max(batch, MANY)
    stored = "float32" if wide else dtype
    x, dy = (random(rng, (many, features), dtype) for _ in range(2))
    operand = random(rng, (many, features // stride), dtype)
    gain = random(rng, (features,), stored, 0.3, 1.0)
    bias = random(rng, (features,), stored, 0.3)

    def before_relu(x, gain, bias, operand):
        z = layer_norm_reference(x, gain, bias, 1, 1, False).reshape(len(x), -1, stride)
        first = z[..., 0] * operand if kind == "multiplier" else z[..., 0] + operand
        return torch.cat([first[..., None], z[..., 1:]], -1).reshape(x.shape)

    def reference(x, dy, operand, precision):
        def function(*operands):
            y = before_relu(*operands)
            return torch.relu(y) if relu else y

        y, dx, dgain, dbias, doperand = reference_gradients(
            function, [x, gain, bias, operand], [dy], precision)
        return dict(y=y, dx=dx, doperand=doperand)

    near = before_relu(*(t.double() for t in (x, gain, bias, operand))).abs() < 0.02
    dy = torch.where(near, torch.zeros_like(dy), dy)
    few = [torch.empty(t[:batch].numel() + offset, dtype=t.dtype, device="cuda")[offset:]
           .view(batch, -1).copy_(t[:batch]) for t in (x, dy, operand)]
    call = LayerNormCall(api, few[0], few[1], gain, bias, 1, 1, relu, offset)
    dz = Output((batch, features), dtype, offset)
    doperand = Output((batch, features // stride), dtype, offset)
    sums = [torch.full((features,), value, device="cuda") for value in (3.0, -5.0)]
    for args in (call.forward_args, call.backward_args):
        setattr(args, kind, few[2].data_ptr())
        args.operand_stride = stride
    back = call.backward_args
    back.sums, back.dz, back.doperand = cuda.SUMS_ADDED, dz.data_ptr(), doperand.data_ptr()
    back.dgain, back.dbias = (total.data_ptr() for total in sums)
    check(api, api.layer_norm(ctypes.byref(call.forward_args), stream()))
    check(api, api.layer_norm_grad(ctypes.byref(back), stream()))
    torch.cuda.synchronize()
    results = dict(y=call.outputs["y"].checked(), dx=call.outputs["dx"].checked(),
                   doperand=doperand.checked())
    truth, dense = (reference(*few, precision) for precision in (torch.float64, torch.float32))
    lots = [reference(x, dy, operand, precision) for precision in (torch.float64, torch.float32)]
    for name, result in results.items():
        assert_as_accurate(result, truth[name], dense[name],
                           FORWARD if name == "y" else BACKWARD, name,
                           (lots[0][name], lots[1][name]))
    # The sums are of dz as it was rounded.
    dz = dz.checked().double()
    ones, zeros = torch.ones_like(gain).double(), torch.zeros_like(gain).double()
    normal = layer_norm_reference(few[0].double(), ones, zeros, 1, 1, False)
    for total, terms, begin in ((sums[0], dz * normal, 3), (sums[1], dz, -5)):
        limit = 4e-6 * (terms.abs().sum(0).max() + 5)
        assert float((total.double() - begin - terms.sum(0)).abs().max()) <= limit


@pytest.mark.parametrize("kind", ["multiplier", "addend"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_with_an_operand(api, dtype, kind):
    wide = dtype != "float32"
    for features, batch, relu, stride, offset in (
            (64, 16, False, 1, 0), (257, 33, True, 1, 0), (2048, 1, True, 4, 0),
            (512, 34, True, 2, 3), (512, 34, True, 1, 3), (270, 5, False, 3, 0),
            (960, 12, True, 12, 0), (18432, 128, kind == "addend", 4, 0), (40000, 3, True, 5, 0),
            (18432, 2, True, 4, 0)):
        check_layer_norm_with_operand(api, dtype, kind, features, batch, relu, wide, stride, offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_which_only_the_statistics_are_asked_for(api, dtype):
    x = random(np.random.default_rng(0), (33, 1024), dtype)
    gain = torch.ones(1024, device="cuda", dtype=x.dtype)
    whole = LayerNormCall(api, x, x, gain, gain, 1, 4, False)
    whole.run()
    call = LayerNormCall(api, x, x, gain, gain, 1, 4, False)
    call.forward_args.y = None
    check(api, api.layer_norm(ctypes.byref(call.forward_args), stream()))
    torch.cuda.synchronize()
    for name in ("mean", "rstd"):
        assert torch.equal(call.outputs[name].checked(), whole.outputs[name].checked())


def test_bad_operands_of_a_layer_norm(api):
    x, gain = torch.ones(4, 8, device="cuda"), torch.ones(8, device="cuda")
    pointer = x.data_ptr()
    for axis, change, message in (
            (0, dict(multiplier=pointer), "expected features last"),
            (1, dict(multiplier=pointer, addend=pointer), "only one of multiplier and addend"),
            (1, dict(multiplier=pointer), "expected dz and doperand with a multiplier"),
            (1, dict(dz=pointer), "expected dz and doperand with a multiplier"),
            (1, dict(addend=pointer, operand_stride=3), "operand_stride is 3; expected a divisor"),
            (1, dict(sums=3), "sums is 3")):
        call = LayerNormCall(api, x, x, gain, gain, axis, 1, False)
        for name, value in change.items():
            setattr(call.backward_args, name, value)
        assert (api.layer_norm_grad(ctypes.byref(call.backward_args), stream())
                == cuda.INVALID_ARGUMENT)
        assert message in api.last_error().decode()


# ---- LSTM gates ----


def lstm_reference(c, gates, bias, axis, forget_bias):
    if bias is not None:
        gates = gates + (bias[:, None] if axis == 0 else bias)
    i, f, g, o = gates.chunk(4, 0 if axis == 0 else 1)
    c_next = torch.sigmoid(f + forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
    return c_next, torch.sigmoid(o) * torch.tanh(c_next)


def lstm_call(api, c, gates, bias, dc_next, dh, axis, forget_bias, offset=0):
    """c_next, h, dc, dgates."""
    names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
    units, batch = c.shape if axis == 0 else c.shape[::-1]
    dtype, cell = (str(t.dtype).removeprefix("torch.") for t in (gates, c))
    outputs = dict(c_next=Output(c.shape, cell, offset), h=Output(c.shape, dtype, offset),
                   dc=Output(c.shape, cell, offset), dgates=Output(gates.shape, dtype, offset))
    args = cuda.LstmGatesArgs(
        dtype=names[gates.dtype], cell_dtype=names[c.dtype],
        bias_dtype=0 if bias is None else names[bias.dtype], feature_axis=axis,
        forget_bias=forget_bias, batch=batch, units=units, c=c.data_ptr(), gates=gates.data_ptr(),
        bias=None if bias is None else bias.data_ptr(), dc_next=dc_next.data_ptr(),
        dh=dh.data_ptr(), **{name: output.data_ptr() for name, output in outputs.items()})
    check(api, api.lstm_gates(ctypes.byref(args), stream()))
    check(api, api.lstm_gates_grad(ctypes.byref(args), stream()))
    torch.cuda.synchronize()
    return [output.checked() for output in outputs.values()]


def check_lstm(api, dtype, axis, units, batch, wide_cell=False, has_bias=True, wide_bias=False,
               forget_bias=1.0, scale=2.0, offset=0):
    rng = np.random.default_rng(units + batch)
    cell = "float32" if wide_cell else dtype
    many = max(batch, MANY)

    def state(features, kind, factor=1.0):
        shape = (features, many) if axis == 0 else (many, features)
        return random(rng, shape, kind, factor)

    c, gates = state(units, cell), state(4 * units, dtype, scale)
    dc_next, dh = state(units, cell), state(units, dtype)
    bias = random(rng, (4 * units,), "float32" if wide_bias else dtype) if has_bias else None

    def reference(operands, upstream, precision):
        results = reference_gradients(
            lambda c, gates, bias: lstm_reference(c, gates, bias, axis, forget_bias),
            [*operands, bias], upstream, precision)
        return results[:4]

    few = (slice(None), slice(batch)) if axis == 0 else slice(batch)
    cut = [torch.empty(t[few].numel() + offset, dtype=t.dtype, device="cuda")[offset:]
           .view(t[few].shape).copy_(t[few]) for t in (c, gates, dc_next, dh)]
    results = lstm_call(api, cut[0], cut[1], bias, cut[2], cut[3], axis, forget_bias, offset)
    truth, dense = (reference(cut[:2], cut[2:], p) for p in (torch.float64, torch.float32))
    lots = [reference([c, gates], [dc_next, dh], p) for p in (torch.float64, torch.float32)]
    for i, name in enumerate(("c_next", "h", "dc", "dgates")):
        factor = FORWARD if i < 2 else BACKWARD
        assert_as_accurate(results[i], truth[i], dense[i], factor, name, (lots[0][i], lots[1][i]))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lstm_gates(api, dtype, axis):
    wides = (False, True) if dtype != "float32" else (False,)
    for (units, batch), wide in itertools.product(
            ((32, 16), (64, 128), (33, 7), (1, 1), (600, 3), (7, 300)), wides):
        check_lstm(api, dtype, axis, units, batch, wide, has_bias=units % 2 == 0, wide_bias=wide)
    check_lstm(api, dtype, axis, 18432, 128, scale=1.0, forget_bias=0.0)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalised_lstm_gates(api, dtype, wide):
    """As a layer norm of four segments and then the gates; dh in two parts, dc in place."""
    if wide and dtype == "float32":
        pytest.skip("float32 has no wider parameters")
    names = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
    for units, batch in ((32, 16), (33, 7), (18432, 3)):
        rng = np.random.default_rng(units)
        stored = "float32" if wide else dtype
        c, dc_next = (random(rng, (batch, units), "float32") for _ in range(2))
        gates = random(rng, (batch, 4 * units), dtype, 2.0, 0.5)
        halves = [random(rng, (batch, units), dtype) for _ in range(2)]
        gain = random(rng, (4 * units,), stored, 0.3, 1.0)
        bias = random(rng, (4 * units,), stored, 0.3)
        norm = LayerNormCall(api, gates, gates, gain, bias, 1, 4, False)
        check(api, api.layer_norm(ctypes.byref(norm.forward_args), stream()))
        c_next, h = Output(c.shape, "float32"), Output(c.shape, dtype)
        dgates, dc = Output(gates.shape, dtype), dc_next.clone()
        args = cuda.LstmGatesArgs(
            dtype=names[gates.dtype], cell_dtype=0, bias_dtype=names[gain.dtype], feature_axis=1,
            batch=batch, units=units, c=c.data_ptr(), gates=gates.data_ptr(), bias=bias.data_ptr(),
            gain=gain.data_ptr(), mean=norm.outputs["mean"].data_ptr(),
            rstd=norm.outputs["rstd"].data_ptr(), c_next=c_next.data_ptr(), h=h.data_ptr(),
            dc_next=dc.data_ptr(), dh=halves[0].data_ptr(), dh_more=halves[1].data_ptr(),
            dc=dc.data_ptr(), dgates=dgates.data_ptr())
        check(api, api.lstm_gates(ctypes.byref(args), stream()))
        check(api, api.lstm_gates_grad(ctypes.byref(args), stream()))
        torch.cuda.synchronize()
        results = [c_next.checked(), h.checked(), dc, dgates.checked()]

        def reference(precision):
            z = layer_norm_reference(gates.to(precision), gain.to(precision), bias.to(precision),
                                     1, 4, False)
            dh = halves[0].to(precision) + halves[1].to(precision)
            return reference_gradients(
                lambda c, z: lstm_reference(c, z, None, 1, 0.0), [c, z], [dc_next, dh], precision)

        truth, dense = (reference(precision) for precision in (torch.float64, torch.float32))
        for i, name in enumerate(("c_next", "h", "dc", "dgates")):
            assert_as_accurate(results[i], truth[i], dense[i], FORWARD if i < 2 else BACKWARD, name)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lstm_gates_anywhere_in_memory(api, dtype, axis):
    for offset in (1, 2, 3):
        check_lstm(api, dtype, axis, 36, 20, offset=offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_lstm_gates(api, dtype):
    kind = cuda.torch_dtype(dtype)
    huge, infinite, nan = torch.finfo(kind).max, float("inf"), float("nan")
    c = torch.full((1, 6), 2.0, dtype=kind, device="cuda")
    i = [huge, -huge, infinite, -infinite, huge, nan]
    f = [-huge, huge, -infinite, infinite, 0, 0]
    g = [huge, huge, infinite, infinite, -huge, 0]
    gates = torch.tensor([i + f + g + g], dtype=torch.float64).to(kind).cuda()
    c_next, h, dc, dgates = lstm_call(api, c, gates, None, c, c, 1, 0.0)
    assert c_next[0, :5].tolist() == [1, 2, 1, 2, 0]
    assert bool(torch.isnan(c_next[0, 5])) and bool(torch.isnan(h[0, 5]))
    assert bool(torch.isfinite(dc[0, :5]).all())
    assert bool(torch.isfinite(dgates.view(4, 6)[:, :5]).all())


def test_bad_lstm_arguments(api):
    for change, message in (
            (dict(units=-1), "units is -1"),
            (dict(feature_axis=3), "feature_axis is 3"),
            (dict(cell_dtype=2), "cell_dtype is 2; expected dtype (0) or 0 (float32)"),
            (dict(batch=1), "c is a null pointer")):
        args = cuda.LstmGatesArgs(**{"units": 1, "feature_axis": 1, **change})
        assert api.lstm_gates(ctypes.byref(args), stream()) == cuda.INVALID_ARGUMENT
        assert message in api.last_error().decode()


# ---- the gradient of an activation and of a bias ----


@pytest.fixture(scope="module")
def kernels():
    return cuda.Kernels()


def slope(activation, values):
    """In float64."""
    values = values.double()
    if activation == "none":
        return torch.ones_like(values)
    if activation == "relu":
        return (values > 0).double()
    pdf = torch.exp(-0.5 * values.square()) / np.sqrt(2 * np.pi)
    return 0.5 * torch.erfc(-values * np.sqrt(0.5)) + values * pdf


def dense_slope(activation, values):
    """By the same formula in float32."""
    if activation != "gelu":
        return slope(activation, values).float()
    z = values.float()
    pdf = torch.exp(-0.5 * z.square()) * np.float32(1 / np.sqrt(2 * np.pi))
    return 0.5 * torch.erfc(-z * np.float32(np.sqrt(0.5))) + z * pdf


class ActivationGradCall:
    """One problem, its outputs between guards."""

    def __init__(self, kernels, activation, axis, dy, values, bias_dtype, offset=0):
        dtype = str(dy.dtype).removeprefix("torch.")
        features = dy.shape[0 if axis == 0 else 1]
        self.dy, self.activation = dy, activation
        self.dz = None if activation == "none" else Output(dy.shape, dtype, offset)
        self.dbias = None if bias_dtype is None else Output((features,), bias_dtype)
        self.call = kernels.prepare_activation_grad(
            activation, axis, dy, None if activation == "none" else values,
            self.dz and self.dz.tensor, self.dbias and self.dbias.tensor)

    def run(self):
        """dz and dbias, or None for what was not asked for."""
        self.call()
        torch.cuda.synchronize()
        return (self.dy if self.dz is None else self.dz.checked(),
                None if self.dbias is None else self.dbias.checked())


def activation_operands(dtype, axis, features, batch, offset=0, seed=0):
    """dy and values."""
    rng = np.random.default_rng(seed + features + batch)
    shape = (features, batch) if axis == 0 else (batch, features)
    return [random(rng, shape, dtype, 2.0, offset=offset) for _ in range(2)]


def check_activation_grad(kernels, dtype, activation, axis, features, batch, wide=False, offset=0):
    dy, values = activation_operands(dtype, axis, features, batch, offset)
    bias_dtype = "float32" if wide else dtype
    dz, dbias = ActivationGradCall(kernels, activation, axis, dy, values, bias_dtype, offset).run()
    truth = dy.double() * slope(activation, values)
    many_dy, many = activation_operands(dtype, axis, 64, MANY, seed=1)
    measured = (many_dy.double() * slope(activation, many),
                many_dy.float() * dense_slope(activation, many))
    if activation == "gelu":
        assert_as_accurate(dz, truth, None, BACKWARD, "dz", measured)
    else:
        assert torch.equal(dz, truth.to(dz.dtype))
    # The sum is that of dz as it was stored, in float32, rounded once.
    batch_dim = 1 if axis == 0 else 0
    exact, size = dz.double().sum(batch_dim), dz.double().abs().sum(batch_dim)
    unit = float(torch.finfo(dbias.dtype).eps)
    limit = 0.5 * unit * exact.abs() + 32 * torch.finfo(torch.float32).eps * size
    assert bool(((dbias.double() - exact).abs() <= limit).all())


SIZES = ((64, 16), (257, 33), (1024, 129), (8, 1), (1, 1), (96, 5000), (2048, 1024), (16, 70000),
         (512, 20001), (4104, 8))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_grad(kernels, dtype, activation, axis):
    for features, batch in SIZES:
        for wide in (False, True) if dtype != "float32" else (False,):
            check_activation_grad(kernels, dtype, activation, axis, features, batch, wide)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_grad_anywhere_in_memory(kernels, dtype, activation, axis):
    """With the bits that aligned memory gives."""
    for features, batch in ((512, 40), (64, 3000), (24, 2051)):
        results = []
        for offset in (0, 1, 3):
            check_activation_grad(kernels, dtype, activation, axis, features, batch, offset=offset)
            operands = activation_operands(dtype, axis, features, batch, offset)
            results.append(
                ActivationGradCall(kernels, activation, axis, *operands, "float32", offset).run())
        for dz, dbias in results[1:]:
            assert torch.equal(dbias, results[0][1]) and torch.equal(dz, results[0][0])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activation_grad_in_place_and_without_a_bias(kernels, activation, axis):
    dy, values = activation_operands("bfloat16", axis, 264, 512)
    expected = ActivationGradCall(kernels, activation, axis, dy, values, "bfloat16").run()[0]
    alone = ActivationGradCall(kernels, activation, axis, dy, values, None)
    assert torch.equal(alone.run()[0], expected)
    for over_dy in (True, False):
        first, second = dy.clone(), values.clone()
        place = first if over_dy else second
        kernels.prepare_activation_grad(activation, axis, first, second, place, None)()
        torch.cuda.synchronize()
        assert torch.equal(place, expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_activation_grad_of_an_empty_batch(kernels, activation, axis):
    dy = torch.empty((24, 0) if axis == 0 else (0, 24), device="cuda")
    _, dbias = ActivationGradCall(kernels, activation, axis, dy, dy, "float32").run()
    assert dbias.tolist() == [0.0] * 24


@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_grad_of_special_numbers(kernels, dtype):
    infinity, nan = float("inf"), float("nan")
    values = torch.tensor([[nan, 0.0, -0.0, infinity, -infinity, 30.0, -30.0, 2.0]],
                          dtype=cuda.torch_dtype(dtype), device="cuda")
    dy = torch.full_like(values, 3.0)
    relu = ActivationGradCall(kernels, "relu", 1, dy, values, dtype).run()
    assert relu[0].tolist() == [[0, 0, 0, 3, 0, 3, 0, 3]]
    assert relu[1].tolist() == [0, 0, 0, 3, 0, 3, 0, 3]
    gelu = ActivationGradCall(kernels, "gelu", 1, dy, values, dtype).run()[0][0]
    expected = torch.tensor([1.5, 1.5, 3.0, 0.0], dtype=torch.float64, device="cuda")
    torch.testing.assert_close(gelu[[1, 2, 5, 6]].double(), expected, atol=1e-6, rtol=0)
    assert bool(torch.isnan(gelu[[0, 3, 4]]).all())
    dy = torch.full_like(dy, nan)
    dz = ActivationGradCall(kernels, "relu", 1, dy, values, dtype).run()[0][0]
    assert torch.isnan(dz).tolist() == [False, False, False, True, False, True, False, True]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_grad_gives_the_same_bits(kernels, dtype, axis):
    dy, values = activation_operands(dtype, axis, 1000, 3000)

    def bits():
        results = ActivationGradCall(kernels, "gelu", axis, dy, values, "float32").run()
        return [r.cpu().view(torch.uint8).numpy().tobytes() for r in results]

    first = bits()
    assert all(bits() == first for _ in range(5))


def test_bad_activation_grad_arguments(kernels):
    dy = torch.ones(5000, 8, device="cuda")
    for activation, change, message in (
            ("relu", dict(dtype=5), "dtype is 5"),
            ("relu", dict(bias_dtype=2), "bias_dtype is 2; expected dtype (0) or 0 (float32)"),
            ("relu", dict(activation=3), "activation is 3; expected 0 to 2"),
            ("relu", dict(feature_axis=2), "feature_axis is 2"),
            ("relu", dict(batch=-1), "batch is -1"),
            ("relu", dict(features=0), "features is 0"),
            ("relu", dict(dy=None), "dy is a null pointer"),
            ("gelu", dict(values=None), "values is a null pointer"),
            ("gelu", dict(dz=dy.data_ptr() + 1), "dz is at address"),
            ("none", dict(dz=dy.data_ptr()), "expected values and dz only with an activation"),
            ("relu", dict(workspace_bytes=0), "workspace_bytes is 0")):
        call = ActivationGradCall(kernels, activation, 1, dy, dy, "float32").call
        for name, value in change.items():
            setattr(call.args, name, value)
        with pytest.raises(cuda.CudaError) as failure:
            call()
        assert failure.value.status == cuda.INVALID_ARGUMENT
        assert message in str(failure.value)
