"""Tables, losses, probability flow and likelihoods in score_sde's and EDM's layout, by numpy from the formulas."""

import math

import numpy as np
from golden_set_mixture import Mixture, both, normal, save
from scipy.integrate import solve_ivp

RATES = {"beta_min": 0.2, "beta_max": 14.0, "sigma_min": 0.02, "sigma_max": 30.0}


class SDE:
    """A process of Song et al. (2021), appendix B and C, with N steps; t is `(B,)`."""

    def __init__(self, kind, steps):
        self.kind, self.steps = kind, steps
        low, high = RATES["beta_min"], RATES["beta_max"]
        self.betas = np.linspace(low / steps, high / steps, steps)
        self.bars = np.cumprod(1 - self.betas)
        self.sigmas = RATES["sigma_min"] * (RATES["sigma_max"] / RATES["sigma_min"]) ** np.linspace(0, 1, steps)
        self.prior_std = RATES["sigma_max"] if kind == "ve" else 1.0

    def scales(self, t):
        """Return alpha and sigma."""
        if self.kind == "ve":
            return np.ones_like(t), RATES["sigma_min"] * (RATES["sigma_max"] / RATES["sigma_min"]) ** t
        low, high = RATES["beta_min"], RATES["beta_max"]
        alpha = np.exp(-(t**2) * (high - low) / 4 - t * low / 2)
        return alpha, 1 - alpha**2 if self.kind == "subvp" else np.sqrt(1 - alpha**2)

    def rates(self, t):
        """Return the drift over x, and the diffusion."""
        if self.kind == "ve":
            growth = math.log(RATES["sigma_max"] / RATES["sigma_min"])
            return np.zeros_like(t), self.scales(t)[1] * math.sqrt(2 * growth)
        beta = RATES["beta_min"] + t * (RATES["beta_max"] - RATES["beta_min"])
        if self.kind == "vp":
            return -beta / 2, np.sqrt(beta)
        alpha = self.scales(t)[0]
        return -beta / 2, np.sqrt(beta * (1 - alpha**4))

    def step(self, t):
        """Return f over x, and G, of a step from t (appendix E): the entry at floor(t (N - 1)) of the tables."""
        index = np.floor(t * (self.steps - 1)).astype(int)
        if self.kind == "vp":
            return np.sqrt(1 - self.betas[index]) - 1, np.sqrt(self.betas[index])
        if self.kind == "ve":
            before = np.where(index == 0, 0, self.sigmas[index - 1])
            return np.zeros_like(t), np.sqrt(self.sigmas[index] ** 2 - before**2)
        drift, diffusion = self.rates(t)
        return drift / self.steps, diffusion / math.sqrt(self.steps)

    def log_prior(self, z):
        """Return the log-density `(B,)` of N(0, prior_std^2 I)."""
        squares = (z**2).reshape(len(z), -1).sum(axis=1) / self.prior_std**2
        return -(squares + z[0].size * math.log(2 * math.pi * self.prior_std**2)) / 2


def wide(values):
    """Return `(B,)` to broadcast over images."""
    return np.asarray(values)[:, None, None, None]


def write_tables(folder, kind, steps=60):
    """Write `<kind>_N<steps>.npz`."""
    sde, count = SDE(kind, steps), 9
    shape = (count, 2, 2, 2)
    t, x = np.linspace(1e-4, 1, count).astype(np.float32).astype(np.float64), normal(21, shape)
    sampler, mean, std = np.linspace(1, 1e-3, steps).astype(np.float32).astype(np.float64), 0.3, 0.6
    sel = np.linspace(0, steps - 1, count).astype(int)
    alpha, sigma = sde.scales(t)
    score = -(x - wide(alpha) * mean) / wide((alpha * std) ** 2 + sigma**2)
    drift, diffusion = sde.rates(t)
    f, g = sde.step(t)
    found = {
        "t": t,
        "x": x,
        "score": score,
        "marginal_mean": wide(alpha) * x,
        "marginal_std": sigma,
        "marginal_mean_coeff": alpha,
        "drift": wide(drift) * x,
        "diffusion": diffusion,
        "discretize_f": wide(f) * x,
        "discretize_G": g,
        "sampler_timesteps": sampler,
        "discretize_sel_f": wide(sde.step(sampler[sel])[0]) * x,
        "discretize_sel_G": sde.step(sampler[sel])[1],
        "prior_z": normal(22, shape) * sde.prior_std,
        "prior_sampling_noise": normal(23, (1, 3, 2, 2, 2)),
    }
    found["prior_logp"] = sde.log_prior(found["prior_z"])
    found["prior_sampling"] = found["prior_sampling_noise"][0] * sde.prior_std
    for way, share in (("sde", 1.0), ("ode", 0.5)):
        found[f"reverse_{way}_drift"] = wide(drift) * x - share * wide(diffusion**2) * score
        found[f"reverse_{way}_diffusion"] = diffusion * (way == "sde")
        found[f"reverse_{way}_discretize_f"] = wide(f) * x - share * wide(g**2) * score
        found[f"reverse_{way}_discretize_G"] = g * (way == "sde")
    if kind == "vp":
        tables = {"discrete_betas": sde.betas, "alphas": 1 - sde.betas, "alphas_cumprod": sde.bars}
        tables |= {"sqrt_alphas_cumprod": np.sqrt(sde.bars), "sqrt_1m_alphas_cumprod": np.sqrt(1 - sde.bars)}
        found |= {f"table_{key}": value for key, value in tables.items()}
    elif kind == "ve":
        found["table_discrete_sigmas"] = sde.sigmas
    facts = {**RATES, "N": steps, "gauss_mean": mean, "gauss_std": std, "sel": sel}
    save(folder / f"{kind}_N{steps}.npz", {}, both(found) | facts)


