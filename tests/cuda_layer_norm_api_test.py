"""Layer norm and its gradients on a GPU through their C API, without TensorFlow.

    pytest tests/cuda_layer_norm_api_test.py
"""

import ctypes

import numpy as np
import pytest

import cuda_binding as cuda
from pointwise_checks import (
    BACKWARD, DTYPES, FORWARD, MANY, LayerNormCall, Output, assert_as_accurate, check,
    layer_norm_reference, random, reference_gradients, stream,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


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
