"""Normalization modes against their definitions."""

import numpy as np
import pytest
import torch
from refusals import refused

from pcdiff.errors import InputError, UnknownName
from pcdiff.ops.normalization import GLOBAL_MODES, MEAN_MODES, NORMALIZATIONS, normalize

MEAN = torch.tensor([0.5, -3.0, 1.0])


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(3)
    stretch = torch.tensor([1.0, 2.0, 0.5])
    return torch.randn(5, 40, 3, generator=generator) * stretch + torch.tensor([0.3, -4.0, 2.0])


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_shift_and_scale_undo_every_mode(points, mode):
    cloud, shift, scale = normalize(points, mode, stats=1.7, mean=MEAN)
    assert cloud.shape == points.shape
    assert shift.shape == (5, 1, 3)
    assert scale.shape == (5, 1, 3 if mode == "global_per_axis" else 1)
    assert cloud.dtype == torch.float32
    assert shift.dtype == scale.dtype == torch.float64
    torch.testing.assert_close(cloud * scale + shift, points.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mode", "spread"), [("shape_unit", 1.0), ("shape_half", 0.5), ("shape_34", 0.75)])
def test_std_modes_measure_about_one_scalar_mean(points, mode, spread):
    cloud, shift, scale = normalize(points, mode)
    expected = points.double().flatten(1).numpy().std(axis=1, ddof=1) / spread
    np.testing.assert_allclose(scale.flatten().numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(shift[:, 0], points.double().mean(dim=1))
    # A cloud whose centroid lies on the diagonal ends with exactly that spread.
    centered = points - points.mean(dim=1, keepdim=True)
    cloud, _, _ = normalize(centered, mode)
    torch.testing.assert_close(cloud.flatten(1).std(dim=1), torch.full((5,), spread))


def test_bbox_mode_fits_the_cube(points):
    cloud, _, _ = normalize(points, "shape_bbox")
    low, high = cloud.amin(dim=1), cloud.amax(dim=1)
    torch.testing.assert_close(low + high, torch.zeros(5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((high - low).amax(dim=1), torch.full((5,), 2.0))


def test_global_mode_centers_each_cloud_and_divides_by_the_given_std(points):
    cloud, _, scale = normalize(points, "global_unit", stats=2.5)
    assert (scale == 2.5).all()
    torch.testing.assert_close(cloud, (points - points.mean(dim=1, keepdim=True)) / 2.5)


def test_none_does_not_share_memory(points):
    cloud, _, _ = normalize(points, "none")
    cloud.zero_()
    assert points.abs().min() > 0


def test_global_takes_one_mean_and_one_std(points):
    cloud, shift, scale = normalize(points, "global", stats=2.5, mean=MEAN.double())
    assert (scale == 2.5).all()
    assert torch.equal(shift, MEAN.double().expand(5, 1, 3))
    torch.testing.assert_close(cloud, (points - MEAN) / 2.5)


def test_global_per_axis_divides_each_axis_by_its_own_std(points):
    std = torch.tensor([0.5, 2.0, 4.0])
    cloud, _, scale = normalize(points, "global_per_axis", stats=std, mean=MEAN.double())
    assert torch.equal(scale, std.double().expand(5, 1, 3))
    torch.testing.assert_close(cloud, (points - MEAN) / std)
    for wrong in (std[:2], torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(InputError, match="stats must be the positive std that global_per_axis divides by"):
            normalize(points, "global_per_axis", stats=wrong, mean=MEAN)
    with pytest.raises(InputError, match="stats must be the positive std that global divides by"):
        normalize(points, "global", stats=std, mean=MEAN)


@pytest.mark.parametrize("mode", [mode for mode in NORMALIZATIONS if mode != "none"])
def test_a_cloud_of_one_repeated_point_is_named(points, mode):
    points[3] = points[3, :1]
    names = [f"cloud {chr(97 + i)}" for i in range(5)]
    with pytest.raises(InputError, match=rf"cloud d has extent 0: {mode} cannot scale it"):
        normalize(points, mode, stats=1.0, names=names, mean=MEAN)
    with pytest.raises(InputError, match="cloud 3 has extent 0"):
        normalize(points, mode, stats=1.0, mean=MEAN)
    normalize(points, "none")


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, 3), torch.zeros(2, 4, 2), torch.zeros(0, 4, 3), torch.zeros(2, 0, 3)]
)
def test_shape_errors(bad):
    with pytest.raises(InputError, match=r"points must be floating point \(n, P, 3\), got torch.float32"):
        normalize(bad, "shape_unit")


def test_integers_are_refused():
    with pytest.raises(InputError, match=r"got torch\.int64"):
        normalize(torch.zeros(2, 4, 3, dtype=torch.long), "none")


def test_unknown_mode_lists_the_known(points):
    with refused(UnknownName, what="normalization", name="unit"):
        normalize(points, "unit")


@pytest.mark.parametrize("mode", GLOBAL_MODES)
@pytest.mark.parametrize("stats", [None, 0.0, -1.0, float("nan")])
def test_global_modes_need_a_positive_std(points, mode, stats):
    with pytest.raises(InputError, match=f"stats must be the positive std that {mode} divides by"):
        normalize(points, mode, stats=stats, mean=MEAN)


@pytest.mark.parametrize("mode", MEAN_MODES)
@pytest.mark.parametrize("mean", [None, MEAN[:2], MEAN[:, None], MEAN * float("inf")])
def test_global_needs_a_mean(points, mode, mean):
    with pytest.raises(InputError, match=rf"mean must be the finite \(3,\) mean that {mode} subtracts") as caught:
        normalize(points, mode, stats=1.0, mean=mean)
    assert "\n" not in str(caught.value)
