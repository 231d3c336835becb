"""The CUDA kernels beside cuBLAS on the dense matrix, and beside other block-sparse kernels.

Needs PyTorch (for peers Triton too) and the built libraries, no TensorFlow. A section at a time:

    python benchmarks/gpu_matmul.py uniform --output results.json
    python benchmarks/gpu_matmul.py layouts small peers
    python benchmarks/gpu_matmul.py uniform --shapes 4096x4096x8192 --dtypes tf32 --densities 0.1

Every figure is a median of GPU times of random inputs, cold, or with --in-a-row the mean of calls in a
row at clocks that last: see gpu_timing.py. Each timed result is first compared with float64, and may err
at most 2 times (dw: 3 times) as much as the dense one.

`ours` is in useful TF/s: operations of the stored blocks. `limit` is what a model allows (see
gpu_limits.py; rates that benchmarks/gpu_constants measured can be given), and % of it what ours
reaches. With --mixture the limit of products by wgmma is, if that is slower, what the same operations and
copies take side by side without waiting (gpu_mixture.py, measured). `x dense` is speed over cuBLAS on the
dense matrix, `x d` that times density: 1 is ideal.
`x uni` is speed over a random layout of as many blocks.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import cuda_binding as cuda  # noqa: E402
import gpu_cell  # noqa: E402
import gpu_limits  # noqa: E402
import gpu_mixture  # noqa: E402
import gpu_peers  # noqa: E402
import gpu_sections  # noqa: E402
import gpu_timing  # noqa: E402
from gpu_row import share, speed, useful_rate  # noqa: E402

Timers = collections.namedtuple("Timers", "cold graph lasting")  # the last may be None
PEER_TITLES = {"triton": "triton", "torch_bsr": "bsr", "cusparse": "cusp"}


def columns(section, grid):
    """(title, width, text of a row) of a section's table."""
    table = [
        ("layout", 9, lambda row: row["layout"]),
        ("C x K x N", 17, lambda row: "x".join(str(n) for n in row["shape"])),
        ("dtype", 8, lambda row: row["dtype"]),
        ("bs", 3, lambda row: str(row["block_size"])),
        ("ax", 2, lambda row: str(row["feature_axis"])),
        ("blocks", 7, lambda row: str(row["blocks"])),
        ("d", 6, lambda row: f"{row['actual_density']:.4f}"),
        ("op", 5, lambda row: row["operation"]),
        ("dense us", 8, lambda row: f"{row['seconds']['dense'] * 1e6:.1f}"),
        ("us", 7, lambda row: f"{row['seconds']['ours'] * 1e6:.1f}"),
        ("ours", 5, lambda row: f"{useful_rate(row, 'ours'):.0f}"),
        ("limit", 5, lambda row: f"{useful_rate(row, 'ours') / share(row):.0f}"),
        ("%", 4, lambda row: f"{share(row):.0%}"),
        ("x dense", 7, lambda row: f"{speed(row):.2f}"),
        ("x d", 5, lambda row: f"{speed(row) * row['actual_density']:.2f}"),
    ]
    if section == "layouts":
        table.append(("x uni", 5, lambda row: f"{row['over_uniform']:.2f}"))
    for name in grid.peers:
        table.append((PEER_TITLES[name], 6, lambda row, name=name: (
            f"{useful_rate(row, name):.0f}" if row["seconds"].get(name) else "no")))
    if grid.peers:
        table.append(("x best", 6, lambda row: (
            f"{over_best_peer(row):.2f}" if over_best_peer(row) else "-")))
    table.append(("kernel", 0, lambda row: f"{row['kernel']}: {row['kernel_name']}"))
    return table


def over_best_peer(row):
    """Ours over the fastest peer; None where none answered."""
    times = [row["seconds"][name] for name in gpu_peers.PEERS if name in row["seconds"]]
    return min(times) / row["seconds"]["ours"] if times else None


def show(table, row):
    """A line of the table; without a row its titles."""
    texts = [title if row is None else text(row) for title, _, text in table]
    return " ".join(text.rjust(width) for text, (_, width, _) in zip(texts, table))


def rows_of_section(section, grid, kernels, planner, timers, rates, mixtures):
    """Yields a section's rows. A structured layout's are held back until its twin is measured."""
    waiting = []
    for case in gpu_sections.cases(section, grid):
        cell = gpu_cell.Cell(case, kernels, planner)
        for operation in grid.operations:
            row = cell.measure(operation, timers, rates, grid.peers, mixtures)
            if section != "layouts":
                yield row
            elif not case.twin:
                waiting.append(row)
            else:
                first = waiting.pop(0)
                first["over_uniform"] = row["seconds"]["ours"] / first["seconds"]["ours"]
                first["uniform_seconds"] = row["seconds"]["ours"]
                yield first
        del cell


