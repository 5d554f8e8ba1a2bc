"""Constraints and guidance against the numbers of score_sde's, NCSN's and ADM's own code, with recorded noise."""

import numpy as np
import pytest
import torch
from exact_models import Mixture, close, replay
from golden_files import adm_chain, chain_length, etas, load, score_sde_process

from pcdiff.diffusion import (
    ClassifierGuidance,
    Colorize,
    DiscreteProcess,
    Inpaint,
    NetDenoiser,
    NoiseLevels,
    corrector,
    predictor,
    sample,
)

pytestmark = pytest.mark.golden
# the matrix that score_sde changes colors by is rounded to float32
PRECISIONS = {"f32": (torch.float32, 1e-4, 1e-4), "f64": (torch.float64, 1e-8, 1e-6)}
PREDICTORS = {
    "euler_maruyama": {"name": "euler_maruyama", "legacy": True},
    "reverse_diffusion": {"name": "reverse_diffusion"},
    "ancestral_sampling": {"name": "score_ancestral"},
}


def still(denoiser, x, t, cond, noise):
    """Return x: score_sde constrains after the corrector "none" too."""
    return x


class Drawing:
    """A predictor that draws at the last step too, as score_sde's always do."""

    def __init__(self, step, noise):
        self.step, self.noise = step, noise

    def __call__(self, denoiser, x, t, s, cond, noise):
        return self.step(denoiser, x, t, s, cond, self.noise)


class Late:
    """A constraint as score_sde calls it: at the time before a predictor's step too, with noise at the end."""

    def __init__(self, constraint, times, noise):
        self.constraint, self.noise = constraint, noise
        self.times = iter(times.repeat_interleave(2))

    def __call__(self, x, s, noise):
        return self.constraint(x, next(self.times).expand(len(x)), self.noise)


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_score_sdes_controllable_generation(golden, kind, precision):
    dtype, *rtols = PRECISIONS[precision]
    table = load(golden, f"2d/samplers/controllable_{kind}.npz")
    process = score_sde_process(kind, table)
    times = torch.linspace(process.T, float(table["eps"]), int(table["N"]), dtype=dtype).double()
    data, mask, gray = (torch.from_numpy(table[key]).to(dtype) for key in ("data", "mask", "gray"))
    assert len(table["runs"]) >= 4
    for run in map(str, table["runs"]):
        task, name, correct = run.split(".")
        prior = torch.from_numpy(table[f"{run}.prior_noise"]).to(dtype) * process.prior_std
        if task == "inpaint":
            keep, rtol = Inpaint(process, data, mask), rtols[0]
            start = torch.where(mask.bool(), data, prior)
        else:
            keep, rtol = Colorize(process, gray), rtols[1]
            start = gray + prior * (torch.arange(prior.shape[1]) > 0).view(-1, 1, 1)
        legacy = {"legacy": True} if correct == "langevin" else {}
        options = {"snr": float(table[f"{run}.snr"]), "num_steps": int(table[f"{run}.n_steps"]), **legacy}
        source = replay(table[f"{run}.noise"], dtype)
        step = predictor(**PREDICTORS[name])
        grid = torch.cat([times, times.new_zeros(1)])
        step = step.begin(process, grid)
        x = sample(
            Mixture.of(process, table, dtype),
            x_init=start,
            sampler=Drawing(step, source),
            corrector=still if correct == "none" else corrector(correct, **options),
            grid=grid,
            constraint=Late(keep, times, source),
            noise=source,
        )
        close(x, table[f"{run}.x_{precision}"], rtol)


