"""One number of points for all clouds."""

import re

import numpy as np
import pytest
import torch
from refusals import refused

from pcdiff.errors import InputError, UnknownName
from pcdiff.interop import POINT_RULES, CloudSet, stack_clouds
from pcdiff.ops import farthest_point_sample


def clouds(*sizes):
    rng = np.random.default_rng(0)
    return CloudSet(
        [rng.normal(size=(size, 3)).astype(np.float32) for size in sizes],
        [f"set/{i}.ply" for i in range(len(sizes))],
    )


@pytest.mark.parametrize("num_points", [None, 6])
@pytest.mark.parametrize("rule", [None, *POINT_RULES])
def test_equal_sizes_are_stacked_as_they_are(num_points, rule):
    given = clouds(6, 6)
    np.testing.assert_array_equal(stack_clouds(given, num_points, rule), np.stack(given.clouds))


def test_larger_clouds_of_one_size_give_their_first_points():
    given = clouds(6, 6, 6)
    stacked = stack_clouds(given, 4, None)
    np.testing.assert_array_equal(stacked, np.stack(given.clouds)[:, :4])
    np.testing.assert_array_equal(stacked, stack_clouds(given, 4, "first"))


@pytest.mark.parametrize("num_points", [None, 2])
def test_unequal_sizes_need_a_rule(num_points):
    message = (
        "clouds differ in size, from 4 points (set/1.ply) to 9 (set/2.ply); cut them with "
        "--num-points N --point-rule first|random|farthest"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        stack_clouds(clouds(6, 4, 9, 4), num_points, None)


@pytest.mark.parametrize("rule", POINT_RULES)
@pytest.mark.parametrize("num_points", [None, 1, 3])
def test_rules_choose_distinct_points_of_each_cloud(rule, num_points):
    given = clouds(6, 4, 9)
    stacked = stack_clouds(given, num_points, rule)
    assert stacked.shape == (3, num_points or 4, 3)
    assert stacked.dtype == np.float32
    for cut, cloud in zip(stacked, given.clouds, strict=True):
        rows = [np.flatnonzero((cloud == point).all(axis=1)).item() for point in cut]
        assert len(set(rows)) == len(rows)
        if rule == "first":
            assert rows == list(range(len(rows)))
        if rule == "farthest":
            assert rows == farthest_point_sample(torch.from_numpy(cloud)[None], len(rows))[0].tolist()


def test_random_depends_on_seed_and_index():
    given = clouds(50, 40)
    given = CloudSet([*given.clouds, given.clouds[0]], [*given.names, "again"])
    first = stack_clouds(given, 20, "random", seed=1)
    np.testing.assert_array_equal(first, stack_clouds(given, 20, "random", seed=1))
    assert not np.array_equal(first, stack_clouds(given, 20, "random", seed=2))
    assert not np.array_equal(first[0], first[2])
    # Every point has the same chance.
    many = CloudSet([np.arange(30, dtype=np.float32).reshape(10, 3)] * 600, ["same"] * 600)
    many = CloudSet([*many.clouds, np.zeros((11, 3), np.float32)], [*many.names, "other"])
    taken = np.bincount((stack_clouds(many, 5, "random")[:-1, :, 0] / 3).astype(int).ravel(), minlength=10)
    np.testing.assert_allclose(taken, 300, atol=5 * np.sqrt(600 / 4))


@pytest.mark.parametrize("rule", [None, *POINT_RULES])
def test_no_point_is_taken_twice(rule):
    with pytest.raises(InputError, match=r"num_points 7: set/0\.ply has only 6 points"):
        stack_clouds(clouds(6, 6), 7, rule)
    if rule:
        with pytest.raises(InputError, match=r"num_points 7: set/1\.ply has only 6 points"):
            stack_clouds(clouds(8, 6), 7, rule)


def test_wrong_arguments():
    for value in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="num_points must be a positive integer, got"):
            stack_clouds(clouds(6), value, None)
    with refused(UnknownName, what="rule", name="last"):
        stack_clouds(clouds(6), 3, "last")
    with pytest.raises(InputError, match="clouds must hold at least one cloud"):
        stack_clouds(CloudSet([], []), None, None)
