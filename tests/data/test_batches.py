"""Batches: a pure function of (seed, step), every cloud once per epoch, no point twice."""

import itertools
import math

import numpy as np
import pytest
import torch
from golden_files import found

from pcdiff.data.batches import Batches, rotations_about_y
from pcdiff.errors import InputError


def labeled(n, available):
    """Clouds whose coordinates say which cloud and which point they are."""
    points = torch.zeros(n, available, 3)
    points[..., 0] = torch.arange(n)[:, None]
    points[..., 1] = torch.arange(available)
    points[..., 2] = 1.0
    return points


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (5, 12), (1, 3), (9, 1)])
def test_every_cloud_once_per_epoch_and_none_dropped(n, size):
    batches = Batches(labeled(n, 6), size, 2, seed=1)
    steps = math.ceil(4 * n / size)
    seen = torch.cat([batches(step)[:, 0, 0] for step in range(steps)]).long()
    orders = seen[: 4 * n].view(4, n)
    assert (orders.sort(dim=1).values == torch.arange(n)).all()
    if n >= 7:  # with fewer, two orders may agree by chance
        assert len({tuple(order.tolist()) for order in orders}) == 4
    assert batches.steps_per_epoch == n / size


def test_points_come_without_replacement_and_vary_by_step():
    batches = Batches(labeled(6, 50), 6, 20, seed=0)
    first, second = (batches(step) for step in (0, 1))
    for batch in (first, second):
        assert batch.shape == (6, 20, 3)
        assert all(len(cloud[:, 1].unique()) == 20 for cloud in batch)
    pick = {int(cloud[0, 0]): set(cloud[:, 1].tolist()) for cloud in first}
    again = {int(cloud[0, 0]): set(cloud[:, 1].tolist()) for cloud in second}
    assert all(pick[i] != again[i] for i in range(6))
    assert len({frozenset(chosen) for chosen in pick.values()}) == 6  # clouds draw independently


def test_every_point_is_equally_likely():
    available, asked, steps, size = 12, 5, 400, 8
    batches = Batches(labeled(8, available), size, asked, seed=4)
    counts = torch.zeros(available)
    for step in range(steps):
        counts += torch.bincount(batches(step)[..., 1].long().flatten(), minlength=available)
    draws = steps * size
    expected = draws * asked / available
    spread = math.sqrt(draws * (asked / available) * (1 - asked / available))
    assert (counts - expected).abs().max() < 5 * spread


def test_all_points_need_no_draw():
    points = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0))
    batches = Batches(points, 4, 9, seed=0)
    assert torch.equal(batches(0), points[batches.indices(0)])


@pytest.mark.parametrize("rotate", [False, True])
def test_a_resumed_run_sees_the_same_batches(rotate):
    points = torch.randn(11, 30, 3, generator=torch.Generator().manual_seed(0))
    whole = Batches(points, 4, 8, seed=7, rotate=rotate)
    run = [whole(step) for step in range(12)]
    resumed = Batches(points, 4, 8, seed=7, rotate=rotate)
    for step in (6, 7, 11, 2):
        assert torch.equal(resumed(step), run[step])
    other = Batches(points, 4, 8, seed=8, rotate=rotate)
    assert not torch.equal(other(6), run[6])


def test_the_global_generator_is_neither_read_nor_moved():
    points = torch.randn(5, 30, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Batches(points, 2, 8, seed=7)(3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, Batches(points, 2, 8, seed=7)(3))


def test_rotation_keeps_height_and_distance_and_covers_the_circle():
    points = torch.tensor([[[1.0, 0.5, 0.0], [0.0, -0.5, 2.0]]]).expand(64, 2, 3)
    batch = Batches(points, 64, 2, seed=0, rotate=True)(0)
    torch.testing.assert_close(batch[..., 1], points[..., 1])
    torch.testing.assert_close(batch.norm(dim=2), points.norm(dim=2))
    angle = torch.atan2(batch[:, 0, 2], batch[:, 0, 0])
    quarters = torch.bincount(((angle + math.pi) / (math.pi / 2)).long().clamp(max=3), minlength=4)
    assert quarters.min() >= 6


def test_non_contiguous_points():
    points = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0)).transpose(1, 2)[:, :, :15]
    points = points.reshape(3, 5, 15)[:, :, ::5]
    assert torch.equal(Batches(points, 3, 2, seed=0)(1), Batches(points.clone(), 3, 2, seed=0)(1))


@pytest.mark.parametrize(
    ("points", "size", "asked", "seed", "message"),
    [
        (torch.zeros(4, 3), 2, 2, 0, r"points must be \(n, P, 3\), got \(4, 3\)"),
        (torch.zeros(0, 4, 3), 2, 2, 0, r"points must be \(n, P, 3\)"),
        (torch.zeros(2, 4, 3), 0, 2, 0, "at least 1, got 0, 2"),
        (torch.zeros(2, 4, 3), 2, 0, 0, "at least 1, got 2, 0"),
        (torch.zeros(2, 4, 3), 2, 5, 0, "num_points must be at most 4, what each cloud has, got 5"),
        (torch.zeros(2, 4, 3), 2, 2, -1, "seed must not be negative, got -1"),
    ],
)
def test_errors(points, size, asked, seed, message):
    with pytest.raises(InputError, match=message):
        Batches(points, size, asked, seed)


def test_negative_step():
    with pytest.raises(InputError, match="step must not be negative"):
        Batches(torch.zeros(2, 4, 3), 1, 1, 0)(-1)


@pytest.mark.golden
def test_rotation_turns_the_way_dpm_does(golden):
    for file in found(golden, "3d/*/misc/random_rotate.npz"):
        stored = np.load(file)
        cases = [key[len("degrees") :] for key in stored.files if key.startswith("degrees")]
        assert cases
        for case in cases:
            cloud, turned = (torch.from_numpy(stored[f"{name}{case}"]).double() for name in ("in", "out"))
            angle = torch.tensor([math.radians(float(stored[f"degrees{case}"]))], dtype=torch.float64)
            torch.testing.assert_close(cloud @ rotations_about_y(angle)[0], turned, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("num_points", [20, 50])
def test_slices_of_a_batch_make_the_batch(rotate, num_points):
    batches = Batches(labeled(6, 50), 8, num_points, seed=3, rotate=rotate)
    for cuts in ([0, 4, 8], [0, 2, 4, 6, 8], [0, 1, 7, 8]):
        slices = [slice(*pair) for pair in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat([batches(5, rows) for rows in slices]), batches(5))
