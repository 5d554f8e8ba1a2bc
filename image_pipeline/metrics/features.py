"""What a feature network is, and the stand-ins for Inception that need no weights file."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcdiff.errors import InputError
from pcdiff.runtime import rng


@dataclass(frozen=True)
class FeatureNetIdentity:
    """Which network features come from: scores from two different ones have nothing to do with each other.

    Attributes:
        name: its name.
        sha256: of its weights, the first 16 digits; empty for a network without weights.
    """

    name: str
    sha256: str

    def to_dict(self) -> dict:
        """Return a JSON-ready dict."""
        return asdict(self)


class Features(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        features: `(B, D)`.
        logits: `(B, K)` over classes, or None for a network without classes.
    """

    features: Tensor
    logits: Tensor | None


class FeatureNet(Protocol):
    """Anything that turns uint8 images into features, always the same of the same image."""

    identity: FeatureNetIdentity

    def __call__(self, images: Tensor) -> Features:
        """Return the features of uint8 images `(B, C, H, W)`, on any device."""
        ...


def check_images(images: Tensor, channels: tuple[int, ...] = (1, 3)) -> Tensor:
    """Return the images if they are uint8 `(B, C, H, W)` with 1 or 3 channels.

    Raises:
        InputError: otherwise.
    """
    if images.ndim != 4 or images.shape[1] not in channels or images.dtype != torch.uint8:
        raise InputError(f"images must be uint8 (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images


def as_rgb(images: Tensor) -> Tensor:
    """Return uint8 images `(B, 3, H, W)`; a gray channel is repeated."""
    return check_images(images).expand(-1, 3, -1, -1)


class Pixels:
    """The pixels themselves in [0, 1], `(B, C * H * W)`: closed forms in tests, and a baseline for small images."""

    identity = FeatureNetIdentity("pixels", "")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device

    def __call__(self, images: Tensor) -> Features:
        """Return the flattened images."""
        return Features(check_images(images).to(self.device).flatten(1).float() / 255, None)


class RandomFeatures(nn.Module):
    """Three convolutions with fixed random weights, averaged over each layer's places: `(B, 224)`.

    It needs no file and separates textures and colors (random features carry some of what trained ones do), so
    it can order checkpoints of one run. No number from it may stand beside a published FID.
    """

    widths = (32, 64, 128)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        draws = rng.generator(0, "random features")
        sizes = zip((3, *self.widths), self.widths, strict=False)
        # He et al. (2015): the activations keep their size through the layers
        weights = [torch.randn(b, a, 3, 3, generator=draws) * (2 / (9 * a)) ** 0.5 for a, b in sizes]
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)
        self.identity = FeatureNetIdentity("random", weights_hash(dict(enumerate(self.weights))))
        self.to(device)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """Return the averaged activations of uint8 images `(B, 1 or 3, H, W)`, two pixels a side or more."""
        x = as_rgb(images.to(self.weights[0].device)).float() / 127.5 - 1
        means = []
        for layer, weight in enumerate(self.weights):
            x = functional.conv2d(x, weight, stride=1 if layer == 0 else 2, padding=1).relu()
            means.append(x.mean(dim=(2, 3)))
        return Features(torch.cat(means, dim=1), None)


def weights_hash(weights: dict) -> str:
    """Return the first 16 digits of the SHA-256 over weights, by name."""
    sha = hashlib.sha256()
    for name, tensor in weights.items():
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]
