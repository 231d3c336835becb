"""Layouts in files."""

import os
import pathlib

import numpy as np
import numpy.typing as npt

from bsparse_tf.layouts.layout import as_layout


def save(layout: npt.ArrayLike, path: str | os.PathLike) -> None:
    """Writes a layout to a NumPy file, as a bool array [in_blocks, out_blocks].

    Args:
      layout: the layout.
      path: file name ending in .npy, or in .npz (compressed; the array's name is "layout").
    """
    layout = as_layout(layout)
    suffix = pathlib.PurePath(path).suffix
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"path must end in .npy or .npz, but got {str(path)!r}")
    with open(path, "wb") as file:
        if suffix == ".npy":
            np.save(file, layout)
        else:
            np.savez_compressed(file, layout=layout)


def load(path: str | os.PathLike) -> np.ndarray:
    """Reads a layout from a NumPy file: .npy, or .npz with one array or one named "layout".

    Returns:
      bool array [in_blocks, out_blocks].

    Raises:
      OSError: the file cannot be read.
      TypeError, ValueError: it does not hold a layout (see `as_layout`).
    """
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return as_layout(content)
    with content:
        names = content.files
        if "layout" not in names and len(names) != 1:
            raise ValueError(
                f"{path} must hold one array, or one named 'layout', but holds {names}"
            )
        return as_layout(content["layout" if "layout" in names else names[0]])
