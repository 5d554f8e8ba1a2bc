"""Choose a feature network by name or by file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from image_pipeline.metrics.features import (
    FeatureNet,
    FeatureNetIdentity,
    Features,
    Pixels,
    RandomFeatures,
    check_images,
)
from image_pipeline.metrics.inception_weights import load_inception
from pcdiff.errors import InputError

FEATURE_NETS: dict[str, Callable[..., FeatureNet]] = {
    "inception": lambda device: load_inception(device=device),
    "random": RandomFeatures,
    "pixels": Pixels,
}


def open_feature_net(
    choice: str | Path = "inception", weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> FeatureNet:
    """Return the feature network of a name in `FEATURE_NETS`, or of a `.pt2` file written by `torch.export.save`.

    Args:
        choice: the name or file. A `.pt2` is a program: open only files you would run.
        weights: Inception's weights file, where it is not in its usual place.
        device: where it runs.

    Raises:
        InputError: unknown name, weights for a network that takes none, or a file that cannot be opened.
    """
    if weights is not None and choice != "inception":
        raise InputError(f"weights are for inception only, got feature network {choice}")
    if choice == "inception":
        return load_inception(weights, device)
    if choice in FEATURE_NETS:
        return FEATURE_NETS[str(choice)](device)
    path = Path(choice)
    if path.suffix != ".pt2":
        raise InputError(f"unknown feature network {choice!s}; known are {', '.join(FEATURE_NETS)}, or a .pt2 file")
    return ExportedNet(path, device)


class ExportedNet:
    """A network in a `.pt2` file: uint8 `(B, C, H, W)` to features `(B, D)`, or to features and logits.

    Raises:
        InputError: the file cannot be opened.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        try:
            self._net = torch.export.load(path).module().to(device)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:  # whatever its readers raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: cannot be opened as an exported network ({reason})") from None
        self.path, self.device = path, device
        self.identity = FeatureNetIdentity(path.name, sha256[:16])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Return the features.

        Raises:
            InputError: the network does not take such images, or gives something else than features.
        """
        try:
            out = self._net(check_images(images).to(self.device))
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self.path}: does not take uint8 images {tuple(images.shape)} ({reason})") from None
        features, logits = out if isinstance(out, (tuple, list)) and len(out) == 2 else (out, None)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            shape = tuple(getattr(features, "shape", ()))
            raise InputError(f"{self.path}: must give features ({len(images)}, D), got {shape}")
        return Features(features, logits)
