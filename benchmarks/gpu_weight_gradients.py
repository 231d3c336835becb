"""The weight gradient of weights that were used several times, by one call and otherwise.

    python benchmarks/gpu_weight_gradients.py --output weight_gradients.json

Times, cold (gpu_timing.py): one call with a list of pairs; a call for each pair whose results are
added, as a tape of gradients does it; one call on the concatenated pairs, without and with the
concatenation. Results are first compared with each other. Needs PyTorch and the built library.
"""

import argparse
import datetime
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import cuda_binding as cuda  # noqa: E402
import gpu_layouts  # noqa: E402
import gpu_timing  # noqa: E402

torch = cuda.torch


def measure(kernels, timer, block_size, axis, pairs, batch, features, density):
    """A row: plain values for a table and JSON.

    Raises:
      SystemExit: the ways do not agree.
    """
    torch.manual_seed(0)
    side = features // block_size
    layout = gpu_layouts.uniform((side, side), round(density * side**2))
    shape = (batch, features) if axis == 1 else (features, batch)
    xs, dys = ([torch.randn(shape, device="cuda").bfloat16() for _ in range(pairs)]
               for _ in range(2))
    planner = cuda.Planner()

    def prepare(x, dy, dw, total, count=1):
        tile = kernels.tile("bfloat16", block_size, total, is_dw=True, feature_axis=axis,
                            blocks=layout.shape, density=density, pairs=count)
        plan = planner.matmul_dw(layout, total, kernels.device(), tile)
        return kernels.prepare_matmul_dw("bfloat16", block_size, axis, layout.shape, plan, x, dy, dw)

    blocks = int(layout.sum())
    dw, joined = (torch.empty((blocks, block_size, block_size), dtype=torch.bfloat16,
                              device="cuda") for _ in range(2))
    parts = [torch.empty_like(dw) for _ in range(pairs)]
    listed = prepare(xs, dys, dw, pairs * batch, pairs)
    each = [prepare(x, dy, part, batch) for x, dy, part in zip(xs, dys, parts)]
    batch_dim = 1 - axis
    whole_x, whole_dy = (torch.cat(ts, batch_dim) for ts in (xs, dys))
    whole = prepare(whole_x, whole_dy, joined, pairs * batch)

    def one_by_one():
        for call in each:
            call()
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def concatenated():
        torch.cat(xs, batch_dim, out=whole_x)
        torch.cat(dys, batch_dim, out=whole_dy)
        whole()

    listed()
    whole()
    scale = joined.float().abs().max()
    difference = float((dw.float() - joined.float()).abs().max() / scale)
    rough = float((one_by_one().float() - joined.float()).abs().max() / scale)
    if not (difference < 2**-7 and rough < 2**-4):
        raise SystemExit(f"the list gives another gradient: {difference:.2g}, one by one {rough:.2g}")
    seconds = dict(list=timer(listed), one_by_one=timer(one_by_one), joined=timer(whole),
                   concatenated=timer(concatenated))
    return dict(block_size=block_size, feature_axis=axis, pairs=pairs, batch=batch,
                features=features, density=density, seconds=seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=256, help="of each pair")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--axes", nargs="+", type=int, choices=(0, 1), default=[1, 0])
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    if cuda.unavailable():
        sys.exit(cuda.unavailable())
    kernels, timer = cuda.Kernels(), gpu_timing.ColdTimer(options.repeats)
    rows = []
    print(f"{torch.cuda.get_device_name()}: µs of a list / one by one / joined / joined after "
          "concatenation")
    for block_size in options.block_sizes:
        for axis in options.axes:
            for pairs in options.pairs:
                row = measure(kernels, timer, block_size, axis, pairs, options.batch,
                              options.features, options.density)
                rows.append(row)
                times = " / ".join(f"{1e6 * t:7.1f}" for t in row["seconds"].values())
                print(f"  block {block_size:>3}, axis {axis}, {pairs:>2} pairs: {times}", flush=True)
    if options.output:
        report = dict(device=torch.cuda.get_device_name(), torch=torch.__version__,
                      date=str(datetime.date.today()), repeats=options.repeats,
                      method=timer.method, clocks=gpu_timing.clocks(), rows=rows)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
