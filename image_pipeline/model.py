"""A score model for images: a net with its process and parametrization, what it is trained on, how it samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.configs import ImageRunConfig, SamplingConfig
from image_pipeline.data import RANGES, ImageBatch
from image_pipeline.nets import build_model
from image_pipeline.nets.song_config import NUM_LABELS
from image_pipeline.nets.song_unet import Augmented
from pcdiff.diffusion import Denoiser, NetDenoiser
from pcdiff.errors import InputError, OutOfRange
from pcdiff.models.classes import Classes, condition, guided
from pcdiff.models.default_sampling import sampler_of
from pcdiff.models.denoiser import Objectives, build_denoiser, check_sigma_data, check_signal


class ImageModel(nn.Module):
    """A net, its process and what its output means: one denoiser for every sampler of `pcdiff.diffusion`.

    Trained by `pcdiff.training.Trainer` through `draw` and `loss_terms`. The weights' names start with
    `denoiser.net.`, whatever the net.

    Args:
        config: the run's config: net, process, objective and sampling are read.
        image_shape: (C, H, W) of the images.
        denoiser: one that is there already, as from other people's weights; built from the config by default.

    Raises:
        InputError: an unknown name, or a net, a process and a parametrization that do not go together.

    Example:
        >>> model = ImageModel(preset("digits/quick"), (1, 8, 8))
        >>> model.sample(4, labels=torch.tensor([3, 1, 4, 1]), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, config: ImageRunConfig, image_shape: Sequence[int], denoiser: NetDenoiser | None = None):
        super().__init__()
        self.config, self.image_shape = config, tuple(image_shape)
        if denoiser is None:
            check_sigma_data(config.process, config.objective)
            denoiser = build_denoiser(build_model({"name": config.net, **vars(config.model)}), config.process)
        self.denoiser = denoiser
        self.num_classes = getattr(config.model, "num_classes", None)
        # SongUNet always has a class that stands for none, UNet with `null_class`
        self.has_null_class = self.num_classes is not None and getattr(config.model, "null_class", True)
        self.classes = None
        if self.num_classes is not None:
            dropout = config.objective.label_dropout
            self.classes = Classes(self.num_classes, self.has_null_class, dropout, unit="image")
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
        self.objectives = Objectives(config.objective, self.denoiser, config.process.sigma_data)
        if not 0 <= config.objective.label_dropout < 1:
            raise OutOfRange("label_dropout", "in [0, 1)", config.objective.label_dropout)

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
        t, weight = self.objectives.draw_times(self.denoiser.process, count, generator)
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
        found = self.objectives.values(self.denoiser, batch.images, t, noise, cond, projection)
        terms = {name: (weight.to(values) * values).mean() for name, values in found.items()}
        loss = self.objectives.total(terms)
        return {"loss": loss, **terms} if len(terms) > 1 else {"loss": loss}

    def _labels(self, batch: ImageBatch, dropped: Tensor | None) -> Tensor | None:
        if self.classes is None:
            return None
        if batch.labels is None:
            raise InputError(
                f"the net is conditioned on {self.num_classes} classes, the images have none; "
                "take --model.num-classes None, and --model.no-null-class"
            )
        return self.classes.dropped(batch.labels, dropped)

    def guided(self, scale: float = 1.0) -> Denoiser:
        """Return the denoiser that stresses its condition `scale` times (Ho & Salimans, 2022).

        Raises:
            InputError: the scale is not 1 and the net was not trained to do without a class.
        """
        device = self.denoiser.process.device
        return guided(self.classes, self.denoiser, scale, lambda: torch.tensor([self.num_classes], device=device))

    def condition(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Return the net's condition for `count` images of these classes, or of none.

        Raises:
            InputError: classes for an unconditional net, an unknown class, or none where the net needs one.
        """
        return condition(self.classes, labels, count, self.denoiser.process.device)

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


def _normal(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(count, *like.shape[1:], generator=generator, device=like.device, dtype=like.dtype)
