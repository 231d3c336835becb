"""Make, describe, draw and save layouts.

SOURCE is a layout spec with sizes, or a file (.npy or .npz) without them:

  layout make ba:m=4,seed=0 64          size, density and digest of 64 x 64 blocks
  layout describe ws:k=4,p=0.2 64 128   all measures, of 64 input and 128 output blocks
  layout draw ws:density=0.1 64         in the terminal
  layout draw mine.npy --png mine.png   as a picture (needs matplotlib)
  layout save butterfly 64 mine.npy     as a NumPy bool array [input blocks, output blocks]
"""

import argparse
import shutil
import sys

import numpy as np

from bsparse_tf import layouts
from bsparse_tf.layouts.draw import STYLES

_FILE_ENDINGS = (".npy", ".npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    make = actions.add_parser("make", help="show size, number of blocks, density and digest")
    _add_source(make)

    describe = actions.add_parser(
        "describe", help="show degrees, clustering, path lengths and how far each hop reaches"
    )
    _add_source(describe)

    draw = actions.add_parser("draw", help="draw in the terminal or as a picture")
    _add_source(draw)
    draw.add_argument("--width", type=int, help="characters in a line (default: the terminal's)")
    draw.add_argument(
        "--style",
        choices=STYLES,
        help="characters to draw with (default: the finest that fits)",
    )
    draw.add_argument("--png", metavar="FILE", help="write a picture instead; needs matplotlib")

    save = actions.add_parser("save", help="write to a file")
    _add_source(save)
    save.add_argument("file", metavar="FILE", help="file to write, ending in .npy or .npz")


def _add_source(parser):
    parser.add_argument("source", metavar="SOURCE", help="layout spec, or .npy or .npz file")
    parser.add_argument("in_blocks", type=int, nargs="?", help="input blocks; none for a file")
    parser.add_argument(
        "out_blocks", type=int, nargs="?", help="output blocks (default: as many as input blocks)"
    )


def run(args: argparse.Namespace) -> int:
    try:
        layout = _from_source(args.source, args.in_blocks, args.out_blocks)
        _ACTIONS[args.action](layout, args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"layout: {error}", file=sys.stderr)
        return 2
    return 0


def _from_source(source, in_blocks, out_blocks) -> np.ndarray:
    if not source.endswith(_FILE_ENDINGS):
        if in_blocks is None:
            raise ValueError(f"layout spec {source!r} needs a number of input blocks after it")
        return layouts.from_spec(source, in_blocks, out_blocks)
    if in_blocks is not None:
        raise ValueError(f"{source} has its own size, but sizes came after it")
    return layouts.load(source)


def _make(layout, _):
    rows, columns = layout.shape
    blocks = np.count_nonzero(layout)
    print(f"{rows} x {columns} blocks, {blocks} present, density {100 * blocks / layout.size:.4g}%")
    print(f"digest {layouts.digest(layout)}")


def _describe(layout, _):
    print(layouts.stats(layout))
    print(f"{'digest':<14} {layouts.digest(layout)}")


def _draw(layout, args):
    if args.png:
        layouts.plot(layout).figure.savefig(args.png, format="png", dpi=150)
        print(f"wrote {args.png}")
        return
    width = shutil.get_terminal_size().columns if args.width is None else args.width
    style = args.style or ("auto" if _can_print("█⣿") else "ascii")
    print(layouts.render(layout, width, style))


def _can_print(text) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _save(layout, args):
    layouts.save(layout, args.file)
    print(f"wrote {args.file}")


_ACTIONS = {"make": _make, "describe": _describe, "draw": _draw, "save": _save}
