"""What the tests of pointwise kernels share: operands, guarded outputs, references, the error rule.

Truth is PyTorch's float64 on the same numbers; a result may err at most 2x (forward) or 3x
(backward) as much as the same formula in float32, rounded once to the result's type.
"""

import ctypes

import numpy as np

import cuda_binding as cuda

torch = cuda.torch

DTYPES = ("float32", "float16", "bfloat16")
FORWARD, BACKWARD = 2.0, 3.0
MANY = 128  # batch entries that the dense error is taken over


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
