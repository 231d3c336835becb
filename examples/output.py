"""How the examples show and store what they find: nothing is ever left half-written."""

import contextlib
import json
import os
import pathlib
import sys


@contextlib.contextmanager
def replacing(path: pathlib.Path):
    """A temporary path beside `path`; it becomes `path` if the block ends well, else vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def progress(name: str, step: int, steps: int, text: str = "") -> None:
    """Redraws one line of a terminal; in a log it writes nothing but the last line."""
    if sys.stderr.isatty() or step == steps:
        filled = 30 * step // steps
        end = "\n" if step == steps else ""
        print(f"\r{name:>14} [{'=' * filled}{' ' * (30 - filled)}] {step}/{steps} {text}", end=end,
              file=sys.stderr, flush=True)


def table(rows: list[dict]) -> str:
    """Rows with the same keys as aligned columns under their names; numbers to the right."""
    columns = list(rows[0])
    cells = [[str(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells))
              for i, column in enumerate(columns)]
    lines = [columns, *cells]
    return "\n".join("  ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def finish(example: str, rows: list[dict], result: dict, out: pathlib.Path, draw) -> None:
    """Prints the table and one JSON line; writes DIR/<example>.json and .png.

    Args:
      example: its name.
      rows: of the table.
      result: what the JSON holds besides the name.
      out: DIR.
      draw: function that draws the plot on a matplotlib Figure.
    """
    print("\n" + table(rows))
    result = {"example": example, **result}
    with replacing(out / f"{example}.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    try:
        from matplotlib.figure import Figure  # optional

        figure = Figure(layout="constrained")
        draw(figure)
        with replacing(out / f"{example}.png") as path:
            figure.savefig(path, dpi=110)
        print(f"plot: {out / f'{example}.png'}")
    except ImportError as error:
        print(f"no plot: {error}")
    print(json.dumps(result))


def run(main) -> None:
    """Runs an example's `main`; what the user got wrong becomes one line and exit status 2."""
    try:
        main()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
