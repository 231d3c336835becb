"""Checks of arguments that several layout families share.

Each returns the checked value as a plain Python number, or raises TypeError (wrong type) or
ValueError (wrong value) with a message that names the argument, what came and what was expected.
"""

import math
import numbers
import operator

# RandomState takes seeds of 32 bits.
_LARGEST_SEED = 2**32 - 1


def integer(name, value, lowest, highest=None):
    """Returns `value` as an int in [lowest, highest]; `highest=None` means no upper limit."""
    expected = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number {expected}, but got {value!r}")
    number = operator.index(value)
    if number < lowest or (highest is not None and number > highest):
        raise ValueError(f"{name} must be a whole number {expected}, but got {number}")
    return number


def sizes(name, in_blocks, out_blocks):
    """Returns (in_blocks, out_blocks), where `out_blocks=None` means a square layout.

    `name` is what the caller's user calls `in_blocks`.
    """
    in_blocks = integer(name, in_blocks, 1)
    return in_blocks, in_blocks if out_blocks is None else integer("out_blocks", out_blocks, 1)


def seed(value):
    """Returns a seed that both `random.Random` and `numpy.random.RandomState` take."""
    return integer("seed", value, 0, _LARGEST_SEED)


def probability(name, value):
    """Returns `value` as a float in [0, 1]."""
    number = _real(name, value, "from 0 to 1")
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, but got {number:g}")
    return number


def density(value):
    """Returns a target density as a float in (0, 1]."""
    number = _real("density", value, "above 0 and at most 1")
    if not 0 < number <= 1:
        raise ValueError(f"density must be a number above 0 and at most 1, but got {number:g}")
    return number


def _real(name, value, expected):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number {expected}, but got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number {expected}, but got nan")
    return float(value)
