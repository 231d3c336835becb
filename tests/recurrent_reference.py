"""NumPy references of the recurrent cells, forward and gradients by hand, on dense weights.

In float64 they are the truth. Run in float32, float16 or bfloat16 they are the dense computation
whose error ours is measured against: sums of products and of layer norms in float32, everything
else rounded to the dtype after each operation.

Shapes: T steps, N sequences, F inputs, U units. Gates come in Keras's order: i, f, c, o.
"""

import numpy as np
import problems

EPSILON = 1e-6  # of the layer norms


def wide(array):
    """float32 for 16-bit arrays, else the array itself."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def dot(a, b):
    """a @ b over the last axis of a, summed in float32 or wider, rounded once."""
    rows = wide(a).reshape(-1, a.shape[-1])
    return problems.dense_dot(rows, wide(b)).astype(a.dtype).reshape(*a.shape[:-1], b.shape[-1])


def outer(x, dy):
    """x^T dy over all leading axes: the gradient of a weight from a whole sequence."""
    x, dy = wide(x).reshape(-1, x.shape[-1]), wide(dy).reshape(-1, dy.shape[-1])
    return problems.dense_dot(x.T, dy)


def sigmoid(x):
    one = x.dtype.type(1)
    return one / (one + np.exp(-x))


def layer_norm(x, gain, bias, segments=1):
    """Returns (y, cache); each of `segments` equal parts of the last axis has its own moments."""
    parts = wide(x).reshape(*x.shape[:-1], segments, -1)
    centred = parts - parts.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + parts.dtype.type(EPSILON))
    normal = centred * inverse
    y = normal.reshape(x.shape) * wide(gain) + wide(bias)
    return y.astype(x.dtype), (normal, inverse, gain)


def layer_norm_gradient(dy, cache):
    """(dx, dgain, dbias), the last two summed over the leading axes."""
    normal, inverse, gain = cache
    dwide = wide(dy)
    axes = tuple(range(dy.ndim - 1))
    dgain = (dwide * normal.reshape(dy.shape)).sum(axes)
    dnormal = (dwide * wide(gain)).reshape(normal.shape)
    mean = dnormal.mean(-1, keepdims=True)
    slope = (dnormal * normal).mean(-1, keepdims=True)
    dx = inverse * (dnormal - mean - normal * slope)
    return dx.reshape(dy.shape).astype(dy.dtype), dgain, dwide.sum(axes)


def gates(z, c):
    """The LSTM's cell update; returns (h, c, cache)."""
    i, f, u, o = np.split(z, 4, axis=-1)
    i, f, u, o = sigmoid(i), sigmoid(f), np.tanh(u), sigmoid(o)
    new_c = f * c + i * u
    squashed = np.tanh(new_c)
    return o * squashed, new_c, (i, f, u, o, c, squashed)


def gates_gradient(dh, dc, cache):
    """(dz, dc of the step before) from the gradients of h and c."""
    i, f, u, o, c, squashed = cache
    one = i.dtype.type(1)
    dc = dc + dh * o * (one - squashed * squashed)
    dz = [dc * u * i * (one - i), dc * c * f * (one - f), dc * i * (one - u * u),
          dh * squashed * o * (one - o)]
    return np.concatenate(dz, axis=-1), dc * f


def _keep(mask, new, old):
    return new if mask is None else np.where(mask[:, None], new, old)


def _split(mask, gradient):
    """The shares of a gradient that go to the new and to the old of `_keep`."""
    if mask is None:
        return gradient, np.zeros_like(gradient)
    zero = np.zeros_like(gradient)
    return np.where(mask[:, None], gradient, zero), np.where(mask[:, None], zero, gradient)


def lstm(x, h, c, kernel, recurrent_kernel, bias, mask=None):
    """The standard cell: z = x W + h R + b. Returns (h of every step, last c, caches).

    x [T, N, F], h and c [N, U], kernel [F, 4U], recurrent_kernel [U, 4U], bias [4U], mask bool
    [T, N]: where it is False the state stays.
    """
    projected = dot(x, kernel) + bias
    hidden, caches = [], []
    for t in range(len(x)):
        before = h
        new_h, new_c, cache = gates(projected[t] + dot(h, recurrent_kernel), c)
        step_mask = None if mask is None else mask[t]
        h, c = _keep(step_mask, new_h, h), _keep(step_mask, new_c, c)
        hidden.append(h)
        caches.append((before, cache))
    return np.stack(hidden), c, caches


