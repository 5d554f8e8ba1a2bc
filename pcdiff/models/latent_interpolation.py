"""Paths from one code to another."""

import torch
from torch import Tensor

from pcdiff.diffusion import slerp
from pcdiff.errors import InputError, OutOfRange, UnknownName
from pcdiff.models.base import PointCloudModel
from pcdiff.models.latent import Latent

PATHS = ("linear", "spherical")


def codes_between(
    model: PointCloudModel,
    a: Tensor,
    b: Tensor,
    num_frames: int,
    path: str = "linear",
    labels: Tensor | None = None,
) -> Tensor:
    """Return codes from `a` to `b`, both ends exactly.

    Args:
        model: whose codes they are; a generator for the spherical path.
        a: `(n, F)`.
        b: `(n, F)`.
        num_frames: codes of each path, both ends included, at least 2.
        path: `linear` in the code, or `spherical` in the base of the prior, where codes are N(0, I) and lie about a
            sphere (White, Sampling Generative Networks, 2016).
        labels: of the pairs' classes `(n,)`, whose prior a class-conditional model takes; None stands for no class.

    Returns:
        `(num_frames, n, F)`.

    Raises:
        InputError: `num_frames` is below 2, or the path is unknown or does not fit the model.
    """
    if num_frames < 2:
        raise OutOfRange("num_frames", "at least 2, the two ends", num_frames)
    if path not in PATHS:
        raise UnknownName("path", path, PATHS)
    weights = torch.linspace(0, 1, num_frames, device=a.device, dtype=a.dtype)
    if path == "linear":
        between = torch.lerp(a[None], b[None], weights[:, None, None])
    else:
        if not isinstance(model, Latent):
            raise InputError(f"path spherical needs a generator's prior, which {type(model).__name__} lacks")
        with torch.no_grad():
            w = slerp(model.latent_to_base(a, labels), model.latent_to_base(b, labels), weights)
            repeated = None if labels is None else labels.repeat(num_frames)
            between = model.base_to_latent(w.flatten(0, 1), repeated).view_as(w)
    # the way to the base and back rounds
    between[0], between[-1] = a, b
    return between
