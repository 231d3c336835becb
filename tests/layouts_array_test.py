"""`as_layout`, `to_coords`, and layouts in files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from bsparse_tf import layouts

FIXED = settings(derandomize=True, deadline=None)
LAYOUTS = hypothesis_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(
    np.any
)


@FIXED
@given(LAYOUTS, st.sampled_from(["?", "i1", "u1", "i4", "u8", "f2", "f4", "f8"]))
def test_as_layout_takes_zeros_and_ones_of_any_dtype(layout, dtype):
    for array in (layout.astype(dtype), layout.astype(dtype).tolist(), layout.astype(dtype).T.T):
        taken = layouts.as_layout(array)
        assert taken.dtype == np.bool_ and taken.flags.c_contiguous
        np.testing.assert_array_equal(taken, layout)


def test_as_layout_copies():
    original = np.eye(3, dtype=bool)
    taken = layouts.as_layout(original)
    original[:] = True
    np.testing.assert_array_equal(taken, np.eye(3))


def test_single_rows_and_columns_may_be_empty():
    assert layouts.as_layout([[0, 1], [0, 0]]).sum() == 1


@pytest.mark.parametrize(
    "array, error, message",
    [
        ([1, 0, 1], ValueError, r"must be 2-D .* but got shape \[3\]"),
        (1, ValueError, r"must be 2-D .* but got shape \[\]"),
        (np.ones((2, 2, 2)), ValueError, r"must be 2-D .* but got shape \[2, 2, 2\]"),
        ([], ValueError, r"must be 2-D .* but got shape \[0\]"),
        (np.ones((0, 4)), ValueError, r"at least one row and one column, .* \[0, 4\]"),
        (np.ones((4, 0), bool), ValueError, r"at least one row and one column, .* \[4, 0\]"),
        (np.zeros((3, 2)), ValueError, "at least one block, but all 6 entries are 0"),
        ([[0, 1], [2, 3]], ValueError, r"only 0 and 1, but got 2 at \(1, 0\) and 1 more"),
        ([[0, -1]], ValueError, r"only 0 and 1, but got -1 at \(0, 1\)$"),
        ([[0.5, 1]], ValueError, r"only 0 and 1, but got 0.5 at \(0, 0\)"),
        ([[np.nan, 1]], ValueError, r"only 0 and 1, but got nan at \(0, 0\)"),
        ([[np.inf, 1]], ValueError, r"only 0 and 1, but got inf at \(0, 0\)"),
        ([["1", "0"]], TypeError, "numbers that are 0 or 1, but got list with dtype <U1"),
        ("dense", TypeError, "but got str with dtype <U5"),
        (None, TypeError, "but got NoneType with dtype object"),
        (np.array([[1, None]]), TypeError, "but got ndarray with dtype object"),
        ([[1j, 0]], TypeError, "but got list with dtype complex128"),
        ([[1, 0], [1]], ValueError, "must be a 2-D array of 0 and 1: .*inhomogeneous"),
    ],
)
def test_as_layout_rejects(array, error, message):
    with pytest.raises(error, match="layout .*" + message):
        layouts.as_layout(array)


@FIXED
@given(LAYOUTS)
def test_to_coords_lists_blocks_row_by_row(layout):
    coords = layouts.to_coords(layout)
    assert coords.dtype == np.int32 and coords.shape == (layout.sum(), 2)
    expected = [(c, k) for c in range(layout.shape[0]) for k in range(layout.shape[1])]
    assert [tuple(coord) for coord in coords] == [at for at in expected if layout[at]]


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_files_keep_layouts(tmp_path, ending):
    layout = layouts.barabasi_albert(20, 2, out_blocks=13)
    path = tmp_path / f"layout.{ending}"
    layouts.save(layout, path)
    for name in (path, str(path)):
        loaded = layouts.load(name)
        assert loaded.dtype == np.bool_
        np.testing.assert_array_equal(loaded, layout)


def test_load_takes_what_numpy_saves(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    np.testing.assert_array_equal(layouts.load(tmp_path / "a.npy"), np.eye(3))
    np.savez(tmp_path / "b.npz", np.eye(3, dtype=int))
    np.testing.assert_array_equal(layouts.load(tmp_path / "b.npz"), np.eye(3))
    np.savez(tmp_path / "c.npz", other=np.zeros(3), layout=np.eye(3, dtype=int))
    np.testing.assert_array_equal(layouts.load(tmp_path / "c.npz"), np.eye(3))


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="path must end in .npy or .npz, but got 'layout.png'"):
        layouts.save(np.eye(3), "layout.png")
    bad = tmp_path / "kept.npy"
    bad.write_bytes(b"kept")
    with pytest.raises(ValueError, match="only 0 and 1"):
        layouts.save([[2]], bad)
    assert bad.read_bytes() == b"kept"
    with pytest.raises(OSError):
        layouts.load(tmp_path / "missing.npy")
    with pytest.raises(ValueError):
        layouts.load(bad)
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(ValueError, match="2-D"):
        layouts.load(tmp_path / "flat.npy")
    np.savez(tmp_path / "two.npz", a=np.eye(3), b=np.eye(3))
    with pytest.raises(ValueError, match=r"must hold one array, .*\['a', 'b'\]"):
        layouts.load(tmp_path / "two.npz")
