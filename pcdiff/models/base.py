"""What every model of clouds has: a denoiser of points, what it is trained on, and how clouds are drawn with it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcdiff.config import CloudObjectiveConfig, ModelConfig, ProcessConfig, SamplingConfig
from pcdiff.config.model import known
from pcdiff.config.run import PAPER_PROCESS
from pcdiff.diffusion import predictor
from pcdiff.diffusion.samplers.base import Callback, Constraint, Noise, Progress
from pcdiff.diffusion.samplers.report import SamplingReport
from pcdiff.errors import InputError, OutOfRange
from pcdiff.models.class_conditional import ClassConditional
from pcdiff.models.default_sampling import default_sampling, sampler_of
from pcdiff.models.denoiser import Objectives, build_denoiser, check_sigma_data, check_signal
from pcdiff.models.parts import usual_settings, with_parts
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.cloud_batch import CloudBatch
from pcdiff.runtime.part_config import build_part, find
from pcdiff.runtime.precision import autocast

POINT_DIM = 3


class PointCloudModel(ClassConditional):
    """A denoiser of points conditioned on a code, a class, both or nothing; subclasses give the code.

    A class's vector stands behind the code in what the net is conditioned on, so that any net can be
    class-conditional; the last vector of `class_embedding` stands for no class.

    Args:
        config: which parts, and their options; the paper's by default.
        process: forward process, parametrization and time input; or a process's name, for what its paper takes
            beside it. The paper's chain by default.
        objective: the loss; the paper's by default, or that of a process that is named.
        sampling: how clouds are drawn where `decode` gets no other settings; as is usual for the process by
            default.
        class_names: of the classes to condition on, in place of the config's; see `pcdiff.config.ModelConfig`.
        **parts: `net`, `encoder` and `prior` in place of the config's: names, classes, or modules as they are.

    Raises:
        InputError: a part is unknown or not imported, or parts do not go together; or there are fewer than two
            classes, or a kind that has none.
    """

    kind: Literal["latent", "autoencoder", "direct", "completion"] = "latent"
    variational = True
    point_dim = POINT_DIM

    def __init__(
        self,
        config: ModelConfig | None = None,
        process: ProcessConfig | str | None = None,
        objective: CloudObjectiveConfig | None = None,
        sampling: SamplingConfig | None = None,
        *,
        class_names: Sequence[str] | None = None,
        **parts: Any,
    ):
        super().__init__()
        config, self._given = with_parts(config or ModelConfig(kind=self.kind), parts)
        process, objective = usual_settings(process, objective)
        if config.kind != self.kind:
            raise InputError(f"kind must be {self.kind} for {type(self).__name__}, got {config.kind}")
        if class_names is not None:
            config = replace(config, class_conditional=True, class_names=tuple(class_names))
        self.config = config
        self.process_config = process or PAPER_PROCESS
        self.objective_config = objective or CloudObjectiveConfig()
        self.sampling_config = sampling or SamplingConfig()
        self.classes = self._classes(config, self.objective_config)
        if "encoder" in config.parts:
            self.encoder = self._part("encoder", variational=self.variational)
        check_sigma_data(self.process_config, self.objective_config)
        net = self._net()
        self.denoiser = build_denoiser(net, self.process_config, warn=False)
        check_signal(self.process_config.predicts, self.denoiser)
        self.objectives = Objectives(self.objective_config, self.denoiser, self.process_config.sigma_data)
        if self.objective_config.times_per_cloud > 1 and not getattr(net, "pointwise", False):
            raise InputError(
                f"times_per_cloud must be 1 for the net {config.net}, got {self.objective_config.times_per_cloud}: "
                "its points see one another, so that all of a cloud's stand at one time"
            )
        self._add_class_vectors()

    def _part(self, part: str, **given: Any) -> nn.Module:
        if part in self._given:
            return self._given.pop(part)
        config = self.config
        cls = find(part, known(part), getattr(config, part))
        sizes = {"point_dim": POINT_DIM, "latent_dim": config.latent_dim, "dim": config.latent_dim}
        return build_part(cls, getattr(config, f"{part}_options"), **sizes | given)

    def _net(self) -> nn.Module:
        return self._part("net", cond_dim=self.code_dim + self.class_dim)

    @property
    def code_dim(self) -> int:
        """Size of the code that the net is conditioned on; 0 is none."""
        return self.config.latent_dim

    def blank_codes(self, count: int) -> Tensor:
        """Return `count` codes of zeros as `decode` takes them, to time a decoding."""
        return torch.zeros(count, self.code_dim, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.denoiser.process.device

    def compile(self, **options: Any) -> None:
        """Compile the parts where the time goes, encoder and denoising net, in place (torch.compile)."""
        if "encoder" in self.config.parts:
            self.encoder.compile(**options)
        self.denoiser.net.compile(**options)

    def reconstruction_term(
        self,
        x: Tensor,
        z: Tensor | None,
        generator: torch.Generator | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        weight: Tensor | None = None,
        projection: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the diffusion term of the bound for each cloud (Luo & Hu, 2021, algorithm 1; eq. 9, unverified).

        Args:
            x: clouds `(B, N, 3)`.
            z: codes `(B, F)`; None for a net without a condition.
            generator: source of times and noise.
            t: the times `(B * times_per_cloud,)`, in place of the draw.
            noise: the noise, like `x`, in place of the draw.
            weight: of the times, like `t`; 1 by default where `t` is given.
            projection: of sliced score matching, like `x`, in place of a draw.
            labels: of the clouds' classes `(B,)`, some of them that of none.

        Returns:
            `(B,)`.

        Raises:
            InputError: `times_per_cloud` does not divide N.
        """
        groups, (batch, num_points) = self.objective_config.times_per_cloud, x.shape[:2]
        if groups < 1 or num_points % groups:
            raise InputError(f"times_per_cloud must divide the {num_points} points of a cloud, got {groups}")
        if noise is None or t is None:
            drawn = PointCloudModel.draw(self, x, batch, generator)
            noise = drawn["noise"] if noise is None else noise
            t, weight = (drawn["t"], drawn.get("weight")) if t is None else (t, weight)
        # Points are independent given z, so groups of them may stand at different times at no extra cost:
        # the same matrix products, but a gradient averaged over more times.
        x, noise = (v.reshape(batch * groups, num_points // groups, -1) for v in (x, noise))
        if projection is not None:
            projection = projection.reshape(x.shape)
        cond = self.net_condition(z, labels)
        cond = cond if cond is None or groups == 1 else cond.repeat_interleave(groups, dim=0)
        terms = {}
        for name, per_group in self.objectives.values(self.denoiser, x, t, noise, cond, projection).items():
            weighted = per_group if weight is None else weight.to(per_group) * per_group
            per_cloud = weighted.view(batch, groups)
            terms[name] = per_cloud.sum(dim=1) if self.objectives.sums(name) else per_cloud.mean(dim=1)
        if self.objective_config.weights == (1.0,):  # the sum of one is itself, to the bit
            return next(iter(terms.values()))
        return self.objectives.total(terms)

    def draw(
        self, batch: Tensor | CloudBatch, count: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draw all that `loss_terms` needs at random for `count` clouds like those of `batch (B, N, 3)`.

        The first dimension of each draw is a multiple of `count`, so that a part of the clouds goes with the same
        part of every draw: a batch may be cut up among processes, and its loss stays the same.
        """
        config, x = self.objective_config, batch.points if isinstance(batch, CloudBatch) else batch
        draws = {"noise": _normal(x, count, generator)}
        times = self.objectives.draw_times(self.denoiser.process, count * config.times_per_cloud, generator)
        draws["t"] = times.t
        if config.time_draw == "importance":
            draws["weight"] = times.weight
        if "sliced" in config.objectives:
            draws["projection"] = _normal(x, count, generator)
        if self.classes is not None and self.classes.has_null:
            draws["dropped"] = torch.rand(count, generator=generator, device=x.device)
        return draws

    def loss_terms(
        self, batch: Tensor | CloudBatch, generator: torch.Generator | None = None, **draws: Tensor
    ) -> dict[str, Tensor]:
        """Return the training loss and its parts by name, scalars; the key `"loss"` is what is minimized.

        Args:
            batch: clouds `(B, N, 3)`; of a class-conditional model with their labels, a `CloudBatch`.
            generator: source of the draws that are not given.
            **draws: of `draw`, or given values in their place: `latent_noise (B, F)`, `t (B * times_per_cloud,)`,
                `noise (B, N, 3)`, `dropped (B,)`.

        Raises:
            InputError: the model is class-conditional, and the clouds have no labels.
        """
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Return the code of clouds `(B, N, 3)`: the latent's mean `(B, F)`.

        Raises:
            InputError: the model has no encoder.
        """
        if "encoder" not in self.config.parts:
            raise InputError(
                f"a {self.config.kind} model has no encoder, so clouds have no codes; take a latent one"
            )
        with torch.no_grad():
            return self.encoder(x)[0]

    @checked
    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        num_points: int,
        *,
        labels: Tensor | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
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
            z: codes `(B, F)`; of a model without codes `(B, 0)`, of which only the number counts.
            num_points: points of each cloud; any number, whatever the training used.
            labels: of the clouds' classes `(B,)`; of a class-conditional model, None stands for no class.
            guidance: scale of classifier-free guidance toward these classes; 1 is none. The model's own by
                default.
            sampler: a predictor's name, a key of `pcdiff.diffusion.PREDICTORS`; the model's own by default, with
                its number of steps and its grid where they are not given.
            sampler_options: what that predictor takes.
            flexibility: of the ancestral sampler: 0 takes the posterior's standard deviation, 1 the forward
                kernel's, between them a mix.
            num_steps: steps from noise to data; of a chain all T by default.
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
            Clouds `(B, num_points, 3)` in the training set's normalization.

        Raises:
            InputError: a name is unknown, a value is out of range, labels for a model without classes or none for
                one that needs them, or guidance without labels or by a model that knows no null class.

        Example:
            >>> clouds = model.decode(z, 2048, sampler="dpmpp", num_steps=10)
        """
        own = default_sampling(self.denoiser.process, self.sampling_config)
        settings = sampler_of(own if sampler is None else SamplingConfig(sampler=sampler))
        settings = replace(
            settings, **{k: v for k, v in (("num_steps", num_steps), ("grid", grid)) if v is not None}
        )
        name, options = sampler or own.sampler, dict(sampler_options or {})
        if name == "ancestral":
            options.setdefault("flexibility", flexibility)
        elif flexibility != 0:
            raise InputError(f"flexibility is the ancestral sampler's, got {flexibility} with sampler {name!r}")
        if options:
            settings = replace(settings, predictor=predictor(name, **options))
        if num_points < 1:
            raise OutOfRange("num_points", "at least 1", num_points)
        shape = (len(z), num_points, self.point_dim)
        if x_init is not None and x_init.shape != shape:
            raise InputError(f"x_init must be {shape}, got {tuple(x_init.shape)}")
        denoiser, cond = self.conditioned(z, labels, guidance)
        with autocast(precision, z.device):
            return settings(
                denoiser,
                shape if x_init is None else None,
                cond=cond,
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


def _normal(x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(count, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
