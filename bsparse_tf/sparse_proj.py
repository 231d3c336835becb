"""`SparseProj`: a fixed set of features that a narrower tensor reads from or writes to."""

import numpy as np
import tensorflow as tf

from bsparse_tf import argument_checks as checks


class SparseProj:
    """Moves features between a wide tensor and a narrow one that stands for some of them.

    The wide tensor has `nhidden` features; the narrow one has `nproj`, feature p of which stands
    for feature `indices[p]` of the wide one. Inputs and outputs of a very wide sparse network can
    thus stay narrow, and cheap. Every operation is differentiable any number of times, and is made
    of gathers, forward and backward, so that nothing depends on the order of additions.

    Exactly one of `nproj`, `proj_stride` and `indices` says which features are meant.

    Args:
      nhidden: features of the wide tensor.
      nproj: a random subset of this size, in ascending order.
      proj_stride: every so many-th feature: 0, proj_stride, 2 * proj_stride...
      indices: int array [nproj], each below nhidden and different from the others.
      block_size: with `proj_stride`: leaves out what exceeds a multiple of it, so that a
        block-sparse product can take the narrow tensor.
      feature_axis: 1, features last, [..., nhidden]; 0, features first, [nhidden, ...].
      seed: of the random subset.

    Attributes:
      indices: int64 array [nproj], read-only.
      nhidden, nproj, feature_axis: as above.

    Raises:
      ValueError: if none or several of nproj, proj_stride and indices are given; if one is out of
        range, or indices repeat.
    """

    def __init__(
        self,
        nhidden,
        nproj=None,
        proj_stride=None,
        indices=None,
        block_size=1,
        feature_axis=1,
        seed=0,
    ):
        checks.check_feature_axis(feature_axis)
        if nhidden < 1:
            raise ValueError(f"nhidden must be positive; got {nhidden}")
        if sum(choice is not None for choice in (nproj, proj_stride, indices)) != 1:
            raise ValueError(
                "exactly one of nproj, proj_stride and indices must be given; got "
                f"nproj={nproj!r}, proj_stride={proj_stride!r}, indices={indices!r}"
            )
        if nproj is not None:
            chosen = _random_subset(nhidden, nproj, seed)
        elif proj_stride is not None:
            chosen = _strided(nhidden, proj_stride, block_size)
        else:
            chosen = _checked(nhidden, indices)
        self.nhidden = int(nhidden)
        self.nproj = len(chosen)
        self.feature_axis = int(feature_axis)
        self.indices = chosen
        self.indices.setflags(write=False)
        # Where each wide feature is in the narrow tensor; 0 where it is not.
        self._inverse = np.zeros(self.nhidden, np.int64)
        self._inverse[chosen] = np.arange(self.nproj)
        self._present = np.zeros(self.nhidden, bool)
        self._present[chosen] = True

    @tf.autograph.experimental.do_not_convert
    def gather(self, x):
        """[..., nhidden] -> [..., nproj] (or features first): y[p] = x[indices[p]]."""
        x = self._activations("x", x, self.nhidden, "nhidden")
        return self._gather(x)

    @tf.autograph.experimental.do_not_convert
    def scatter(self, y):
        """[..., nproj] -> [..., nhidden]: x[indices[p]] = y[p], zeros elsewhere."""
        y = self._activations("y", y, self.nproj, "nproj")
        return self._spread(y, 0)

    @tf.autograph.experimental.do_not_convert
    def scatter_add(self, x, y):
        """x, [..., nhidden], with y, [..., nproj], added to the features it stands for."""
        x, y = self._pair(x, y)
        return x + self._spread(y, 0)

    @tf.autograph.experimental.do_not_convert
    def scatter_mul(self, x, y):
        """x, [..., nhidden], its features that y, [..., nproj], stands for multiplied by y."""
        x, y = self._pair(x, y)
        return x * self._spread(y, 1)

    def _gather(self, x):
        @tf.custom_gradient
        def gather(x):
            return tf.gather(x, self.indices, axis=self._axis), lambda dy: self._spread(dy, 0)

        return gather(x)

    def _spread(self, y, elsewhere):
        """[..., nproj] -> [..., nhidden], `elsewhere` where no feature is stood for."""

        @tf.custom_gradient
        def spread(y):
            wide = tf.gather(y, self._inverse, axis=self._axis)
            present = self._present
            if self._axis == 0:
                present = present.reshape(-1, *[1] * (y.shape.rank - 1))
            return tf.where(present, wide, tf.cast(elsewhere, y.dtype)), self._gather

        return spread(y)

    @property
    def _axis(self):
        return 0 if self.feature_axis == 0 else -1

    def _pair(self, x, y):
        x = self._activations("x", x, self.nhidden, "nhidden")
        y = self._activations("y", y, self.nproj, "nproj")
        if x.dtype != y.dtype:
            raise TypeError(f"x has dtype {x.dtype.name} and y {y.dtype.name}; expected the same")
        return x, y

    def _activations(self, argument, value, features, symbol):
        value = tf.convert_to_tensor(value, name=argument)
        if value.shape.rank is None:
            raise ValueError(f"{argument} has an unknown rank; expected a known one")
        if value.shape.rank == 0 or value.shape[self._axis] not in (None, features):
            raise ValueError(
                f"{argument} has shape {value.shape}; expected {symbol}={features} features on "
                f"axis {self._axis} (feature_axis={self.feature_axis})"
            )
        return value

    def __repr__(self):
        return (
            f"SparseProj({self.nproj} of {self.nhidden} features, feature_axis={self.feature_axis})"
        )


def _random_subset(nhidden, nproj, seed):
    if not 1 <= nproj <= nhidden:
        raise ValueError(f"nproj must be between 1 and nhidden={nhidden}; got {nproj}")
    return np.sort(np.random.default_rng(seed).permutation(nhidden)[:nproj]).astype(np.int64)


def _strided(nhidden, stride, block_size):
    if not 1 <= stride <= nhidden:
        raise ValueError(f"proj_stride must be between 1 and nhidden={nhidden}; got {stride}")
    chosen = np.arange(0, nhidden, stride, dtype=np.int64)
    kept = len(chosen) // block_size * block_size
    if kept == 0:
        raise ValueError(
            f"proj_stride={stride} leaves {len(chosen)} of nhidden={nhidden} features; expected at "
            f"least block_size={block_size}"
        )
    return chosen[:kept]


def _checked(nhidden, indices):
    indices = np.array(indices)
    if indices.ndim != 1 or len(indices) == 0 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"indices has shape {indices.shape} and dtype {indices.dtype}; expected a vector of "
            "integers, not empty"
        )
    if indices.min() < 0 or indices.max() >= nhidden:
        raise ValueError(
            f"indices run from {indices.min()} to {indices.max()}; expected 0 to nhidden - 1 = "
            f"{nhidden - 1}"
        )
    values, counts = np.unique(indices, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"indices hold {values[counts.argmax()]} more than once; expected once")
    return indices.astype(np.int64)
