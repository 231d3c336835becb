"""From a target density to the argument of a layout family."""

import numpy as np

from bsparse_tf.layouts import arguments


def resolve(family, name, value, density, sizes, choices, count):
    """Returns the value of a family's own argument, given either directly or as a density.

    A family's argument changes its number of blocks in steps; a target density takes the value
    whose number of blocks is nearest (of two equally near ones, the one with fewer blocks), so the
    result is at most half a step away.

    Args:
      family: name of the family, for messages.
      name: name of the argument, such as "k".
      value: the argument as the user gave it, or None.
      density: the target density as the user gave it, or None.
      sizes: (in_blocks, out_blocks).
      choices: `range` of the values that the argument may take at these sizes.
      count: function from such a value to the number of blocks of the layout.

    Raises:
      TypeError, ValueError: not exactly one of the two was given; `value` is not in `choices`;
        `density` is no density, or more than half a step below the lowest that can be reached.
    """
    if (value is None) == (density is None):
        came = "neither" if value is None else "both"
        raise ValueError(f"{family} needs either {name} or density, but got {came}")
    if density is None:
        return _one_of(family, name, value, sizes, choices)
    return _nearest(family, name, arguments.density(density), sizes, choices, count)


def _one_of(family, name, value, sizes, choices):
    value = arguments.integer(name, value, choices[0])
    if value not in choices:
        even = "an even" if choices.step == 2 else "a"
        raise ValueError(
            f"{name} must be {even} whole number from {choices[0]} to {choices[-1]} for {family} "
            f"on {sizes[0]} x {sizes[1]} blocks, but got {value}"
        )
    return value


def _nearest(family, name, density, sizes, choices, count):
    counts = np.array([count(choice) for choice in choices])
    cells = sizes[0] * sizes[1]
    levels = np.unique(counts)
    first_step = levels[1] - levels[0] if len(levels) > 1 else 0
    if density * cells < levels[0] - first_step / 2:
        lowest = levels[0] / cells
        raise ValueError(
            f"density must be at least {lowest:.4g} for {family} on {sizes[0]} x {sizes[1]} blocks "
            f"({name}={choices[int(np.argmin(counts))]}), but got {density:g}"
        )
    order = np.argsort(counts, kind="stable")
    return choices[int(order[np.argmin(np.abs(counts[order] - density * cells))])]
