"""The ways to compute a cell's product: ours, dense, tf.sparse and SciPy's BSR.

Each maker takes a Problem and gives a Contender, or None where that library has no such product.
All of them compute the same thing from the same data; `extract` brings the answer into the form
of `Problem.truth`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bsparse_tf import ops
from bsparse_tf.benchmark.problem import Problem

# tf.sparse's gradient of the values gathers one row of activations for every stored number.
MAX_GATHER_BYTES = 1 << 30


@dataclasses.dataclass
class Contender:
    """`run(repeats)` computes the product `repeats` times and waits; `answer()` gives the first."""

    name: str
    run: Callable[[int], None]
    answer: Callable[[], np.ndarray]


@contextlib.contextmanager
def only_as_written():
    """Keeps TensorFlow's graph optimiser from removing products whose results nobody reads."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(before)


def _tensorflow_contender(name, product, operands, extract) -> Contender:
    """Runs `product(*operands[i])` inside one tf.function, in a chain, one after the other.

    The loop lives in the graph so that Python's own time is not measured. Each product waits for
    the one before it, or TensorFlow would merge those of the same operands and run the others two
    at a time. Runs inside `only_as_written` alone: elsewhere it would leave out all but the last.
    """
    operands = [tuple(tf.constant(a) for a in pair) for pair in operands]

    def chain(repeats):
        done = []
        for i in range(repeats):
            with tf.control_dependencies(done):
                done = [product(*operands[i % len(operands)])]
        return tf.reshape(done[0], [-1])[0]

    @functools.cache
    def traced(repeats):
        if not tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer"):
            raise RuntimeError(f"{name} runs outside `contenders.only_as_written()`, where "
                               "TensorFlow leaves out products whose results nobody reads")
        return tf.function(chain).get_concrete_function(repeats)

    once = tf.function(product).get_concrete_function(*operands[0])
    return Contender(name, lambda repeats: traced(repeats)().numpy(),
                     lambda: extract(once(*operands[0]).numpy()))


def _as_is(answer: np.ndarray) -> np.ndarray:
    return answer


def ours(problem: Problem) -> Contender:
    cell = problem.cell
    w = tf.constant(problem.w)
    sizes = dict(block_size=cell.block_size, in_blocks=problem.layout.shape[0],
                 out_blocks=problem.layout.shape[1], feature_axis=cell.feature_axis)
    if cell.direction == "dw":
        return _tensorflow_contender(
            "ours", lambda x, dy: ops.matmul_dw(x, dy, problem.coords, **sizes),
            zip(problem.xs, problem.dys), _as_is)
    transpose = cell.direction == "dx"
    return _tensorflow_contender(
        "ours", lambda x: ops.matmul(x, w, problem.coords, transpose=transpose, **sizes),
        zip(problem.dys if transpose else problem.xs), _as_is)


def dense(problem: Problem) -> Contender:
    """tf.matmul on the zero-filled matrix, stored so that the forward product transposes nothing:
    [C, K] with features last, [K, C] with features first."""
    cell = problem.cell
    axis = cell.feature_axis
    if cell.direction == "dw":
        if axis:
            def product(x, dy):
                return tf.matmul(x, dy, transpose_a=True)
        else:
            def product(x, dy):
                return tf.matmul(dy, x, transpose_b=True)
        return _tensorflow_contender(
            "dense", product, zip(problem.xs, problem.dys),
            lambda answer: problem.gather_blocks(answer if axis else answer.T))
    matrix = tf.constant(problem.dense if axis else np.ascontiguousarray(problem.dense.T))
    transpose = cell.direction == "dx"
    if axis:
        def product(x):
            return tf.matmul(x, matrix, transpose_b=transpose)
    else:
        def product(x):
            return tf.matmul(matrix, x, transpose_a=transpose)
    return _tensorflow_contender("dense", product,
                                 zip(problem.dys if transpose else problem.xs), _as_is)


def tf_sparse(problem: Problem) -> Contender | None:
    """tf.sparse.sparse_dense_matmul, and for dw the gradient that TensorFlow registers for it."""
    cell = problem.cell
    if cell.dtype != "float32":
        return None
    axis = cell.feature_axis
    # W^T as a COO matrix [K, C]: the sparse operand has to be the left one.
    transposed = np.ascontiguousarray(problem.dense.T)
    bs = cell.block_size
    stored = np.kron(problem.layout.T, np.ones((bs, bs), bool))
    indices = tf.constant(np.argwhere(stored))
    values = tf.constant(transposed[stored])
    shape = transposed.shape

    if cell.direction == "dw":
        if values.shape[0] * cell.batch * 4 * 2 > MAX_GATHER_BYTES:
            return None

        def product(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(values)
                y = tf.sparse.sparse_dense_matmul(
                    tf.SparseTensor(indices, values, shape), x, adjoint_b=bool(axis))
            return tape.gradient(y, values, tf.transpose(dy) if axis else dy)

        def extract(answer):
            matrix = np.zeros(shape, np.float32)
            matrix[stored] = answer
            return problem.gather_blocks(matrix.T)

        return _tensorflow_contender("tf.sparse", product, zip(problem.xs, problem.dys), extract)

    transpose = cell.direction == "dx"

    def product(x):
        y = tf.sparse.sparse_dense_matmul(tf.SparseTensor(indices, values, shape), x,
                                          adjoint_a=transpose, adjoint_b=bool(axis))
        return tf.transpose(y) if axis else y

    return _tensorflow_contender("tf.sparse", product,
                                 zip(problem.dys if transpose else problem.xs), _as_is)


def scipy_bsr(problem: Problem) -> Contender | None:
    """scipy.sparse.bsr_matrix @ dense. SciPy has no product that gives only the stored blocks, so
    dw has no contender; and no 16-bit floats. None, too, where SciPy is not installed."""
    cell = problem.cell
    if cell.dtype != "float32" or cell.direction == "dw":
        return None
    try:
        import scipy.sparse  # not a dependency of this package
    except ImportError:
        return None
    bs = cell.block_size
    transpose = cell.direction == "dx"
    dense_left = problem.dense if transpose else np.ascontiguousarray(problem.dense.T)
    matrix = scipy.sparse.bsr_matrix(dense_left, blocksize=(bs, bs))
    xs = problem.dys if transpose else problem.xs

    def product(x):
        if cell.feature_axis:
            return np.ascontiguousarray((matrix @ x.T).T)
        return matrix @ x

    def run(repeats):
        for i in range(repeats):
            product(xs[i % len(xs)])

    return Contender("scipy", run, lambda: product(xs[0]))
