"""A score model for images: a net with its process and parametrisation, what it is trained on, how it samples."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.configs import ImageRunConfig, ObjectiveConfig, ProcessConfig, SamplingConfig
from image_pipeline.data import RANGES, ImageBatch
from image_pipeline.nets import build_model
from image_pipeline.nets.song_config import NUM_LABELS
from image_pipeline.nets.song_unet import Augmented
from pcdiff.diffusion import (
    OBJECTIVES,
    PARAMETRIZATIONS,
    ClassifierFreeGuidance,
    Denoiser,
    NetDenoiser,
    Predictor,
    Sampler,
    attribute_of,
    build_process,
    check_objective,
    corrector,
    objective,
    parametrization,
    predictor,
    time_draw,
)
from pcdiff.errors import InputError
from pcdiff.runtime.bounded_build import check_count

_PARAMETERS = ("predicts", "time_input", "sigma_data")  # of ProcessConfig, the rest is the process's
_CORRECTOR_OPTIONS = {"corrector_steps": "num_steps", "snr": "snr", "step_size": "step_size"}
_SAMPLER_OPTIONS = {
    "order": "order",
    "eta": "eta",
    "churn": "churn",
    "churn_min": "churn_min",
    "churn_max": "churn_max",
    "churn_noise": "noise_scale",
    "rtol": "rtol",
    "atol": "atol",
    "flow": "flow",
    "variable": "variable",
}


class ImageModel(nn.Module):
    """A net, its process and what its output means: one denoiser for every sampler of `pcdiff.diffusion`.

    Trained by `pcdiff.training.Trainer` through `draw` and `loss_terms`. The weights' names start with
    `denoiser.net.`, whatever the net.

    Args:
        config: the run's config: net, process, objective and sampling are read.
        image_shape: (C, H, W) of the images.
        denoiser: one that is there already, as from other people's weights; built from the config by default.

    Raises:
        InputError: an unknown name, or a net, a process and a parametrisation that do not go together.

    Example:
        >>> model = ImageModel(preset("digits/quick"), (1, 8, 8))
        >>> model.sample(4, labels=torch.tensor([3, 1, 4, 1]), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, config: ImageRunConfig, image_shape: Sequence[int], denoiser: NetDenoiser | None = None):
        super().__init__()
        self.config, self.image_shape = config, tuple(image_shape)
        if denoiser is None:
            check_sigma_data(config)
            denoiser = build_denoiser(build_model({"name": config.net, **vars(config.model)}), config.process)
        self.denoiser = denoiser
        self.num_classes = getattr(config.model, "num_classes", None)
        # SongUNet always has a class that stands for none, UNet with `null_class`
        self.has_null_class = self.num_classes is not None and getattr(config.model, "null_class", True)
        channels = getattr(config.model, "num_channels", getattr(config.model, "in_channels", None))
        if channels != self.image_shape[0]:
            raise InputError(
                f"the net {config.net} is for {channels} channels, the images have {self.image_shape[0]}; "
                "change the net's channels, or --channels of the data"
            )
        if hasattr(self.denoiser.net, "check_sizes"):  # which one's own net need not have
            try:
                self.denoiser.net.check_sizes(self.image_shape[1:])
            except InputError as error:
                raise InputError(f"the images do not fit the net {config.net}: {error}; take --size N") from None
        if config.data.augment is not None and getattr(config.model, "augment_dim", 0) != NUM_LABELS:
            raise InputError(
                "--augment needs a net that takes augmentation labels: "
                f"--net song with --model.augment-dim {NUM_LABELS}"
            )
        self._objectives = build_objectives(config.objective, config.process.sigma_data)
        for name in self._objectives:
            check_objective(name, self.denoiser)
        options = {"mean": config.objective.time_mean, "std": config.objective.time_std}
        self._draw_times = time_draw(
            config.objective.time_draw, **(options if config.objective.time_draw == "log_normal" else {})
        )
        if not 0 <= config.objective.label_dropout < 1:
            raise InputError(f"label_dropout must be in [0, 1), got {config.objective.label_dropout}")

    @property
    def data_range(self) -> tuple[float, float]:
        """Lowest and highest value of the images."""
        return RANGES[self.config.data.data_range]

    def compile(self, **options: Any) -> None:
        """Compile the net, where the time goes, in place (torch.compile)."""
        self.denoiser.net.compile(**options)

    def draw(self, batch: ImageBatch, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw times, noise and whose labels are dropped, for `count` images like those of `batch`."""
        x = batch.images
        t, weight = self._draw_times(self.denoiser.process, count, generator)
        draws = {"t": t, "weight": weight, "noise": _normal(count, x, generator)}
        if self.has_null_class:
            draws["dropped"] = torch.rand(count, generator=generator, device=x.device)
        if "sliced" in self.config.objective.objectives:
            draws["projection"] = _normal(count, x, generator)
        return draws

    def loss_terms(
        self,
        batch: ImageBatch,
        t: Tensor,
        weight: Tensor,
        noise: Tensor,
        dropped: Tensor | None = None,
        projection: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss and each objective, means over the images.

        Args:
            batch: images `(B, C, H, W)`, labels `(B,)`, and augmentation labels.
            t: times `(B,)`.
            weight: of the times, `(B,)`.
            noise: standard normal, like the images.
            dropped: uniform in [0, 1), `(B,)`; a label goes where it is below the share that is dropped.
            projection: of sliced score matching, like the images.

        Raises:
            InputError: the net is conditioned on classes and the images have none.
        """
        cond: Tensor | Augmented | None = self._labels(batch, dropped)
        if batch.augmentation is not None:
            cond = Augmented(cond, batch.augmentation)
        terms: dict[str, Tensor] = {}
        for name, function in self._objectives.items():
            given = {"projection": projection} if name == "sliced" else {}
            values = function(self.denoiser, batch.images, t, noise, cond, **given)
            terms[name] = (weight.to(values) * values).mean()
        weights = self.config.objective.weights
        loss = reduce(torch.add, (w * term for w, term in zip(weights, terms.values(), strict=True)))
        return {"loss": loss, **terms} if len(terms) > 1 else {"loss": loss}

    def _labels(self, batch: ImageBatch, dropped: Tensor | None) -> Tensor | None:
        if self.num_classes is None:
            return None
        if batch.labels is None:
            raise InputError(
                f"the net is conditioned on {self.num_classes} classes, the images have none; "
                "take --model.num-classes None, and --model.no-null-class"
            )
        if dropped is None:
            return batch.labels
        return torch.where(dropped < self.config.objective.label_dropout, self.num_classes, batch.labels)

    def guided(self, scale: float = 1.0) -> Denoiser:
        """Return the denoiser that stresses its condition `scale` times (Ho & Salimans, 2022).

        Raises:
            InputError: the scale is not 1 and the net was not trained to do without a class.
        """
        if scale == 1:
            return self.denoiser
        if not self.has_null_class:
            raise InputError(
                f"guidance {scale:g} needs a net conditioned on classes, with a null class; "
                "train it with classes, or take 1"
            )
        null = torch.tensor([self.num_classes], device=self.denoiser.process.device)
        return ClassifierFreeGuidance(self.denoiser, null, scale)

    def condition(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Return the net's condition for `count` images of these classes, or of none.

        Raises:
            InputError: classes for an unconditional net, an unknown class, or none where the net needs one.
        """
        if self.num_classes is None:
            if labels is not None:
                raise InputError("this model is not conditioned on classes; leave them out")
            return None
        if labels is None:
            if not self.has_null_class:
                raise InputError(f"this model needs a class, 0..{self.num_classes - 1}, for every image")
            return torch.full((count,), self.num_classes, device=self.denoiser.process.device)
        if labels.shape != (count,) or not ((labels >= 0) & (labels < self.num_classes)).all():
            raise InputError(
                f"classes must be {count} of 0..{self.num_classes - 1}, got {labels.flatten().tolist()[:8]}"
            )
        return labels.to(self.denoiser.process.device)

    def sample(
        self,
        count: int,
        labels: Tensor | None = None,
        settings: SamplingConfig | None = None,
        denoiser: Denoiser | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw images `(count, C, H, W)` in the data's range, not cut to it.

        Args:
            count: how many.
            labels: classes `(count,)`; none by default.
            settings: how; the run's own by default.
            denoiser: another than `guided`'s, such as one that follows a classifier; it is given `labels` as they
                are.
            **options: what goes to `pcdiff.diffusion.Sampler` beside: `generator`, `noise`, `x_init`, `constraint`,
                `callback`, `progress`, `report`.

        Raises:
            InputError: a setting is unknown or does not fit the process, or a class is unknown.
        """
        settings = self.config.sampling if settings is None else settings
        cond = labels
        if denoiser is None:
            cond = self.condition(labels, count)
            scale = 1.0 if labels is None or settings.guidance is None else settings.guidance
            denoiser = self.guided(scale)
        if "x_init" not in options:
            options["shape"] = (count, *self.image_shape)
        return sampler_of(settings)(denoiser, cond=cond, **options)

    def check_sampling(self, settings: SamplingConfig | None = None) -> None:
        """Refuse settings that `sample` would refuse, without drawing.

        Raises:
            InputError: see `sample`.
        """
        settings = self.config.sampling if settings is None else settings
        sampler = sampler_of(settings)
        if self.num_classes is not None and settings.guidance is not None:
            self.guided(settings.guidance)
        sampler.check(self.denoiser.process)
        check_signal(self.config.process.predicts, self.denoiser)


def check_signal(predicts: str, denoiser: NetDenoiser) -> None:
    """Refuse a net whose output does not determine the image where sampling starts, before it is trained.

    Raises:
        InputError: the process ends without any signal; the message names what to predict instead.
    """
    process = denoiser.process
    start = torch.tensor([process.last_time()], dtype=torch.float64, device=process.device)
    if denoiser.parametrization.needs_signal and float(process.alpha(start)) == 0:
        raise InputError(
            f"predicts {predicts!r} does not determine the image at the start of {type(process).__name__}, "
            "where no signal is left; take --process.predicts velocity, v, x0 or edm"
        )


def build_denoiser(net: nn.Module, config: ProcessConfig) -> NetDenoiser:
    """Put a net into its process, and say what it predicts and what it is told.

    Raises:
        InputError: a name is unknown, an option is not the process's, or net and process do not go together.
    """
    for name in ("num_scales", "num_steps"):
        check_count(name, getattr(config, name))
    options = {k: v for k, v in vars(config).items() if v is not None and k not in ("name", *_PARAMETERS)}
    process = build_process(config.name, **options)
    takes = _takes_sigma_data(PARAMETRIZATIONS.get(config.predicts))
    says = {"sigma_data": config.sigma_data} if takes and config.sigma_data is not None else {}
    learned = getattr(net.config, "out_channels", 0) == 2 * getattr(net.config, "in_channels", -1)
    variance = "learned_range" if learned else "small"
    return NetDenoiser(net, process, parametrization(config.predicts, **says), config.time_input, variance)


def build_objectives(config: ObjectiveConfig, sigma_data: float | None = None) -> dict[str, Callable[..., Tensor]]:
    """Return the objectives by name, told what they take of the config.

    Args:
        config: names, weights and options.
        sigma_data: standard deviation of the data, for those that weigh by it; their own default where it is None.

    Raises:
        InputError: an unknown name, or not one weight for each.
    """
    if not config.objectives or len(config.weights) != len(config.objectives):
        raise InputError(
            f"weights must be one for each of the objectives {list(config.objectives)}, got {list(config.weights)}"
        )
    built: dict[str, Callable[..., Tensor]] = {}
    for name in config.objectives:
        function = objective(name)
        takes = inspect.signature(OBJECTIVES[name]).parameters
        options = {key: getattr(config, key) for key in ("reduction", "norm") if key in takes}
        if sigma_data is not None and _takes_sigma_data(OBJECTIVES[name]):
            options["sigma_data"] = sigma_data
        built[name] = partial(function, **options)
    return built


def check_sigma_data(config: ImageRunConfig) -> None:
    """Refuse a standard deviation of the data that nothing asks for.

    Raises:
        InputError: neither the parametrisation nor an objective takes it.
    """
    parts = [PARAMETRIZATIONS.get(config.process.predicts), *map(OBJECTIVES.get, config.objective.objectives)]
    if config.process.sigma_data is not None and not any(map(_takes_sigma_data, parts)):
        raise InputError(
            f"sigma_data goes with predicts edm or objective edm, got predicts {config.process.predicts!r} and "
            f"objectives {list(config.objective.objectives)}; take --process.sigma-data None"
        )


def _takes_sigma_data(part: Callable[..., Any] | None) -> bool:
    return part is not None and "sigma_data" in inspect.signature(part).parameters


def sampler_of(settings: SamplingConfig) -> Sampler:
    """Return the sampler of these settings.

    Raises:
        InputError: an unknown name, or an option that the sampler or the corrector does not take.
    """
    name = settings.corrector
    given = _given(settings, _CORRECTOR_OPTIONS)
    if name in (None, "none") and given:
        raise InputError(f"{', '.join(given)} goes with a corrector, got none")
    extras = [f for f in ("churn_min", "churn_max", "churn_noise") if getattr(settings, f) is not None]
    if extras and not settings.churn:
        raise InputError(f"{', '.join(extras)} goes with churn, got {settings.churn}; give --churn")
    if settings.sampler == "none" and name in (None, "none"):
        raise InputError("sampler none leaves the images to a corrector, got none; give --corrector")
    step = predictor_of(settings)
    grid = settings.grid or attribute_of(step, "grid")
    if grid == "ends" and settings.num_steps is not None:
        raise InputError("--num-steps does nothing where the sampler chooses its own steps, as ode does; take None")
    step_within = None if name in (None, "none") else corrector(name, **given)
    return Sampler(step, step_within, settings.num_steps, settings.grid, settings.denoise)


def predictor_of(settings: SamplingConfig) -> Predictor:
    """Return the predictor of these settings, the ancestral one by default.

    Raises:
        InputError: an unknown name, or an option that the predictor does not take.
    """
    return predictor(settings.sampler or "ancestral", **_given(settings, _SAMPLER_OPTIONS))


def _given(settings: SamplingConfig, options: dict[str, str]) -> dict[str, Any]:
    values = {theirs: getattr(settings, ours) for ours, theirs in options.items()}
    return {name: value for name, value in values.items() if value is not None}


def _normal(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(count, *like.shape[1:], generator=generator, device=like.device, dtype=like.dtype)