def write_losses(folder, kind, steps=60):
    """Write the losses of `<kind>.npz` for the net A x + b cos(label / scale), with their derivatives."""
    sde, shape, eps = SDE(kind, steps), (5, 2, 3, 3), 1e-3
    x0, noise, u = normal(31, shape, 0.5), normal(32, shape), np.random.default_rng(33).uniform(size=5)
    u = u.astype(np.float32).astype(np.float64)
    t = u * (1 - eps) + eps
    a, b, scale = -0.2, 0.4, 90.0
    alpha, sigma = sde.scales(t)
    x, labels = wide(alpha) * x0 + wide(sigma) * noise, np.random.default_rng(34).integers(0, steps, 5)
    found = {}

    def record(name, residual, by_a, by_b, weight):
        """Note the mean of weight residual^2, or half its sum an image, and derivatives by A and b."""
        for reduction in ("mean", "sum"):
            size = x0[0].size if reduction == "mean" else 2
            key, tail = name(reduction)
            values = {
                "loss": (wide(weight) * residual**2).sum() / size / len(x0),
                "grad_A": (2 * wide(weight) * residual * by_a).sum() / size / len(x0),
                "grad_b": (2 * wide(weight) * residual * by_b).sum() / size / len(x0),
            }
            found.update(both({f"{key}{tail}.{leaf}": value for leaf, value in values.items()}))

    g = sde.rates(t)[1]
    ways = {"cont": (999 * t if kind != "ve" else sigma, sigma)}
    if kind == "vp":
        ways["disc"] = (t * (steps - 1), np.sqrt(1 - sde.bars)[(t * (steps - 1)).astype(int)])
    elif kind == "ve":
        ways["disc"] = (np.round((1 - t) * (steps - 1)), sigma)
    for time, (label, divisor) in ways.items():
        waves = np.cos(label / scale)
        # VE nets answer the score, others the noise
        share = wide(np.ones(5)) if kind == "ve" else -1 / wide(divisor)
        score = share * (a * x + b * wide(waves))
        for weighting, weight in (("std", sigma**2), ("lw", g**2)):
            residual = score + noise / wide(sigma)
            record(
                lambda reduction, time=time, weighting=weighting: (f"sde.{time}.{reduction}.", weighting),
                residual,
                share * x,
                share * wide(waves),
                weight,
            )
    waves = np.cos(labels / scale)
    if kind == "vp":
        bars = sde.bars[labels]
        x = wide(np.sqrt(bars)) * x0 + wide(np.sqrt(1 - bars)) * noise
        residual = a * x + b * wide(waves) - noise
        record(lambda reduction: (f"ddpm.{reduction}", ""), residual, x, wide(waves), np.ones(5))
    elif kind == "ve":
        levels = sde.sigmas[::-1][labels]
        x = x0 + wide(levels) * noise
        residual = a * x + b * wide(waves) + noise / wide(levels)
        record(lambda reduction: (f"smld.{reduction}", ""), residual, x, wide(waves), levels**2)
    inputs = {"batch": x0, "sde.noise": noise, "sde.u": u, "sde.t": t, "legacy.noise": noise}
    facts = {**RATES, "N": steps, "eps": eps, "A": a, "b": b, "label_scale": scale, "legacy.labels": labels}
    save(folder / f"{kind}.npz", inputs, found | facts)


