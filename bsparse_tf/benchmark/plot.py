"""Draws speed relative to dense over density."""

from collections.abc import Sequence

from bsparse_tf.benchmark.machine import machine_line
from bsparse_tf.benchmark.report import series
from bsparse_tf.benchmark.runner import Result


def save_plot(results: Sequence[Result], machine: dict, path: str) -> None:
    """A panel for every dtype and direction, a line for every block size and axis; log-log.

    Raises ImportError without matplotlib, which is an optional extra of this package.
    """
    from matplotlib.figure import Figure  # optional, and slow to import

    by_series = series(results)
    dtypes = sorted({name[0] for name in by_series}, reverse=True)
    directions = [d for d in ("fprop", "dx", "dw") if any(name[1] == d for name in by_series)]
    blocks = sorted({name[3] for name in by_series})
    figure = Figure(figsize=(1.5 + 3.7 * len(directions), 1 + 3.2 * len(dtypes)),
                    layout="constrained")
    panels = figure.subplots(len(dtypes), len(directions), squeeze=False, sharex=True, sharey="row")
    densities = sorted({result.density for result in results})  # of the layouts, as near as may be
    asked_for = sorted({result.cell.density for result in results})
    for panel_row, dtype in zip(panels, dtypes):
        for panel, direction in zip(panel_row, directions):
            panel.plot(densities, [1 / d for d in densities], "k:", lw=1, label="1/density")
            panel.axhline(1, color="gray", lw=.8, label="dense")
            for name, points in by_series.items():
                if name[:2] == (dtype, direction):
                    axis, block = name[2:]
                    panel.plot([p.density for p in points], [p.ratio for p in points],
                               color=f"C{blocks.index(block)}", ls="-" if axis else "--",
                               marker="o", ms=3, lw=1.2, label=f"block {block}, axis {axis}")
            panel.set(xscale="log", yscale="log", title=f"{dtype} {direction}")
            panel.set_xticks(asked_for, [f"{d:.0%}" for d in asked_for])
            panel.minorticks_off()
            panel.grid(alpha=.25)
    for panel in panels[-1]:
        panel.set_xlabel("density")
    for panel_row in panels:
        panel_row[0].set_ylabel("times faster than dense")
    cell = results[0].cell
    figure.suptitle(f"{cell.size} x {cell.size}, batch {cell.batch}; {machine_line(machine)}",
                    fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=110)
