"""LSTM gates and their gradients on a GPU through their C API, without TensorFlow.

    pytest tests/cuda_lstm_gates_api_test.py
"""

import ctypes
import itertools

import numpy as np
import pytest

import cuda_binding as cuda
from pointwise_checks import (
    BACKWARD, DTYPES, FORWARD, MANY, LayerNormCall, Output, assert_as_accurate, check,
    layer_norm_reference, random, reference_gradients, stream,
)

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


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
