"""Partial clouds: what a sphere shows of itself, plates, removal by distance, and what never changes."""

import math

import pytest
import torch

from pcdiff.data import Batches, PartialClouds, partial_set
from pcdiff.data.partial import distance_to_viewpoint, hidden_depth, random_directions
from pcdiff.errors import InputError
from pcdiff.ops.normalization import normalize


def sphere(count):
    """Points spread evenly over the unit sphere, `(count, 3)`: Fibonacci's spiral."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle, r = i * math.pi * (1 + math.sqrt(5)), (1 - z * z).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], dim=1)


def plates(gap):
    """Two parallel square plates, one above the other along z, `(2 * 900, 3)`."""
    line = torch.linspace(-1, 1, 30, dtype=torch.float64)
    flat = torch.cartesian_prod(line, line)
    return torch.cat([torch.nn.functional.pad(flat, (0, 1), value=z) for z in (gap / 2, -gap / 2)])


def draw(cut, clouds, seed=0):
    return cut.draw(*clouds.shape[:2], torch.Generator().manual_seed(seed))


def test_of_a_sphere_the_near_side_is_seen_and_the_far_side_is_not():
    count, radius = 4000, 1
    directions = random_directions(6, torch.Generator().manual_seed(1))
    clouds = sphere(count).expand(6, -1, -1)
    seen = hidden_depth(clouds, directions, radius=radius) == 0
    towards = (clouds @ directions[:, :, None]).squeeze(2)  # cosine of the angle to the viewer
    # a slope of tangent sqrt(2) has cosine 1 / sqrt(3); pixels are counted from the centroid, not quite the centre
    assert seen[towards > 1 / math.sqrt(3) + 0.02].all()
    # a hidden point's own column has a front point 2 |cos| nearer; the tolerance is 2 (radius + 1) pixels
    pixel = 2 / math.sqrt(2 * count)
    far = towards < -(radius + 1) * pixel - 2 * pixel
    assert seen[far].double().mean() < 0.01  # holes between squares
    assert seen.double().mean(dim=1).sub(0.5).abs().max() < 0.15  # half, less the steep rim


@pytest.mark.parametrize(("gap", "below"), [(1.0, False), (0.05, True)])
def test_a_plate_hides_another_unless_it_is_within_the_tolerance(gap, below):
    up = torch.tensor([[0.0, 0.0, 1.0]])
    behind = hidden_depth(plates(gap)[None], up, resolution=40, radius=1)[0]
    assert (behind[:900] == 0).all()
    assert (behind[900:] == 0).all() if below else torch.allclose(behind[900:], torch.tensor(gap).double())


def test_what_is_seen_does_not_depend_on_the_unit():
    clouds = torch.randn(3, 200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    directions = random_directions(3, torch.Generator().manual_seed(3))
    behind = hidden_depth(clouds, directions)
    moved = hidden_depth(clouds * 8, directions)  # a power of two scales without rounding
    assert torch.equal(moved, behind * 8)
    assert 0 < (behind == 0).double().mean() < 1


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_points_nearest_to_the_viewpoint_go(share):
    clouds = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = round(40 * (1 - share))
    cut = PartialClouds(left, "nearest", removed=(share,))
    draws = draw(cut, clouds)
    made = cut(clouds, draws)
    for cloud, result, direction in zip(clouds, made, draws.directions, strict=True):
        centre = cloud.mean(dim=0)
        viewpoint = centre + direction * (cloud - centre).norm(dim=1).max()
        by_distance = cloud[(cloud - viewpoint).norm(dim=1).argsort(descending=True)]
        assert {tuple(p) for p in result[:left].tolist()} == {tuple(p) for p in by_distance[:left].tolist()}
        assert {tuple(p) for p in result[left:].tolist()} == {tuple(p) for p in by_distance[left:].tolist()}


def test_shares_are_drawn_evenly_and_the_viewpoint_lies_on_the_bounding_sphere():
    cut = PartialClouds(1, "nearest")
    removed = cut.draw(3000, 8, torch.Generator().manual_seed(0)).removed
    counts = torch.stack([(removed == share).sum() for share in cut.removed])
    assert (counts - 1000).abs().max() < 5 * math.sqrt(3000 * 2 / 9)
    # of a sphere the nearest point is (nearly) the viewpoint itself, the farthest its antipode
    distance = distance_to_viewpoint(sphere(2000)[None], random_directions(1, torch.Generator().manual_seed(4)))
    assert distance.min() < 0.1
    assert abs(float(distance.max()) - 2) < 0.01


@pytest.mark.parametrize("rule", ["view", "nearest"])
def test_given_points_come_first_and_no_point_twice(rule):
    clouds = torch.randn(6, 64, 3, generator=torch.Generator().manual_seed(0))
    cut = PartialClouds(16, rule)
    draws = draw(cut, clouds)
    whole = cut(clouds, draws)
    for a, b in zip(whole.tolist(), clouds.tolist(), strict=True):
        assert set(map(tuple, a)) == set(map(tuple, b))
    fewer = cut(clouds, draws, 40)
    assert torch.equal(fewer, whole[:, :40])  # the same given points, a part of the others
    if rule == "view":
        behind = hidden_depth(whole, draws.directions)
        seen = (behind == 0).sum(dim=1)
        for cloud, many in zip(behind, seen.tolist(), strict=True):
            assert (cloud[:16] == 0).all() if many >= 16 else cloud[:16].max() <= cloud[16:].min()
    assert torch.equal(cut(clouds[2:4], type(draws)(*(part[2:4] for part in draws)), 40), fewer[2:4])
    assert not torch.equal(cut(clouds, draw(cut, clouds, seed=1), 40), fewer)


def test_where_too_few_are_seen_those_hidden_least_follow():
    clouds = plates(1.0)[None]
    cut = PartialClouds(1200, "view", resolution=40)
    draws = draw(cut, clouds)._replace(directions=torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))
    assert int((cut(clouds, draws)[0, :1200, 2] > 0).sum()) == 900


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_given": 0}, "num_given must be at least 1, got 0"),
        ({"num_given": 8, "rule": "half"}, "the rule of partial clouds must be one of view, nearest, got 'half'"),
        ({"num_given": 8, "removed": (0.5, 1.0)}, r"removed must be shares in \(0, 1\), got \[0.5, 1.0\]"),
        ({"num_given": 32}, "num_given must be below the 32 points of a cloud, got 32"),
        ({"num_given": 9, "rule": "nearest"}, "at most the 8 points that are left of 32 when 75% go, got 9"),
        (
            {"num_given": 8, "normalization": "shape_unit"},
            "one of shape_unit_per_axis, shape_bbox, got",
        ),
        ({"num_given": 8, "resolution": 0}, "resolution must be at least 1, got 0"),
        ({"num_given": 8, "radius": -1}, "radius must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, message):
    clouds = torch.zeros(2, 32, 3)

    def cut():
        rule = PartialClouds(**options)
        return rule(clouds, draw(rule, clouds))

    with pytest.raises(InputError, match=message):
        cut()


def test_more_points_than_there_are_or_none_to_draw_are_refused():
    clouds, cut = torch.rand(2, 32, 3), PartialClouds(8)
    for wanted in (8, 33):
        with pytest.raises(InputError, match=f"above the 8 given points and at most 32, got {wanted}"):
            cut(clouds, draw(cut, clouds), wanted)
    with pytest.raises(InputError, match=r"directions must be \(2, 3\), one a cloud, got \(3, 3\)"):
        hidden_depth(clouds, torch.zeros(3, 3))


def test_a_batch_is_cut_by_its_step_and_whoever_asks_for_rows_gets_them():
    points = torch.randn(9, 40, 3, generator=torch.Generator().manual_seed(0))
    batches = Batches(points, 4, 24, seed=5, partial=PartialClouds(8))
    batch = batches(3)
    assert batch.shape == (4, 24, 3)
    assert torch.equal(torch.cat([batches(3, slice(0, 1)), batches(3, slice(1, 4))]), batch)
    assert not torch.equal(batches(4)[:, :8], batch[:, :8])
    held = points[batches.indices(3)]
    for cloud, whole in zip(batch.tolist(), held.tolist(), strict=True):
        assert len(set(map(tuple, cloud))) == 24
        assert set(map(tuple, cloud)) < set(map(tuple, whole))
    with pytest.raises(InputError, match="num_points must be above the 8 points that are given, got 8"):
        Batches(points, 4, 8, seed=5, partial=PartialClouds(8))
    with pytest.raises(InputError, match="num_given must be below the 40 points of a cloud, got 40"):
        Batches(points, 4, 40, seed=5, partial=PartialClouds(40))


def test_what_is_given_of_a_cloud_of_a_set_depends_on_its_place_alone():
    points = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0))
    cut = PartialClouds(8)
    whole = partial_set(points, cut, seed=1).points
    assert torch.equal(partial_set(points[:2], cut, seed=1).points, whole[:2])
    assert not torch.equal(partial_set(points, cut, seed=2).points, whole)
    again = partial_set(points[:1].expand(2, -1, -1), cut, seed=1).points
    assert not torch.equal(again[0, :8], again[1, :8])


@pytest.mark.parametrize("mode", ["shape_unit_per_axis", "shape_bbox"])
def test_clouds_are_normalized_by_their_given_points_and_come_back(mode):
    points = 40 * torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([90.0, 0, -7])
    held = partial_set(points, PartialClouds(8, normalization=mode), seed=1)
    given = held.points[:, :8].double()
    torch.testing.assert_close(normalize(given, mode)[0], given.float(), rtol=0, atol=1e-6)
    plain = partial_set(points, PartialClouds(8), seed=1)
    assert (plain.shift == 0).all()
    assert (plain.scale == 1).all()
    # rounded once in the frame of the given points, at 90 of a float32
    torch.testing.assert_close(held.restore(held.points, range(5)), plain.points, rtol=0, atol=1e-4)
    torch.testing.assert_close(held.restore(held.points[[3]], [3]), plain.points[[3]], rtol=0, atol=1e-4)
    # whatever unit and place the whole cloud had
    other = partial_set(points * 3 + 5, PartialClouds(8, "nearest", normalization=mode), seed=1).points
    near = partial_set(points, PartialClouds(8, "nearest", normalization=mode), seed=1).points
    torch.testing.assert_close(other, near, rtol=0, atol=2e-4)
