"""The small-world LSTM's loop over time as one op forward and one back.

What `unroll` does with `cells.small_world_step`, where all matrices are block-sparse and no step is
masked or dropped out: a time step is two dozen small kernels, which as ops of their own would wait
for the host.
"""

import tensorflow as tf

from bsparse_tf import native, ops


@tf.autograph.experimental.do_not_convert
def small_world_lstm(matmuls, weights, norms, m, a, h, c, *, epsilon=1e-6, recompute=False):
    """All steps of the multiplicative LSTM with deep updates. Differentiable once.

    With linear(v) = layer_norm(v W), every time with another W (Gray, Radford and Kingma 2017,
    Algorithm 1):

      v = linear(h) * m
      v = relu(linear(v) + a), then relu(linear(v)) for each further internal step
      i, f, g, o = linear(v), each gate with a norm of its own
      c = sigmoid(f) c + sigmoid(i) tanh(g)
      h = sigmoid(o) tanh(c)

    Args:
      matmuls: for each internal step, two or more, a `BlocksparseMatMul` U -> U, then one U -> 4U;
        of one block size, features last.
      weights: for each of them a tensor of its `w_shape`. Products are taken in m's dtype; a
        weight's gradient is summed in float32 or wider and has the weight's dtype.
      norms: for each of them (gain, bias), [U] or [4U], of one dtype: m's, or float32 with a
        16-bit m.
      m, a: [T, N, U / stride], T >= 1; float32, float16, bfloat16 or (on the CPU) float64. With a
        stride above 1 they are those of every stride-th unit, from the first on; the others go
        through the first two lines as if m were 1 and a 0.
      h: [N, U] before the first step, in m's dtype.
      c: [N, U] before the first step, in m's dtype, or in float32 with a 16-bit m.
      epsilon: of the layer norms.
      recompute: False keeps all products for the way back; True keeps nothing but the states, and
        multiplies again. The gradients are the same.

    Returns:
      (h after every step [T, N, U], h after the last step, c after the last step).

    Raises:
      ValueError: if a shape known while tracing does not fit.
      tf.errors.InvalidArgumentError: the same found at run time.
      LookupError: if the gradient is differentiated again.
    """
    count = len(matmuls)
    coords = [matmul._coords_argument() for matmul in matmuls]
    common = {
        "block_size": matmuls[0].block_size,
        "stride": max(1, matmuls[0].C // max(1, m.shape[-1])),
        "epsilon": epsilon,
    }
    gains, biases = zip(*norms)

    @tf.custom_gradient
    def run(m, a, h, c, *tensors):
        weights, gains, biases = (tensors[i * count:(i + 1) * count] for i in range(3))
        net = {
            "m": m,
            "a": a,
            "h": h,
            "c": c,
            # Rounded once a sequence, not at every step.
            "w": [tf.cast(w, m.dtype) for w in weights],
            "gain": gains,
            "bias": biases,
            "coords": coords,
        }
        sequence = native.raw.bsparse_small_world_lstm(
            **net,
            stats_type=tf.float64 if m.dtype == tf.float64 else tf.float32,
            num_kept=0 if recompute else 2 * count - 1,
            **common,
        )
        hidden, cells, *_, kept = sequence

        def gradient(dhidden, dh_last, dc_last):
            back = native.raw.bsparse_small_world_lstm_grad(
                dhidden=dhidden,
                dh_last=dh_last,
                dc_last=dc_last,
                **net,
                hidden=hidden,
                cells=cells,
                mean=sequence.mean,
                rstd=sequence.rstd,
                kept=kept,
                num_operands=count - 1 if recompute else 0,
                **common,
            )
            # What the first product multiplied is the state before each step: two tensors.
            operands = [[h[tf.newaxis], hidden[:-1]]]
            operands += back.operands if recompute else kept[count:]
            first, *rest = back.dproducts
            dproducts = [[first[:1], first[1:]], *rest]
            dweights = [
                ops.matmul_dw(
                    x,
                    dy,
                    matmul.coords,
                    block_size=matmul.block_size,
                    in_blocks=matmul.CB,
                    out_blocks=matmul.KB,
                    out_type=w.dtype,
                )
                for matmul, w, x, dy in zip(matmuls, weights, operands, dproducts)
            ]
            dnorms = [tf.cast(d, gains[0].dtype) for d in (*back.dgain, *back.dbias)]
            return [
                _only_once(d) for d in (back.dm, back.da, back.dh, back.dc, *dweights, *dnorms)
            ]

        return (hidden, hidden[-1], cells[-1]), gradient

    return run(m, a, h, c, *weights, *gains, *biases)


def _only_once(gradient):
    return tf.raw_ops.PreventGradient(
        input=gradient, message="a recurrent loop can be differentiated only once"
    )
