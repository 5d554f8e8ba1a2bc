"""Denoisers against numbers of the papers' own code: EDM's preconditioning, ADM's p(x_{t-1} | x_t), time labels."""

import json

import numpy as np
import pytest
import torch
from golden_files import adm_chain, chain_length, found, score_sde_process, tensors
from torch import nn

from pcdiff.diffusion import (
    SCHEDULES,
    DiscreteProcess,
    EDMProcess,
    NetDenoiser,
    build_process,
    cosine_betas,
    parametrization,
)

pytestmark = pytest.mark.golden
# ADM's names for what the net predicts and for its variance
MEANS = {"EPSILON": "eps", "START_X": "x0", "PREVIOUS_X": "previous"}
VARIANCES = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED": "learned", "LEARNED_RANGE": "learned_range"}
COEFFICIENTS = ("c_skip", "c_out", "c_in", "c_noise")


class Fixed(nn.Module):
    """A net that answers what it was told, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, cond=None):
        self.given = x, t
        return self.answer


def asked(process, sigma, predicts, time_input):
    """Return c_skip, c_out, c_in, c_noise that the denoiser applies to data plus noise of the scales `sigma`."""
    t = process.t_of_log_snr(-2 * sigma.double().log())
    alpha = process.alpha(t)[:, None]
    one, zero = torch.ones(len(sigma), 1, dtype=torch.float64), torch.zeros(len(sigma), 1, dtype=torch.float64)
    net = Fixed(zero)
    denoiser = NetDenoiser(net, process, predicts, time_input)
    c_skip = denoiser(alpha * one, t)
    c_in, c_noise = net.given
    net.answer = one
    return [v.flatten() for v in (c_skip, denoiser(zero, t), c_in, c_noise)]


@pytest.mark.parametrize(("suffix", "rtol"), [("", 1e-4), ("_f64", 1e-8)])
def test_edms_preconditioning(golden, suffix, rtol):
    table = tensors(golden, "2d/edm/precond.npz")
    says = parametrization("edm", sigma_data=float(table["sigma_data"]))
    for name, value in zip(COEFFICIENTS, asked(EDMProcess(), table["sigma"], says, "edm"), strict=True):
        expected = table[f"edm.{name}{suffix}"]
        torch.testing.assert_close(value.to(expected.dtype), expected, rtol=rtol, atol=rtol * 1e-2)


def test_vps_preconditioning_is_the_vp_net_on_stretched_data(golden):
    """What EDM writes as c_skip, c_out, c_in, c_noise is score_sde's own net and labels (Karras et al., 2022)."""
    table = tensors(golden, "2d/edm/precond.npz")
    inside = (table["sigma"] >= table["vp.sigma_min"]) & (table["sigma"] <= table["vp.sigma_max"])
    assert inside.sum() > 20
    process = build_process("vp")  # EDM's own beta_d 19.9 and beta_min 0.1 are these rates
    end = torch.tensor([process.T])
    if abs(float(process.sigma(end) / process.alpha(end) / table["vp.sigma_max"]) - 1) > 1e-5:
        pytest.skip("the file's VP has other rates than EDM's own, and does not tell them")
    for name, value in zip(COEFFICIENTS, asked(process, table["sigma"][inside], "eps", "999t"), strict=True):
        # their label is a difference in float32, times 999
        atol = 1e-3 if name == "c_noise" else 1e-6
        torch.testing.assert_close(value.float(), table[f"vp.{name}"][inside], rtol=1e-4, atol=atol)


def test_iddpms_levels_are_the_cosine_chains(golden):
    table = tensors(golden, "2d/edm/precond.npz")
    levels = table["iddpm.u"]
    process = DiscreteProcess(cosine_betas(len(levels) - 1))
    t = torch.arange(process.num_steps, -1, -1)
    ours = process.sigma(t) / process.alpha(t)
    torch.testing.assert_close(ours.float(), levels, rtol=1e-3, atol=1e-6)  # theirs is summed up in float32
    inside = (table["sigma"] >= table["iddpm.sigma_min"]) & (table["sigma"] <= table["iddpm.sigma_max"])
    assert inside.sum() > 20
    for name, value in zip(COEFFICIENTS[:3], asked(process, table["sigma"], "eps", "step"), strict=False):
        torch.testing.assert_close(value.float()[inside], table[f"iddpm.{name}"][inside], rtol=1e-4, atol=1e-6)


