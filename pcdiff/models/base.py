"""What every model of clouds is: an encoder to a latent, and a denoiser of points conditioned on it."""

from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config import ModelConfig, ObjectiveConfig
from pcdiff.diffusion import EpsDenoiser, Sampler, discrete_process, draw_times, objective, predictor
from pcdiff.diffusion.samplers.base import Callback, Constraint, Noise, Progress
from pcdiff.diffusion.samplers.report import SamplingReport
from pcdiff.encoders import PointNetEncoder
from pcdiff.errors import InputError
from pcdiff.nets import PointwiseNet
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.precision import autocast


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
            precision: of the net's matrix products: `fp32`, `bf16`, `fp16` or `auto`
                (`pcdiff.runtime.precision`); the chain itself runs in float32.
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
        settings = Sampler(predictor(sampler, **options), num_steps=num_steps, grid=grid)
        shape = (len(z), num_points, self.encoder.point_dim)
        if x_init is not None and x_init.shape != shape:
            raise InputError(f"x_init must be {shape}, got {tuple(x_init.shape)}")
        with autocast(precision, z.device):
            return settings(
                self.denoiser,
                shape if x_init is None else None,
                cond=z,
                x_init=x_init,
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
