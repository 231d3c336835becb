"""What a layout is: checking one, naming one, listing its blocks."""

import hashlib

import numpy as np
import numpy.typing as npt


def as_layout(array: npt.ArrayLike) -> np.ndarray:
    """Checks that an array is a layout and returns it as bool.

    Args:
      array: anything NumPy takes as a 2-D array of booleans or of numbers that are 0 or 1; rows
        are input blocks, columns output blocks.

    Returns:
      A new C-contiguous bool array [in_blocks, out_blocks].

    Raises:
      TypeError: not an array of booleans or real numbers.
      ValueError: not 2-D, empty (no rows, no columns, or no block present), or an entry is neither
        0 nor 1.
    """
    try:
        values = np.asarray(array)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"layout must be a 2-D array of 0 and 1: {error}") from error
    if values.dtype.kind not in "buif" and values.size > 0:
        raise TypeError(
            "layout must be an array of booleans or of numbers that are 0 or 1, but got "
            f"{type(array).__name__} with dtype {values.dtype}"
        )
    if values.ndim != 2:
        raise ValueError(
            "layout must be 2-D [input blocks, output blocks], but got shape "
            f"{_shape(values.shape)}"
        )
    if values.size == 0:
        raise ValueError(
            "layout must have at least one row and one column, but got shape "
            f"{_shape(values.shape)}"
        )
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        c, k = wrong[0]
        raise ValueError(
            f"layout must hold only 0 and 1, but got {values[c, k]} at ({c}, {k})"
            + (f" and {len(wrong) - 1} more such entries" if len(wrong) > 1 else "")
        )
    layout = np.array(values, dtype=bool, order="C")
    if not layout.any():
        raise ValueError(
            f"layout must have at least one block, but all {layout.size} entries are 0"
        )
    return layout


def digest(layout: npt.ArrayLike) -> str:
    """Returns the SHA-256 of a layout's shape and bits, as 64 hexadecimal digits.

    Equal layouts have equal digests on every machine and version.
    """
    layout = as_layout(layout)
    content = hashlib.sha256(f"{layout.shape[0]}x{layout.shape[1]}:".encode())
    content.update(np.packbits(layout).tobytes())
    return content.hexdigest()


def to_coords(layout: npt.ArrayLike) -> np.ndarray:
    """Returns the blocks of a layout, row by row: int32 [blocks, 2] of (input, output block)."""
    return np.argwhere(as_layout(layout)).astype(np.int32)


def _shape(shape):
    return "[" + ", ".join(map(str, shape)) + "]"
