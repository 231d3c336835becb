"""The gradient of an activation and of the bias before it, beside PyTorch's own operations for it.

    python benchmarks/gpu_activation_grad.py --output activation_grad.json

Needs PyTorch and the built library, no TensorFlow. Times are medians, cold (gpu_timing.py). A
share is that of memory speed in bytes which have to pass: dy and, with an activation, its values
and dz. The peer is eager PyTorch in the same run: threshold_backward or gelu_backward, then a sum.
Each result is first compared with float64 on some of the features, and may err at most 3 times as
much as PyTorch's.
"""

import argparse
import datetime
import itertools
import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import cuda_binding as cuda  # noqa: E402
import gpu_limits  # noqa: E402
import gpu_timing  # noqa: E402

torch = cuda.torch
ALLOWED_ERROR = 3.0  # in errors of PyTorch's results
CHECKED_FEATURES = 64


def peer_of(activation, dy, values, batch_dim):
    """A function that gives PyTorch's (dz, dbias)."""
    def call():
        if activation == "relu":
            dz = torch.ops.aten.threshold_backward(dy, values, 0)
        elif activation == "gelu":
            dz = torch.ops.aten.gelu_backward(dy, values)
        else:
            dz = dy
        return dz, dz.sum(batch_dim)

    return call


def exact(activation, dy, values, batch_dim):
    """(dz, dbias) in float64."""
    dy, values = dy.double(), values.double()
    if activation == "relu":
        dy = dy * (values > 0)
    elif activation == "gelu":
        pdf = torch.exp(-0.5 * values.square()) / math.sqrt(2 * math.pi)
        dy = dy * (0.5 * torch.erfc(-values * math.sqrt(0.5)) + values * pdf)
    return dy, dy.sum(batch_dim)


def relative_error(result, truth):
    return float((result.double() - truth).norm() / truth.norm())


def measure(kernels, timer, dram, activation, axis, dtype, batch, features):
    """A row: plain values for a table and JSON.

    Raises:
      SystemExit: our result is wrong.
    """
    torch.manual_seed(0)
    shape = (batch, features) if axis == 1 else (features, batch)
    dy, values = (torch.randn(shape, device="cuda").to(cuda.torch_dtype(dtype)) for _ in range(2))
    batch_dim = 1 - axis
    dz = torch.full_like(dy, float("nan")) if activation != "none" else None
    dbias = torch.full((features,), float("nan"), dtype=dy.dtype, device="cuda")
    call = kernels.prepare_activation_grad(
        activation, axis, dy, None if dz is None else values, dz, dbias)
    peer = peer_of(activation, dy, values, batch_dim)
    call()
    some = (slice(None), slice(CHECKED_FEATURES)) if axis == 1 else slice(CHECKED_FEATURES)
    truth = exact(activation, dy[some], values[some], batch_dim)
    errors = {}
    for name, ours, theirs, right, part in zip(
            ("dz", "dbias"), (dy if dz is None else dz, dbias), peer(), truth,
            (some, slice(CHECKED_FEATURES))):
        errors[name] = relative_error(ours[part], right)
        allowed = ALLOWED_ERROR * relative_error(theirs[part], right)
        if not errors[name] <= allowed + 1e-7:
            raise SystemExit(f"wrong {name} of {activation}: relative error {errors[name]:.2g}, "
                             f"allowed {allowed:.2g}")
    moved = dy.numel() * dy.element_size() * (1 if dz is None else 3)
    seconds = dict(ours=timer(call), torch=timer(peer))
    return dict(activation=activation, feature_axis=axis, dtype=dtype, batch=batch,
                features=features, seconds=seconds, bytes=moved,
                share_of_memory=moved / dram / seconds["ours"], relative_error=errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16", "bfloat16"),
                        default=["bfloat16"])
    parser.add_argument("--activations", nargs="+", choices=tuple(cuda.ACTIVATIONS),
                        default=["none", "relu", "gelu"])
    parser.add_argument("--axes", nargs="+", type=int, choices=(0, 1), default=[1, 0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--library", help="libbsparse_cuda.so to time")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    if cuda.unavailable():
        sys.exit(cuda.unavailable())
    kernels, timer = cuda.Kernels(options.library), gpu_timing.ColdTimer(options.repeats)
    dram = gpu_limits.Rates().dram
    rows = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: "
          f"µs ours / PyTorch, share of {dram:.3g} B/s")
    for dtype, activation, axis in itertools.product(options.dtypes, options.activations,
                                                     options.axes):
        row = measure(kernels, timer, dram, activation, axis, dtype, options.batch,
                      options.features)
        rows.append(row)
        ours, theirs = (row["seconds"][name] * 1e6 for name in ("ours", "torch"))
        print(f"  {dtype:<9} {activation:<5} axis {axis}: {ours:8.1f} / {theirs:8.1f}  "
              f"{row['share_of_memory']:.0%}", flush=True)
    if options.output:
        report = dict(device=torch.cuda.get_device_name(), torch=torch.__version__,
                      date=str(datetime.date.today()), repeats=options.repeats,
                      method=timer.method, dram=dram, clocks=gpu_timing.clocks(), rows=rows)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
