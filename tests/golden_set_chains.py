"""Tables, losses and loops of chains in ADM's and diffusers' layout, by numpy from the papers' formulas."""

import json
import math

import numpy as np
from golden_set_mixture import Mixture, normal, save

MEANS = {"EPSILON": "eps", "START_X": "x0", "PREVIOUS_X": "previous"}
VARIANCES = ("FIXED_SMALL", "FIXED_LARGE", "LEARNED", "LEARNED_RANGE")


def betas_of(schedule, steps):
    """Return Ho et al.'s straight line, scaled to the length, or Nichol & Dhariwal's squared cosine (eq. 17)."""
    if schedule == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    t = np.linspace(0, 1, steps + 1)
    bars = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - bars[1:] / bars[:-1], 0.999)


class Chain:
    """The tables of a chain, steps counted from 0 as ADM counts them (Ho et al., 2020, eq. 4-7)."""

    def __init__(self, betas):
        self.betas, self.bars = betas, np.cumprod(1 - betas)
        self.before = np.append(1.0, self.bars[:-1])
        self.posterior = betas * (1 - self.before) / (1 - self.bars)
        # the first one is 0, and its logarithm is the second's
        self.log_posterior = np.log(np.append(self.posterior[1], self.posterior[1:]))
        self.coef1 = betas * np.sqrt(self.before) / (1 - self.bars)
        self.coef2 = (1 - self.before) * np.sqrt(1 - betas) / (1 - self.bars)

    def table(self):
        """Return ADM's tables by its names."""
        return {
            "betas": self.betas,
            "alphas_cumprod": self.bars,
            "alphas_cumprod_prev": self.before,
            "sqrt_alphas_cumprod": np.sqrt(self.bars),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - self.bars),
            "log_one_minus_alphas_cumprod": np.log(1 - self.bars),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / self.bars),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / self.bars - 1),
            "posterior_variance": self.posterior,
            "posterior_log_variance_clipped": self.log_posterior,
            "posterior_mean_coef1": self.coef1,
            "posterior_mean_coef2": self.coef2,
        }

    def log_variance(self, kind, t, values):
        """Return log-variances of p(x_{t-1} | x_t) for a kind of ADM's, `values` the net's own share."""
        if kind == "LEARNED":
            return values
        small, large = self.log_posterior[t], np.log(self.betas[t])
        if kind == "LEARNED_RANGE":
            share = (values + 1) / 2
            return share * large + (1 - share) * small
        if kind == "FIXED_SMALL":
            return small + 0 * values
        return np.log(np.append(self.posterior[1], self.betas[1:]))[t] + 0 * values


def mean_flat(x):
    """Average over all but the batch."""
    return x.reshape(len(x), -1).mean(axis=1)


def kl(mean1, log1, mean2, log2):
    """Return KL(N(mean1, exp log1) || N(mean2, exp log2)) in nats."""
    return 0.5 * (log2 - log1 - 1 + np.exp(log1 - log2) + (mean1 - mean2) ** 2 * np.exp(-log2))


def cdf(x):
    """Return ADM's approximation of the normal distribution."""
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def decoder(x, mean, log_variance):
    """Return log-probabilities of 8-bit pixels in [-1, 1] (Ho et al., 2020, eq. 13)."""
    scale = np.exp(-0.5 * log_variance)
    above, below = cdf(scale * (x - mean + 1 / 255)), cdf(scale * (x - mean - 1 / 255))
    chosen = np.where(x < -0.999, above, np.where(x > 0.999, 1 - below, above - below))
    return np.log(np.maximum(chosen, 1e-12))


def wide(table, t):
    """Return a table's entries to broadcast over images."""
    return table[t][:, None, None, None]


def bound_terms(chain, x0, x, t, mean, log_variance):
    """Return a term of the bound in bits a dimension: KL to the posterior, at t = 0 the decoder's."""
    true = wide(chain.coef1, t) * x0 + wide(chain.coef2, t) * x
    nats = kl(true, wide(chain.log_posterior, t), mean, log_variance)
    nats = np.where((t == 0)[:, None, None, None], -decoder(x0, mean, log_variance), nats)
    return mean_flat(nats) / math.log(2)


