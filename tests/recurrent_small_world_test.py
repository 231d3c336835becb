"""The small-world LSTM's op for whole sequences: against the same cell step by step.

The step is held against the reference in float64, and the op in 16-bit precision too, by
keras_small_world_lstm_test.py.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from bsparse_tf import BlocksparseMatMul, SparseProj, layouts, native
from bsparse_tf.recurrent import cells
from bsparse_tf.recurrent.linear import BlockSparseLinear
from bsparse_tf.recurrent.small_world import small_world_lstm
from bsparse_tf.recurrent.unroll import unroll

import problems

BLOCK = 8
needs_xla = pytest.mark.skipif(native.xla_status() is not None, reason=str(native.xla_status()))
EXACT = "float32" if problems.has_gpu() else "float64"
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


class Problem:
    """A net and its operands; `functions` take `tensors` and give (sequence, last h, last c)."""

    def __init__(self, depth=3, steps=4, batch=5, units=48, dtype=EXACT, cell=None, params=None,
                 stride=1):
        blocks = units // BLOCK
        squares = [layouts.from_spec(f"ba:m=2,seed={j}", blocks) for j in range(depth + 1)]
        squares[1][:, 0] = squares[-1][0] = False  # a column and a row without a block
        self.matmuls = [BlocksparseMatMul(s, BLOCK) for s in squares[:-1]]
        self.matmuls.append(BlocksparseMatMul(np.tile(squares[-1], (1, 4)), BLOCK))
        self.depth = depth
        self.project = SparseProj(units, proj_stride=stride)
        rng = np.random.default_rng(0)
        cell, params = cell or dtype, params or dtype

        def normal(*shape, kind=dtype, scale=1.0, mean=0.0):
            values = rng.standard_normal(shape) * scale + mean
            return tf.constant(problems.rounded(values, kind))

        self.tensors = [normal(steps, batch, units // stride) for _ in range(2)]
        self.tensors += [normal(batch, units), normal(batch, units, kind=cell)]
        self.tensors += [normal(*m.w_shape, kind=params, scale=0.3) for m in self.matmuls]
        self.tensors += [normal(m.K, kind=params, scale=0.3, mean=1.0) for m in self.matmuls]
        self.tensors += [normal(m.K, kind=params, scale=0.3) for m in self.matmuls]
        self.upstream = [normal(steps, batch, units), normal(batch, units),
                         normal(batch, units, kind=cell)]

    def _split(self, tensors):
        m, a, h, c, *rest = tensors
        count = self.depth + 1
        norms = list(zip(rest[count:2 * count], rest[2 * count:]))
        return m, a, h, c, rest[:count], norms

    def op(self, *tensors, recompute=False):
        m, a, h, c, weights, norms = self._split(tensors)
        return small_world_lstm(self.matmuls, weights, norms, m, a, h, c, recompute=recompute)

    def loop(self, *tensors):
        m, a, h, c, weights, norms = self._split(tensors)
        every = tf.ones([*m.shape[:-1], self.project.nhidden], m.dtype)
        m, a = self.project.scatter_mul(every, m), self.project.scatter(a)
        step = functools.partial(cells.small_world_step, steps=self.depth, epsilon=1e-6)
        linears = [BlockSparseLinear(matmul) for matmul in self.matmuls]
        sequence, (h, c) = unroll(step, linears, weights, [m, a],
                                  [p for norm in norms for p in norm], (h, c))
        return sequence, h, c

    def gradients(self, function, tensors=None):
        """The results, then the gradients of all tensors."""
        tensors = tensors or self.tensors
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            results = function(*tensors)
        return [*results, *tape.gradient(results, tensors, self.upstream)]


def assert_close(found, wanted):
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.dtype == other.dtype and one.shape == other.shape, i
        one, other = problems.as_float64(one), problems.as_float64(other)
        scale = max(1.0, np.abs(other).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[EXACT] * scale,
                                   err_msg=f"tensor {i}")


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=needs_xla)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sizes", [
    {}, {"depth": 2, "steps": 1, "batch": 1}, {"depth": 6, "batch": 7, "units": 56, "stride": 4},
    {"batch": 130, "stride": 3},
])
def test_equals_the_cell_step_by_step(sizes, recompute, mode):
    problem = Problem(**sizes)

    def run(*tensors):
        return problem.gradients(functools.partial(problem.op, recompute=recompute), list(tensors))

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    assert_close(run(*problem.tensors), problem.gradients(problem.loop))


@pytest.mark.parametrize("dtype, cell, params", [
    (EXACT, EXACT, EXACT), ("bfloat16", "float32", "float32"), ("bfloat16",) * 3,
    ("float16", "float32", "float16"),
])
def test_recomputing_changes_no_bit(dtype, cell, params):
    problem = Problem(dtype=dtype, cell=cell, params=params)
    kept, again = (problem.gradients(functools.partial(problem.op, recompute=recompute))
                   for recompute in (False, True))
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(problems.as_float64(one), problems.as_float64(other))
        assert np.isfinite(problems.as_float64(one)).all()


def test_the_same_bits_again():
    problem = Problem(batch=33, dtype="bfloat16", cell="float32", params="float32")
    first, second = (problem.gradients(problem.op) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(problems.as_float64(one), problems.as_float64(other))


@pytest.mark.parametrize("mode", ["eager", pytest.param("xla", marks=needs_xla)])
def test_an_empty_batch(mode):
    problem = Problem(batch=0)
    run = tf.function(problem.gradients, jit_compile=True) if mode == "xla" else problem.gradients
    sequence, h, c, dm, *_ = results = run(problem.op)
    assert sequence.shape == dm.shape == (4, 0, 48) and h.shape == c.shape == (0, 48)
    for gradient in results[7:]:
        assert not problems.as_float64(gradient).any()


def test_unknown_length_and_batch():
    problem = Problem()
    signature = [tf.TensorSpec(shape, EXACT)
                 for shape in [(None, None, 48)] * 2 + [(None, 48)] * 2]

    @tf.function(input_signature=signature)
    def run(m, a, h, c):
        return problem.gradients(problem.op, [m, a, h, c, *problem.tensors[4:]])

    assert_close(run(*problem.tensors[:4]), problem.gradients(problem.loop))


def test_in_a_session():
    wanted = Problem()
    wanted = wanted.gradients(wanted.loop)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        problem = Problem()
        found = session.run(problem.gradients(problem.op))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[EXACT] * 100)


def test_a_sequence_is_one_op_forward_and_one_back():
    problem = Problem()
    graph = tf.function(lambda: problem.gradients(problem.op)).get_concrete_function().graph
    kinds = [op.type for op in graph.get_operations()]
    assert kinds.count("Bsparse>SmallWorldLstm") == kinds.count("Bsparse>SmallWorldLstmGrad") == 1
    assert kinds.count("Bsparse>MatmulDw") == problem.depth + 1
    assert "Bsparse>Matmul" not in kinds and "While" not in kinds


def test_nan_stays_in_its_sequence():
    problem = Problem()
    m = problem.tensors[0].numpy()
    m[1, 2, 3] = np.nan
    sequence, _, c = problem.op(tf.constant(m), *problem.tensors[1:])
    clean = problem.op(*problem.tensors)[0].numpy()
    assert np.isnan(sequence[1:, 2]).all() and np.isnan(c[2]).all()
    others = np.delete(sequence.numpy(), 2, axis=1)
    np.testing.assert_array_equal(others, np.delete(clean, 2, axis=1))


def test_differentiates_only_once():
    problem = Problem()
    w = problem.tensors[4]
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(w)
            sequence, _, _ = problem.op(*problem.tensors)
        slope = inner.gradient(sequence, w)
    with pytest.raises(LookupError, match="only once"):
        outer.gradient(slope, w)


@pytest.mark.parametrize("index, change, message", [
    (0, lambda t: t[0], r"m has shape \(5, 48\); expected \(\?, 5, 48\), \(steps, batch, units\)"),
    (0, lambda t: t[:0], r"m has shape \(0, 5, 48\); expected one step or more"),
    (0, lambda t: t[..., :5], r"48 units; expected a positive multiple of block_size=8 and of"),
    (0, lambda t: t[..., :24], r"a has shape \(4, 5, 48\); expected \(4, 5, 24\), the shape of m"),
    (2, lambda t: t[0], r"h has shape \(48,\); expected \(batch, units\)"),
    (2, lambda t: t[:, :44], r"44 units; expected a positive multiple of block_size=8"),
    (1, lambda t: t[1:], r"a has shape \(3, 5, 48\); expected \(4, 5, 48\), the shape of m"),
    (2, lambda t: t[1:], r"m has shape \(4, 5, 48\); expected \(\?, 4, 48\), \(steps, batch, un"),
    (3, lambda t: t[:, 1:], r"c has shape \(5, 47\); expected \(5, 48\), the shape of h"),
    (5, lambda t: t[1:], r"w\[1\] has "),
    (8, lambda t: t[1:], r"gain\[0\] has shape \(47,\); expected \(48,\)"),
    (15, lambda t: t[:48], r"bias\[3\] has shape \(48,\); expected \(192,\)"),
])
def test_bad_shapes(index, change, message):
    problem = Problem()
    tensors = list(problem.tensors)
    tensors[index] = change(tensors[index])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        problem.op(*tensors)
    with pytest.raises(ValueError, match=message):
        tf.function(problem.op).get_concrete_function(*tensors)


def test_bad_coords():
    problem = Problem()
    coords = np.array(problem.matmuls[0].coords)
    coords[0, 1] = 99
    problem.matmuls[0]._eager_coords = tf.constant(coords)
    with pytest.raises(tf.errors.InvalidArgumentError, match="99"):
        problem.op(*problem.tensors)