def flow_of(sde, exact, shape, probe=None):
    """Return dx/dt of the probability flow, and with a probe its divergence as a last coordinate each."""

    def velocity(t, state):
        x = state[: math.prod(shape)].reshape(shape)
        (alpha, sigma), (drift, g) = (np.array(v) for v in (sde.scales(np.array(t)), sde.rates(np.array(t))))
        value = drift * x - 0.5 * g**2 * exact.score(x, alpha, sigma)
        if probe is None:
            return value.ravel()
        probes = [probe] if isinstance(probe, np.ndarray) else probe
        traces = [exact.score_jacobian_probe(x, alpha, sigma, p) for p in probes]
        size = x[0].size
        return np.append(value.ravel(), drift * size - 0.5 * g**2 * np.sum(traces, axis=0))

    return velocity


def write_flow(folder, kind):
    """Write `ode_<kind>.npz`: the flow by scipy at its tolerances, and by a method of high order."""
    sde, shape, eps, tolerance = SDE(kind, 60), (3, 2, 2, 2), 2e-3, 1e-3
    exact, z = Mixture(41, shape[1:]), normal(42, shape, sde.prior_std)
    velocity = flow_of(sde, exact, shape)
    own = solve_ivp(velocity, (1, eps), z.ravel(), method="RK45", rtol=tolerance, atol=tolerance)
    tight = solve_ivp(velocity, (1, eps), z.ravel(), method="DOP853", rtol=1e-11, atol=1e-11)
    facts = {**RATES, "N": 60, "eps": eps, "rtol": tolerance, "atol": tolerance, "nfe": own.nfev}
    facts["x_tight_f64"] = tight.y[:, -1].reshape(shape)
    save(folder / f"ode_{kind}.npz", {"z": z, "x": own.y[:, -1].reshape(shape)} | exact.arrays(), facts)


def write_likelihood(folder, kind, model, place):
    """Write `likelihood_<kind>_<model>_<place>.npz`, of one Gaussian (gauss) or several (gmm)."""
    sde, shape, eps, tolerance = SDE(kind, 60), (2, 2, 2, 2), 1e-4, 1e-3
    exact, size = Mixture(51, shape[1:], 1 if model == "gauss" else 2), 8
    data, probe = normal(52, shape, 0.4), np.sign(normal(53, shape))
    state = np.append(data.ravel(), np.zeros(len(data)))
    own = flow_of(sde, exact, shape, probe)
    result = solve_ivp(own, (eps, 1), state, method="RK45", rtol=tolerance, atol=tolerance)
    units = [np.broadcast_to(unit.reshape(shape[1:]), shape) for unit in np.eye(size)]
    tight = solve_ivp(flow_of(sde, exact, shape, units), (eps, 1), state, method="DOP853", rtol=1e-10, atol=1e-10)
    offset = 8.0 if place == "unit" else 7.0

    def bits(nats):
        return -nats / (math.log(2) * size) + offset

    ends = [r.y[:, -1] for r in (result, tight)]
    zs = [end[: data.size].reshape(shape) for end in ends]
    nats = [sde.log_prior(z) + end[data.size :] for z, end in zip(zs, ends, strict=True)]
    truth = exact.log_density(data, *(float(v) for v in sde.scales(np.array(eps))))
    facts = {**RATES, "eps": eps, "rtol": tolerance, "atol": tolerance, "nfe": result.nfev, "offset": offset}
    facts |= {"epsilon": probe, "z_tight_f64": zs[1], "bpd_exact_trace_f64": bits(nats[1])}
    facts["bpd_closed_form_f64"] = bits(truth)
    rounded = {"data": data, "bpd": bits(nats[0]), "z": zs[0]} | exact.arrays()
    save(folder / f"likelihood_{kind}_{model}_{place}.npz", rounded, facts)


