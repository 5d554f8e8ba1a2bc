"""Classifiers of noisy images, which guide a model that is not conditioned on their classes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from image_pipeline.commands.flags import Guidable
from image_pipeline.commands.trained_model import Trained
from image_pipeline.interop import adm
from image_pipeline.model import ImageModel
from image_pipeline.models.noisy_classifier import Guided, load_classifier
from pcdiff.diffusion import ClassifierGuidance, Denoiser
from pcdiff.diffusion.denoisers.guidance import LogProb
from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file, is_folder

_ADM_LABELS = ("step", "step1000")  # the time inputs of ADM's classifiers


@dataclass(frozen=True)
class Guide:
    """Who decides over the classes.

    Attributes:
        denoiser: follows a classifier; None where the net's own classes are taken.
        num_classes: how many there are; None where the net is unconditional.
    """

    denoiser: Denoiser | None
    num_classes: int | None

    def check(self, classes: tuple[int, ...]) -> None:
        """Refuse classes that do not exist.

        Raises:
            InputError: one is outside 0..num_classes - 1.
        """
        if self.num_classes is not None and not all(0 <= label < self.num_classes for label in classes):
            raise InputError(f"--classes must be in 0..{self.num_classes - 1}, got {list(classes)}")


def guiding(command: Guidable, trained: Trained) -> Guide:
    """Open the classifier that a command names, or leave the classes to the net.

    Raises:
        InputError: the classifier does not fit the model, or flags contradict each other.
    """
    model = trained.model
    if command.classifier is None:
        if command.classifier_config or command.classifier_scale != 1:
            raise InputError("--classifier-config and --classifier-scale go with --classifier")
        return Guide(None, model.num_classes)
    if command.sampling.guidance is not None:
        raise InputError("--guidance is by the net's own classes: leave it out with --classifier")
    log_prob, known = open_classifier(command.classifier, command.classifier_config, model)
    # a net that can do without its classes leaves them to the classifier
    conditional = model.num_classes is not None and not model.has_null_class
    if conditional and known != model.num_classes:
        raise InputError(
            f"{command.classifier}: has {known} classes, the net must be conditioned on one of {model.num_classes}"
        )
    guided = ClassifierGuidance(model.denoiser, log_prob, command.classifier_scale, conditional=conditional)
    return Guide(guided, known)


def open_classifier(path: Path, config: Path | None, model: ImageModel) -> tuple[LogProb, int]:
    """Open a classifier for a model, and refuse one of other images, another chain or another label of time.

    Args:
        path: what `train-classifier` made (a folder, or a .safetensors file), ADM's state dict (.pt), or a program
            (.pt2) written by `torch.export.save` that maps images `(B, C, H, W)` and the labels of time `(B,)` of
            the model's own net to logits `(B, classes)`. Open only programs you would run.
        config: ADM's settings, for a state dict.
        model: the model that is guided.

    Returns:
        log p(y | x_t), and how many classes there are.

    Raises:
        InputError: the file cannot be opened, or does not fit its settings or the model.
    """
    device = model.denoiser.process.device
    if is_folder(path) or path.suffix == ".safetensors":
        if config is not None:
            raise InputError("--classifier-config goes with ADM's state dict; train-classifier's is complete")
        own = load_classifier(path).to(device)
        difference = own.guided.differs(Guided.of(model))
        if difference is not None:
            raise InputError(f"{path}: was trained for a model of {difference}; train one for this model")
        return own, own.num_classes
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a classifier")
    if path.suffix != ".pt2":
        if config is None:
            raise InputError(f"{path}: give --classifier-config, the settings of ADM's classifier, or a .pt2 file")
        net = adm.load_classifier(path, config).to(device).eval()
        if model.denoiser.time_input not in _ADM_LABELS or model.data_range != (-1.0, 1.0):
            low, high = model.data_range
            raise InputError(
                f"{path}: ADM's classifiers are conditioned on the chain's step and take images in [-1, 1]; this "
                f"model's net is conditioned on {model.denoiser.time_input} and takes images in [{low:g}, {high:g}]"
            )
    else:
        if config is not None:
            raise InputError("--classifier-config goes with ADM's state dict; a .pt2 file has its own settings")
        try:
            net = torch.export.load(path).module().to(device)
        except Exception as error:  # whatever its readers raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: cannot be opened as an exported network ({reason})") from None
    return adm.classifier_log_prob(net, model.denoiser), _classes(net, model, path)


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