def run_section(section, grid, time_limit, *measured_with):
    """Prints a section's table; returns its rows, those of the first `time_limit` seconds."""
    table = columns(section, grid)
    print(f"\n## {section}\n{show(table, None)}")
    rows, begin = [], time.perf_counter()
    for row in rows_of_section(section, grid, *measured_with):
        print(show(table, row), flush=True)
        rows.append(row)
        if time.perf_counter() - begin > time_limit:
            print("# out of time: cells are missing")
            break
    print(f"# {time.perf_counter() - begin:.0f} s; geometric mean of achieved over limit: "
          f"{gpu_cell.geometric_mean(share(row) for row in rows):.2f}; clocks, power, temperature "
          f"now: {gpu_timing.clocks() or 'unknown'}")
    for name, reasons in refusals(rows).items():
        for reason, count in reasons.items():
            print(f"# {name} gave no time in {count} rows: {reason}")
    return rows


def refusals(rows):
    """{peer: {reason: number of rows}}"""
    found = collections.defaultdict(collections.Counter)
    for row in rows:
        for name, reason in row["no_answer"].items():
            found[name][reason] += 1
    return found


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION",
                        help=f"of {', '.join(gpu_sections.GRIDS)} (default: uniform)")

    def shape(text):
        numbers = tuple(int(n) for n in text.split("x"))
        if len(numbers) != 3 or min(numbers) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a shape; expected CxKxN")
        return numbers

    grid = parser.add_argument_group("instead of a section's own values")
    grid.add_argument("--shapes", nargs="+", type=shape, metavar="CxKxN")
    grid.add_argument("--block-sizes", nargs="+", type=int, choices=(8, 16, 32, 64, 128))
    grid.add_argument("--densities", nargs="+", type=float)
    grid.add_argument("--axes", nargs="+", type=int, choices=(0, 1))
    grid.add_argument("--operations", nargs="+", choices=("fprop", "dx", "dw"))
    grid.add_argument("--dtypes", nargs="+", choices=tuple(cuda.DTYPES))
    grid.add_argument("--layouts", nargs="+", choices=tuple(gpu_sections.gpu_layouts.FAMILIES))
    grid.add_argument("--peers", nargs="*", choices=(*gpu_peers.PEERS, "none"),
                      help="without a name: all of them")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--in-a-row", action="store_true",
                        help="time calls in a row at clocks that last, not each alone with a cold cache; "
                        "without peers")
    parser.add_argument("--time-limit", type=float, default=470.0, metavar="SECONDS",
                        help="of a section, which then stops short (default: %(default)s)")
    parser.add_argument("--constants", help="JSON file that benchmarks/gpu_constants wrote")
    parser.add_argument("--mixture", nargs="?", const=gpu_mixture.LIBRARY, metavar="LIBRARY",
                        help="measure limits, too, with libgpu_mixture.so (make limits)")
    parser.add_argument("--library", help="libbsparse_cuda.so to time")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--dry-run", action="store_true", help="list the cells; needs no GPU")
    options = parser.parse_args(arguments)
    options.sections = options.sections or ["uniform"]
    if options.peers is not None:
        options.peers = [] if "none" in options.peers else options.peers or [*gpu_peers.PEERS]
    for section in options.sections:
        if section not in gpu_sections.GRIDS:
            parser.error(f"there is no section {section!r}; expected some of "
                         f"{', '.join(gpu_sections.GRIDS)}")
    if options.in_a_row and any(grid_of(section, options).peers for section in options.sections):
        parser.error("--in-a-row: peers are timed one call at a time; add --peers none")
    return options


def grid_of(section, options):
    grid = gpu_sections.GRIDS[section]
    given = {field.name: tuple(getattr(options, field.name)) for field in dataclasses.fields(grid)
             if getattr(options, field.name) is not None}
    return dataclasses.replace(grid, **given)


def main():
    options = parse()
    grids = {section: grid_of(section, options) for section in options.sections}
    if options.dry_run:
        for section, grid in grids.items():
            for case in gpu_sections.cases(section, grid):
                print(f"{section}: {case.title()}")
        return
    if cuda.unavailable():
        sys.exit(cuda.unavailable())
    torch = cuda.torch
    rates = gpu_limits.Rates.read(options.constants) if options.constants else gpu_limits.Rates()
    timers = Timers(gpu_timing.ColdTimer(options.repeats), gpu_timing.GraphTimer(options.repeats),
                    gpu_timing.LastingTimer() if options.in_a_row else None)
    kernels, planner = cuda.Kernels(options.library), cuda.Planner()
    try:
        mixtures = gpu_mixture.Mixtures(options.mixture) if options.mixture else None
    except OSError as error:
        sys.exit(f"--mixture: {error}")
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, "
          f"{datetime.date.today()}; useful TF/s")
    rows = []
    for section, grid in grids.items():
        rows += run_section(section, grid, options.time_limit, kernels, planner, timers, rates,
                            mixtures)
        if options.output:  # after each: a later section may fail
            report = dict(device=torch.cuda.get_device_name(), torch=torch.__version__,
                          date=str(datetime.date.today()), repeats=options.repeats,
                          method=dict(rotated=timers.graph.method,
                                      **({"in_a_row": timers.lasting.method} if timers.lasting
                                         else {"cold": timers.cold.method})),
                          rates=dataclasses.asdict(rates), clocks=gpu_timing.clocks(), rows=rows)
            pathlib.Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
