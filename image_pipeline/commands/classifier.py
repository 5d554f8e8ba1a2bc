"""Classifiers of noisy images, which guide a model that knows nothing of their classes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from image_pipeline.interop import adm
from image_pipeline.model import ImageModel
from pcdiff.diffusion.guidance import LogProb
from pcdiff.errors import InputError
from pcdiff.places import is_file

_ADM_LABELS = ("step", "step1000")  # what ADM's classifiers are told of the time


@dataclass(frozen=True)
class NoisyClassifier:
    """A classifier's log p(y | x_t), and how many classes it has."""

    log_prob: LogProb
    num_classes: int


def noisy_classifier(path: Path, config: Path | None, model: ImageModel) -> NoisyClassifier:
    """Open a classifier for a model, and refuse one of other images, another chain or another label of time.

    Args:
        path: ADM's state dict (.pt), or a program (.pt2) written by `torch.export.save` that maps images
            `(B, C, H, W)` and the labels of time `(B,)` of the model's own net to logits `(B, classes)`. Open only
            programs you would run.
        config: ADM's settings, for a state dict.
        model: the model that is guided.

    Raises:
        InputError: the file cannot be opened, or does not fit its settings or the model.
    """
    device = model.denoiser.process.device
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a classifier")
    if path.suffix != ".pt2":
        if config is None:
            raise InputError(f"{path}: give --classifier-config, the settings of ADM's classifier, or a .pt2 file")
        net = adm.load_classifier(path, config).to(device).eval()
        if model.denoiser.time_input not in _ADM_LABELS or model.data_range != (-1.0, 1.0):
            low, high = model.data_range
            raise InputError(
                f"{path}: ADM's classifiers are told the chain's step and see images in [-1, 1]; this model's net "
                f"is told {model.denoiser.time_input} and sees images in [{low:g}, {high:g}]"
            )
    else:
        if config is not None:
            raise InputError("--classifier-config goes with ADM's state dict; a .pt2 file has its own settings")
        try:
            net = torch.export.load(path).module().to(device)
        except Exception as error:  # whatever its readers raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: cannot be opened as an exported network ({reason})") from None
    return NoisyClassifier(adm.classifier_log_prob(net, model.denoiser), _classes(net, model, path))


def _classes(net: nn.Module, model: ImageModel, path: Path) -> int:
    """Return how many classes a classifier has, by asking it of two images of the model's.

    Raises:
        InputError: it does not take them, or gives something else than logits.
    """
    denoiser, shape = model.denoiser, "x".join(map(str, model.image_shape))
    process = denoiser.process
    x = torch.zeros(2, *model.image_shape, device=process.device)
    t = torch.full((2,), process.last_time(), device=process.device)
    try:
        with torch.no_grad():
            logits = net(x, denoiser.tau(t))
    except Exception as error:  # a program raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: does not take this model's images {shape} ({reason})") from None
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 2:
        raise InputError(f"{path}: must give logits (B, classes) of images {shape}, got {got} for B = 2")
    return logits.shape[1]
