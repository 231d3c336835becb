"""Plan inspection from Python; the planner itself is tested in cc/plan/plan_test.cc."""

import numpy as np
import pytest

from bsparse_tf import layouts, plan


def test_plan_of_a_scale_free_layout_splits_its_hubs():
    layout = layouts.barabasi_albert(200, m=4, seed=0)
    coords = np.argwhere(layout).astype(np.int32)
    found = plan.matmul_plan(coords, 200, 200, batch=64)
    np.testing.assert_array_equal(np.sort(found.entries[:, 1]), np.arange(len(coords)))
    degree = layout.sum(0)
    length = found.items[:, 2] - found.items[:, 1]
    assert length.sum() == len(coords)
    assert length.max() < degree.max()
    assert degree[found.splits[:, 0]].min() >= length.max()
    assert 1 <= found.balance < 1.5
    assert "groups split" in found.explain()


def test_more_multiprocessors_cut_finer():
    coords = np.argwhere(np.ones((64, 8), bool)).astype(np.int32)
    small = plan.matmul_plan(coords, 64, 8, batch=64, sm_count=4)
    large = plan.matmul_plan(coords, 64, 8, batch=64, sm_count=132)
    assert large.tiles > small.tiles


def test_transposed_plan_is_by_input_column():
    coords = np.int32([[0, 0], [0, 1], [1, 1]])
    found = plan.matmul_plan(coords, 2, 2, batch=1, transpose=True)
    assert len(found.items) == 2
    np.testing.assert_array_equal(found.entries, [[0, 0], [1, 1], [1, 2]])


def test_bad_coords():
    with pytest.raises(ValueError, match=r"coords\[0\] = \(3, 0\) is out of range"):
        plan.matmul_plan(np.int32([[3, 0]]), 2, 2, batch=1)
