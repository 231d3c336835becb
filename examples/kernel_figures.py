"""The kernel measurements of the 2017 report, figures 3 and 4, on this machine's device.

Figure 3: a square product at sparsities from 0 to 99 %, blocks of 32, batch 32: how many times
faster than the dense product, beside the ideal 1 / (1 - sparsity).

Figure 4: useful GFLOP/s at a constant number of about 3 million weights, from 1792 units dense to
10752 units at 97 % sparsity, Watts-Strogatz layouts with 20 % long-range connections, batch 64:
block sizes and feature axes, forward, and weight gradients of one step or of eight at once.
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

from bsparse_tf import layouts
from bsparse_tf.benchmark import Cell, contenders, machine, problem, runner, timing
import output

SPARSITIES = (0, 0.5, 0.75, 0.9, 0.95, 0.97, 0.98, 0.99)
REPORT_UNITS = 1792  # dense; 56 blocks of 32
MULTIPLES = {1: 1.0, 2: 0.25, 3: 0.12, 4: 0.06, 6: 0.03}  # of the units: density
DIRECTIONS = {"forward": ("fprop", 1), "dw of 8 steps": ("dw", 8), "dw of 1 step": ("dw", 1)}


def figure_3(options) -> list[dict]:
    rows = []
    for i, sparsity in enumerate(options.sparsities):
        cell = Cell(32, 1 - sparsity, 1, "fprop", options.dtype, options.size, 32)
        result = runner.run_cell(cell, rounds=options.rounds, peers=())
        if not result.correct:
            raise RuntimeError(f"a wrong answer in {cell}: error {result.error:.1e}")
        rows.append({"sparsity": 1 - result.density, "ms": result.ours.median * 1e3,
                     "dense_ms": result.dense.median * 1e3, "speed_up": result.ratio,
                     "ideal": result.ideal, "useful_gflops": result.gflops})
        output.progress("figure 3", i + 1, len(options.sparsities))
    return rows


@contenders.only_as_written()
def figure_4(options) -> list[dict]:
    rows = []
    cells = [(multiple, block, axis, name) for multiple in MULTIPLES
             for block in options.blocks for axis in (0, 1) for name in DIRECTIONS]
    for i, (multiple, block, axis, name) in enumerate(cells):
        direction, steps = DIRECTIONS[name]
        units = multiple * options.units
        cell = Cell(block, MULTIPLES[multiple], axis, direction, options.dtype, units, 64 * steps)
        made = small_world_problem(cell)
        times, = timing.time_interleaved([contenders.ours(made)], options.rounds, 0.02)
        rows.append({"units": units, "sparsity": 1 - made.density, "block": block, "axis": axis,
                     "product": name, "useful_gflops": made.useful_flops / times.median / 1e9})
        output.progress("figure 4", i + 1, len(cells))
    return rows


def small_world_problem(cell: Cell) -> problem.Problem:
    """Random data on a Watts-Strogatz layout; nothing dense, for nothing dense is timed."""
    blocks = cell.size // cell.block_size
    layout = layouts.from_spec(f"ws:density={cell.density!r},p=0.2,seed=0", blocks)
    rng = np.random.default_rng(0)
    dtype = problem.numpy_dtype(cell.dtype)
    shape = (cell.batch, cell.size) if cell.feature_axis else (cell.size, cell.batch)
    coords = layouts.to_coords(layout)
    weights = (len(coords), cell.block_size, cell.block_size)

    def normal(shape):
        return rng.standard_normal(shape, np.float32).astype(dtype)

    return problem.Problem(cell, layout, coords, normal(weights), np.zeros((0, 0), dtype),
                           [normal(shape) for _ in range(problem.NUM_INPUTS)],
                           [normal(shape) for _ in range(problem.NUM_INPUTS)])


def draw(figure, third: list[dict], fourth: list[dict], caption: str) -> None:
    figure.set_size_inches(15, 4.2)
    first, *others = figure.subplots(1, 1 + len(DIRECTIONS))
    ideal = [row["ideal"] for row in third]
    first.plot(ideal, ideal, "k:", label="ideal")
    first.plot(ideal, [row["speed_up"] for row in third], "C0o-", label="measured")
    first.set(xscale="log", yscale="log", xlabel="sparsity", ylabel="times faster than dense",
              title="figure 3")
    first.set_xticks(ideal, [f"{row['sparsity']:.0%}" for row in third], rotation=60, fontsize=7)
    first.minorticks_off()
    first.legend()
    blocks = sorted({row["block"] for row in fourth})
    for axes, name in zip(others, DIRECTIONS):
        for block in blocks:
            for axis in (0, 1):
                points = [row for row in fourth if (row["product"], row["block"], row["axis"]) ==
                          (name, block, axis)]
                axes.plot([p["units"] for p in points], [p["useful_gflops"] for p in points],
                          f"C{blocks.index(block)}" + (".-" if axis else ".--"),
                          label=f"block {block}, axis {axis}")
        axes.set(xlabel="units at a constant number of weights", title=f"figure 4: {name}")
        axes.set_ylim(bottom=0)
    others[0].set_ylabel("useful GFLOP/s")
    others[0].legend(fontsize=7)
    for axes in (first, *others):
        axes.grid(alpha=0.25)
    figure.suptitle(caption, fontsize=9)


def main() -> None:
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=12288 if on_gpu else 4096,
                        help="of figure 3; the report's is 12288 (%(default)s here)")
    parser.add_argument("--units", type=int, default=REPORT_UNITS,
                        help="of figure 4's dense end (%(default)s)")
    parser.add_argument("--sparsities", type=float, nargs="+", default=list(SPARSITIES))
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"),
                        default="float32")
    parser.add_argument("--rounds", type=int, default=7, help="windows timed a cell")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"))
    options = parser.parse_args()
    for block in options.blocks:
        if options.units % block:
            raise ValueError(f"--units is {options.units}; expected a multiple of every block "
                             f"size, {block} among them")
    facts = machine.describe_machine()
    caption = f"{options.dtype}; {machine.machine_line(facts)}"
    print(caption)
    third, fourth = figure_3(options), figure_4(options)
    print("\nfigure 3\n" + output.table([
        {"sparsity": f"{row['sparsity']:.1%}", "ms": f"{row['ms']:.3g}",
         "dense ms": f"{row['dense_ms']:.3g}", "times faster": f"{row['speed_up']:.2f}",
         "ideal": f"{row['ideal']:.2f}", "useful GFLOP/s": f"{row['useful_gflops']:.4g}"}
        for row in third]))
    groups = {}
    for row in fourth:
        key = (row["product"], row["block"], row["axis"])
        groups.setdefault(key, {"product": key[0], "block": key[1], "axis": key[2]})
        groups[key][str(row["units"])] = f"{row['useful_gflops']:.4g}"
    print("\nfigure 4: useful GFLOP/s by units", end="")
    output.finish("kernel_figures", list(groups.values()),
                  {"machine": facts, "dtype": options.dtype, "figure_3": third,
                   "figure_4": fourth}, options.out,
                  lambda figure: draw(figure, third, fourth, caption))


if __name__ == "__main__":
    output.run(main)