def test_the_last_mean_is_the_predictors_own(golden):
    """score_sde's x_mean takes the unknown part from the noisy x; ours is that less the last draw."""
    table = load(golden, "2d/samplers/controllable_ve.npz")
    process = score_sde_process("ve", table)
    run, dtype = "inpaint.reverse_diffusion.none", torch.float64
    if f"{run}.x_f64" not in table:
        pytest.skip(f"no run {run}")
    times = torch.linspace(process.T, float(table["eps"]), int(table["N"]), dtype=dtype)
    data, mask = (torch.from_numpy(table[key]).to(dtype) for key in ("data", "mask"))
    source = replay(table[f"{run}.noise"], dtype)
    late, count = Late(Inpaint(process, data, mask), times, source), len(times)
    last = Inpaint(process, data, mask)
    prior = torch.from_numpy(table[f"{run}.prior_noise"]).to(dtype) * process.prior_std
    x = sample(
        Mixture.of(process, table, dtype),
        x_init=torch.where(mask.bool(), data, prior),
        sampler="reverse_diffusion",
        corrector=still,
        grid=torch.cat([times, times.new_zeros(1)]),
        constraint=lambda x, t, noise: last(x, t, None) if noise is None else late(x, t, noise),
        noise=source,
    )
    unknown = (mask == 0).numpy()
    noisy, theirs = table[f"{run}.x_f64"][unknown], table[f"{run}.x_mean_f64"][unknown]
    assert np.array_equal(noisy, theirs)
    scale = process.discretize(data, times[-1:], count)[1]
    z = table[f"{run}.noise"][-2][unknown]
    assert float(scale) * abs(z).max() > 1e-6 * abs(noisy).max()  # so that their mean is seen to keep the last draw
    close(x[mask == 0] + scale * torch.from_numpy(z).to(dtype), noisy, 1e-8)
    assert torch.equal(x[mask == 1], data[mask == 1])


def ncsn(table, precision=torch.float32):
    process = NoiseLevels(torch.from_numpy(table["sigmas"]))
    return process, Mixture.of(process, table, precision), int(table["n_steps_each"])


def padded(noise, like):
    """Return draws for the left part as ones like the whole state."""
    whole = torch.zeros_like(like)
    whole[..., : noise.shape[-1]] = torch.from_numpy(noise).to(like)
    return whole


def left(x, columns):
    mask = torch.zeros(x.shape[-1], dtype=torch.bool)
    mask[:columns] = True
    return mask


@pytest.mark.parametrize(("precision", "rtol"), [("f32", 1e-4), ("f64", 1e-8)])
def test_ncsnv2s_inpainting(golden, precision, rtol):
    """The left half is put back before every inner step; the file's states come before each step."""
    table = load(golden, "2d/ncsnv2/inpainting.npz")
    dtype = torch.float32 if precision == "f32" else torch.float64
    process, denoiser, each = ncsn(table, dtype)
    x = torch.from_numpy(table["x_init"]).to(dtype)
    copies = x.shape[1]
    x = x.flatten(0, 1)
    known = torch.from_numpy(table["refer_image"]).to(dtype).repeat_interleave(copies, dim=0)
    keep = Inpaint(process, known, left(x, table["noise_reference"].shape[-1]))
    draws, reference = replay(table["noise_step"], dtype), iter(table["noise_reference"])
    langevin = corrector("ncsnv2", step_size=float(table["step_lr"]), num_steps=1)
    langevin = langevin.begin(process, process.time_grid())
    firsts = []
    for level in process.time_grid()[:-1]:
        t = level.expand(len(x))
        for step in range(each):
            x = keep(x, t, lambda x: padded(next(reference), x))
            if step == 0:
                firsts.append(x)
            x = langevin(denoiser, x, t, None, draws)
    close(torch.stack(firsts), table[f"returned_every_level_{precision}"], rtol)


def test_ncsns_inpainting(golden):
    """The left half is noised once a level and pasted after every step; the file's states are cut to [0, 1]."""
    table = load(golden, "2d/ncsn/inpainting_alg2.npz")
    process, denoiser, each = ncsn(table)
    x = torch.from_numpy(table["x_init"])
    x = x.flatten(0, 1)
    keep = Inpaint(process, torch.from_numpy(table["refer_image"]), left(x, table["noise_reference"].shape[-1]))
    draws = replay(table["noise_step"], torch.float32)
    langevin = corrector("ncsnv2", step_size=float(table["step_lr"]), num_steps=1)
    langevin = langevin.begin(process, process.time_grid())
    firsts = []
    for level, noise in zip(process.time_grid()[:-1], table["noise_reference"], strict=True):
        t, held = level.expand(len(x)), padded(noise, x)
        x = keep(x, t, lambda x, held=held: held)
        firsts.append(x.clamp(0, 1))
        for _ in range(each):
            x = langevin(denoiser, x, t, None, draws)
            x = keep(x, t, lambda x, held=held: held)
    close(torch.stack(firsts), table["returned_first_of_each_level_clamped"], 1e-4)