def write_edm(folder, sigma_data=0.8):
    """Write EDM's preconditioning, losses and sampler (Karras et al., 2022, table 1, algorithms 1 and 2)."""
    sigma = np.geomspace(0.003, 90, 33).astype(np.float32).astype(np.float64)
    total = sigma**2 + sigma_data**2
    edm = {
        "edm.c_skip": sigma_data**2 / total,
        "edm.c_out": sigma * sigma_data / np.sqrt(total),
        "edm.c_in": 1 / np.sqrt(total),
        "edm.c_noise": np.log(sigma) / 4,
    }
    shared = {"c_skip": np.ones(33), "c_out": -sigma, "c_in": 1 / np.sqrt(1 + sigma**2)}
    # 1 + sigma^2 = exp(19.9 t^2 / 2 + 0.1 t)
    time = (np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(sigma**2)) - 0.1) / 19.9
    steps, levels = 50, [0.0]
    bar = [math.sin(math.pi / 2 * j / steps / 1.008) ** 2 for j in range(steps + 1)]
    for j in range(steps, 0, -1):
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(bar[j - 1] / bar[j], 0.001) - 1))
    levels = np.array(levels[::-1])
    found = edm | {f"vp.{key}": value for key, value in shared.items()} | {"vp.c_noise": 999 * time}
    found |= {f"iddpm.{key}": value for key, value in shared.items()} | {"iddpm.u": levels, "sigma": sigma}
    ends = {"vp.sigma_min": 1e-3, "vp.sigma_max": math.sqrt(math.expm1(10.05))}
    ends |= {"iddpm.sigma_min": levels[-2], "iddpm.sigma_max": levels[0], "sigma_data": sigma_data}
    save(folder / "precond.npz", found, {f"{key}_f64": value for key, value in edm.items()} | ends)

    shape = (4, 2, 3, 3)
    images, loss = normal(61, shape, 0.5), {}
    for kind, levels in {
        "edm": np.exp(1.1 * normal(62, (4, 1, 1, 1)) - 0.9),
        "vp": np.array([0.05, 0.3, 2.0, 40.0]).reshape(4, 1, 1, 1),
        "ve": np.array([0.03, 0.5, 7.0, 60.0]).reshape(4, 1, 1, 1),
    }.items():
        noise, levels = normal(63, shape), levels.astype(np.float32).astype(np.float64)
        weight = (levels**2 + sigma_data**2) / (levels * sigma_data) ** 2 if kind == "edm" else levels**-2.0
        denoised = 0.7 * (images + levels * noise) / (1 + levels)
        loss |= {f"{kind}.loss_elementwise": weight * (denoised - images) ** 2, f"{kind}.weight": weight}
        loss |= {f"{kind}.sigma": levels, f"{kind}.noise": noise}
    loss |= {"images": images, "edm.rnd_normal": normal(62, (4, 1, 1, 1))}
    save(folder / "loss.npz", loss, {"toy": np.array("0.7*x/(1+sigma)")})

    shape, low, high, rho, steps = (3, 2, 3, 3), 0.004, 60.0, 6.0, 9
    exact, latents = Mixture(64, shape[1:]), normal(65, shape)
    samples, sigmas = {}, {}
    runs = {
        "deterministic": (low, high, rho, steps, 0.0, 0.0, math.inf, 1.0),
        "churn": (low, high, rho, steps, 20.0, 0.1, 30.0, 1.01),
        "sigma_range": (0.02, 20.0, 4.0, 5, 0.0, 0.0, math.inf, 1.0),
    }
    for run, (smallest, largest, power, count, churn, churn_min, churn_max, scale) in runs.items():
        ramp = np.linspace(0, 1, count)
        t = (largest ** (1 / power) + ramp * (smallest ** (1 / power) - largest ** (1 / power))) ** power
        t, noise, asked = np.append(t, 0.0), normal(66, (count, *shape)), []

        def slope(x, level, asked=asked):
            asked.append(level)
            return -level * exact.score(x, 1.0, level)

        x = latents * t[0]
        for i in range(count):
            here, raised = t[i], t[i]
            if churn_min <= here <= churn_max:
                raised = here * (1 + min(churn / count, math.sqrt(2) - 1))
            x = x + math.sqrt(raised**2 - here**2) * scale * noise[i]
            first = slope(x, raised)
            new = x + (t[i + 1] - raised) * first
            if t[i + 1] > 0:
                new = x + (t[i + 1] - raised) * (first + slope(new, t[i + 1])) / 2
            x = new
        facts = {"num_steps": count, "sigma_min": smallest, "sigma_max": largest, "rho": power}
        facts |= {"x": x, "noise": noise.astype(np.float32), "net_in_sigma": np.array(asked)}
        if run == "churn":
            facts |= {"S_churn": churn, "S_min": churn_min, "S_max": churn_max, "S_noise": scale}
        samples |= {f"{run}.{key}": value for key, value in facts.items()}
        sigmas[run] = t
    whole = {
        "num_steps": steps,
        "sigma_min": low,
        "sigma_max": high,
        "rho": rho,
        "sigma_steps": sigmas["deterministic"],
    }
    save(folder / "samplers.npz", {"latents": latents} | exact.arrays(), samples | whole)
