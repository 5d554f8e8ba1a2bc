"""Clouds far from the origin, as in map coordinates: float32 would blur them, so they are moved in double first."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Times its size from the origin: from there on float32 moves a cloud's points by more than 3e-6 of that size.
_FAR = 64


def is_far(clouds: Tensor) -> bool:
    """Return whether float32 would blur a cloud of a set `(n, P, 3)`: it is far from the origin for its size.

    Example:
        >>> square = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]])
        >>> is_far(square), is_far(square + 500_000)
        (False, True)
    """
    if not clouds.numel():
        return False
    low, high = clouds.amin(dim=1), clouds.amax(dim=1)
    size, away = (high - low).amax(dim=1), torch.maximum(high.abs(), low.abs()).amax(dim=1)
    return bool(((away > _FAR * size) & (size > 0)).any())


def shared_offset(sets: Iterable[Tensor]) -> Tensor:
    """Return what to subtract in double from all sets of clouds `(n, P, 3)`, so that float32 does not blur them.

    Returns:
        `(3,)` float64: the middle of all of them, or zeros where no cloud is far from the origin.
    """
    sets = list(sets)
    if not any(map(is_far, sets)):
        return torch.zeros(3, dtype=torch.float64)
    ends = [end(clouds.flatten(0, 1), dim=0).double().cpu() for clouds in sets for end in (torch.amin, torch.amax)]
    return (torch.stack(ends).amin(dim=0) + torch.stack(ends).amax(dim=0)) / 2


def placed(clouds: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return `clouds * scale + shift`, computed in double.

    Args:
        clouds: `(n, P, 3)`.
        scale: broadcasts with them; `shift` likewise.
        shift: in the unit of the result.

    Returns:
        `(n, P, 3)` of the clouds' type and device; float64 where it is so far from the origin that float32 would
        blur it.
    """
    moved = clouds.double() * scale.to(clouds.device, torch.float64) + shift.to(clouds.device, torch.float64)
    return moved if is_far(moved) else moved.to(clouds.dtype)
