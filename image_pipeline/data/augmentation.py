"""Augmentations that the net is conditioned on, so that they do not show in what it draws (Karras et al., 2022).

Images are mirrored, scaled, turned, stretched and moved (their appendix F.2 and table 6); what was done goes to the
net beside the noise level, and at sampling the label is 0: nothing was.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pcdiff.errors import InputError

_SCALE = 2**0.2  # one standard deviation of the scale, and of the stretch
_MOVE = 1 / 8  # of the move, in image sides


def check_probability(augment: float) -> None:
    """Refuse what is no probability.

    Raises:
        InputError: it is outside [0, 1].
    """
    if not 0 <= augment <= 1:
        raise InputError(f"augment must be a probability in [0, 1], got {augment}")


def draw_augmentation(probability: float, generator: torch.Generator) -> Tensor:
    """Draw what is done to an image.

    It is mirrored left to right half the time; each of the others happens with `probability`.

    Args:
        probability: in [0, 1]; 0.12 for CIFAR-10 (Karras et al., 2022, table 6).
        generator: of the draws, on the CPU.

    Returns:
        `(8,)`: mirrored left to right, and top to bottom (0 or 1); scale; angle; stretch and its angle; moves to
        the right and down. Scale, stretch and moves count standard deviations; 0 is nothing throughout.
    """
    happens = torch.rand(5, generator=generator) < probability
    coins = torch.rand(3, generator=generator) < 0.5
    angles = (2 * torch.rand(2, generator=generator) - 1) * math.pi
    scale, stretch, right, down = torch.randn(4, generator=generator) * happens[[1, 3, 4, 4]]
    values = [coins[0], coins[1] & happens[0], scale, angles[0] * happens[2]]
    # along the axes half the time
    values += [stretch, angles[1] * coins[2] * happens[3], right, down]
    return torch.stack([value.float() for value in values])


def labels_of(done: Tensor) -> Tensor:
    """Return the augmentation labels `(B, 9)` of augmentations `(B, 8)`, zeros for none."""
    mirrored, upended, scale, angle, stretch, along, *moves = done.unbind(1)
    angles = [angle.cos() - 1, angle.sin(), stretch * along.cos(), stretch * along.sin()]
    return torch.stack([mirrored, upended, scale, *angles, *moves], dim=1)


def augment(images: Tensor, done: Tensor) -> Tensor:
    """Do to images what was drawn: mirror, scale, turn, stretch, move, in this order.

    What comes in from outside is the image mirrored at its edge. Images are sampled with bicubic weights at twice
    their resolution and brought back by a bicubic filter, so that a smaller image does not alias.

    Args:
        images: `(B, C, H, W)`, float.
        done: `(B, 8)`, rows of `draw_augmentation`, on the CPU: which rows are moved is known without a wait.

    Returns:
        `(B, C, H, W)`; rows that are at most mirrored keep their very numbers.
    """
    mirrored = done[:, :2, None, None, None].bool().to(images.device)
    images = torch.where(mirrored[:, 0], images.flip(3), images)
    images = torch.where(mirrored[:, 1], images.flip(2), images)
    rows = done[:, 2:].any(dim=1).nonzero()[:, 0]
    if not len(rows):
        return images
    done, rows = done[rows].to(images.device), rows.to(images.device)
    return images.index_copy(0, rows, _moved(images[rows], done))


def _moved(images: Tensor, done: Tensor) -> Tensor:
    height, width = images.shape[2:]
    scale, angle, stretch, along, right, down = done[:, 2:].to(images.dtype).unbind(1)
    # from a place in the result back to the place it comes from, both in pixels from the center
    back = _turn(-angle) @ _turn(along) @ _diagonal(_SCALE**-stretch, _SCALE**stretch) @ _turn(-along)
    back = back * (_SCALE**-scale)[:, None, None]
    rows, columns = (_places(size, images) for size in (height, width))
    x, y = torch.meshgrid(columns, rows, indexing="xy")
    move = torch.stack([right * _MOVE * width, down * _MOVE * height], dim=1)
    places = torch.stack([x, y], dim=-1).view(1, -1, 2) - move[:, None]
    ends = images.new_tensor([max(width - 1, 1) / 2, max(height - 1, 1) / 2])
    grid = ((places @ back.mT) / ends).view(-1, 2 * height, 2 * width, 2)
    doubled = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=True)
    return F.interpolate(doubled, size=(height, width), mode="bicubic", antialias=True)


def _places(size: int, like: Tensor) -> Tensor:
    """Return twice as many places as pixels along a side, in pixels from the center."""
    return (torch.arange(2 * size, dtype=like.dtype, device=like.device) + 0.5) / 2 - size / 2


def _turn(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], dim=1))
