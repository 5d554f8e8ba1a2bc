"""Objectives against losses computed by the papers' own code: score_sde, NCSNv2, EDM, ADM."""

import math
import re

import pytest
import torch
from golden_files import adm_chain, chain_length, score_sde_process, tensors
from torch import nn

from pcdiff.diffusion import (
    OBJECTIVES,
    SCHEDULES,
    Denoiser,
    DiscreteProcess,
    EDMProcess,
    NetDenoiser,
    NoiseLevels,
    append_dims,
    build_process,
    discretized_log_likelihood,
    draw_times,
    normal_kl,
    objective,
    prior_bits,
    time_draw,
    vlb_term,
)
from pcdiff.diffusion.losses.variational_bound import normal_cdf

pytestmark = pytest.mark.golden
PRECISIONS = [("f32", torch.float32, 1e-4), ("f64", torch.float64, 1e-8)]


class Toy(nn.Module):
    """score_sde's stand-in for a net: A x + b cos(label / scale)."""

    def __init__(self, table, dtype):
        super().__init__()
        self.A, self.b = (nn.Parameter(table[name].to(dtype)) for name in ("A", "b"))
        self.scale = float(table["label_scale"])

    def forward(self, x, label, cond=None):
        return self.A * x + self.b * append_dims((label.to(x.dtype) / self.scale).cos(), x)


class Truncated(Denoiser):
    """score_sde's discrete VP net at a continuous time: its noise belongs to the chain's step before t."""

    def __init__(self, net, process, betas):
        super().__init__(process)
        self.net, self.chain = net, DiscreteProcess(betas)

    def eps(self, x, t, cond=None):
        label = self.process.position(t)
        std = self.chain.sigma(label.long() + 1)
        return self.net(x, label, cond) * append_dims(self.process.sigma(t) / std, x)


def chain_betas(table):
    steps = int(table["N"])
    return SCHEDULES["linear"](steps, float(table["beta_min"]) / steps, float(table["beta_max"]) / steps)


def check_toy(loss, net, table, key, precision, rtol):
    gradients = torch.autograd.grad(loss, [net.A, net.b])
    for name, value in zip(("loss", "grad_A", "grad_b"), (loss, *gradients), strict=True):
        expected = table[f"{key}.{name}_{precision}"].item()
        assert value.item() == pytest.approx(expected, rel=rtol), f"{key}.{name}"