def adm(golden, schedule, mean, variance):
    """Return ADM's table, and our denoiser whose net gives the recorded output, with x_t and t."""
    table = tensors(golden, f"2d/guided_diffusion/p_q_{schedule}.npz")
    process = adm_chain(schedule, chain_length(table))
    out = table["model_output_2C"]
    if not VARIANCES[variance].startswith("learned"):
        out = out.chunk(2, dim=1)[0]
    denoiser = NetDenoiser(Fixed(out), process, MEANS[mean], "step", VARIANCES[variance])
    return table, denoiser, table["x_t"], table["t"] + 1


def close(ours, theirs, rtol=1e-4):
    size = theirs.flatten(1).abs().amax(dim=1).view(-1, *[1] * (theirs.dim() - 1))
    assert ((ours - theirs).abs() <= rtol * size).all(), float(((ours - theirs).abs() / size).max())


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("mean", sorted(MEANS))
@pytest.mark.parametrize("variance", sorted(VARIANCES))
@pytest.mark.parametrize("clip", [True, False], ids=["clip", "noclip"])
def test_adms_reverse_kernel(golden, schedule, mean, variance, clip):
    table, denoiser, x, t = adm(golden, schedule, mean, variance)
    kernel = denoiser.reverse_kernel(x, t, t - 1, clip=(-1, 1) if clip else None)
    prefix = f"{mean}.{variance}.{'clip' if clip else 'noclip'}"
    close(kernel.x0, table[f"{prefix}.pred_xstart"])
    if not (clip and mean == "PREVIOUS_X"):  # ADM leaves a mean that the net said itself as it is; ours follows x_0
        close(kernel.mean, table[f"{prefix}.mean"])
    close(kernel.log_variance.expand_as(x), table[f"{prefix}.log_variance"])
    here = t > int(variance == "FIXED_SMALL")  # whose variance is 0 at the data, beside a log-variance that is not
    close(kernel.log_variance.exp().expand_as(x)[here], table[f"{prefix}.variance"][here])
    assert denoiser.net.given[1].tolist() == table["t"].tolist()


def test_score_sdes_labels(golden):
    names = {
        ("vesde", True): "sigma",
        ("vesde", False): "level",
        ("vpsde", True): "999t",
        ("subvpsde", True): "999t",
        ("vpsde", False): "step",
    }
    for path in found(golden, "2d/score_sde/*_io.npz"):
        config = json.loads(path.with_name(path.name.replace("_io.npz", ".json")).read_text())
        kind, continuous = config["training"]["sde"].lower(), config["training"]["continuous"]
        io, model = np.load(path), config["model"]
        name = names[kind, continuous]
        process = score_sde_process(kind.removesuffix("sde"), {**model, "N": io["N"]})
        t = torch.from_numpy(io["t"])
        label = NetDenoiser(Fixed(None), process, "score", name).tau(t)
        expected = torch.from_numpy(io["labels_used"])
        torch.testing.assert_close(label.to(expected.dtype), expected, rtol=1e-5, atol=1e-5)


def test_score_sdes_nets_scores(golden):
    """From the raw output: VE nets give the score, VP and sub-VP nets the noise."""
    for path in found(golden, "2d/score_sde/*_io.npz"):
        config = json.loads(path.with_name(path.name.replace("_io.npz", ".json")).read_text())
        kind, io, model = config["training"]["sde"].lower(), np.load(path), config["model"]
        if kind != "vesde" and not config["training"]["continuous"]:
            continue  # its scores divide by the table's entry before t, ours by sigma(t)
        ve = kind == "vesde"
        process = score_sde_process(kind.removesuffix("sde"), {**model, "N": io["N"]})
        t, x = torch.from_numpy(io["t"]), torch.from_numpy(io["x"])
        for which in ("model", "ema"):
            raw, score = (torch.from_numpy(io[f"{kind}_{which}"]) for kind in ("raw", "score"))
            denoiser = NetDenoiser(Fixed(raw), process, "score" if ve else "eps", "t")
            close(denoiser.score(x, t).to(score.dtype), score)
