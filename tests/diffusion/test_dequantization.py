"""Dequantization against the probability of whole numbers under a known density."""

import math

import pytest
import torch
from exact_mixture import ExactMixture
from torch import nn

from pcdiff.diffusion import (
    DEQUANTIZATIONS,
    bits_per_dim,
    build_process,
    continuous_bound,
    dequantization,
    fit_dequantization,
    log_likelihood,
)
from pcdiff.errors import InputError

LEVELS, CENTER, WIDTH = 8, 3.7, 0.6  # a normal density that changes much within a cell of 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def density(values):
    """Return log p of values by independent numbers, `(B,)`."""
    return -(((values - CENTER) / WIDTH).square() / 2 + math.log(WIDTH * math.sqrt(2 * math.pi))).flatten(1).sum(1)


def probability(levels):
    """Return log P(k) `(B,)`: what the density has in the cells."""
    normal = torch.distributions.Normal(CENTER, WIDTH)
    cells = normal.cdf(levels.double() + 1) - normal.cdf(levels.double())
    return cells.log().flatten(1).sum(dim=1)


def expected_loss(dequantize, level):
    """Return the mean over u of the loss of one number, by quadrature over q's quantiles."""
    v = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    levels = torch.full((4000, 1), level)
    u, log_q = dequantize.noise(levels, v[:, None])
    return float((log_q[:, 0] - density(levels + u)).detach().mean())


def fitted(steps=200):
    levels = torch.arange(LEVELS)[:, None]
    options = {"steps": steps, "batch_size": 256, "lr": 0.1, "generator": seeded()}
    dequantize = dequantization("variational", num_levels=LEVELS)
    fit_dequantization(dequantize, lambda values, rows: density(values), levels, **options)
    return dequantize.double()


def test_uniform_noise_is_where_it_starts(dims):
    levels = torch.randint(LEVELS, (3, *dims), generator=seeded())
    (a, log_a), (b, log_b) = (dequantization(name)(levels, seeded(1)) for name in ("uniform", "variational"))
    torch.testing.assert_close(a, b, rtol=0, atol=2e-5)  # the quantiles end at 1e-6
    assert (log_a == 0).all()
    assert log_b.abs().max() < 1e-4
    assert ((a >= levels) & (a < levels + 1)).all()
    assert log_a.shape == log_b.shape == (3,)


def test_a_learned_bound_is_tighter_and_stays_a_bound():
    """Uniform noise loses what its KL says, learned noise a twentieth of that; neither passes -log P(k)."""
    learned, uniform = fitted(), dequantization("variational", num_levels=LEVELS).double()
    for level in range(LEVELS):
        truth = -float(probability(torch.tensor([[level]])))
        gaps = [expected_loss(q, level) - truth for q in (uniform, learned)]
        # E_u ((k + u - c) / w)^2 / 2 in closed form
        offset = level + 0.5 - CENTER
        loss = (offset**2 + 1 / 12) / (2 * WIDTH**2) + math.log(WIDTH * math.sqrt(2 * math.pi))
        assert gaps[0] == pytest.approx(loss - truth, abs=1e-6)
        assert -1e-6 < gaps[1] < gaps[0] / 20 + 0.005


def test_the_density_of_q_is_that_of_its_draws():
    dequantize = fitted(50)
    v = torch.linspace(0.01, 0.99, 1001, dtype=torch.float64)[:, None]
    for level in (2, 3, 5):
        u, log_q = dequantize.noise(torch.full((1001, 1), level), v)
        slope = (u[2:] - u[:-2]) / (v[2:] - v[:-2])
        torch.testing.assert_close(slope.log(), -log_q[1:-1], rtol=0, atol=1e-3)


def test_a_net_sees_the_numbers_around():
    torch.manual_seed(0)
    net = nn.Conv2d(1, 2, 3, padding=1)
    images = torch.randint(256, (2, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    dequantize = dequantization("variational", net=net)
    values, log_q = dequantize(images, seeded())
    assert log_q.abs().min() > 0.01
    log_q.sum().backward()
    assert net.weight.grad.abs().max() > 0
    assert dequantize.table.grad.abs().max() > 0
    assert values.dtype == torch.float32
    with pytest.raises(InputError, match=r"net must give \(B, 2 C, ...\) for \(2, 1, 4, 4\), got \(2, 3, 4, 4\)"):
        dequantization("variational", net=nn.Conv2d(1, 3, 3, padding=1))(images)
    with pytest.raises(InputError, match=r"levels must be \(B, \*dims\) whole numbers in 0..7"):
        dequantization("variational", num_levels=8)(images)
    with pytest.raises(InputError, match="num_levels must be at least 2, got 1"):
        dequantization("variational", num_levels=1)
    with pytest.raises(InputError, match="the density must be finite where it is learned from, got nan at step 0"):
        fit_dequantization(dequantize, lambda x, rows: x.flatten(1).sum(dim=1) * math.nan, images)
    with pytest.raises(InputError, match="dequantization must be one of") as caught:
        dequantization("normal")
    assert all(name in str(caught.value) for name in DEQUANTIZATIONS)


def test_learned_by_a_diffusions_bound_it_tightens_the_diffusions_likelihood():
    """The model knows the density; q learns from the bound in continuous time alone, and the flow scores it."""
    half, dims = LEVELS / 2, (1, 2, 2)
    one = torch.ones(1)
    mean, std = torch.full((1, *dims), CENTER / half - 1), WIDTH / half * one
    model = ExactMixture(build_process("vp"), one, mean, std)
    images = torch.randint(3, 5, (64, *dims), generator=seeded(), dtype=torch.uint8)

    def of_bound(values, rows):
        assert values.shape == (len(rows), *dims)
        found = continuous_bound(model, values / half - 1, num_times=4, generator=draw)
        return -found.total * math.log(2) * values[0].numel()

    dequantize, draw = dequantization("variational", num_levels=LEVELS), seeded(1)
    fit_dequantization(dequantize, of_bound, images, steps=100, batch_size=64, lr=0.2, generator=draw)
    bits = {}
    for name, q in (("uniform", dequantization("uniform")), ("learned", dequantize)):
        with torch.no_grad():
            values, log_q = q(images, seeded(2))
        found = log_likelihood(model, values / half - 1, trace="exact", rtol=1e-3, atol=1e-3)
        # cells of 2 / LEVELS, where bits_per_dim speaks of 256
        bits[name] = bits_per_dim(found.log_likelihood - log_q, dims).double() - math.log2(256 / LEVELS)
    truth = -probability(images) / 4 / math.log(2)
    gaps = {name: float((value - truth).mean()) for name, value in bits.items()}
    assert gaps["uniform"] > 0.1
    assert -0.05 < gaps["learned"] < gaps["uniform"] / 2
