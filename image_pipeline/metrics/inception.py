"""The Inception network of FID: Szegedy et al. (CVPR 2016) as TensorFlow's release of 2015-12-05 has it.

Module names are those of the standard weight files, so that they load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from image_pipeline.metrics.features import FeatureNetIdentity, Features, as_rgb

INPUT_SIZE = 299


class ConvUnit(nn.Module):
    """Convolution, batch normalization, ReLU; `same` padding at stride one unless given."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool | None = None
    ) -> None:
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padded = stride == 1 if padded is None else padded
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, outputs, H', W')`."""
        return functional.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    # TensorFlow averages over the places inside the image only
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def _reduce(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


_POOLS = {"mean": _mean_pool, "max": _max_pool, "reduce": _reduce}


class Mixed(nn.Module):
    """Parallel paths over one input, their outputs side by side.

    Args:
        units: name -> the arguments of its `ConvUnit`.
        paths: each a sequence of names of units and pools; a tuple of names at its end forks.
    """

    def __init__(self, units: dict[str, tuple], paths: list[tuple]) -> None:
        super().__init__()
        for name, arguments in units.items():
            self.add_module(name, ConvUnit(*arguments))
        self.paths = paths

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, sum of the paths' channels, H', W')`."""
        return torch.cat([out for path in self.paths for out in self._along(path, x)], dim=1)

    def _along(self, path: tuple, x: Tensor) -> list[Tensor]:
        for name in path:
            if isinstance(name, tuple):
                return [getattr(self, fork)(x) for fork in name]
            x = _POOLS[name](x) if name in _POOLS else getattr(self, name)(x)
        return [x]


def _names(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}_{i}" for i in range(1, count + 1))


def mixed_a(inputs: int, pooled: int) -> Mixed:
    """Figure 5 of the paper, 35 x 35."""
    return Mixed(
        {
            "branch1x1": (inputs, 64, 1),
            "branch5x5_1": (inputs, 48, 1),
            "branch5x5_2": (48, 64, 5),
            "branch3x3dbl_1": (inputs, 64, 1),
            "branch3x3dbl_2": (64, 96, 3),
            "branch3x3dbl_3": (96, 96, 3),
            "branch_pool": (inputs, pooled, 1),
        },
        [("branch1x1",), _names("branch5x5", 2), _names("branch3x3dbl", 3), ("mean", "branch_pool")],
    )


def mixed_b(inputs: int) -> Mixed:
    """Figure 10, from 35 x 35 to 17 x 17."""
    return Mixed(
        {
            "branch3x3": (inputs, 384, 3, 2),
            "branch3x3dbl_1": (inputs, 64, 1),
            "branch3x3dbl_2": (64, 96, 3),
            "branch3x3dbl_3": (96, 96, 3, 2),
        },
        [("branch3x3",), _names("branch3x3dbl", 3), ("reduce",)],
    )


def mixed_c(inputs: int, inner: int) -> Mixed:
    """Figure 6, 17 x 17, with 7 x 7 convolutions taken apart."""
    across, down = (1, 7), (7, 1)
    return Mixed(
        {
            "branch1x1": (inputs, 192, 1),
            "branch7x7_1": (inputs, inner, 1),
            "branch7x7_2": (inner, inner, across),
            "branch7x7_3": (inner, 192, down),
            "branch7x7dbl_1": (inputs, inner, 1),
            "branch7x7dbl_2": (inner, inner, down),
            "branch7x7dbl_3": (inner, inner, across),
            "branch7x7dbl_4": (inner, inner, down),
            "branch7x7dbl_5": (inner, 192, across),
            "branch_pool": (inputs, 192, 1),
        },
        [("branch1x1",), _names("branch7x7", 3), _names("branch7x7dbl", 5), ("mean", "branch_pool")],
    )


def mixed_d(inputs: int) -> Mixed:
    """From 17 x 17 to 8 x 8."""
    return Mixed(
        {
            "branch3x3_1": (inputs, 192, 1),
            "branch3x3_2": (192, 320, 3, 2),
            "branch7x7x3_1": (inputs, 192, 1),
            "branch7x7x3_2": (192, 192, (1, 7)),
            "branch7x7x3_3": (192, 192, (7, 1)),
            "branch7x7x3_4": (192, 192, 3, 2),
        },
        [_names("branch3x3", 2), _names("branch7x7x3", 4), ("reduce",)],
    )


def mixed_e(inputs: int, pool: str) -> Mixed:
    """Figure 7, 8 x 8; `pool` is `mean` in the first of the two blocks and `max` in the second, as released."""
    across, down = (1, 3), (3, 1)
    return Mixed(
        {
            "branch1x1": (inputs, 320, 1),
            "branch3x3_1": (inputs, 384, 1),
            "branch3x3_2a": (384, 384, across),
            "branch3x3_2b": (384, 384, down),
            "branch3x3dbl_1": (inputs, 448, 1),
            "branch3x3dbl_2": (448, 384, 3),
            "branch3x3dbl_3a": (384, 384, across),
            "branch3x3dbl_3b": (384, 384, down),
            "branch_pool": (inputs, 192, 1),
        },
        [
            ("branch1x1",),
            ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
            (pool, "branch_pool"),
        ],
    )


class InceptionV3(nn.Module):
    """From uint8 images to FID's 2,048 features and the 1,008 logits of the Inception Score.

    The logits are without the last layer's bias, as the Inception Score's own graph has them.

    Args:
        identity: which weights; `inception_weights.load_inception` fills in those of the standard file.
    """

    def __init__(self, identity: FeatureNetIdentity) -> None:
        super().__init__()
        self.identity = identity
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3, padded=False)
        self.Mixed_5b = mixed_a(192, 32)
        self.Mixed_5c = mixed_a(256, 64)
        self.Mixed_5d = mixed_a(288, 64)
        self.Mixed_6a = mixed_b(288)
        self.Mixed_6b = mixed_c(768, 128)
        self.Mixed_6c = mixed_c(768, 160)
        self.Mixed_6d = mixed_c(768, 160)
        self.Mixed_6e = mixed_c(768, 192)
        self.Mixed_7a = mixed_d(768)
        self.Mixed_7b = mixed_e(1280, "mean")
        self.Mixed_7c = mixed_e(2048, "max")
        self.fc = nn.Linear(2048, 1008)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> InceptionV3:
        """Stay in evaluation mode, whatever is asked: the statistics of the weights file are part of FID."""
        return super().train(False)

    def forward(self, images: Tensor) -> Features:
        """Return the features of uint8 images `(B, 1 or 3, H, W)`; a gray channel is repeated.

        Raises:
            InputError: the images are not so.
        """
        x = as_rgb(images.to(self.fc.weight.device)).to(self.fc.weight.dtype)
        x = (resize_like_tensorflow(x, INPUT_SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_reduce(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_reduce(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean(dim=(2, 3))
        return Features(features, features @ self.fc.weight.T)


def resize_like_tensorflow(images: Tensor, side: int) -> Tensor:
    """Resize bilinearly as TensorFlow 1 did, which FID's published numbers rest on.

    Pixel i of the result lies at `i * (old side / new side)` of the source: corners are aligned at the upper left
    only, centers nowhere, and shrinking does not smooth. No mode of `torch.nn.functional.interpolate` does this.

    Args:
        images: floating `(B, C, H, W)`.
        side: of the square result.

    Returns:
        `(B, C, side, side)`.
    """
    for dim in (3, 2):
        size = images.shape[dim]
        # float32, in which TensorFlow computes the places
        place = torch.arange(side, dtype=torch.float32, device=images.device) * (
            torch.tensor(size, dtype=torch.float32, device=images.device) / side
        )
        before = place.floor().long().clamp(max=size - 1)
        after = (before + 1).clamp(max=size - 1)
        share = (place - before).to(images.dtype)
        share = share if dim == 3 else share[:, None]
        first = images.index_select(dim, before)
        images = first + (images.index_select(dim, after) - first) * share
    return images