@pytest.mark.parametrize(("precision", "dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_score_sdes_losses(golden, kind, precision, dtype, rtol):
    table = tensors(golden, f"2d/losses/{kind}.npz")
    process = score_sde_process(kind, table)
    net = Toy(table, dtype)
    x0, noise, u = (table[name].to(dtype) for name in ("batch", "sde.noise", "sde.u"))
    eps = float(table["eps"])
    t = u * (process.T - eps) + eps
    predicts, label = ("score", "sigma") if kind == "ve" else ("eps", "999t")
    denoisers = {"cont": NetDenoiser(net, process, predicts, label)}
    if kind == "ve":
        denoisers["disc"] = NetDenoiser(net, process, "score", "level")
    elif kind == "vp":
        denoisers["disc"] = Truncated(net, process, chain_betas(table))
    ways = sorted({tuple(key.split(".")[1:4]) for key in table if key.startswith("sde.") and "loss" in key})
    assert {way[0] for way in ways} == set(denoisers)
    for time, reduction, weighting in ways:
        name = {"std": "dsm", "lw": "likelihood"}[weighting]
        loss = OBJECTIVES[name](denoisers[time], x0, t, noise, reduction=reduction).mean()
        loss = loss / 2 if reduction == "sum" else loss  # theirs has the half of the paper's eq. 7
        check_toy(loss, net, table, f"sde.{time}.{reduction}.{weighting}", precision, rtol)


@pytest.mark.parametrize(("precision", "dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize(("kind", "name"), [("vp", "ddpm"), ("ve", "smld")])
def test_score_sdes_legacy_losses(golden, kind, name, precision, dtype, rtol):
    table = tensors(golden, f"2d/losses/{kind}.npz")
    net, labels = Toy(table, dtype), table["legacy.labels"]
    x0, noise = table["batch"].to(dtype), table["legacy.noise"].to(dtype)
    if name == "ddpm":
        denoiser, t = NetDenoiser(net, DiscreteProcess(chain_betas(table)), "eps", "step"), labels + 1
    else:
        options = {key: float(table[key]) for key in ("sigma_min", "sigma_max")}
        process = build_process("ncsn", num_scales=int(table["N"]), **options)
        denoiser, t = NetDenoiser(net, process, "score", "level"), process.num_steps - labels
    for reduction in ("mean", "sum"):
        loss = OBJECTIVES["dsm"](denoiser, x0, t, noise, reduction=reduction).mean()
        loss = loss / 2 if reduction == "sum" else loss
        check_toy(loss, net, table, f"{name}.{reduction}", precision, rtol)


def test_score_sdes_training_steps(golden):
    """Six steps of Adam on `dsm`, with warm-up and clipping: the losses and weights."""
    table = tensors(golden, "2d/losses/train_step_vp.npz")
    process, net = score_sde_process("vp", table), Toy(table, torch.float64)
    denoiser = NetDenoiser(net, process, "eps", "999t")
    betas = float(table["beta1"]), float(table["beta2"])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0, betas=betas, eps=float(table["adam_eps"]))
    x0, eps = table["batch"].double(), float(table["eps"])
    for k, lr in enumerate(table["lr_used"].tolist()):
        t = table["u"][k].double() * (1 - eps) + eps
        loss = OBJECTIVES["dsm"](denoiser, x0, t, table["noise"][k].double()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), float(table["grad_clip"]))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        expected = table["loss_A_b_emaA_emab"][k, :3].tolist()
        assert [loss.item(), net.A.item(), net.b.item()] == pytest.approx(expected, rel=1e-6)


class Mixture(nn.Module):
    """The exact score of a mixture of isotropic Gaussians under added noise sigma."""

    def __init__(self, table, dtype):
        super().__init__()
        self.weights, self.means, self.stds = (
            table[f"gmm.{name}"].to(dtype) for name in ("weights", "means", "stds")
        )

    def forward(self, x, sigma, cond=None):
        variance = self.stds.square() + sigma[:, None].to(x.dtype).square()  # (B, K)
        offsets = x[:, None] - self.means  # (B, K, *dims)
        size = x[0].numel()
        log_p = (
            self.weights.log() - offsets.square().flatten(2).sum(dim=2) / (2 * variance) - size / 2 * variance.log()
        )
        share = log_p.softmax(dim=1) / variance
        return -(share.view(*share.shape, *[1] * (x.dim() - 1)) * offsets).sum(dim=1)


@pytest.mark.parametrize(("precision", "dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("model", ["toy", "exact"])
def test_ncsnv2s_losses(golden, model, precision, dtype, rtol):
    table = tensors(golden, "2d/ncsnv2/dsm_loss.npz")
    process = NoiseLevels(table["sigmas"])
    settings = {"A": torch.tensor(0.4), "b": torch.tensor(-0.2), "label_scale": torch.tensor(1.0)}
    if model == "toy":
        net = Toy({name: value.double() for name, value in settings.items()}, torch.float64).to(dtype)
        with torch.no_grad():
            net.A.fill_(0.4)
            net.b.fill_(-0.2)
        denoiser = NetDenoiser(net, process, "score", "level")
    else:
        denoiser = NetDenoiser(Mixture(table, dtype), process, "score", "sigma")
    x0, noise, t = table["samples"].to(dtype), table["noise"].to(dtype), process.num_steps - table["labels"]
    powers = sorted(
        key.split(".")[1] for key in table if key.startswith(model) and f"per_sample_{precision}" in key
    )
    assert len(powers) > 1
    for power in powers:
        dsm = objective("dsm", anneal_power=float(power.removeprefix("power")), reduction="sum")
        loss = dsm(denoiser, x0, t, noise).detach() / 2
        expected = table[f"{model}.{power}.per_sample_{precision}"]
        torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)


class EDMToy(Denoiser):
    """EDM's stand-in, D = c x / (1 + sigma), of data plus noise."""

    def __init__(self, process, factor):
        super().__init__(process)
        self.factor = factor

    def forward(self, x, t, cond=None):
        alpha, sigma = (append_dims(scale, x) for scale in (self.process.alpha(t), self.process.sigma(t)))
        return self.factor * (x / alpha) / (1 + sigma / alpha)


@pytest.mark.parametrize(
    ("kind", "name"), [("edm", "edm"), ("vp", "simple"), ("ve", "simple")], ids=["edm", "vp", "ve"]
)
def test_edms_losses(golden, kind, name):
    """EDM's own weighting; its VP and VE losses, of weight 1 / sigma^2, are the noise's error."""
    table = tensors(golden, "2d/edm/loss.npz")
    toy = re.fullmatch(r"([\d.]+)\*x/\(1\+sigma\)", table["toy"])
    assert toy, table["toy"]
    sigma = table[f"{kind}.sigma"].flatten()
    process = build_process("vp") if kind == "vp" else EDMProcess()
    t = process.t_of_log_snr(-2 * sigma.double().log())
    # EDM's weight is 1 / sigma_data^2 + 1 / sigma^2
    weight = table[f"{kind}.weight"].flatten().double()
    options = {"sigma_data": float((weight - sigma.double() ** -2).median() ** -0.5)} if kind == "edm" else {}
    loss = objective(name, **options)(EDMToy(process, float(toy[1])), table["images"], t, table[f"{kind}.noise"])
    torch.testing.assert_close(loss, table[f"{kind}.loss_elementwise"].flatten(1).mean(dim=1), rtol=1e-4, atol=0)


def test_edms_levels(golden):
    """log(sigma) is P_mean + P_std times the normal draw: two draws tell both, the others must agree."""
    table = tensors(golden, "2d/edm/loss.npz")
    u, log_sigma = table["edm.rnd_normal"].flatten(), table["edm.sigma"].flatten().log()
    low, high = u.argmin(), u.argmax()
    std = (log_sigma[high] - log_sigma[low]) / (u[high] - u[low])
    mean = log_sigma[low] - std * u[low]
    torch.testing.assert_close(mean + std * u, log_sigma, rtol=1e-5, atol=1e-5)
    process, draw = EDMProcess(1e-9, 1e9), time_draw("log_normal", mean=float(mean), std=float(std))
    t = draw(process, 5, torch.Generator().manual_seed(0)).t
    ours = torch.randn(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(process.sigma(t).log().float(), mean + std * ours, rtol=1e-5, atol=1e-5)


# KL(q(x_T | x_0) || N(0, I)) in float32: -1 - log v + v + m^2 over 2 ln 2, terms of about 1, each rounded by 2^-24
PRIOR_ATOL = 4 * 2**-24 / (2 * math.log(2))
# a KL of two kernels: the same, and two log-variances of down to -16, each rounded to 16 * 2^-24
KL_ATOL = (4 + 2 * 16) * 2**-24 / (2 * math.log(2))
# ADM's names for what the net predicts and for its variance
MEANS = {"EPSILON": "eps", "START_X": "x0", "PREVIOUS_X": "previous"}
VARIANCES = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED": "learned", "LEARNED_RANGE": "learned_range"}


class Fixed(nn.Module):
    """A net that answers what it was told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, cond=None):
        return self.answer


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("mean", sorted(MEANS))
@pytest.mark.parametrize("variance", sorted(VARIANCES))
def test_adms_losses(golden, schedule, mean, variance):
    table = tensors(golden, f"2d/guided_diffusion/p_q_{schedule}.npz")
    steps, out, kind = chain_length(table), table["model_output_2C"], VARIANCES[variance]
    process = adm_chain(schedule, steps)
    learned = kind.startswith("learned")
    denoiser = NetDenoiser(Fixed(out if learned else out.chunk(2, dim=1)[0]), process, MEANS[mean], "step", kind)
    x0, noise, t = table["x_start"], table["noise"], table["t"] + 1
    x, key = table["x_t"], f"{mean}.{variance}"

    def check(value, name, scale=1):
        torch.testing.assert_close(value, table[f"{key}.{name}"], rtol=1e-4, atol=scale * KL_ATOL)

    for clip in ("clip", "noclip"):
        if clip == "clip" and mean == "PREVIOUS_X":
            continue  # ADM leaves a mean that the net said itself as it is; ours follows x_0
        bounds = (-1, 1) if clip == "clip" else None
        kernel = denoiser.reverse_kernel(x, t, t - 1, clip=bounds)
        check(vlb_term(process, kernel, x0, x, t, "discretized"), f"{clip}.vb")
        vlb = OBJECTIVES["vlb"](denoiser, x0, t, noise, decoder="discretized", clip=bounds)
        check(vlb / process.num_steps, f"{clip}.vb")
    vlb = OBJECTIVES["vlb"](denoiser, x0, t, noise, decoder="discretized")
    check(vlb / steps, "loss.KL.loss")
    check(vlb, "loss.RESCALED_KL.loss", steps)
    check(OBJECTIVES["regression"](denoiser, x0, t, noise), "loss.MSE.mse")
    if learned:
        hybrid = objective("hybrid", decoder="discretized", vlb_weight=1 / process.num_steps)
        check(hybrid(denoiser, x0, t, noise), "loss.MSE.loss")
        hybrid = objective("hybrid", decoder="discretized", vlb_weight=1e-3)  # ADM's T / 1000 of a T-th
        check(hybrid(denoiser, x0, t, noise), "loss.RESCALED_MSE.loss")
    torch.testing.assert_close(prior_bits(process, x0), table["prior_bpd"], rtol=1e-4, atol=PRIOR_ATOL)


def test_adms_kl_and_likelihood(golden):
    table = tensors(golden, "2d/guided_diffusion/kl_and_likelihood.npz")
    kl = normal_kl(table["mean1"], table["logvar1"], table["mean2"], table["logvar2"])
    torch.testing.assert_close(kl, table["kl"], rtol=1e-4, atol=1e-6)
    likelihood = discretized_log_likelihood(table["x"], table["means"], table["log_scales"])
    torch.testing.assert_close(likelihood, table["discretized_loglik"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normal_cdf(table["mean1"]), table["cdf"], rtol=1e-4, atol=1e-6)


def test_score_sdes_times(golden):
    """t = u (T - eps) + eps from one uniform draw a sample."""
    table = tensors(golden, "2d/losses/vp.npz")
    process, eps = score_sde_process("vp", table), float(table["eps"])
    t = draw_times(process, len(table["sde.u"]), torch.Generator().manual_seed(5), eps=eps)
    u = torch.rand(len(t), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(table["sde.u"] * (process.T - eps) + eps, table["sde.t"])
    torch.testing.assert_close(t, u * (process.T - eps) + eps)
