"""NCSNv2's techniques against their evaluation in the golden files, and against brute force."""

import math

import numpy as np
import pytest
import torch
from golden_files import tables
from scipy.special import gammainc, gammaincinv, ndtr

from image_pipeline.data import ImageDataset, ImageIdentity, load_images, noise_scales
from image_pipeline.data.techniques import langevin_step, largest_distance, level_ratio, overlap, spread_after
from pcdiff.errors import InputError

IDENTITY = ImageIdentity("made", (1, 2, 2), "none", "none", "0")


@pytest.fixture
def techniques(golden):
    return list(tables(golden, "2d/ncsnv2/techniques*.npz").values())


@pytest.mark.golden
def test_technique_1(techniques):
    for table in techniques:
        distance, pair = largest_distance(torch.from_numpy(table["data"]))
        assert distance == pytest.approx(float(table["technique1_sigma1"]), rel=1e-12)
        assert pair == tuple(sorted(table["technique1_argmax"].tolist()))


@pytest.mark.golden
def test_technique_2(techniques):
    for table in techniques:
        smallest = float(table["technique2_sigmaL"])
        for row, dims in enumerate(table["technique2_D"].tolist()):
            mine = [overlap(ratio, dims) for ratio in table["technique2_gamma_grid"]]
            np.testing.assert_allclose(mine, table["technique2_condition"][row], rtol=1e-9, atol=1e-15)
            ratio = level_ratio(dims)
            assert ratio == pytest.approx(table["technique2_gamma_star"][row], rel=1e-10)
            for column, largest in enumerate(table["technique2_sigma1"].tolist()):
                levels = 1 + math.log(largest / smallest) / math.log(ratio)
                assert levels == pytest.approx(table["technique2_L_real"][column, row], rel=1e-9)


@pytest.mark.golden
def test_technique_4(techniques):
    for table in techniques:
        cases = table["technique4_cases_T_sigmaL_sigma1_L"]
        for row, (steps, smallest, largest, levels) in enumerate(cases.tolist()):
            ratio, step, spread = table["technique4_gamma_eps_h"][row]
            assert (largest / smallest) ** (1 / (levels - 1)) == pytest.approx(ratio, rel=1e-12)
            mine = langevin_step(ratio, smallest, int(steps))
            # flat at the minimum: the place is known to the root of the precision
            assert mine == pytest.approx(step, rel=1e-5)
            assert spread_after(mine, ratio, smallest, int(steps)) == pytest.approx(spread, rel=1e-13)
            grid = [spread_after(e, ratio, smallest, int(steps)) for e in table["technique4_eps_grid"]]
            np.testing.assert_allclose(grid, table["technique4_h_on_grid"][row], rtol=1e-9)
            assert spread_after(mine, ratio, smallest, int(steps)) <= min(grid)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_the_largest_distance_is_exact_in_blocks_of_any_size(monkeypatch, block):
    images = torch.randint(0, 256, (150, 1, 3, 3), generator=torch.Generator().manual_seed(block)).to(torch.uint8)
    monkeypatch.setattr("image_pipeline.data.techniques._BLOCK_NUMBERS", block * 9)
    flat = images.double().flatten(1)
    matrix = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distance, (a, b) = largest_distance(images)
    assert distance == pytest.approx(float(matrix.max()), rel=1e-12)
    assert matrix[a, b] == matrix.max()


def test_a_data_sets_scales():
    pytest.importorskip("sklearn")
    dataset = load_images("digits")
    found = noise_scales(dataset, "symmetric", sigma_min=0.02, steps_per_level=3)
    assert found.dims == 64
    assert found.sigma_max == pytest.approx(2 * noise_scales(dataset, "unit").sigma_max)
    assert len(found.sigmas) == found.num_levels
    assert float(found.sigmas[0]) == pytest.approx(found.sigma_max)
    assert float(found.sigmas[-1]) == pytest.approx(0.02)
    assert 1 < found.ratio <= level_ratio(64)
    assert overlap(found.ratio, 64) >= 0.5
    assert found.to_dict()["steps_per_level"] == 3


@pytest.mark.parametrize("dims", [5, 6, 64])
def test_a_ratio_overlaps_by_its_share(dims):
    for share in (0.2, 0.5, 0.9):
        assert overlap(level_ratio(dims, share), dims) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_in_few_dimensions_the_length_has_its_exact_law(dims):
    """The squared length over sigma^2 is twice a gamma variable of D / 2; the shell's end has 0.135 % below it."""
    ratio = level_ratio(dims)
    tail, half = float(ndtr(-3.0)), dims / 2
    end = math.sqrt(2 * gammaincinv(half, tail))
    assert 1 - gammainc(half, (end * ratio) ** 2 / 2) == pytest.approx(0.5, abs=1e-9)
    assert ratio > (level_ratio(dims + 1) if dims < 4 else 1)


def test_the_papers_step_for_cifar():
    """Song & Ermon (2020), table 6: sigma 50 to 0.01 in 232 levels, T = 5, epsilon 6.2e-6."""
    assert round(langevin_step(5000 ** (1 / 231), 0.01, 5), 7) == 6.2e-6


def test_errors():
    same = ImageDataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), None, (), "train", IDENTITY)
    with pytest.raises(InputError, match="sigma_min must lie between 0 and 0, the largest distance"):
        noise_scales(same)
    with pytest.raises(InputError, match="unknown data_range 'half'"):
        noise_scales(same, "half")
    with pytest.raises(InputError, match="needs two images, got 1"):
        largest_distance(torch.zeros(1, 4))
    with pytest.raises(InputError, match="dims must be at least 1, got 0"):
        level_ratio(0)
    with pytest.raises(InputError, match=r"share must lie between 0 and 0\.9973 for dims 64, got 1\.5"):
        level_ratio(64, 1.5)
    with pytest.raises(InputError, match="ratio must exceed 1"):
        langevin_step(1.0, 0.01, 5)
