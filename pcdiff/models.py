"""The models: encoder, latent prior and diffusion decoder put together, with their loss terms by name."""

from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.calls import checked
from pcdiff.config import ModelConfig, ObjectiveConfig
from pcdiff.diffusion import EpsDenoiser, discrete_process, draw_times, objective, predictor, sample
from pcdiff.diffusion.sampler import Callback, Progress, SamplingReport
from pcdiff.diffusion.steps import Constraint, Noise
from pcdiff.encoders import PointNetEncoder, reparameterize
from pcdiff.errors import InputError
from pcdiff.flows import FLOWS, Flow, standard_normal_log_prob
from pcdiff.nets import PointwiseNet
from pcdiff.precision import autocast


class PointCloudModel(nn.Module):
    """Encoder and diffusion decoder; subclasses add what is said about the latent.

    Args:
        config: sizes and schedule.
        objective_config: the loss; the paper's by default.
    """

    variational = True

    def __init__(self, config: ModelConfig, objective_config: ObjectiveConfig | None = None):
        super().__init__()
        self.config = config
        self.objective_config = objective_config or ObjectiveConfig()
        self.encoder = PointNetEncoder(
            config.latent_dim,
            widths=config.encoder_widths,
            head_widths=config.encoder_head_widths,
            variational=self.variational,
        )
        net = PointwiseNet(
            config.latent_dim, widths=config.net_widths, residual=config.residual, frequencies=config.frequencies
        )
        process = discrete_process(config.schedule, config.num_steps, config.beta_1, config.beta_T)
        self.denoiser = EpsDenoiser(net, process, config.time_input)

    def compile(self, **options: Any) -> None:
        """Compile the two parts where the time goes, encoder and denoising net, in place (torch.compile)."""
        self.encoder.compile(**options)
        self.denoiser.net.compile(**options)

    def reconstruction_term(
        self,
        x: Tensor,
        z: Tensor,
        generator: torch.Generator | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the diffusion term of the bound for each cloud (Luo & Hu, 2021, algorithm 1; eq. 9, unverified).

        Args:
            x: clouds `(B, N, 3)`.
            z: latents `(B, F)`.
            generator: source of times and noise.
            t: the times `(B * times_per_cloud,)`, in place of the draw.
            noise: the noise, like `x`, in place of the draw.

        Returns:
            `(B,)`.

        Raises:
            InputError: `times_per_cloud` does not divide N.
        """
        config = self.objective_config
        groups, (batch, num_points) = config.times_per_cloud, x.shape[:2]
        if groups < 1 or num_points % groups:
            raise InputError(f"times_per_cloud must divide the {num_points} points of a cloud, got {groups}")
        if noise is None or t is None:
            drawn = PointCloudModel.draw(self, x, batch, generator)
            noise, t = drawn["noise"] if noise is None else noise, drawn["t"] if t is None else t
        # Points are independent given z, so groups of them may stand at different times at no extra cost:
        # the same matrix products, but a gradient averaged over more times.
        x, noise = (v.reshape(batch * groups, num_points // groups, -1) for v in (x, noise))
        per_group = objective(config.objective)(
            self.denoiser, x, t, noise, z.repeat_interleave(groups, dim=0) if groups > 1 else z
        )
        per_cloud = per_group.view(batch, groups)
        return per_cloud.sum(dim=1) if config.objective == "elbo" else per_cloud.mean(dim=1)

    def draw(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw all that `loss_terms` needs at random for `count` clouds like those of `x (B, N, 3)`.

        The first dimension of each draw is a multiple of `count`, so that a part of the clouds goes with the same
        part of every draw: a batch may be cut up among processes, and its loss stays the same.
        """
        noise = torch.randn(count, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
        groups, stratified = self.objective_config.times_per_cloud, self.objective_config.stratified_times
        return {"noise": noise, "t": draw_times(self.denoiser.process, count * groups, generator, stratified)}

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None, **draws: Tensor) -> dict[str, Tensor]:
        """Return the training loss and its parts by name, scalars; the key `"loss"` is what is minimised.

        Args:
            x: clouds `(B, N, 3)`.
            generator: source of the draws that are not given.
            **draws: of `draw`, or given values in their place: `latent_noise (B, F)`, `t (B * times_per_cloud,)`,
                `noise (B, N, 3)`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the code of clouds `(B, N, 3)`: the latent's mean `(B, F)`."""
        return self.encoder(x)[0]

    @checked
    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        num_points: int,
        *,
        sampler: str = "ancestral",
        sampler_options: dict[str, Any] | None = None,
        flexibility: float = 0.0,
        num_steps: int | None = None,
        grid: str | None = None,
        precision: str = "fp32",
        generator: torch.Generator | None = None,
        x_init: Tensor | None = None,
        t_start: float | None = None,
        constraint: Constraint | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
        progress: Progress | None = None,
        report: SamplingReport | None = None,
    ) -> Tensor:
        """Draw clouds from latents by the reverse chain (Luo & Hu, 2021, eq. 3-4, unverified), or another sampler.

        Args:
            z: latents `(B, F)`.
            num_points: points of each cloud; any number, whatever the training used.
            sampler: a predictor's name, a key of `pcdiff.diffusion.PREDICTORS`.
            sampler_options: what that predictor takes.
            flexibility: of the ancestral sampler: 0 takes the posterior's standard deviation, 1 the forward
                kernel's, between them a mix.
            num_steps: steps from noise to data; all T by default.
            grid: name of the time grid, a key of `pcdiff.diffusion.GRIDS`; the sampler's own by default.
            precision: of the net's matrix products: `fp32`, `bf16`, `fp16` or `auto` (`pcdiff.precision`); the
                chain itself runs in float32.
            generator: source of every draw.
            x_init: the start `(B, num_points, 3)` in place of a draw.
            t_start: the time at which `x_init` stands; T by default.
            constraint: what is done to the clouds after every step; see `pcdiff.diffusion.sample`.
            noise: overrides the steps' draws.
            callback: see `pcdiff.diffusion.sample`; `pcdiff.diffusion.Trajectory` keeps the whole chain.
            progress: called as `progress(k, num_steps)` after every step.
            report: is filled with the number of steps and of the net's evaluations.

        Returns:
            Clouds `(B, num_points, 3)` in the training set's normalisation.

        Raises:
            InputError: a name is unknown, or a value is out of range.

        Example:
            >>> clouds = model.decode(z, 2048, sampler="dpmpp", num_steps=10)
        """
        options = dict(sampler_options or {})
        if sampler == "ancestral":
            options.setdefault("flexibility", flexibility)
        elif flexibility != 0:
            raise InputError(f"flexibility is the ancestral sampler's, got {flexibility} with sampler {sampler!r}")
        if num_points < 1:
            raise InputError(f"num_points must be at least 1, got {num_points}")
        shape = (len(z), num_points, self.encoder.point_dim)
        if x_init is not None and x_init.shape != shape:
            raise InputError(f"x_init must be {shape}, got {tuple(x_init.shape)}")
        with autocast(precision, z.device):
            return sample(
                self.denoiser,
                shape if x_init is None else None,
                cond=z,
                x_init=x_init,
                step=predictor(sampler, **options),
                num_steps=num_steps,
                grid=grid,
                t_start=t_start,
                constraint=constraint,
                generator=generator,
                noise=noise,
                callback=callback,
                progress=progress,
                report=report,
            )

    def reconstruct(self, x: Tensor, num_points: int | None = None, **options: Any) -> Tensor:
        """Encode clouds `(B, N, 3)` and decode them again, `(B, num_points, 3)`; options as for `decode`."""
        return self.decode(self.encode(x), num_points or x.shape[1], **options)


