"""Partial diffusion against the Gaussian's own posterior, and great circles."""

import math

import pytest
import torch
from exact_gaussian import gaussian

from pcdiff.diffusion import build_process, corrector, sample, sdedit, slerp
from pcdiff.errors import InputError

COUNT = 3000


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_redenoising_is_noising_and_the_exact_posterior(dims):
    """Of a Gaussian x_0 given x_t is linear in x_t, with gain G; the noise of x_t comes in through it."""
    process = build_process("ddpm", schedule="cosine", num_steps=100)
    denoiser, t_start = gaussian(process, dims, correlation=0.4), 60
    x = normal(1, *dims) + 1
    out = sdedit(denoiser, x.expand(COUNT, *dims), t_start, generator=torch.Generator().manual_seed(4)).flatten(1)
    alpha, sigma = (float(v) for v in process.scales(torch.tensor([t_start])))
    inverse = torch.linalg.inv(alpha**2 * denoiser.covariance + sigma**2 * torch.eye(x.numel(), dtype=x.dtype))
    gain = alpha * denoiser.covariance @ inverse
    mean = denoiser.mean + alpha * gain @ (x.flatten() - denoiser.mean)
    covariance = denoiser.covariance - alpha * gain @ denoiser.covariance + sigma**2 * gain @ gain.T
    std = covariance.diagonal().sqrt()
    values = (out - mean) / std
    # five standard errors, and 0.04 for the chain's steps
    assert (values.mean(dim=0).abs() < 5 / math.sqrt(COUNT) + 0.04).all()
    correlation = values.T @ values / COUNT
    assert torch.allclose(correlation, covariance / std / std[:, None], atol=5 * math.sqrt(2 / COUNT) + 0.04)


@pytest.mark.parametrize("step", ["reverse_diffusion", "score_ancestral", "euler_maruyama", "heun"])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_data_stay_data(kind, step, shape):
    """Partial runs take steps of their own length: noised and denoised, the data's law is what it was."""
    process = build_process(kind)
    denoiser = gaussian(process, shape, correlation=0.4)
    root = torch.linalg.cholesky(denoiser.covariance)
    data = denoiser.mean + normal(COUNT, len(root)) @ root.T
    options = {"sampler": step, "num_steps": 60, "generator": torch.Generator().manual_seed(1)}
    out = sdedit(denoiser, data.view(COUNT, *shape), 0.4, **options).flatten(1)
    std = denoiser.covariance.diagonal().sqrt()
    # five standard errors, and 0.05 for the steps
    assert (((out - denoiser.mean) / std).mean(dim=0).abs() < 5 / math.sqrt(COUNT) + 0.05).all()
    assert ((out.std(dim=0) / std - 1).abs() < 5 / math.sqrt(2 * COUNT) + 0.05).all()


@pytest.mark.parametrize("kind", ["ddpm", "vp", "ve", "edm", "ncsn"])
def test_a_little_noise_leaves_the_data(kind, dims):
    process = build_process(kind, **({"num_scales": 50} if kind == "ncsn" else {}))
    chain = process.num_steps is not None
    x = normal(2, *dims)
    out = sdedit(gaussian(process, dims), x, 1 if chain else process.sample_eps * 1.5, num_steps=1)
    assert (out - x).abs().max() < 0.2


def test_redenoising_draws_the_perturbation_first(dims):
    process = build_process("vp")
    denoiser, x, t = gaussian(process, dims), normal(2, *dims), 0.4
    options = {"sampler": "reverse_diffusion", "corrector": corrector("ald"), "num_steps": 12}
    ours = sdedit(denoiser, x, t, generator=torch.Generator().manual_seed(2), **options)
    draws = torch.Generator().manual_seed(2)
    start = process.perturb(
        x, torch.full((2,), t, dtype=x.dtype), torch.randn(x.shape, generator=draws, dtype=x.dtype)
    )
    assert torch.equal(ours, sample(denoiser, x_init=start, t_start=t, generator=draws, **options))
    recorded = []

    def noise(x):
        recorded.append(normal(*x.shape, seed=len(recorded)))
        return recorded[-1]

    sdedit(denoiser, x, t, noise=noise, **options)
    assert len(recorded) == 1 + 12 + 11


def test_times_out_of_range_are_refused(dims):
    process, x = build_process("ddpm", num_steps=10, beta_1=1e-3, beta_T=0.4), normal(2, *dims)
    for t in (0, 11, -1, math.nan):
        with pytest.raises(InputError, match=r"must (lie|be) in \["):
            sdedit(gaussian(process, dims), x, t)


def test_slerp_keeps_lengths_and_angles(dims):
    a, b = normal(4, *dims), normal(4, *dims, seed=1)
    a, b = (v / v.flatten(1).norm(dim=1).view(-1, *[1] * len(dims)) for v in (a, b))
    weights = torch.linspace(0, 1, 5)
    path = slerp(a, b, weights)
    assert path.shape == (5, 4, *dims)
    assert torch.allclose(path[0], a)
    assert torch.allclose(path[-1], b)
    flat = path.flatten(2)
    assert torch.allclose(flat.norm(dim=2), torch.ones(5, 4, dtype=a.dtype))
    angle = (a * b).flatten(1).sum(dim=1).arccos()
    for step in range(4):
        turned = (flat[step] * flat[step + 1]).sum(dim=1).arccos()
        assert torch.allclose(turned, angle / 4)
    for k, weight in enumerate(weights.tolist()):
        assert torch.allclose(slerp(a, b, weight), path[k])
    # every sample by itself
    assert torch.allclose(slerp(a[2:3], b[2:3], 0.3), slerp(a, b, 0.3)[2:3])


def test_slerp_of_other_lengths_and_dtypes(dims):
    a, b = normal(2, *dims), normal(2, *dims, seed=1)
    assert torch.allclose(slerp(3 * a, 3 * b, 0.4), 3 * slerp(a, b, 0.4))
    # orthogonal ones mix by cosine and sine
    b = (
        b
        - (a * b).flatten(1).sum(1).view(-1, *[1] * len(dims))
        / a.square().flatten(1).sum(1).view(-1, *[1] * len(dims))
        * a
    )
    angle = 0.3 * math.pi / 2
    assert torch.allclose(slerp(a, b, 0.3), math.cos(angle) * a + math.sin(angle) * b)
    ours = slerp(a.float(), b.float(), 0.3)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), slerp(a, b, 0.3), atol=1e-6)


def test_slerp_of_near_and_parallel_samples_goes_straight(dims):
    a = normal(2, *dims)
    for b in (a, 2 * a, a * (1 + 1e-9), a + 1e-5 * normal(2, *dims, seed=3)):
        ours = slerp(a, b, torch.tensor([0.0, 0.25, 1.0]))
        straight = torch.stack([a, 0.75 * a + 0.25 * b, b])
        assert torch.allclose(ours, straight, atol=1e-8)


def test_what_slerp_cannot_do_is_refused(dims):
    a = normal(2, *dims)
    with pytest.raises(InputError, match="no way between opposite samples"):
        slerp(a, -2 * a, 0.5)
    with pytest.raises(InputError, match=r"a and b alike \(B, \*dims\)"):
        slerp(a, a[:1], 0.5)
    for weights in (math.nan, torch.zeros(2, 2)):
        with pytest.raises(InputError, match="weights must be a finite number"):
            slerp(a, a, weights)
