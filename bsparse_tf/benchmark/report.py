"""Results as a table for terminals, as Markdown, and as JSON."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence

from bsparse_tf.benchmark.machine import machine_line
from bsparse_tf.benchmark.runner import PEERS, Result

COLUMNS = ("dtype", "op", "axis", "block", "density", "dense ms", "ours ms", "GFLOP/s",
           "x dense", "1/density", "of ideal", *(f"x {peer}" for peer in PEERS), "error", "check")
WIDTHS = tuple(max(len(name), width) for name, width in zip(
    COLUMNS, (8, 5, 4, 5, 7, 8, 8, 7, 7, 9, 8, *(11 for _ in PEERS), 7, 5)))


def _align(cells: Iterable[str]) -> str:
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS))


def header() -> str:
    return _align(COLUMNS)


def row(result: Result) -> str:
    """One line of the table. `x` columns say how many times faster ours is; `of ideal` is that
    ratio to dense times the density; `error` is relative to the dense product's own."""
    cell = result.cell
    peers = (f"{result.peers[name].best / result.ours.median:.0f}" if name in result.peers else "-"
             for name in PEERS)
    error = result.error / result.dense_error if result.dense_error else math.inf
    return _align((
        cell.dtype, cell.direction, str(cell.feature_axis), str(cell.block_size),
        f"{result.density:.1%}", f"{result.dense.median * 1e3:.3f}",
        f"{result.ours.median * 1e3:.3f}", f"{result.gflops:.0f}", f"{result.ratio:.2f}",
        f"{result.ideal:.1f}", f"{result.ratio * result.density:.0%}", *peers, f"{error:.1f}x",
        "ok" if result.correct else "WRONG"))


def series(results: Iterable[Result]) -> dict[tuple, list[Result]]:
    """Results by (dtype, direction, feature_axis, block_size), each sorted by density."""

    def key(result):
        cell = result.cell
        return cell.dtype, cell.direction, cell.feature_axis, cell.block_size

    groups = itertools.groupby(sorted(results, key=key), key)
    return {name: sorted(group, key=lambda result: result.density) for name, group in groups}


def break_even(points: Sequence[Result]) -> float | None:
    """The density at which ours takes as long as dense, interpolated between measured densities.

    None: ours was faster at every density measured. A series that is slower from its first point
    on breaks even at that density or below it; the first density is returned.
    """
    slower = next((i for i, point in enumerate(points) if point.ratio < 1), None)
    if slower is None:
        return None
    if slower == 0:
        return points[0].density
    low, high = points[slower - 1], points[slower]
    # Time over dense time is close to linear in the density.
    low_time, high_time = 1 / low.ratio, 1 / high.ratio
    return low.density + (1 - low_time) / (high_time - low_time) * (high.density - low.density)


def break_even_lines(results: Sequence[Result]) -> list[str]:
    lines = ["Break-even density (ours as fast as dense):"]
    for (dtype, direction, axis, block), points in series(results).items():
        density = break_even(points)
        if density is None:
            text = f"not reached up to {points[-1].density:.0%} (x {points[-1].ratio:.2f} there)"
        else:
            text = f"{density:.0%}"
        lines.append(f"  {dtype} {direction:5} axis {axis} block {block:3}: {text}")
    return lines


def markdown(results: Sequence[Result], machine: dict) -> str:
    """A table a dtype for a README: speed relative to dense, fprop / dx / dw, worse axis."""
    cell = results[0].cell
    lines = [f"{machine_line(machine)}. {cell.size} inputs, {cell.size} outputs, batch "
             f"{cell.batch}. Times faster than `tf.matmul` on the dense matrix, "
             "fprop / dx / dw, the worse of the feature axes measured:", ""]
    for dtype, group in _group(results, lambda r: r.cell.dtype):
        densities = sorted({result.cell.density for result in group})
        lines.append(f"| {dtype} | " + " | ".join(
            f"density {density:.0%} (ideal {1 / density:.3g})" for density in densities) + " |")
        lines.append("|---" * (len(densities) + 1) + "|")
        for block, of_block in _group(group, lambda r: r.cell.block_size):
            entries = []
            for density in densities:
                at = [r for r in of_block if r.cell.density == density]
                entries.append(" / ".join(
                    f"{min(r.ratio for r in of_direction):.3g}"
                    for direction in ("fprop", "dx", "dw")
                    if (of_direction := [r for r in at if r.cell.direction == direction])))
            lines.append(f"| block {block} | " + " | ".join(entries) + " |")
        lines.append("")
    for peer in PEERS:
        ratios = [r.peers[peer].best / r.ours.median for r in results if peer in r.peers]
        if ratios:
            lines.append(f"Against {peer}: {min(ratios):.0f} to {max(ratios):.0f} times faster "
                         f"(median {sorted(ratios)[len(ratios) // 2]:.0f}, {len(ratios)} cells).")
    return "\n".join(lines).rstrip() + "\n"


def _group(results, key):
    return [(name, list(group)) for name, group in itertools.groupby(sorted(results, key=key), key)]


def to_json(results: Sequence[Result], machine: dict) -> str:
    """Machine, cells and break-even densities (null: faster than dense wherever measured)."""
    return json.dumps({
        "machine": machine,
        "cells": [result.to_json() for result in results],
        "break_even": [
            dict(zip(("dtype", "direction", "feature_axis", "block_size"), name),
                 density=break_even(points)) for name, points in series(results).items()],
    }, indent=1)
