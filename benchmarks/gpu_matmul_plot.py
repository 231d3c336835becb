"""Draws section `uniform` of benchmarks/gpu_matmul.py: speed over the dense product by density.

    python benchmarks/gpu_matmul_plot.py results.json docs/bench_h200.png [--shape 8192x8192x8192]

`--newer` names results of a later run on such a GPU, whose cells take the place of the same ones.
"""

import argparse
import json
import pathlib

import gpu_row
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

OPERATIONS = {"fprop": "y = x W", "dw": "dw = xᵀ dy"}
AXES = {1: "features last", 0: "features first"}


def memory_cap(shape, density, dense_seconds, size, rate):
    """Speed-up at which every byte still passes DRAM once, at `rate` bytes a second."""
    C, K, batch = shape
    return dense_seconds / ((batch * (C + K) + density * C * K) * size / rate)


def cell_of(row):
    """What two rows of the same cell have in common."""
    names = ("section", "shape", "dtype", "block_size", "feature_axis", "density", "operation")
    return tuple(str(row.get(name)) for name in names)


def newest_rows(results):
    """The rows of all results, of the same cell the last. Raises SystemExit if devices differ."""
    devices = sorted({result["device"] for result in results})
    if len(devices) > 1:
        raise SystemExit(f"--newer must be of the same device; got {' and '.join(devices)}")
    return list({cell_of(row): row for result in results for row in result["rows"]}.values())


def draw(axes, rows, shape, dtype, memory_rate):
    densities = sorted({row["density"] for row in rows})
    dense = np.median([row["seconds"]["dense"] for row in rows])
    fine = np.geomspace(min(densities), 1, 50)
    axes.plot(fine, 1 / fine, ":", color="black", lw=1, label="ideal, 1 / density")
    size = 2 if dtype.endswith("16") else 4
    axes.plot(fine, [memory_cap(shape, d, dense, size, memory_rate) for d in fine], "--", color="gray",
              lw=1, label="every byte once through memory")
    for block_size in sorted({row["block_size"] for row in rows}):
        cells = sorted((row["density"], gpu_row.speed(row))
                       for row in rows if row["block_size"] == block_size)
        axes.plot(*zip(*cells), "o-", ms=4, label=f"block {block_size}")
    axes.axhline(1, color="gray", lw=0.5)
    axes.set(xscale="log", yscale="log", xticks=densities, ylim=(0.5, 40))
    axes.set_xticklabels([f"{d:.0%}" for d in densities])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    parser.add_argument("--newer", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--shape", help="CxKxN; the first one in the file unless given")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in (options.results, *options.newer)]
    result = results[-1]
    rows = [row for row in newest_rows(results)
            if row["dtype"] == options.dtype and row.get("section", "uniform") == "uniform"]
    if not rows:
        raise SystemExit(f"{options.results} has no rows of section uniform and {options.dtype}")
    shape = ([int(n) for n in options.shape.split("x")] if options.shape else rows[0]["shape"])
    figure, panels = plt.subplots(len(OPERATIONS), len(AXES), figsize=(10, 8), sharex=True,
                                  sharey=True)
    for panel_row, (operation, formula) in zip(panels, OPERATIONS.items()):
        for panel, (axis, words) in zip(panel_row, AXES.items()):
            chosen = [row for row in rows if row["operation"] == operation
                      and row["feature_axis"] == axis and row["shape"] == shape]
            if chosen:
                draw(panel, chosen, shape, options.dtype, result["rates"]["dram"])
            panel.set_title(f"{formula}, {words}", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("density")
    for panel in panels[:, 0]:
        panel.set_ylabel("times faster than dense")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncol=4, fontsize=9)
    figure.suptitle(f"{result['device']}, {options.dtype}, C = {shape[0]}, K = {shape[1]}, "
                    f"N = {shape[2]}, random layouts, {result['date']}", fontsize=11)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    temporary = options.picture.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(options.picture)


if __name__ == "__main__":
    main()
