"""Classifiers of noisy images, which guide a model that knows nothing of their classes."""

from dataclasses import dataclass
from pathlib import Path

import torch

from image_pipeline.interop import adm
from image_pipeline.model import ImageModel
from pcdiff.diffusion.guidance import LogProb
from pcdiff.errors import InputError


@dataclass(frozen=True)
class NoisyClassifier:
    """A classifier's log p(y | x_t), and how many classes it has, where that is known."""

    log_prob: LogProb
    num_classes: int | None


def noisy_classifier(path: Path, config: Path | None, model: ImageModel) -> NoisyClassifier:
    """Open a classifier for a model; it is told the time as the model's net is.

    Args:
        path: ADM's state dict (.pt), or a program (.pt2) written by `torch.export.save` that maps images
            `(B, C, H, W)` and labels of time `(B,)` to logits `(B, classes)`. Open only programs you would run.
        config: ADM's settings, for a state dict.
        model: the model that is guided.

    Raises:
        InputError: the file cannot be opened, or does not fit its settings.
    """
    device = model.denoiser.process.device
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a classifier")
    if path.suffix != ".pt2":
        if config is None:
            raise InputError(f"{path}: give --classifier-config, the settings of ADM's classifier, or a .pt2 file")
        net = adm.load_classifier(path, config).to(device).eval()
        return NoisyClassifier(adm.classifier_log_prob(net, model.denoiser), net.config.out_channels)
    try:
        net = torch.export.load(path).module().to(device)
    except Exception as error:  # whatever its readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be opened as an exported network ({reason})") from None
    return NoisyClassifier(adm.classifier_log_prob(net, model.denoiser), None)
