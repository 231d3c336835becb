"""Drawing a layout: as text for a terminal, or with matplotlib."""

import numpy as np
import numpy.typing as npt

from bsparse_tf.layouts import arguments
from bsparse_tf.layouts.layout import as_layout

STYLES = ("auto", "half", "braille", "shade", "ascii")
_HALVES = np.array(list(" ▄▀█"))  # index: 2 * upper + lower
_SHADES = np.array(list(" ░▒▓█"))
_ASCII_SHADES = np.array(list(" .:+#"))
_SHADE_STEPS = (0.75, 1.5, 3)  # times the average, where the next darker shade begins
# A braille character is 2 columns of 4 dots; the value of the bit for each dot (Unicode, U+2800).
_BRAILLE_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def render(layout: npt.ArrayLike, width: int = 80, style: str = "auto") -> str:
    """Draws a layout with characters: rows are input blocks, columns output blocks.

    Styles:
      half: one column per block and two rows per line, as ▀ ▄ █. Exact.
      braille: two columns and four rows per character, a dot per block. Exact.
      shade: each character stands for a rectangle of blocks: ░ fewer of them are present than on
        average, ▒ about as many, ▓ more than 1.5 times, █ more than 3 times as many, or all.
      ascii: shade, with . : + # for terminals that lack the others.
      auto: the first of half, braille and shade that fits the width.

    Args:
      layout: array [in_blocks, out_blocks], as `as_layout` takes.
      width: most characters in a line.
      style: one of the styles above.

    Returns:
      Lines joined by newlines, without trailing spaces.

    Raises:
      TypeError, ValueError: a bad layout, width or style, or a layout too wide for an exact style.
    """
    layout = as_layout(layout)
    width = arguments.integer("width", width, 1)
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, but got {style!r}")
    columns = layout.shape[1]
    fits = {"half": columns <= width, "braille": columns <= 2 * width, "shade": True}
    if style == "auto":
        style = next(name for name, enough in fits.items() if enough)
    if not fits.get(style, True):
        per_character = 2 if style == "braille" else 1
        raise ValueError(
            f"width must be at least {-(-columns // per_character)} to draw {columns} output "
            f"blocks with style {style!r}, but got {width}; style 'shade' fits any width"
        )
    if style == "half":
        characters = _half_blocks(layout)
    elif style == "braille":
        characters = _braille(layout)
    else:
        characters = _shade(layout, width, _SHADES if style == "shade" else _ASCII_SHADES)
    return "\n".join("".join(line).rstrip(" \u2800") for line in characters)


def _half_blocks(layout):
    cells = _pad(layout, 2, 1)
    return _HALVES[2 * cells[0::2].astype(int) + cells[1::2]]


def _braille(layout):
    cells = _pad(layout, 4, 2)
    rows, columns = cells.shape
    dots = cells.reshape(rows // 4, 4, columns // 2, 2) * _BRAILLE_DOTS[None, :, None, :]
    return [[chr(0x2800 + code) for code in line] for line in dots.sum(axis=(1, 3))]


def _shade(layout, width, shades):
    rows, columns = layout.shape
    across = min(columns, width)
    # A character is about twice as high as wide, so it takes twice as many rows as columns.
    down = max(1, round(rows * across / columns / 2))
    down = min(down, rows)
    row_starts = np.arange(down) * rows // down
    column_starts = np.arange(across) * columns // across
    present = np.add.reduceat(layout.astype(np.int64), row_starts, axis=0)
    present = np.add.reduceat(present, column_starts, axis=1)
    cells = np.outer(
        np.diff(np.append(row_starts, rows)), np.diff(np.append(column_starts, columns))
    )
    ratio = present / cells / layout.mean()
    levels = 1 + np.digitize(ratio, _SHADE_STEPS)
    return shades[np.where(present == 0, 0, np.where(present == cells, len(shades) - 1, levels))]


def _pad(layout, rows, columns):
    """Fills up with absent blocks to a multiple of rows and columns."""
    return np.pad(layout, [(0, -layout.shape[0] % rows), (0, -layout.shape[1] % columns)])


def plot(layout: npt.ArrayLike, ax=None, title: str | None = None, color: str = "#1f4e79"):
    """Draws a layout with matplotlib: rows are input blocks, columns output blocks.

    Args:
      layout: array [in_blocks, out_blocks], as `as_layout` takes.
      ax: matplotlib axes to draw on; a new figure of `matplotlib.pyplot` if left out.
      title: text above; size and density if left out.
      color: colour of the blocks.

    Returns:
      The matplotlib axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: a bad layout.
    """
    layout = as_layout(layout)
    try:
        from matplotlib import colors, ticker
    except ImportError as error:
        raise ImportError(
            'layouts.plot needs matplotlib: pip install "bsparse-tf[plot]", '
            "or draw in the terminal with layouts.render"
        ) from error
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(layout="constrained")
    if title is None:
        title = f"{layout.shape[0]} x {layout.shape[1]} blocks, density {100 * layout.mean():.3g}%"
    # Where there are more blocks than pixels, a pixel mixes the colours of its blocks; dropping
    # blocks instead would turn a random layout into an arbitrary one.
    ax.imshow(
        layout,
        cmap=colors.ListedColormap(["white", color]),
        vmin=0,
        vmax=1,
        interpolation="antialiased",
        interpolation_stage="rgba",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
    ax.set_xlabel("output block")
    ax.set_ylabel("input block")
    ax.set_title(title)
    return ax