def write_p_q(folder, schedule, steps, channels, batch=3):
    """Write `p_q_<schedule>.npz` of a chain of `steps`."""
    chain, shape = Chain(betas_of(schedule, steps)), (batch, channels, 4, 4)
    x0, noise = np.clip(normal(1, shape, 0.5), -1, 1), normal(2, shape)
    out, gradient = normal(3, (batch, 2 * channels, 4, 4)), normal(4, shape, 0.3)
    out[:, channels:] = np.tanh(out[:, channels:])
    # at t = 0 a net that is right to a few deviations: beyond, the decoder is float32's last digit in the peer
    noise[0], out[0, :channels] = 0.2 * noise[0], x0[0] + 0.005 * out[0, :channels]
    noise, out = (v.astype(np.float32).astype(np.float64) for v in (noise, out))
    t = np.linspace(0, steps - 1, batch).astype(np.int64)
    a, s = np.sqrt(wide(chain.bars, t)), np.sqrt(1 - wide(chain.bars, t))
    x = a * x0 + s * noise
    prior = kl(np.sqrt(chain.bars[-1]) * x0, np.log(1 - chain.bars[-1]), 0, 0)
    found = {
        "q_mean": a * x0,
        "q_variance": s**2 + 0 * x0,
        "q_log_variance": 2 * np.log(s) + 0 * x0,
        "x_t": x,
        "posterior_mean": wide(chain.coef1, t) * x0 + wide(chain.coef2, t) * x,
        "posterior_variance": wide(chain.posterior, t) + 0 * x0,
        "posterior_log_variance": wide(chain.log_posterior, t) + 0 * x0,
        "prior_bpd": mean_flat(prior) / math.log(2),
    }
    first, values = out[:, :channels], out[:, channels:]
    for mean, kind in MEANS.items():
        for variance in VARIANCES:
            log_variance = np.stack(
                [chain.log_variance(variance, int(k), v) for k, v in zip(t, values, strict=True)]
            )
            true = {"eps": noise, "x0": x0, "previous": found["posterior_mean"]}[kind]
            mse = mean_flat((true - first) ** 2)
            here = f"{mean}.{variance}"
            for name, clip in (("clip", True), ("noclip", False)):
                x_start = {
                    "eps": (x - s * first) / a,
                    "x0": first,
                    "previous": (first - wide(chain.coef2, t) * x) / wide(chain.coef1, t),
                }[kind]
                x_start = np.clip(x_start, -1, 1) if clip else x_start
                own = wide(chain.coef1, t) * x_start + wide(chain.coef2, t) * x
                own = first if kind == "previous" else own
                spread = np.exp(log_variance)
                if variance == "FIXED_SMALL":
                    spread = wide(chain.posterior, t) + 0 * x
                found |= {f"{here}.{name}.mean": own, f"{here}.{name}.variance": spread}
                found |= {f"{here}.{name}.log_variance": log_variance, f"{here}.{name}.pred_xstart": x_start}
                bits = bound_terms(chain, x0, x, t, own, log_variance)
                found[f"{here}.{name}.vb"] = bits
                if clip:
                    eps = (x - a * x_start) / s - s * gradient
                    guided = (x - s * eps) / a
                    found[f"{here}.clip.condition_mean"] = own + spread * gradient
                    found[f"{here}.clip.condition_score.pred_xstart"] = guided
                    mean_of = wide(chain.coef1, t) * guided + wide(chain.coef2, t) * x
                    found[f"{here}.clip.condition_score.mean"] = mean_of
            learned = bits if variance.startswith("LEARNED") else 0 * bits
            found[f"{here}.loss.KL.loss"], found[f"{here}.loss.RESCALED_KL.loss"] = bits, bits * steps
            found[f"{here}.loss.MSE.mse"], found[f"{here}.loss.MSE.loss"] = mse, mse + learned
            found[f"{here}.loss.RESCALED_MSE.loss"] = mse + learned * steps / 1000
    inputs = {"x_start": x0, "noise": noise, "model_output_2C": out, "cond_grad": gradient}
    save(folder / f"p_q_{schedule}.npz", found | inputs, {"t": t})


