"""The time loop: results and gradients of an ordinary loop, with one weight gradient a matrix."""

import numpy as np
import pytest
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, layouts, native
from bsparse_tf.recurrent.linear import BlockSparseLinear, DenseLinear
from bsparse_tf.recurrent.unroll import unroll

T, N, U = 5, 3, 32
MATMUL = BlocksparseMatMul(layouts.from_spec("random:density=0.5,seed=1", 4), block_size=8)
LINEARS = (BlockSparseLinear(MATMUL), DenseLinear(U, U))

needs_xla = pytest.mark.skipif(native.xla_status() is not None, reason=str(native.xla_status()))


def step(multiply, t, inputs, parameters, state):
    """Uses everything a step gets, a parameter and a state twice."""
    x, mask = inputs
    h, c = state
    v = tf.tanh(multiply(h) * parameters[0] + x)
    v = tf.tanh(multiply(v + h) + parameters[0] * tf.cast(t, v.dtype))
    c = 0.5 * c + v
    return [tf.where(mask, v + tf.sin(c), h), tf.where(mask, c, state[1])]


def plain(weights, inputs, parameters, state):
    """The same by TensorFlow's own means, unrolled in Python."""
    hidden = []
    for t in range(T):
        products = iter((lambda v: MATMUL(v, weights[0]), lambda v: v @ weights[1]))
        state = step(lambda v: next(products)(v), tf.constant(t), [x[t] for x in inputs],
                     parameters, state)
        hidden.append(state[0])
    return tf.stack(hidden), state


def arguments():
    rng = np.random.default_rng(0)
    normal = lambda *shape: tf.constant(rng.standard_normal(shape), tf.float32)
    weights = [0.2 * normal(*MATMUL.w_shape), 0.2 * normal(U, U)]
    inputs = [normal(T, N, U), tf.constant(rng.random((T, N, 1)) < 0.7)]
    return weights, inputs, [normal(U)], [normal(N, U), normal(N, U)]


def gradients(function, weights, inputs, parameters, state):
    """(sequence, last states, gradients of all that has one)."""
    watched = [*weights, inputs[0], *parameters, *state]
    with tf.GradientTape() as tape:
        for tensor in watched:
            tape.watch(tensor)
        sequence, last = function(weights, inputs, parameters, state)
        loss = sum(tf.reduce_sum(y * y * scale)
                   for y, scale in zip([sequence, *last], (0.1, 0.03, -0.07)))
    return [sequence, *last, *tape.gradient(loss, watched)]


def ours(recompute):
    return lambda *args: unroll(step, LINEARS, *args, recompute=recompute)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=needs_xla)])
def test_equals_a_plain_loop(recompute, mode):
    expected = gradients(plain, *arguments())

    def run(*args):
        return gradients(ours(recompute), *args)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    for want, got in zip(expected, run(*arguments()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_bit():
    kept, again = (gradients(ours(recompute), *arguments()) for recompute in (False, True))
    for one, other in zip(kept, again):
        np.testing.assert_array_equal(one, other)


def test_unknown_length_and_batch():
    signature = [tf.TensorSpec((None, None, U)), tf.TensorSpec((None, None, 1), tf.bool),
                 tf.TensorSpec((None, U)), tf.TensorSpec((None, U))]
    weights, inputs, parameters, state = arguments()

    @tf.function(input_signature=signature)
    def run(x, mask, h, c):
        return gradients(ours(False), weights, [x, mask], parameters, [h, c])

    expected = gradients(plain, weights, inputs, parameters, state)
    for want, got in zip(expected, run(*inputs, *state), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_one_weight_gradient_for_the_whole_sequence():
    """A product with the weight's gradient in the graph, and none inside its loops."""
    def run():
        return gradients(ours(False), *arguments())

    graph = tf.function(run).get_concrete_function().graph
    kinds = [op.type for op in graph.get_operations()]
    inside = [node.op for function in graph.as_graph_def().library.function
              for node in function.node_def]
    assert kinds.count("Bsparse>MatmulDw") == 1
    assert inside.count("Bsparse>MatmulDw") == 0
    assert inside.count("Bsparse>Matmul") == 2  # forward, and transposed on the way back


def test_differentiates_only_once():
    weights, inputs, parameters, state = arguments()
    with tf.GradientTape() as outer:
        outer.watch(weights[0])
        with tf.GradientTape() as inner:
            inner.watch(weights[0])
            sequence, _ = unroll(step, LINEARS, weights, inputs, parameters, state)
        slope = inner.gradient(sequence, weights[0])
    with pytest.raises(LookupError, match="only once"):
        outer.gradient(slope, weights[0])


def test_in_a_session():
    expected = gradients(plain, *arguments())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        results = session.run(gradients(ours(False), *arguments()))
    for want, got in zip(expected, results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
