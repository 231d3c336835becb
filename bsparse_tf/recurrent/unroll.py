"""A cell's loop over time, with one weight gradient for each matrix and sequence.

Differentiating a loop the ordinary way makes a weight gradient at every step and adds them up. Here
the way back is a loop of its own that only keeps each product's operand and the gradient of its
result; after the loop, one product over all steps at once gives the gradient of the weights.
"""

import tensorflow as tf


def unroll(step, linears, weights, inputs, parameters, state, *, recompute=False):
    """Runs `step` over the first axis of `inputs`. Differentiable once.

    Args:
      step: function (multiply, t, inputs at t, parameters, state) -> state. `multiply(x)` gives the
        product of x with the next of the weights; it must be called once for each, in their order.
        It is traced anew for the way back, so it must be deterministic; t is its int32 step number.
      linears: for each of the weights, the map that multiplies by it (`recurrent.linear`).
      weights: tensors. Products are taken in the state's dtype; a weight's gradient is summed in
        float32 and has the weight's dtype.
      inputs: tensors [T, ...], T >= 1; gradients reach those of a floating dtype.
      parameters: tensors that are used at every step; their gradients are summed from the last step
        to the first, in their dtype.
      state: tensors [N, ...] of one dtype; the first is the one whose sequence is returned.
      recompute: False keeps the products' results for the way back; True keeps nothing but the
        states, and multiplies again.

    Returns:
      (the first state after every step [T, N, ...], all states after the last step).

    Raises:
      LookupError: if the gradient is differentiated again.
    """
    counts = len(weights), len(inputs), len(parameters), len(state)
    dtype = state[0].dtype

    @tf.custom_gradient
    def run(*tensors):
        weights, inputs, parameters, state = _split(tensors, counts)
        prepared = [linear.prepare(w, dtype) for linear, w in zip(linears, weights)]
        states, products = _forward(
            step, linears, prepared, inputs, parameters, state, keep_products=not recompute
        )

        def gradient(*dresults):
            gradients = _backward(
                step, linears, weights, prepared, inputs, parameters, states, products, dresults
            )
            return [_only_once(g) for g in gradients]

        return (states[0][1:], *[sequence[-1] for sequence in states]), gradient

    sequence, *last = run(*weights, *inputs, *parameters, *state)
    return sequence, last


class _Forward:
    """`multiply` on the way forward. `results` holds what the products gave."""

    def __init__(self, linears, prepared):
        self._left = list(zip(linears, prepared))
        self.results = []

    def __call__(self, x):
        linear, w = self._left[len(self.results)]
        self.results.append(linear.product(x, w))
        return self.results[-1]


class _Replay:
    """`multiply` on the way back: kept results where there are, and no weight gradients.

    `operands` and `results` hold what was multiplied and what came of it; the tape watches the
    results, so that their gradients can be asked for.
    """

    def __init__(self, linears, prepared, kept, tape):
        self._left = list(zip(linears, prepared))
        self._kept = kept
        self._tape = tape
        self.operands = []
        self.results = []

    def __call__(self, x):
        linear, w = self._left[len(self.results)]
        if self._kept is not None:
            y = self._kept[len(self.results)]
        else:
            with self._tape.stop_recording():
                y = linear.product(x, w)
        self._tape.watch(y)
        self.operands.append(x)
        self.results.append(y)

        @tf.custom_gradient
        def known(x, y):
            return tf.identity(y), lambda dy: (linear.transposed(dy, w), dy)

        return known(x, y)


def _forward(step, linears, prepared, inputs, parameters, state, keep_products):
    """Returns (states before every step and after the last, [T + 1, ...]; products [T, ...])."""
    steps = _steps(inputs)
    states = [_array(s, steps + 1).write(0, s) for s in state]
    batch = state[0].shape[:1]
    products = [
        tf.TensorArray(state[0].dtype, steps, element_shape=batch + [linear.outputs])
        for linear in (linears if keep_products else [])
    ]

    def body(t, state, states, products):
        multiply = _Forward(linears, prepared)
        state = step(multiply, t, [x[t] for x in inputs], parameters, state)
        states = [array.write(t + 1, s) for array, s in zip(states, state)]
        products = [array.write(t, y) for array, y in zip(products, multiply.results)]
        return t + 1, list(state), states, products

    loop = (tf.constant(0), list(state), states, products)
    _, _, states, products = tf.while_loop(
        lambda t, *_: t < steps, body, loop, maximum_iterations=steps
    )
    return [array.stack() for array in states], [array.stack() for array in products]


def _backward(step, linears, weights, prepared, inputs, parameters, states, products, dresults):
    """Gradients of weights, inputs, parameters and the first state; None where there is none."""
    dsequence, *dstate = dresults
    steps = _steps(inputs)
    moving = [i for i, x in enumerate(inputs) if x.dtype.is_floating]

    def body(s, dstate, dparameters, arrays):
        t = steps - 1 - s
        state = [sequence[t] for sequence in states]
        step_inputs = [x[t] for x in inputs]
        floating = [step_inputs[i] for i in moving]
        with tf.GradientTape() as tape:
            for tensor in (*state, *floating, *parameters):
                tape.watch(tensor)
            kept = [y[t] for y in products] if products else None
            multiply = _Replay(linears, prepared, kept, tape)
            new_state = step(multiply, t, step_inputs, parameters, state)
        dstate = [dstate[0] + dsequence[t], *dstate[1:]]
        gradients = tape.gradient(
            new_state,
            [state, floating, list(parameters), multiply.results],
            output_gradients=dstate,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        dstate, dfloating, more, dy = gradients
        dparameters = [total + term for total, term in zip(dparameters, more)]
        kept_for_later = (*dfloating, *multiply.operands, *dy)
        arrays = [array.write(t, value) for array, value in zip(arrays, kept_for_later)]
        return s + 1, dstate, dparameters, arrays

    arrays = [_array(inputs[i][0], steps) for i in moving]
    batch = states[0].shape[1:2]
    widths = [linear.inputs for linear in linears] + [linear.outputs for linear in linears]
    for width in widths:
        arrays.append(tf.TensorArray(states[0].dtype, steps, element_shape=batch + [width]))
    loop = (tf.constant(0), dstate, [tf.zeros_like(p) for p in parameters], arrays)
    _, dstate, dparameters, arrays = tf.while_loop(
        lambda s, *_: s < steps, body, loop, maximum_iterations=steps
    )
    stacked = [array.stack() for array in arrays]
    dinputs = [None] * len(inputs)
    for i, dx in zip(moving, stacked):
        dinputs[i] = dx
    operands, dproducts = _split(stacked[len(moving):], (len(linears), len(linears)))
    dweights = [
        linear.weight_gradient(x, dy, w.dtype)
        for linear, x, dy, w in zip(linears, operands, dproducts, weights)
    ]
    return *dweights, *dinputs, *dparameters, *dstate


def _steps(inputs):
    return inputs[0].shape[0] or tf.shape(inputs[0])[0]


def _array(element, size):
    return tf.TensorArray(element.dtype, size, element_shape=element.shape)


def _split(tensors, counts):
    """A flat sequence cut into lists of the given lengths."""
    tensors = iter(tensors)
    return [[next(tensors) for _ in range(count)] for count in counts]


def _only_once(gradient):
    if gradient is None:
        return None
    return tf.raw_ops.PreventGradient(
        input=gradient, message="a recurrent loop can be differentiated only once"
    )
