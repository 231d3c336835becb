"""The two block-sparse products as functions.

:class:`bsparse_tf.BlocksparseMatMul` is the friendlier way in; these take the layout as coordinates.
Words (layout, coords, block_size, feature_axis, gate) are those of the README.
"""

import tensorflow as tf

from bsparse_tf import argument_checks as checks
from bsparse_tf import native

_ACTIVATIONS = (None, "none", "relu", "gelu")


def _optional(tensor, name, dtype):
    """A zero-or-one element list, as the ops take optional inputs."""
    if tensor is None:
        return []
    return [_as_tensor(tensor, name, dtype)]


def _as_tensor(value, name, dtype=None):
    """Like tf.convert_to_tensor, but the error names the argument."""
    tensor = tf.convert_to_tensor(value, name=name) if tf.is_tensor(value) else (
        tf.convert_to_tensor(value, dtype=dtype, name=name))
    if dtype is not None and tensor.dtype.base_dtype != dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype.name}; expected {dtype.name}")
    return tensor


def _coords_tensor(coords):
    """Coordinates as int32. Other integer types would be cast silently, so they are refused."""
    if not tf.is_tensor(coords) and getattr(coords, "dtype", "int32") != "int32":
        raise TypeError(f"coords has dtype {coords.dtype}; expected int32")
    return _as_tensor(coords, "coords", tf.int32)


def _check_weight_dtype(w, x):
    widened = w.dtype == tf.float32 and x.dtype in (tf.float16, tf.bfloat16)
    if w.dtype != x.dtype and not widened:
        raise TypeError(
            f"w has dtype {w.dtype.name} and x {x.dtype.name}; expected the same, or w in float32 "
            "with x in float16 or bfloat16"
        )


@tf.autograph.experimental.do_not_convert
def matmul(
    x,
    w,
    coords,
    *,
    block_size,
    in_blocks,
    out_blocks,
    feature_axis=1,
    precision=None,
    transpose=False,
    gate=None,
    bias=None,
    activation=None,
    residual=None,
    gate_grad=False,
    dw_gated=False,
    straight_through=False,
    name=None,
):
    """y = activation(x W + bias) + residual with a block-sparse W.

    Args:
      x: float32, float16, bfloat16 or (on the CPU) float64. Shape [..., C] with `feature_axis` 1,
        [C, ...] with `feature_axis` 0, of rank 2 or more; C = in_blocks * block_size.
      w: [blocks, block_size, block_size]; w[b, i, j] joins input c * block_size + i to output
        k * block_size + j, (c, k) = coords[b]. In x's dtype, or in float32 with a 16-bit x: it is then
        rounded to x's dtype, and its gradient comes in float32.
      coords: int32 [blocks, 2], array or tensor: (c, k) of each stored block, any order, each once.
      block_size: 8, 16, 32, 64 or 128.
      in_blocks, out_blocks: rows and columns of the layout, CB and KB.
      feature_axis: 1, features last; 0, features first.
      precision: how a GPU multiplies float32 numbers: None, as
        `tf.config.experimental.enable_tensor_float_32_execution` says; "float32", exactly; "tf32",
        rounded to TF32; "tf32x3", each as the sum of two TF32 numbers, by three products: nearly as
        accurate as float32, on tensor cores (an infinite input gives NaN). CPUs multiply exactly; other
        dtypes are not concerned. The gradients' products take it over.
      transpose: multiply by W^T instead: x has K features, y has C.
      gate: float32 [blocks] or None; scales each block. A block whose gate is 0 is skipped.
      bias: [K] (with `transpose` [C]) in x's dtype, or None.
      activation: None, "relu" or "gelu" (exact, by erf). The gradient of gelu recomputes the product,
        and with a residual that of relu does.
      residual: shaped as y, in x's dtype, or None; added after the activation, before y is rounded.
      gate_grad: whether the gate receives a gradient; otherwise it is a constant.
      dw_gated: with `gate_grad`, leave blocks whose gate is 0 out of the work; their gradient is 0.
      straight_through: the gradient of w is not scaled by the gate, so that switched-off blocks go on
        receiving one.
      name: of the op.

    Returns:
      y in x's dtype, shaped as x with its features replaced.

    Raises:
      TypeError: dtypes that do not go together.
      ValueError: shapes known while tracing that do not match the layout; an unknown activation or
        precision.
      tf.errors.InvalidArgumentError: the same found at run time; coords out of range or repeated.
      tf.errors.UnimplementedError: no kernel for this dtype on this device.
    """
    x = _as_tensor(x, "x")
    w = _as_tensor(w, "w", None if tf.is_tensor(w) else x.dtype)
    _check_weight_dtype(w, x)
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; expected None, 'relu' or 'gelu'")
    return native.raw.bsparse_matmul(
        x=x,
        w=w,
        coords=_coords_tensor(coords),
        gate=_optional(gate, "gate", tf.float32),
        bias=_optional(bias, "bias", x.dtype),
        residual=_optional(residual, "residual", x.dtype),
        block_size=block_size,
        in_blocks=in_blocks,
        out_blocks=out_blocks,
        feature_axis=feature_axis,
        precision=checks.precision_name(precision),
        transpose=transpose,
        activation=activation or "none",
        gate_grad=gate_grad,
        dw_gated=dw_gated,
        straight_through=straight_through,
        name=name,
    )


