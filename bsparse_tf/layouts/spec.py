"""Layouts from short texts, for command lines and configuration files."""

import inspect

import numpy as np

from bsparse_tf.layouts import arguments, small_world, structured, uniform

_FAMILIES = {
    "watts_strogatz": small_world.watts_strogatz,
    "barabasi_albert": small_world.barabasi_albert,
    "random": uniform.random,
    "balanced_random": uniform.balanced_random,
    "ring_lattice": structured.ring_lattice,
    "block_diagonal": structured.block_diagonal,
    "banded": structured.banded,
    "butterfly": structured.butterfly,
    "dense": structured.dense,
}
_SHORT_NAMES = {
    "ws": "watts_strogatz",
    "ba": "barabasi_albert",
    "balanced": "balanced_random",
    "lattice": "ring_lattice",
    "diagonal": "block_diagonal",
}


def from_spec(spec: str, in_blocks: int, out_blocks: int | None = None) -> np.ndarray:
    """Makes the layout that a text describes.

    The text is a family, and after a colon its arguments by name: "ba:m=4,seed=0",
    "ws:k=4,p=0.2,seed=1", "ws:density=0.1", "block_diagonal:size=16", "dense". A family goes by the
    name of its function, or a short one: ws, ba, balanced, lattice, diagonal.

    Args:
      spec: the text.
      in_blocks: number of input blocks.
      out_blocks: number of output blocks; `in_blocks` if left out.

    Returns:
      bool array [in_blocks, out_blocks].

    Raises:
      TypeError: spec is not a text, or an argument has the wrong type.
      ValueError: the family or an argument is not known, or a value does not fit.
    """
    family, values = _parse(spec)
    in_blocks, out_blocks = arguments.sizes("in_blocks", in_blocks, out_blocks)
    try:
        return family(in_blocks, out_blocks=out_blocks, **values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"layout spec {spec!r}: {error}") from error


def _parse(spec):
    """Returns the family's function and its arguments by name."""
    if not isinstance(spec, str):
        raise TypeError(f'layout spec must be a text such as "ba:m=4,seed=0", but got {spec!r}')
    name, _, rest = spec.partition(":")
    name = name.strip()
    name = _SHORT_NAMES.get(name, name)
    if name not in _FAMILIES:
        short = ", ".join(f"{key} ({value})" for key, value in _SHORT_NAMES.items())
        raise ValueError(
            f"layout spec {spec!r}: family must be one of {', '.join(_FAMILIES)}, or for short "
            f"{short}, but got {name!r}"
        )
    family = _FAMILIES[name]
    known = [key for key in inspect.signature(family).parameters if key not in ("n", "out_blocks")]
    values = {}
    for part in rest.split(",") if rest.strip() else []:
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not (key and equals and text):
            raise ValueError(
                f"layout spec {spec!r}: arguments must be written name=value with commas between, "
                f"but got {part!r}"
            )
        if key not in known:
            takes = ", ".join(known) if known else "no arguments"
            raise ValueError(f"layout spec {spec!r}: {name} takes {takes}, but got {key!r}")
        if key in values:
            raise ValueError(f"layout spec {spec!r}: {key} must be given once, but came twice")
        values[key] = _value(spec, key, text)
    return family, values


def _value(spec, key, text):
    truth = {"true": True, "false": False}
    if text.lower() in truth:
        return truth[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    raise ValueError(
        f"layout spec {spec!r}: {key} must be a number, true or false, but got {text!r}"
    )