def write_tables(folder, lengths=(40, 300)):
    """Write `tables.npz`, and `spaced.npz` of sections written out by hand."""
    found, spaced = {}, {}
    for schedule in ("linear", "cosine"):
        for steps in lengths:
            chain = Chain(betas_of(schedule, steps))
            found |= {f"{schedule}.{steps}.{key}": value for key, value in chain.table().items()}
        steps = lengths[-1]
        chain = Chain(betas_of(schedule, steps))
        # every 30th; 2 and 3 of each half, from its first step to its last
        for spec, kept in {
            "ddim10": range(0, 300, 30),
            "3,2": [0, 74, 149, 150, 299],
            "1,1": [0, 150],
        }.items():
            kept = np.array(list(kept))
            bars = chain.bars[kept]
            short = Chain(1 - bars / np.append(1.0, bars[:-1]))
            here = f"{schedule}.{steps}.{spec}"
            spaced |= {f"{here}.timestep_map": kept, f"{here}.betas": short.betas}
            spaced |= {f"{here}.alphas_cumprod": short.bars}
            spaced |= {f"{here}.posterior_log_variance_clipped": short.log_posterior}
    np.savez(folder / "tables.npz", **found)
    np.savez(folder / "spaced.npz", **spaced)


def write_loops(folder, schedule, steps, kept, channels, batch=2):
    """Write `loops_<schedule>.npz`: chains, DDIM, its inversion and the bound, of an exact net."""
    base = Chain(betas_of(schedule, steps))
    bars = base.bars[kept]
    chain, shape = Chain(1 - bars / np.append(1.0, bars[:-1])), (batch, channels, 4, 4)
    exact = Mixture(5, shape[1:])
    start, p_noise, d_noise = normal(6, shape), normal(7, (len(kept), *shape)), normal(8, (len(kept), *shape))

    def eps_of(x, k):
        a, s = math.sqrt(chain.bars[k]), math.sqrt(1 - chain.bars[k])
        return -s * exact.score(x, a, s)

    found = {}
    for variance in ("FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"):
        for clip in (True, False):
            for guided in (True, False):
                x = start
                for i, k in enumerate(reversed(range(len(kept)))):
                    a, s, eps = math.sqrt(chain.bars[k]), math.sqrt(1 - chain.bars[k]), eps_of(x, k)
                    x0 = (x - s * eps) / a
                    x0 = np.clip(x0, -1, 1) if clip else x0
                    log_variance = chain.log_variance(variance, k, np.tanh(eps))
                    mean = chain.coef1[k] * x0 + chain.coef2[k] * x
                    if guided:
                        spread = chain.posterior[k] if variance == "FIXED_SMALL" else np.exp(log_variance)
                        mean = mean - spread * 0.4 * (x - 0.1)
                    x = mean + (k > 0) * np.exp(log_variance / 2) * p_noise[i]
                suffix = f"{'clip' if clip else 'noclip'}{'.guided' if guided else ''}"
                found[f"p_sample.{variance}.{suffix}"] = x
    for eta in (0.0, 0.3, 1.0):
        for clip in (True, False):
            for guided in (True, False):
                x = start
                for i, k in enumerate(reversed(range(len(kept)))):
                    a, s, eps = math.sqrt(chain.bars[k]), math.sqrt(1 - chain.bars[k]), eps_of(x, k)
                    x0 = (x - s * eps) / a
                    x0 = np.clip(x0, -1, 1) if clip else x0
                    if guided:
                        x0 = (x - s * ((x - a * x0) / s + s * 0.4 * (x - 0.1))) / a
                    eps = (x - a * x0) / s
                    before = chain.before[k]
                    sigma = eta * math.sqrt((1 - before) / (1 - chain.bars[k]) * (1 - chain.bars[k] / before))
                    x = math.sqrt(before) * x0 + math.sqrt(max(0, 1 - before - sigma**2)) * eps
                    x = x + (k > 0) * sigma * d_noise[i]
                suffix = f"{'clip' if clip else 'noclip'}{'.guided' if guided else ''}"
                found[f"ddim.eta{eta}.{suffix}"] = x
    x = x_data = normal(9, shape, 0.4)
    for k in range(len(kept)):  # one step beyond the last, to where no signal is left
        a, s = math.sqrt(chain.bars[k]), math.sqrt(1 - chain.bars[k])
        eps = eps_of(x, k)
        after = chain.bars[k + 1] if k + 1 < len(kept) else 0.0
        x = math.sqrt(after) * (x - s * eps) / a + math.sqrt(1 - after) * eps
    found |= {"ddim_reverse.x0": x_data, "ddim_reverse.xT": x}
    x0, noise = np.clip(x_data, -1, 1), normal(10, (len(kept), *shape))
    prior = mean_flat(kl(math.sqrt(chain.bars[-1]) * x0, np.log(1 - chain.bars[-1]), 0, 0)) / math.log(2)
    for variance in ("FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"):
        terms, x0_errors, eps_errors = [], [], []
        for i, k in enumerate(reversed(range(len(kept)))):
            a, s = math.sqrt(chain.bars[k]), math.sqrt(1 - chain.bars[k])
            x, t = a * x0 + s * noise[i], np.full(batch, k)
            eps = eps_of(x, k)
            guess = np.clip((x - s * eps) / a, -1, 1)
            mean = chain.coef1[k] * guess + chain.coef2[k] * x
            terms.append(bound_terms(chain, x0, x, t, mean, chain.log_variance(variance, k, np.tanh(eps))))
            x0_errors.append(mean_flat((guess - x0) ** 2))
            eps_errors.append(mean_flat(((x - a * guess) / s - noise[i]) ** 2))
        here = f"bpd.{variance}"
        found |= {f"{here}.vb": np.stack(terms, 1), f"{here}.xstart_mse": np.stack(x0_errors, 1)}
        found |= {f"{here}.mse": np.stack(eps_errors, 1), f"{here}.prior_bpd": prior}
        found[f"{here}.total_bpd"] = np.sum(terms, axis=0) + prior
    inputs = {"x_T": start, "p_sample_noise": p_noise, "ddim_noise": d_noise, "bpd.x_start": x0, "bpd.noise": noise}
    whole = {"timestep_map": np.array(kept), "betas": chain.betas, "base_alphas_cumprod": base.bars}
    save(folder / f"loops_{schedule}.npz", found | inputs | exact.arrays(), whole)