@tf.autograph.experimental.do_not_convert
def matmul_dw(
    x,
    dy,
    coords,
    *,
    block_size,
    in_blocks,
    out_blocks,
    feature_axis=1,
    precision=None,
    gate=None,
    addend=None,
    out_type=None,
    name=None,
):
    """dw[b] = gate[b] * (sum over pairs of x[c]^T dy[k]) + addend[b] for every stored block b.

    (c, k) = coords[b]. Several pairs belong to weights that were used several times, as those of a
    recurrent network are: one call sums over all of them, in float32 (float64), and rounds once. On a GPU
    eight pairs take one launch.

    Args:
      x: [..., C] or [C, ...], as in :func:`matmul`; or a list of such tensors.
      dy: [..., K] or [K, ...] in x's dtype, with the same batch dimensions; or a list as long as x.
      coords, block_size, in_blocks, out_blocks, feature_axis, precision: as in :func:`matmul`.
      gate: float32 [blocks] or None; blocks whose gate is 0 are not computed.
      addend: None, or like dw: what was summed up before, say. The result takes its memory over where
        nobody else needs it.
      out_type: x's dtype (the default), or float32 with a 16-bit x.
      name: of the op.

    Returns:
      dw [blocks, block_size, block_size] in `out_type`.

    Raises:
      As :func:`matmul`; ValueError if x and dy are not equally many, or none.
    """
    xs, dys = _as_list(x), _as_list(dy)
    if not xs or len(xs) != len(dys):
        raise ValueError(f"x is a list of {len(xs)} and dy of {len(dys)}; expected as many, at least 1")
    xs[0] = _as_tensor(xs[0], "x")
    xs[1:] = [_as_tensor(each, "x", xs[0].dtype) for each in xs[1:]]
    out_type = tf.dtypes.as_dtype(out_type or xs[0].dtype)
    return native.raw.bsparse_matmul_dw(
        x=xs,
        dy=[_as_tensor(each, "dy", xs[0].dtype) for each in dys],
        coords=_coords_tensor(coords),
        gate=_optional(gate, "gate", tf.float32),
        addend=_optional(addend, "addend", out_type),
        out_type=out_type,
        block_size=block_size,
        in_blocks=in_blocks,
        out_blocks=out_blocks,
        feature_axis=feature_axis,
        precision=checks.precision_name(precision),
        name=name,
    )


def _as_list(tensors):
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
