"""The `layout` argument of the layers: what may be given, and how it is saved."""

import base64

import numpy as np

from bsparse_tf import layouts


def normalise(layout):
    """A `layout` argument as the layers keep it: None, a spec, or a bool array [CB, KB].

    Args:
      layout: None, a spec such as "ba:m=4,seed=0", a 0/1 array, or what `to_config` returned.
    """
    if layout is None or isinstance(layout, str):
        return layout
    if isinstance(layout, dict):
        CB, KB = layout["shape"]
        packed = np.frombuffer(base64.b64decode(layout["bits"]), np.uint8)
        layout = np.unpackbits(packed, count=CB * KB).reshape(CB, KB)
    return layouts.as_layout(layout)


def to_config(layout):
    """A normalised `layout` argument in plain JSON types; arrays as base64 of packed bits."""
    if layout is None or isinstance(layout, str):
        return layout
    bits = base64.b64encode(np.packbits(layout).tobytes()).decode("ascii")
    return {"shape": list(layout.shape), "bits": bits}


def resolve(layout, in_blocks, out_blocks):
    """The bool array [CB, KB] that a normalised `layout` argument stands for.

    Raises:
      ValueError: if an array has another shape, or a spec does not fit these sizes.
    """
    if layout is None:
        layout = default_spec(in_blocks, out_blocks)
    if isinstance(layout, str):
        return layouts.from_spec(layout, in_blocks, out_blocks)
    if layout.shape != (in_blocks, out_blocks):
        raise ValueError(
            f"layout has shape {layout.shape}; inputs and units make {in_blocks} x {out_blocks} "
            "blocks"
        )
    return layout


def default_spec(in_blocks, out_blocks):
    """A Barabási-Albert graph whose number of connections grows with the logarithm of its size.

    m = floor(log2(blocks of the shorter side)) - 1, and at least 1. At the size of the paper's
    largest network, 576 blocks a side, that is m = 8 and a density of 2.9 %, which matches its
    count of parameters; at 32 blocks it is m = 4 and 25 %.
    """
    m = max(1, min(in_blocks, out_blocks).bit_length() - 2)
    return f"ba:m={m},seed=0"
