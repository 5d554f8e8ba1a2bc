"""Paths from one code to another."""

import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.models import LatentPriorModel, PointCloudModel

PATHS = ("linear", "spherical")


def codes_between(model: PointCloudModel, a: Tensor, b: Tensor, num_frames: int, path: str = "linear") -> Tensor:
    """Return codes from `a` to `b`, both ends exactly.

    Args:
        model: whose codes they are; a generator for the spherical path.
        a: `(n, F)`.
        b: `(n, F)`.
        num_frames: codes of each path, both ends included, at least 2.
        path: `linear` in the code, or `spherical` in the base of the prior, where codes are N(0, I) and lie about a
            sphere (White, Sampling Generative Networks, 2016).

    Returns:
        `(num_frames, n, F)`.

    Raises:
        InputError: `num_frames` is below 2, or the path is unknown or does not fit the model.
    """
    if num_frames < 2:
        raise InputError(f"num_frames must be at least 2, the two ends, got {num_frames}")
    if path not in PATHS:
        raise InputError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    weights = torch.linspace(0, 1, num_frames, device=a.device, dtype=a.dtype)[1:-1, None, None]
    if path == "linear":
        inner = torch.lerp(a[None], b[None], weights)
    else:
        if not isinstance(model, LatentPriorModel):
            raise InputError(f"path spherical needs a generator's prior, which {type(model).__name__} lacks")
        with torch.no_grad():
            w = slerp(model.latent_to_base(a), model.latent_to_base(b), weights)
            inner = model.base_to_latent(w.flatten(0, 1)).view_as(w)
    return torch.cat([a[None], inner, b[None]])


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Turn vectors `a (n, F)` towards `b (n, F)` by a share of the angle between them (Shoemake, 1985).

    Lengths change along; where the two lie on one line, which leaves no one way to turn, the path is straight.

    Args:
        a: where weight 0 lies.
        b: where weight 1 lies.
        weight: shares, broadcast with `(n, F)`.
    """
    # twice the arctangent of the half chord keeps its digits at small angles, where the arccosine loses them
    u, v = (torch.nn.functional.normalize(side, dim=1) for side in (a, b))
    angle = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    sine = angle.sin()
    on_a_line = sine < 1e-4
    sine = sine.masked_fill(on_a_line, 1.0)
    turned = ((1 - weight) * angle).sin() / sine * a + (weight * angle).sin() / sine * b
    return torch.where(on_a_line, torch.lerp(a, b, weight), turned)