def write_schedulers(folder, steps=600, count=6):
    """Write `schedulers.npz` and `.json` of a chain that is not a thousand steps long."""
    shape = (2, 2, 3, 3)
    exact, found, specs = Mixture(11, shape[1:]), {}, {}
    ends = {"beta_start": 0.0004, "beta_end": 0.03}
    schedules = {
        "linear": np.linspace(*ends.values(), steps),
        "scaled_linear": np.linspace(*(v**0.5 for v in ends.values()), steps) ** 2,
        "squaredcos_cap_v2": betas_of("cosine", steps),
    }
    times = np.arange(count)[::-1] * (steps // count)
    start = normal(12, shape)
    for schedule, betas in schedules.items():
        bars = np.cumprod(1 - betas)
        for kind, options in (
            ("ddpm", {"cls": "DDPMScheduler", "config": {"variance_type": "fixed_small", "clip_sample": False}}),
            ("ddim", {"cls": "DDIMScheduler", "config": {"clip_sample": False}, "step_kwargs": {"eta": 0.4}}),
            (
                "dpmpp",
                {
                    "cls": "DPMSolverMultistepScheduler",
                    "config": {"algorithm_type": "dpmsolver++", "solver_order": 1},
                },
            ),
        ):
            run, x, states, draws, outs = f"{kind}.{schedule}", start, [start], [], []
            for i, t in enumerate(times):
                bar, before = bars[t], bars[times[i + 1]] if i + 1 < count else 1.0
                a, s = math.sqrt(bar), math.sqrt(1 - bar)
                eps = -s * exact.score(x, a, s)
                x0, variance = (x - s * eps) / a, (1 - before) / (1 - bar) * (1 - bar / before)
                spread = {"ddpm": 1.0, "ddim": 0.4, "dpmpp": 0.0}[kind] * math.sqrt(variance)
                # x_0, what is left of eps, and fresh noise (Song et al., 2021, eq. 12)
                x = math.sqrt(before) * x0 + math.sqrt(1 - before - spread**2) * eps
                if kind != "dpmpp" and before < 1:
                    draws.append(normal(1000 * i + 13, shape))
                    x = x + spread * draws[-1]
                states.append(x)
                outs.append(eps)
            found |= {f"{run}.xs": np.stack(states), f"{run}.model_out": np.stack(outs)}
            found |= {f"{run}.noise": np.stack(draws)} if draws else {}
            found[f"{run}.timesteps"] = times.astype(np.float64)
            base = {"num_train_timesteps": steps, "beta_schedule": schedule, **ends}
            specs[run] = {"step_kwargs": {}, **options, "config": {**base, **options["config"]}}
    whole = {"runs": np.array(sorted(specs)), "num_inference_steps": np.array(count)}
    save(folder / "schedulers.npz", found | {"x_start": start} | exact.arrays(), whole)
    (folder / "schedulers.json").write_text(json.dumps(specs))
