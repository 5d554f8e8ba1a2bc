"""Likelihoods against numbers of the papers' own code: score_sde's probability flow, ADM's bound of the chain."""

import math

import pytest
import torch
from cases import first
from exact_mixture import ExactMixture
from golden_files import found, score_sde_process, solver_error, tensors
from torch import nn

from pcdiff.diffusion import (
    DiscreteProcess,
    NetDenoiser,
    bits_per_dim,
    chain_bound,
    log_likelihood,
)

pytestmark = pytest.mark.golden
VARIANCES = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED_RANGE": "learned_range"}
KINDS = ["vp", "subvp", "ve"]


def score_sde(golden, kind):
    """Yield each recorded likelihood: its table, our exact denoiser on its process, and where its data lies."""
    for path in found(golden, f"2d/samplers/likelihood_{kind}_*.npz"):
        table = tensors(path.parent, path.name)
        process = score_sde_process(kind, table)
        mixture = (table[f"gmm.{name}"].double() for name in ("weights", "means", "stds"))
        data_range = (0.0, 1.0) if path.stem.endswith("unit") else (-1.0, 1.0)
        yield table, ExactMixture(process, *mixture), data_range


@pytest.mark.parametrize("kind", first(1, KINDS))
def test_score_sdes_bits_of_a_recorded_probe(golden, kind):
    for table, denoiser, data_range in score_sde(golden, kind):
        x, settings = table["data"].double(), {name: float(table[name]) for name in ("eps", "rtol", "atol")}
        result = log_likelihood(denoiser, x, probes=table["epsilon"], **settings)
        shape, start = x.shape[1:], settings["eps"]
        if len(table["gmm.weights"]) == 1:
            truth = table["bpd_exact_trace_f64"]  # of one Gaussian a +-1 probe is exact
        else:
            tight = log_likelihood(denoiser, x, probes=table["epsilon"], eps=start, rtol=1e-7, atol=1e-7)
            truth = bits_per_dim(tight.log_likelihood, shape, data_range)
        # two step controls of one method: each is as near to the solution as its tolerances, and no more alike
        ours = bits_per_dim(result.log_likelihood, shape, data_range), result.z, result.evaluations
        for bits, z, evaluations in (ours, (table["bpd"], table["z"], int(table["nfe"]))):
            error = solver_error(table, table["z_tight_f64"], evaluations)
            assert (z - table["z_tight_f64"]).abs().max() <= error
            # the log-density is one more coordinate; its tolerance grows with its size, in nats
            nats = truth[:, None] * math.log(2) * x[0].numel()
            error += solver_error(table, nats, evaluations)
            assert (bits - truth).abs().max() <= error / (x[0].numel() * math.log(2))
        assert result.evaluations <= 3 * int(table["nfe"]) + 12


@pytest.mark.parametrize("kind", first(1, KINDS))
def test_score_sdes_exact_trace_and_closed_form(golden, kind):
    for table, denoiser, data_range in score_sde(golden, kind):
        x, eps = table["data"].double(), float(table["eps"])
        if data_range == (0.0, 1.0) and len(found(golden, f"2d/samplers/likelihood_{kind}_*_centered.npz")) > 1:
            continue  # the same densities, another offset: see the recorded probe
        result = log_likelihood(denoiser, x, trace="exact", eps=eps, rtol=1e-7, atol=1e-7)
        bits = bits_per_dim(result.log_likelihood, x.shape[1:], data_range)
        torch.testing.assert_close(bits, table["bpd_exact_trace_f64"], rtol=1e-6, atol=0)
        torch.testing.assert_close(result.z, table["z_tight_f64"], rtol=1e-5, atol=1e-6)
        truth = denoiser.log_density(x, torch.full((len(x),), eps, dtype=torch.float64))
        bits = bits_per_dim(truth, x.shape[1:], data_range)
        torch.testing.assert_close(bits, table["bpd_closed_form_f64"], rtol=1e-10, atol=0)


class Heads(nn.Module):
    """The exact noise, and its tanh for the variance where that is learned."""

    def __init__(self, exact, learned):
        super().__init__()
        self.exact, self.learned = exact, learned

    def forward(self, x, t, cond=None):
        eps = self.exact.eps(x, t)
        return torch.cat([eps, eps.tanh()], dim=1) if self.learned else eps


@pytest.mark.parametrize("variance", sorted(VARIANCES))
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_adms_bits_of_the_chain(golden, schedule, variance):
    table = tensors(golden, f"2d/guided_diffusion/loops_{schedule}.npz")
    process = DiscreteProcess(table["betas"])
    exact = ExactMixture(process, *(table[f"gmm.{name}"].double() for name in ("weights", "means", "stds")))
    kind = VARIANCES[variance]
    denoiser = NetDenoiser(Heads(exact, kind == "learned_range"), process, "eps", "t", kind)
    draws = iter(table["bpd.noise"].double())
    bound = chain_bound(
        denoiser,
        table["bpd.x_start"].double(),
        decoder="discretized",
        clip=(-1, 1),
        noise=lambda x: next(draws),
    )
    prefix = f"bpd.{variance}"
    # ADM's last step comes first
    for name, value in (("vb", bound.terms), ("xstart_mse", bound.x0_error), ("mse", bound.eps_error)):
        torch.testing.assert_close(value.flip(1).float(), table[f"{prefix}.{name}"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bound.total.float(), table[f"{prefix}.total_bpd"], rtol=1e-4, atol=0)
    # -1 - log v + v + m^2 over 2 ln 2 in float32: terms of about 1, each rounded by 2^-24
    prior_atol = 4 * 2**-24 / (2 * math.log(2))
    torch.testing.assert_close(bound.prior.float(), table[f"{prefix}.prior_bpd"], rtol=1e-4, atol=prior_atol)
