"""Prints the tables of GPU figures in docs/speed.md and README from what benchmarks/gpu_matmul.py wrote.

    python benchmarks/gpu_matmul_table.py uniform.json [small.json ...]

Speed over the dense product: of section uniform a table for each dtype, the worse of the feature
axes that were measured; of section small with the times of both; of section usual one for each dtype
and product, by density. With --shares instead for section uniform the least share of the limit.
"""

import argparse
import json
import pathlib

from gpu_row import share, speed

OPERATIONS = ("fprop", "dx", "dw")


def cell(rows):
    """The slowest of the rows, with a star if the dense matrix was used in it."""
    slowest = min(rows, key=speed)
    return f"{speed(slowest):.2g}" + ("*" if slowest["kernel"] == "dense" else "")


def share_cell(rows):
    """The least share of the limit, in italics if no mixture was measured."""
    least = min(rows, key=share)
    return f"{share(least):.2f}" if "mixture" in least["seconds"] else f"*{share(least):.2f}*"


def markdown(head, lines):
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def uniform_tables(rows, cell=cell):
    rows = [row for row in rows if row.get("section", "uniform") == "uniform"]
    for dtype in sorted({row["dtype"] for row in rows}):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        densities = sorted({row["density"] for row in of_dtype}, reverse=True)
        operations = [name for name in OPERATIONS
                      if any(row["operation"] == name for row in of_dtype)]
        lines = []
        for block_size in sorted({row["block_size"] for row in of_dtype}):
            line = [str(block_size)]
            for density in densities:
                found = [[row for row in of_dtype
                          if (row["block_size"], row["density"], row["operation"])
                          == (block_size, density, name)] for name in operations]
                line.append(" / ".join(cell(each) if each else "–" for each in found))
            lines.append(line)
        head = [f"{dtype}, {' / '.join(operations)}", *(f"{d:.0%}" for d in densities)]
        yield "\n".join(markdown(head, lines))


def small_table(rows):
    rows = [row for row in rows if row.get("section") == "small"]
    if not rows:
        return
    block_sizes = sorted({row["block_size"] for row in rows}, reverse=True)
    operations = [name for name in OPERATIONS if any(row["operation"] == name for row in rows)]
    layers = {}
    for row in rows:
        C, K, batch = row["shape"]
        layout = row["layout"]
        if layout == "uniform":
            layout = f"{row['density']:.2g} of the blocks"
        layer = (f"{C} x {K}, {layout}", batch, row["feature_axis"])
        layers.setdefault(layer, {})[row["block_size"], row["operation"]] = row

    def times(row):
        if row is None:
            return "–"
        return f"{row['seconds']['ours'] * 1e6:.1f} ({speed(row):.2g}x)"

    lines = []
    for (name, batch, axis), found in layers.items():
        dense = min(row["seconds"]["dense"] for row in found.values())
        lines.append([name, str(batch), "last" if axis == 1 else "first", f"{dense * 1e6:.0f}",
                      *(" / ".join(times(found.get((size, operation))) for operation in operations)
                        for size in block_sizes)])
    head = [f"µs, {' / '.join(operations)}", "batch", "features", "dense",
            *(f"block {size}" for size in block_sizes)]
    yield "\n".join(markdown(head, lines))


def usual_tables(rows):
    rows = [row for row in rows if row.get("section") == "usual"]
    by_cell = {(row["dtype"], row["operation"], tuple(row["shape"]), row["block_size"], row["density"]): row
               for row in rows}
    block_sizes = sorted({row["block_size"] for row in rows}, reverse=True)
    densities = sorted({row["density"] for row in rows}, reverse=True)
    for dtype, operation in sorted({(row["dtype"], row["operation"]) for row in rows}):
        lines = []
        for shape in sorted({tuple(row["shape"]) for row in rows}):
            of_shape = {key[3:]: row for key, row in by_cell.items() if key[:3] == (dtype, operation, shape)}
            if not of_shape:
                continue
            dense = min(row["seconds"]["dense"] for row in of_shape.values())
            lines.append([f"{shape[0]} x {shape[1]}, {shape[2]}", f"{dense * 1e6:.1f}",
                          *(" / ".join(cell([of_shape[size, density]]) if (size, density) in of_shape else "–"
                                       for density in densities) for size in block_sizes)])
        head = [f"{dtype}, {operation}, " + " / ".join(f"{density:.0%}" for density in densities),
                "dense, µs", *(f"block {size}" for size in block_sizes)]
        yield "\n".join(markdown(head, lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, nargs="+")
    parser.add_argument("--shares", action="store_true", help="of the limit, in place of speed")
    options = parser.parse_args()
    for path in options.results:
        result = json.loads(path.read_text())
        print(f"{result['device']}, {result['date']}, {path.name}")
        if options.shares:
            tables = uniform_tables(result["rows"], share_cell)
        else:
            tables = (*uniform_tables(result["rows"]), *small_table(result["rows"]), *usual_tables(result["rows"]))
        for table in tables:
            print(f"\n{table}")


if __name__ == "__main__":
    main()
