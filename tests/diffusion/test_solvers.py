"""Every sampler against closed forms: a mixture's weights and moments, a Gaussian's flow, orders of convergence."""

import math

import pytest
import torch
from exact_models import Mixture

from pcdiff.diffusion import (
    CORRECTORS,
    PREDICTORS,
    SamplingReport,
    build_process,
    corrector,
    invert,
    predictor,
    sample,
    time_grid,
)

# the weighted mean is 0: a prior without the data's mean is then right to first order
WEIGHTS, CENTERS, STD, COUNT = (0.3, 0.7), (-0.875, 0.375), 0.2, 1000
# what the discretization may add to the Monte-Carlo error of means (in STD), weights and covariances
BIAS = 0.05

MAKERS = {
    "ddpm": lambda: build_process("ddpm", schedule="cosine", num_steps=100),
    "vp": lambda: build_process("vp"),
    "subvp": lambda: build_process("subvp"),
    "ve": lambda: build_process("ve", sigma_min=0.01, sigma_max=15.0),
    "ncsn": lambda: build_process("ncsn", sigma_min=0.02, sigma_max=15.0, num_scales=20),
    "edm": lambda: build_process("edm"),
    "rectified_flow": lambda: build_process("rectified_flow"),
}
# predictor and its options, process, grid, steps, corrector and its options, and the share by which so coarse a
# discretization, or the corrector, may miss the variance
CASES = [
    ("ancestral", {"flexibility": 0.5}, "ddpm", None, None, None, {}, 0.08),
    ("ancestral", {}, "edm", "edm", 60, None, {}, 0.25),
    ("ancestral", {}, "rectified_flow", None, 80, None, {}, 0.15),
    ("kernel", {}, "ddpm", None, None, None, {}, 0.18),
    ("score_ancestral", {}, "vp", None, 100, None, {}, 0.05),
    ("score_ancestral", {}, "ve", None, 100, None, {}, 0.05),
    ("euler_maruyama", {}, "vp", None, 200, None, {}, 0.05),
    ("euler_maruyama", {"flow": True}, "rectified_flow", None, 60, None, {}, 0.12),
    ("euler_maruyama", {"flow": True}, "subvp", None, 100, None, {}, 0.1),
    ("reverse_diffusion", {}, "ddpm", None, None, None, {}, 0.1),
    ("reverse_diffusion", {}, "ve", None, 100, "langevin", {"snr": 0.15}, 0.4),
    ("reverse_diffusion", {"flow": True}, "vp", None, 300, None, {}, 0.2),
    ("reverse_diffusion", {}, "vp", None, 100, "ald", {"snr": 0.1}, 0.1),
    ("srk", {}, "vp", None, 60, None, {}, 0.08),
    ("srk", {}, "ve", None, 60, None, {}, 0.08),
    ("adaptive_sde", {"rtol": 0.05}, "vp", None, None, None, {}, 0.08),
    ("adaptive_sde", {"rtol": 0.05}, "ddpm", None, None, None, {}, 0.08),
    ("none", {"denoise": True}, "ncsn", None, None, "ncsnv2", {"step_size": 8e-5, "num_steps": 20}, 0.15),
    ("none", {"denoise": True}, "ncsn", None, None, "ncsn", {"step_size": 1.6e-4, "num_steps": 20}, 0.15),
    ("ddim", {}, "ddpm", None, 50, None, {}, 0.18),
    ("ddim", {"eta": 0.5}, "vp", "log_snr", 60, None, {}, 0.12),
    ("ddim", {"eta": 1.0}, "edm", "edm", 60, None, {}, 0.25),
    ("heun", {}, "edm", None, 40, None, {}, 0.06),
    ("heun", {}, "ddpm", None, 40, None, {}, 0.08),
    ("heun", {"variable": "t"}, "rectified_flow", None, 80, None, {}, 0.12),
    ("edm", {}, "edm", None, 60, None, {}, 0.08),
    ("edm", {"churn": 10.0}, "ddpm", None, 60, None, {}, 0.1),
    ("dpmpp", {}, "ddpm", None, 20, None, {}, 0.06),
    ("dpmpp", {"order": 3}, "vp", None, 20, None, {}, 0.06),
    ("dpmpp", {"order": 2}, "rectified_flow", None, 60, None, {}, 0.06),
    ("dpmpp", {"eta": 1.0}, "ve", None, 40, None, {}, 0.06),
    ("dpmpp", {"eta": 1.0, "order": 3, "taylor": True}, "subvp", None, 40, None, {}, 0.06),
    ("unipc", {}, "ddpm", None, 20, None, {}, 0.08),
    ("unipc", {"order": 3, "scale": "bh1"}, "vp", None, 20, None, {}, 0.06),
    ("unipc", {"order": 3}, "rectified_flow", None, 60, None, {}, 0.06),
    ("ode", {}, "vp", None, None, None, {}, 0.03),
    ("ode", {"rtol": 1e-3, "atol": 1e-3}, "ddpm", None, None, None, {}, 0.05),
    ("ode", {}, "rectified_flow", None, None, None, {}, 0.03),
]