def lstm_gradients(dhidden, dc, x, kernel, recurrent_kernel, caches, mask=None):
    """Gradients for `dhidden` [T, N, U] and `dc` [N, U], by name of `lstm`'s arguments."""
    dh = np.zeros_like(dc)
    dzs = []
    for t in reversed(range(len(x))):
        step_mask = None if mask is None else mask[t]
        dh_new, dh_old = _split(step_mask, dh + dhidden[t])
        dc_new, dc_old = _split(step_mask, dc)
        dz, dc = gates_gradient(dh_new, dc_new, caches[t][1])
        dh, dc = dot(dz, recurrent_kernel.T) + dh_old, dc + dc_old
        dzs.append(dz)
    dz = np.stack(dzs[::-1])
    return {"x": dot(dz, kernel.T), "h": dh, "c": dc, "kernel": outer(x, dz),
            "recurrent_kernel": outer(np.stack([before for before, _ in caches]), dz),
            "bias": wide(dz).sum((0, 1))}


def small_world(x, h, c, weights, stride, mask=None):
    """The multiplicative cell with deep updates of the 2017 report, Algorithm 1.

    The inputs reach every `stride`-th unit; the others see h alone.

    Args:
      x [T, N, F]; h, c [N, U]; mask bool [T, N] or None.
      weights: "input_m", "input_a" [F, U / stride]; "hidden_0" (multiplicative), "hidden_1"
        (additive), "hidden_2", ... [U, U]; "gates" [U, 4U]; for each also "<name>_gain" and
        "<name>_bias" of its layer norm.

    Returns:
      (h of every step, last c, caches).
    """
    def linear(name, v, segments=1):
        product = dot(v, weights[name])
        y, cache = layer_norm(product, weights[name + "_gain"], weights[name + "_bias"], segments)
        return y, (v, cache)

    depth = sum(name.startswith("hidden_") and name[7:].isdigit() for name in weights)
    m, m_cache = linear("input_m", x)
    a, a_cache = linear("input_a", x)
    hidden, steps = [], []
    for t in range(len(x)):
        before, caches, kept = h, [], []
        for j in range(depth):
            v, cache = linear(f"hidden_{j}", h if j == 0 else v)
            caches.append(cache)
            kept.append(v)
            if j == 0:
                v = v.copy()
                v[:, ::stride] *= m[t]
            else:
                if j == 1:
                    v = v.copy()
                    v[:, ::stride] += a[t]
                v = np.maximum(v, 0)
                kept[-1] = v
        z, gate_cache = linear("gates", v, segments=4)
        new_h, new_c, cell_cache = gates(z, c)
        step_mask = None if mask is None else mask[t]
        h, c = _keep(step_mask, new_h, before), _keep(step_mask, new_c, c)
        hidden.append(h)
        steps.append((caches, kept, gate_cache, cell_cache))
    return np.stack(hidden), c, (m, m_cache, a_cache, steps)


def small_world_gradients(dhidden, dc, weights, stride, caches, mask=None):
    """Gradients for `dhidden` and `dc`, by name: "x", "h", "c" and every weight."""
    m, m_cache, a_cache, steps = caches
    names = [name for name in weights if not name.endswith(("_gain", "_bias"))]
    operands = {name: [] for name in names}
    dproducts = {name: [] for name in names}
    sums = {name + part: 0.0 for name in names for part in ("_gain", "_bias")}

    def linear_gradient(name, dy, cache):
        v, norm_cache = cache
        dproduct, dgain, dbias = layer_norm_gradient(dy, norm_cache)
        sums[name + "_gain"] = sums[name + "_gain"] + dgain
        sums[name + "_bias"] = sums[name + "_bias"] + dbias
        operands[name].append(v)
        dproducts[name].append(dproduct)
        return dot(dproduct, weights[name].T)

    dm, da = np.zeros_like(m), np.zeros_like(m)
    dh = np.zeros_like(dc)
    for t in reversed(range(len(steps))):
        step_caches, kept, gate_cache, cell_cache = steps[t]
        step_mask = None if mask is None else mask[t]
        dh_new, dh_old = _split(step_mask, dh + dhidden[t])
        dc_new, dc_old = _split(step_mask, dc)
        dz, dc = gates_gradient(dh_new, dc_new, cell_cache)
        dv = linear_gradient("gates", dz, gate_cache)
        for j in reversed(range(len(step_caches))):
            if j > 0:
                dv = np.where(kept[j] > 0, dv, np.zeros_like(dv))
            if j == 1:
                da[t] = dv[:, ::stride]
            if j == 0:
                dm[t] = dv[:, ::stride] * kept[0][:, ::stride]
                dv = dv.copy()
                dv[:, ::stride] *= m[t]
            dv = linear_gradient(f"hidden_{j}", dv, step_caches[j])
        dh, dc = dv + dh_old, dc + dc_old
    dx = linear_gradient("input_m", dm, m_cache) + linear_gradient("input_a", da, a_cache)
    dw = {name: outer(np.stack(operands[name]), np.stack(dproducts[name])) for name in names}
    return {"x": dx, "h": dh, "c": dc, **dw, **sums}