class AutoEncoder(PointCloudModel):
    """Deterministic code and diffusion decoder (Luo & Hu, CVPR 2021, section 4.2; eq. 14, unverified).

    Example:
        >>> model = AutoEncoder(ModelConfig(kind="autoencoder"))
        >>> y = model.eval().reconstruct(x)  # (B, N, 3) -> (B, N, 3)
    """

    variational = False

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None, **draws: Tensor) -> dict[str, Tensor]:
        """See `PointCloudModel.loss_terms`: `reconstruction` is the whole loss."""
        code, _ = self.encoder(x)
        reconstruction = self.reconstruction_term(x, code.to(x.dtype), generator, **draws).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}


class LatentPriorModel(PointCloudModel):
    """Base of the generators: q(z | X) from the encoder, a prior p(z), and the bound that joins them."""

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log p(z) `(B,)` in nats of latents `(B, F)`, as training takes it.

        Args:
            z: latents.
            generator: source of the draws of a prior that is estimated in training (the continuous flow).
            probes: those draws themselves, in place of the generator.
        """
        raise NotImplementedError

    def draw(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: the latents' noise beside it."""
        shape = (count, self.config.latent_dim)
        latent_noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return {"latent_noise": latent_noise} | super().draw(x, count, generator)

    @torch.no_grad()
    def latent_log_prob(self, z: Tensor) -> Tensor:
        """Return the prior's log-density `(B,)` in nats of latents `z (B, F)`, exact whatever the prior."""
        return self.prior_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Map base vectors w ~ N(0, I) `(B, F)` to latents of the prior."""
        raise NotImplementedError

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Map latents `(B, F)` to the base, where the prior is N(0, I)."""
        raise NotImplementedError

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None, **draws: Tensor) -> dict[str, Tensor]:
        """Return the negative bound (Luo & Hu, CVPR 2021, eq. 8 and 13, unverified) and its terms.

        `loss = reconstruction + kl_weight * (prior - entropy)`, where `prior` is the mean of -log p(z) and
        `entropy` that of q(z | X), both in nats a cloud; their difference is the KL divergence.
        """
        mean, log_variance = self.encoder(x)
        mean, log_variance = mean.to(x.dtype), log_variance.to(x.dtype)
        latent_noise, probes = draws.pop("latent_noise", None), draws.pop("probes", None)
        if latent_noise is None:
            z = reparameterize(mean, log_variance, generator)
        else:
            z = mean + latent_noise * (0.5 * log_variance).exp()
        reconstruction = self.reconstruction_term(x, z, generator, **draws).mean()
        prior = -self.prior_log_prob(z, generator, probes).mean()
        entropy = gaussian_entropy(log_variance).mean()
        loss = reconstruction + self.objective_config.kl_weight * (prior - entropy)
        return {"loss": loss, "reconstruction": reconstruction, "prior": prior, "entropy": entropy}

    @torch.no_grad()
    def sample_latent(
        self, num_samples: int, generator: torch.Generator | None = None, truncate_std: float | None = None
    ) -> Tensor:
        """Draw latents `(num_samples, F)` from the prior.

        Args:
            num_samples: how many.
            generator: source of the draw.
            truncate_std: draw every coordinate of w from N(0, 1) cut off at this many standard deviations.

        Raises:
            InputError: `truncate_std` is not positive.
        """
        device = self.denoiser.process.device
        w = torch.randn(num_samples, self.config.latent_dim, generator=generator, device=device)
        if truncate_std is not None:
            if not truncate_std > 0:  # nan too
                raise InputError(f"truncate_std must be positive, got {truncate_std}")
            # The normal's own distribution function makes w uniform; squeezed and inverted, it is cut off exactly.
            low = torch.special.ndtr(torch.tensor(-truncate_std, dtype=torch.float64, device=device))
            uniform = low + (1 - 2 * low) * torch.special.ndtr(w.double())
            w = torch.special.ndtri(uniform).float()
        return self.base_to_latent(w)

    @checked
    def sample(
        self,
        num_samples: int,
        num_points: int,
        *,
        generator: torch.Generator | None = None,
        truncate_std: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate clouds: a latent from the prior, points from the reverse chain.

        Args:
            num_samples: how many clouds.
            num_points: points of each; any number.
            generator: source of every draw.
            truncate_std: see `sample_latent`.
            **options: see `decode`.

        Returns:
            Clouds `(num_samples, num_points, 3)` in the training set's normalisation.
        """
        z = self.sample_latent(num_samples, generator, truncate_std)
        return self.decode(z, num_points, generator=generator, **options)


class GaussianVAE(LatentPriorModel):
    """Generator whose prior is N(0, I): a variational autoencoder, the `gaussian` model of DPM's code."""

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log N(z; 0, I) `(B,)` in nats."""
        return standard_normal_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Return `w` itself: the prior is the base."""
        return w

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Return `z` itself: the prior is the base."""
        return z


class FlowVAE(LatentPriorModel):
    """Generator whose prior is a normalizing flow (Luo & Hu, CVPR 2021, section 4.1; eq. 12-13, unverified).

    Example:
        >>> model = FlowVAE(ModelConfig()).eval()
        >>> clouds = model.sample(4, 2048, generator=torch.Generator().manual_seed(0))  # (4, 2048, 3)
    """

    def __init__(self, config: ModelConfig, objective_config: ObjectiveConfig | None = None):
        super().__init__(config, objective_config)
        self.flow = build_flow(config)

    def draw(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See `PointCloudModel.draw`: the continuous flow's probes beside it."""
        draws = super().draw(x, count, generator)
        probes = self.flow.draw_probes(count, generator)
        return draws if probes is None else draws | {"probes": probes}

    def prior_log_prob(
        self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None
    ) -> Tensor:
        """Return log p(z) = log N(w; 0, I) + log |det dw/dz| `(B,)` in nats (eq. 12).

        The continuous flow's determinant is an estimate in training mode, and exact in evaluation.
        """
        # The log-determinant adds up many small numbers: not in half precision.
        with torch.autocast(z.device.type, enabled=False):
            return self.flow.log_prob(z, generator, probes)

    @torch.no_grad()
    def latent_log_prob(self, z: Tensor) -> Tensor:
        """See `LatentPriorModel.latent_log_prob`; nothing is drawn, in training mode too."""
        with torch.autocast(z.device.type, enabled=False):
            return self.flow.exact_log_prob(z)

    def base_to_latent(self, w: Tensor) -> Tensor:
        """Run the flow from base to latent."""
        return self.flow.to_latent(w)

    def latent_to_base(self, z: Tensor) -> Tensor:
        """Run the flow from latent to base."""
        return self.flow.to_base(z)


def gaussian_entropy(log_variance: Tensor) -> Tensor:
    """Return the entropy `(B,)` in nats of N(., exp(log_variance)), `log_variance (B, F)`."""
    log_2pi_e = 2.8378770664093453
    return 0.5 * (log_variance + log_2pi_e).sum(dim=1)


def build_flow(config: ModelConfig) -> Flow:
    """Build the flow prior that `config.flow` names.

    Raises:
        InputError: the name is unknown, or a size is out of range.
    """
    if config.flow not in FLOWS:
        raise InputError(f"flow must be one of {sorted(FLOWS)}, got {config.flow!r}")
    options = {
        "coupling": {"depth": config.flow_depth, "hidden_dim": config.flow_hidden_dim},
        "cnf": {
            "widths": config.cnf_widths,
            "time_length": config.cnf_time,
            "trace": config.cnf_trace,
            "tolerance": config.cnf_tolerance,
        },
    }
    return FLOWS[config.flow](config.latent_dim, **options[config.flow])


MODELS: dict[str, type[PointCloudModel]] = {
    "flow": FlowVAE,
    "gaussian": GaussianVAE,
    "autoencoder": AutoEncoder,
}


def build_model(config: ModelConfig, objective_config: ObjectiveConfig | None = None) -> PointCloudModel:
    """Build the model that `config.kind` names.

    Raises:
        InputError: the kind is unknown.
    """
    if config.kind not in MODELS:
        raise InputError(f"model kind must be one of {sorted(MODELS)}, got {config.kind!r}")
    return MODELS[config.kind](config, objective_config)
