"""A classifier of noisy images on a trained model's own process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_pipeline.configs.classifier import ClassifierNetConfig, ClassifierObjectiveConfig
from image_pipeline.data import ImageBatch
from image_pipeline.model import ImageModel
from pcdiff.config import from_dict
from pcdiff.diffusion import Process, time_draw
from pcdiff.diffusion.denoisers.time_inputs import TIME_INPUTS, check_time_input
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.diffusion.serialization import process_from_dict, process_to_dict
from pcdiff.errors import InputError
from pcdiff.nets import EncoderClassifier
from pcdiff.runtime.memory_limit import built_for
from pcdiff.training import checkpoint

KIND = "image classifier"


@dataclass(frozen=True)
class Guided:
    """What a classifier shares with the model that it guides, in plain values.

    Attributes:
        process: see `pcdiff.diffusion.serialization.process_to_dict`.
        time_input: the label of time, a key of `TIME_INPUTS`.
        data_range: of the images.
        image_shape: (C, H, W).
    """

    process: dict[str, Any]
    time_input: str
    data_range: tuple[float, float]
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, model: ImageModel) -> "Guided":
        """Return what a model has.

        Raises:
            InputError: its process has no plain form.
        """
        denoiser = model.denoiser
        return cls(process_to_dict(denoiser.process), denoiser.time_input, model.data_range, model.image_shape)

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "Guided":
        """Rebuild from plain values.

        Raises:
            InputError: something is missing or of another type.
        """
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise InputError(f"{source}: damaged: it has no record of what the classifier guides")
        numbers = {"data_range": 2, "image_shape": 3}
        for name, count in numbers.items():
            value = values[name]
            fits = isinstance(value, list) and len(value) == count
            if not fits or not all(type(v) in (int, float) for v in value):
                raise InputError(f"{source}: damaged: {name} must be {count} numbers, got {value!r}")
        if not isinstance(values["process"], Mapping) or not isinstance(values["time_input"], str):
            raise InputError(f"{source}: damaged: it has no process and time label of the classifier")
        return cls(**{**values, **{name: tuple(values[name]) for name in numbers}})

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready plain values."""
        lists = {name: list(getattr(self, name)) for name in ("data_range", "image_shape")}
        return {**vars(self), **lists}

    def differs(self, other: "Guided") -> str | None:
        """Return in words how this differs from another; None where it does not."""
        for name in ("image_shape", "data_range", "time_input", "process"):
            was, now = getattr(self, name), getattr(other, name)
            if was != now:
                return f"{name.replace('_', ' ')} {_short(was)}, not {_short(now)}"
        return None


class NoisyClassifier(nn.Module):
    """log p(y | x_t), trained by `pcdiff.training.Trainer` through `draw` and `loss_terms`.

    The net sees `x_t / sqrt(alpha^2 + sigma^2)`, which has about the data's scale at every time of every process,
    and takes the guided model's time input (Dhariwal & Nichol, 2021, section 4: a classifier of noisy images,
    conditioned on the time, trained on the diffusion model's own noise).

    Args:
        config: of the net.
        guided: the model's process, range, size and label of time.
        classes: how many.
        objective: how training times are drawn.

    Raises:
        InputError: the config does not fit the images or the process.
    """

    def __init__(
        self,
        config: ClassifierNetConfig,
        guided: Guided,
        classes: int,
        objective: ClassifierObjectiveConfig | None = None,
    ):
        super().__init__()
        objective = objective or ClassifierObjectiveConfig()
        self.guided, self.num_classes = guided, classes
        self.process: Process = process_from_dict(guided.process)
        check_time_input(guided.time_input, self.process)
        self.net = EncoderClassifier(config.built(guided.image_shape, classes))
        options = {"mean": objective.time_mean, "std": objective.time_std}
        self._draw_times = time_draw(
            objective.time_draw, **(options if objective.time_draw == "log_normal" else {})
        )

    def log_probs(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p(y | x_t) of every class, `(B, classes)`, for `x (B, C, H, W)` at times `t (B,)`."""
        alpha, sigma = self.process.scales(t)
        scaled = x / append_dims((alpha.square() + sigma.square()).sqrt(), x)
        label = TIME_INPUTS[self.guided.time_input].label(*self.process.trained_at(t))
        return self.net(scaled, label.to(x.dtype)).float().log_softmax(dim=1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return log p(cond | x_t) `(B,)`: what `ClassifierGuidance` takes."""
        return self.log_probs(x, t).gather(1, cond[:, None])[:, 0]

    def compile(self, **options: Any) -> None:
        """Compile the net, where the time goes, in place (torch.compile)."""
        self.net.compile(**options)

    def draw(self, batch: ImageBatch, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw times and noise for `count` images like those of `batch`."""
        x = batch.images
        t, weight = self._draw_times(self.process, count, generator)
        noise = torch.randn(count, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
        return {"t": t, "weight": weight, "noise": noise}

    def loss_terms(self, batch: ImageBatch, t: Tensor, weight: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the mean cross-entropy `loss` in nats, and the `accuracy` in [0, 1].

        Args:
            batch: images `(B, C, H, W)` and labels `(B,)`.
            t: times `(B,)`.
            weight: of the times, `(B,)`.
            noise: standard normal, like the images.
        """
        log_probs = self.log_probs(self.process.perturb(batch.images, t, noise), t)
        values = F.nll_loss(log_probs, batch.labels, reduction="none")
        right = log_probs.argmax(dim=1).eq(batch.labels).float()
        return {"loss": (weight.to(values) * values).mean(), "accuracy": right.mean()}


def load_classifier(path: Path) -> NoisyClassifier:
    """Rebuild a classifier that `train-classifier` made, in evaluation mode and on the CPU.

    Args:
        path: its folder, or one of the `checkpoints/*.safetensors` in it.

    Raises:
        InputError: nothing there, a damaged file, or a checkpoint of another kind.

    Example:
        >>> load_classifier(Path("runs/digits-classifier")).log_probs(x, t).shape
        torch.Size([4, 10])
    """
    file = checkpoint.locate(path)
    tensors, metadata = checkpoint.read(file, ("model.", "ema."))
    if metadata.get("kind") != KIND:
        raise InputError(f"{file}: expected a classifier of train-classifier, got another kind of checkpoint")
    config = metadata.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    names = metadata.get("class_names")
    if not isinstance(names, list) or not names:
        raise InputError(f"{file}: damaged: it does not name its classes; use another checkpoint")
    guided = Guided.from_dict(metadata.get("guides"), str(file))
    prefix = "ema." if any(name.startswith("ema.") for name in tensors) else "model."
    net = from_dict(ClassifierNetConfig, model, str(file))
    try:
        found = built_for(checkpoint.of_prefix(tensors, prefix), lambda: NoisyClassifier(net, guided, len(names)))
    except InputError as error:
        raise InputError(f"{file}: its config is damaged: {error}") from None
    checkpoint.load_weights(found, tensors, prefix, str(file))
    return found.eval()


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "x".join(map(str, value)) if isinstance(value, tuple) and len(value) == 3 else str(value)
    facts = {k: f"{len(v)} values" if isinstance(v, list) else v for k, v in value.items()}
    return ", ".join(f"{k} {v}" for k, v in facts.items())