def mixture(process, dims, dtype=torch.float32):
    pattern = torch.ones(dims, dtype=dtype)
    means = torch.stack([center * pattern for center in CENTERS])
    weights = torch.tensor(WEIGHTS, dtype=dtype)
    return Mixture(process, weights, means, torch.full((len(WEIGHTS),), STD, dtype=dtype))


def gaussian(process, dims, mean=0.6, std=0.4):
    means = torch.full((1, *dims), mean, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(process, one, means, one * std)


def gaussian_flow(denoiser, x, times):
    """Return where the probability flow takes x from the first time to the last: the data's quantile is kept."""
    (alpha, sigma), mean = denoiser.process.scales(times[[0, -1]]), denoiser.means[0]
    scale = ((alpha * denoiser.stds).square() + sigma.square()).sqrt()
    return alpha[1] * mean + (x - alpha[0] * mean) * scale[1] / scale[0]


def test_every_name_has_a_case():
    assert {case[0] for case in CASES} == set(PREDICTORS)
    assert {case[5] for case in CASES} - {None} == set(CORRECTORS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_weights_and_moments_of_a_mixture(case, shape):
    name, options, kind, grid, num_steps, correct, correct_options, bias = case
    x = sample(
        mixture(MAKERS[kind](), shape),
        (COUNT, *shape),
        sampler=predictor(name, **options),
        corrector=correct and corrector(correct, **correct_options),
        num_steps=num_steps,
        grid=grid,
        generator=torch.Generator().manual_seed(2),
    ).double()
    assert x.isfinite().all()
    centers = x.flatten(1).mean(dim=1)
    middle = sum(CENTERS) / 2
    for weight, center, members in zip(WEIGHTS, CENTERS, (centers < middle, centers >= middle), strict=True):
        share, values = members.double().mean().item(), (x[members] - center).flatten(1) / STD
        assert abs(share - weight) < 5 * math.sqrt(weight * (1 - weight) / COUNT) + BIAS
        assert abs(values.mean()) < 5 / math.sqrt(values.numel()) + BIAS
        assert abs(values.square().mean() - 1) < 5 * math.sqrt(2 / values.numel()) + bias
        covariance = values.T @ values / len(values)
        off_diagonal = covariance - covariance.diag().diag()
        assert off_diagonal.abs().max() < 5 / math.sqrt(len(values)) + BIAS


# predictor and its options, process, expected order
ORDERS = [
    ("ddim", {}, "vp", 1),
    ("euler_maruyama", {"flow": True}, "vp", 1),
    ("heun", {}, "edm", 2),
    ("heun", {}, "ddpm", 2),
    ("heun", {"variable": "t"}, "vp", 2),
    ("dpmpp", {"order": 1}, "vp", 1),
    ("dpmpp", {"order": 2}, "vp", 2),
    ("dpmpp", {"order": 2, "taylor": True}, "ve", 2),
    ("dpmpp", {"order": 3}, "vp", 3),
    ("dpmpp", {"order": 3}, "ddpm", 3),
    ("dpmpp", {"order": 3, "legacy": True}, "vp", 2),
    ("unipc", {"order": 1, "correct": False, "lower_final": False}, "vp", 1),
    ("unipc", {"order": 2, "correct": False, "lower_final": False}, "vp", 2),
    ("unipc", {"order": 3, "correct": False, "lower_final": False}, "vp", 3),
    ("unipc", {"order": 2, "scale": "bh1", "lower_final": False}, "vp", 3),
]


@pytest.mark.parametrize("case", ORDERS, ids=lambda case: " ".join(map(str, case)))
def test_orders_of_convergence(case, shape):
    """Even steps of the log-SNR, from where x_0 hardly depends on x yet, so that low first steps cost nothing, and
    not the whole way: there the errors of both halves would cancel.
    """
    name, options, kind, order = case
    denoiser = gaussian(MAKERS[kind](), shape)
    process = denoiser.process
    start = (
        torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * process.prior_std
    )
    errors = []
    for num_steps in (60, 120):
        ends = process.log_snr(torch.tensor([process.T], dtype=torch.float64)).clamp(min=-11).item(), 0.0
        times = process.t_of_log_snr(torch.linspace(*ends, num_steps + 1, dtype=torch.float64))
        x = sample(denoiser, x_init=start, sampler=predictor(name, **options), grid=times)
        errors.append(float((x - gaussian_flow(denoiser, start, times)).abs().max()))
    assert errors[1] > 1e-10
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(("name", "options", "order"), [("dpmpp", {}, 2), ("unipc", {"lower_final": False}, 3)])
def test_third_order_from_where_x_0_depends_on_x(name, options, order):
    """A first step of first order costs DPM-Solver++ an order there; UniPC corrects it."""
    denoiser, errors = gaussian(MAKERS["vp"](), (2,)), []
    process, start = denoiser.process, torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    for num_steps in (60, 120):
        times = process.t_of_log_snr(torch.linspace(0.0, 5.0, num_steps + 1, dtype=torch.float64))
        x = sample(denoiser, x_init=start, sampler=predictor(name, order=3, **options), grid=times)
        errors.append(float((x - gaussian_flow(denoiser, start, times)).abs().max()))
    assert errors[1] > 1e-10
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("kind", ["vp", "subvp", "ve", "edm", "rectified_flow"])
def test_adaptive_solver_keeps_its_tolerance(kind, shape):
    denoiser, reports = gaussian(MAKERS[kind](), shape), []
    start = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = start * denoiser.process.prior_std
    ends = time_grid(denoiser.process, 1)
    exact = gaussian_flow(denoiser, start, ends)
    for tolerance in (1e-3, 1e-7):
        report = SamplingReport()
        step = predictor("ode", rtol=tolerance, atol=tolerance)
        x = sample(denoiser, x_init=start, sampler=step, grid=ends, report=report)
        assert (x - exact).abs().max() < 100 * tolerance
        reports.append(report.evaluations)
    assert 10 < reports[0] < reports[1]


@pytest.mark.parametrize(("name", "options"), [("ddim", {}), ("heun", {}), ("dpmpp", {"order": 2})])
def test_inversion_and_back(name, options, shape):
    denoiser = mixture(MAKERS["ddpm"](), shape, torch.float64)
    x = sample(denoiser, (6, *shape), generator=torch.Generator().manual_seed(0)).double()
    errors = []
    for num_steps in (50, 100):
        step = predictor(name, **options)
        noise = invert(denoiser, x, sampler=step, num_steps=num_steps)
        again = sample(denoiser, x_init=noise, sampler=step, num_steps=num_steps, grid="uniform")
        errors.append((again - x).square().mean().sqrt().item())
    assert errors[1] < min(errors[0], 0.05)
    assert abs(noise.mean()) < 1
    assert noise.std().item() == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("kind", ["vp", "ddpm", "edm"])
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp", "unipc"])
def test_a_partial_start_ends_at_the_target(kind, name, shape):
    """Data with noise of some time, taken back: again data, of the same component."""
    process, draw = MAKERS[kind](), torch.Generator().manual_seed(0)
    denoiser = mixture(process, shape)
    members = torch.arange(400) % 2
    centers = torch.tensor(CENTERS)[members].view(-1, *[1] * len(shape))
    data = centers + STD * torch.randn(400, *shape, generator=draw)
    level = process.t_of_log_snr(torch.tensor([2.0], dtype=torch.float64)).round(
        decimals=0 if kind == "ddpm" else 3
    )
    x_t = process.perturb(data, level.expand(400), torch.randn(data.shape, generator=draw))
    x = sample(denoiser, x_init=x_t, sampler=name, t_start=float(level), num_steps=20, generator=draw)
    distance = (x.flatten(1).mean(dim=1) - centers.flatten()).abs()
    assert distance.max() < 5 * STD / math.sqrt(data[0].numel()) + 0.05
    assert (x - centers).std().item() == pytest.approx(STD, rel=0.15)
