"""The gradients of activations and of biases on a GPU through their C API, without TensorFlow.

    pytest tests/cuda_activation_grad_api_test.py
"""

import numpy as np
import pytest

import cuda_binding as cuda
from pointwise_checks import BACKWARD, DTYPES, MANY, Output, assert_as_accurate, random

torch = cuda.torch
pytestmark = pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable()))


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
