"""Time block-sparse products beside dense tf.matmul, tf.sparse and SciPy's BSR, in one process.

For each cell (dtype x product x feature axis x block size x density) random data is made, every
answer is checked against float64, and windows of ours and of dense are timed in turn, so that a
disturbance of the machine hits both. Printed: median times, useful GFLOP/s, how many times faster
than dense, the ideal for that density, and at the end the density at which ours would be no faster.
The exit code is 1 if any answer was wrong.

The defaults take about a quarter of an hour on two cores; --quick takes less than a minute.
Options that take several values take them separated by spaces: --block-size 16 32.
"""

import argparse
import pathlib
import sys

QUICK = {"block_size": [32], "density": [0.05, 0.25], "dtype": ["float32", "bfloat16"],
         "rounds": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cells = parser.add_argument_group("cells")
    cells.add_argument("--block-size", type=int, nargs="+", choices=(8, 16, 32, 64, 128),
                       help="block sizes (default: all)")
    cells.add_argument("--density", type=float, nargs="+", metavar="D",
                       help="shares of blocks present (default: .02 .05 .1 .25 .5 1)")
    cells.add_argument("--axis", type=int, nargs="+", choices=(0, 1), default=[0, 1],
                       help="feature axes (default: both)")
    cells.add_argument("--op", nargs="+", choices=("fprop", "dx", "dw"),
                       default=["fprop", "dx", "dw"], help="products (default: all)")
    cells.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"),
                       help="precisions (default: float32 bfloat16)")
    cells.add_argument("--size", type=int, default=2048,
                       help="inputs, and outputs, of the layer (default: 2048)")
    cells.add_argument("--batch", type=int, default=192, metavar="N",
                       help="batch (default: 192)")
    cells.add_argument("--seed", type=int, default=0, help="of layouts and data (default: 0)")

    how = parser.add_argument_group("measurement")
    how.add_argument("--quick", action="store_true",
                     help="a few cells, fewer rounds; cells named by the options above stay")
    how.add_argument("--rounds", type=int, help="timed windows of each side (default: 9)")
    how.add_argument("--window-ms", type=float, default=20.0,
                     help="aimed length of a window (default: 20)")
    how.add_argument("--no-peers", action="store_true",
                     help="leave out tf.sparse and SciPy (float32 up to 25%% density), "
                     "which take most of the time")

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"),
                        help="where bench.json, bench.md and bench.png go (default: out)")
    output.add_argument("--markdown", action="store_true",
                        help="print the Markdown table too, as the README shows it")


def _cells(args: argparse.Namespace):
    from bsparse_tf import benchmark
    from bsparse_tf.benchmark import cells

    defaults = QUICK if args.quick else {}
    return benchmark.grid(
        args.block_size or defaults.get("block_size", cells.BLOCK_SIZES),
        args.density or defaults.get("density", cells.DENSITIES), args.axis, args.op,
        args.dtype or defaults.get("dtype", cells.DTYPES[:2]), args.size, args.batch, args.seed)


def run(args: argparse.Namespace) -> int:
    # These import TensorFlow, which `--help` should not wait for.
    from bsparse_tf import benchmark
    from bsparse_tf.benchmark import machine as machine_module
    from bsparse_tf.benchmark import report

    try:
        cells = _cells(args)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    machine = benchmark.describe_machine()
    print(machine_module.machine_line(machine))
    print(f"{len(cells)} cells, {args.size} x {args.size}, batch {args.batch}\n")
    print(report.header())
    rounds = args.rounds or (QUICK["rounds"] if args.quick else 9)
    results = benchmark.run_cells(
        cells, lambda result: print(report.row(result), flush=True), rounds=rounds,
        window_seconds=args.window_ms / 1e3, peers=() if args.no_peers else benchmark.PEERS)
    print()
    print("\n".join(report.break_even_lines(results)))
    _write(args, results, machine)
    wrong = sum(not result.correct for result in results)
    if wrong:
        print(f"bench: {wrong} of {len(results)} cells gave a wrong answer", file=sys.stderr)
    return 1 if wrong else 0


def _write(args: argparse.Namespace, results, machine: dict) -> None:
    from bsparse_tf.benchmark import report

    args.out.mkdir(parents=True, exist_ok=True)
    files = [args.out / "bench.json", args.out / "bench.md", args.out / "bench.png"]
    text = report.markdown(results, machine)
    files[0].write_text(report.to_json(results, machine) + "\n", encoding="utf-8")
    files[1].write_text(text, encoding="utf-8")
    if args.markdown:
        print("\n" + text)
    try:
        from bsparse_tf.benchmark.plot import save_plot

        save_plot(results, machine, str(files[2]))
    except ImportError as error:
        print(f"bench: no plot written: {error}", file=sys.stderr)
        files.pop()
    print("wrote " + ", ".join(map(str, files)))