class Answer(torch.nn.Module):
    """A net that answers what it was told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, tau, cond=None):
        return self.answer


MEANS = {"EPSILON": "eps", "START_X": "x0", "PREVIOUS_X": "previous"}
VARIANCES = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED": "learned", "LEARNED_RANGE": "learned_range"}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("mean", sorted(MEANS))
@pytest.mark.parametrize("variance", sorted(VARIANCES))
def test_adms_conditioned_mean_and_score(golden, schedule, mean, variance):
    table = load(golden, f"2d/guided_diffusion/p_q_{schedule}.npz")
    process = adm_chain(schedule, chain_length(table))
    out = torch.from_numpy(table["model_output_2C"])
    if not VARIANCES[variance].startswith("learned"):
        out = out.chunk(2, dim=1)[0]
    denoiser = NetDenoiser(Answer(out), process, MEANS[mean], "step", VARIANCES[variance])
    gradient = torch.from_numpy(table["cond_grad"])
    x, t = torch.from_numpy(table["x_t"]), torch.from_numpy(table["t"]) + 1

    def log_prob(x, t, cond):
        return (gradient * x).flatten(1).sum(dim=1)

    def kernel(form):
        return ClassifierGuidance(denoiser, log_prob, form=form).reverse_kernel(x, t, t - 1, clip=(-1, 1))

    prefix = f"{mean}.{variance}.clip"
    if mean != "PREVIOUS_X":  # ADM leaves a mean that the net said itself as it is; ours follows x_0
        close(kernel("mean").mean, table[f"{prefix}.condition_mean"], 1e-4)
    close(kernel("score").x0, table[f"{prefix}.condition_score.pred_xstart"], 1e-4)
    close(kernel("score").mean, table[f"{prefix}.condition_score.mean"], 1e-4)


class LearnedRange(Mixture):
    """The mixture with ADM's learned variance, whose values are tanh(eps) there."""

    def reverse_kernel(self, x, t, s, cond=None, clip=None):
        x0, eps = self.estimate(x, t)
        return self._kernel(x0, eps.tanh(), x, t, s, clip)


def pull(x, t, cond):
    """Return a log-density whose gradient is ADM's in these runs, -0.4 (x - 0.1)."""
    return -0.2 * (x - 0.1).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("clip", [(-1, 1), None], ids=["clip", "noclip"])
def test_adms_guided_chains(golden, schedule, clip):
    table = load(golden, f"2d/guided_diffusion/loops_{schedule}.npz")
    whole = torch.from_numpy(table["base_alphas_cumprod"])
    whole = torch.cat([whole.new_ones(1), whole])
    process = DiscreteProcess(1 - whole[1:] / whole[:-1]).respaced(torch.from_numpy(table["timestep_map"]) + 1)
    start, suffix = torch.from_numpy(table["x_T"]), f"{'clip' if clip else 'noclip'}.guided"
    for theirs in ("FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"):
        kind = LearnedRange if theirs == "LEARNED_RANGE" else Mixture
        denoiser = kind.of(process, table, torch.float32, variance=VARIANCES[theirs])
        x = sample(
            ClassifierGuidance(denoiser, pull, form="mean"),
            x_init=start,
            sampler=predictor("kernel", clip=clip),
            noise=replay(table["p_sample_noise"], torch.float32),
        )
        close(x, table[f"p_sample.{theirs}.{suffix}"], 1e-4)
    for eta in etas(table, suffix):
        x = sample(
            ClassifierGuidance(Mixture.of(process, table, torch.float32), pull, clip=clip),
            x_init=start,
            sampler=predictor("ddim", eta=eta),
            noise=replay(table["ddim_noise"], torch.float32),
        )
        close(x, table[f"ddim.eta{eta}.{suffix}"], 1e-4)
