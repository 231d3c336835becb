"""Checks of arguments that several public classes share, and the sentences they raise."""

import tensorflow as tf

BLOCK_SIZES = (8, 16, 32, 64, 128)
PRECISIONS = ("float32", "tf32", "tf32x3")  # by the numbers of the C enumeration bsparse_float32_math


def check_block_size(block_size):
    """Raises ValueError unless there are kernels for `block_size`."""
    if isinstance(block_size, bool) or block_size not in BLOCK_SIZES:
        sizes = ", ".join(map(str, BLOCK_SIZES))
        raise ValueError(f"block_size must be one of {sizes}; got {block_size!r}")


def check_feature_axis(feature_axis):
    """Raises ValueError unless `feature_axis` is 0 or 1."""
    if isinstance(feature_axis, bool) or feature_axis not in (0, 1):
        raise ValueError(
            "feature_axis must be 1 (features last, [..., C]) or 0 (features first, [C, ...]); "
            f"got {feature_axis!r}"
        )


def precision_name(precision):
    """The ops' name of a precision: None is "default". Raises ValueError unless it is known."""
    if precision in (None, "default"):
        return "default"
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be None, {', '.join(map(repr, PRECISIONS))}; got {precision!r}"
        )
    return precision


def feature_axis_of(axis):
    """The feature axis that `axis` means: -1 is 1. Raises ValueError unless it is 0, 1 or -1."""
    if not isinstance(axis, bool) and axis in (0, 1, -1):
        return abs(int(axis))
    raise ValueError(
        "axis must be 1 or -1 (features last, [..., F]) or 0 (features first, [F, ...]); "
        f"got {axis!r}"
    )


def count_blocks(argument, features, block_size):
    """How many blocks make up `features`; raises ValueError, with the nearest sizes, if none do."""
    if features > 0 and features % block_size == 0:
        return features // block_size
    below = features // block_size * block_size
    nearest = f"{below} or {below + block_size}" if below > 0 else f"{block_size}"
    raise ValueError(
        f"{argument} must be a positive multiple of block_size={block_size}; got {features}, "
        f"nearest: {nearest}"
    )


def check_shape(argument, value, expected, meaning):
    """Raises ValueError if what is known of `value.shape` contradicts `expected`."""
    if not tf.TensorShape(value.shape).is_compatible_with(expected):
        raise ValueError(
            f"{argument} has shape {tuple(value.shape)}; expected {tuple(expected)}, {meaning}"
        )


def check_features(argument, x, features, feature_axis, symbol):
    """Raises ValueError if `x` cannot hold `features` features; says how either axis reads it.

    Args:
      argument: the name of `x` in the message.
      x: a tensor; what is not known of its shape is not checked.
      features: how many the layout takes.
      feature_axis: 0 or 1.
      symbol: what the layout calls `features`: "C" or "K".
    """
    shape = x.shape
    if shape.rank is None:
        return
    if shape.rank < 2:
        wanted = f"[..., {features}]" if feature_axis == 1 else f"[{features}, ...]"
        raise ValueError(
            f"{argument} has shape {shape}, of rank {shape.rank}; expected rank 2 or more: "
            f"{wanted} with feature_axis={feature_axis}"
        )
    found, other = (shape[-1], shape[0]) if feature_axis == 1 else (shape[0], shape[-1])
    if found is None or found == features:
        return
    message = (
        f"{argument} has shape {shape}: with feature_axis={feature_axis} that is "
        f"{_batch(shape, feature_axis)}, {found} features, but the layout takes "
        f"{symbol}={features}; with feature_axis={1 - feature_axis} it would be "
        f"{_batch(shape, 1 - feature_axis)}, {other} features"
    )
    if other == features:
        cross = "to_features_last" if feature_axis == 1 else "to_features_first"
        message += (
            f", which fits: use with_feature_axis({1 - feature_axis}), or cross over with "
            f"{cross}({argument})"
        )
    raise ValueError(message)


def check_weight_dtype(argument, x, w, dw_dtype):
    """Raises TypeError if `w` does not go with `x`, ValueError if `dw_dtype` is not w's dtype."""
    if w.dtype != x.dtype and not (w.dtype == tf.float32 and x.dtype.size == 2):
        raise TypeError(
            f"w has dtype {w.dtype.name} and {argument} {x.dtype.name}; expected the same, or w in "
            f"float32 with {argument} in float16 or bfloat16"
        )
    if dw_dtype is not None and tf.as_dtype(dw_dtype) != w.dtype:
        raise ValueError(
            f"dw_dtype is {tf.as_dtype(dw_dtype).name} but w is {w.dtype.name}, and a gradient has "
            "the dtype of its variable. For a float32 gradient from 16-bit activations keep w in "
            f"float32 (master weights): the op rounds it to {argument}'s dtype inside"
        )


def check_stored_dtype(argument, dtype, other, other_dtype):
    """Raises TypeError unless `dtype` is `other_dtype`, or float32 beside a 16-bit one."""
    if dtype == other_dtype or (dtype == tf.float32 and other_dtype.size == 2):
        return
    raise TypeError(
        f"{argument} has dtype {dtype.name} and {other} {other_dtype.name}; expected the same, or "
        f"{argument} in float32 with {other} in float16 or bfloat16"
    )


def as_tensor(argument, value, dtype, why):
    """`value` as a tensor of `dtype`. Arrays and tensors of another dtype are a TypeError."""
    if not hasattr(value, "dtype"):  # A Python number or list has none of its own.
        return tf.convert_to_tensor(value, dtype, name=argument)
    value = tf.convert_to_tensor(value, name=argument)
    if value.dtype != dtype:
        raise TypeError(
            f"{argument} has dtype {value.dtype.name}; expected {dtype.name}, because {why}"
        )
    return value


def _batch(shape, feature_axis):
    batch = shape[:-1] if feature_axis == 1 else shape[1:]
    return f"N={batch[0]}" if batch.rank == 1 else f"a batch of shape {batch}"
