"""Layouts of fixed seeds, by digest: the same on every supported networkx and NumPy.

A difference here means that users' seeds would give them other layouts than before. The digests
were the same with networkx 3.0, 3.1, 3.2.1, 3.3, 3.4.2, 3.5 and 3.6.1.
"""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from bsparse_tf import layouts

# Spec, sizes, first half of the digest.
DIGESTS = [
    ("ba:m=8", (576, 576), "cc3f09eabaa36a4b"),
    ("ba:m=2,seed=7", (40, 40), "5339071b4f796834"),
    ("ba:density=0.1,seed=3", (64, 64), "81307539cdc527c2"),
    ("ba:m=3,seed=1", (24, 40), "ff6c7acc74535597"),
    ("ba:m=3,seed=1", (40, 24), "18a2d1a1cac1b541"),
    ("ws:k=16,p=0.2", (576, 576), "00aa99f71fe5364e"),
    ("ws:k=4,p=0.5,seed=7", (40, 40), "2b60f43af602881b"),
    ("ws:density=0.1,seed=3", (64, 64), "94341c40f395452b"),
    ("ws:k=4,p=0.2,seed=1", (24, 40), "ce71caa36e5f37b5"),
    ("random:density=0.1,seed=5", (40, 24), "f6d498617720ec95"),
    ("random:blocks=200,seed=5,self_connections=true", (40, 40), "33a0bffab387f9e2"),
    ("balanced:k=5,seed=5", (40, 40), "1a1cd5c2b4bb12e9"),
    ("balanced:k=5,seed=5", (24, 40), "a339f125ddeb1d1b"),
    ("lattice:k=4", (24, 40), "2a565e461b938723"),
    ("diagonal:size=4", (30, 30), "2c6cd11dc7ea183c"),
    ("banded:bandwidth=2", (24, 40), "03ccfe3c76fb1023"),
    ("butterfly", (40, 40), "0b3b7d678a0642a6"),
    ("butterfly:density=.3", (40, 24), "9f5d4eff565da47b"),
    ("dense", (3, 5), "3d58c19ba8e862a0"),
]


@pytest.mark.parametrize("spec, sizes, digest", DIGESTS)
def test_layout_of_a_fixed_seed(spec, sizes, digest):
    assert layouts.digest(layouts.from_spec(spec, *sizes))[: len(digest)] == digest


def test_digest_is_sha256_of_shape_and_bits():
    layout = [[1, 0, 1], [0, 0, 1]]
    assert layouts.digest(layout) == hashlib.sha256(b"2x3:" + bytes([0b10100100])).hexdigest()


@settings(derandomize=True, deadline=None)
@given(hypothesis_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
def test_digest_tells_layouts_apart(layout, data):
    layout[0, 0] = True
    for same in (layout.astype(np.float32), layout.tolist(), np.asfortranarray(layout)):
        assert layouts.digest(same) == layouts.digest(layout)
    other = np.resize(layout, (layout.shape[0], layout.shape[1] + 1))
    assert layouts.digest(other) != layouts.digest(layout)
    if layout.size > 1:
        other = layout.copy()
        other.flat[data.draw(st.integers(1, layout.size - 1))] ^= True
        assert layouts.digest(other) != layouts.digest(layout)
