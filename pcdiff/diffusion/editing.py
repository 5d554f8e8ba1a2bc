"""Samples near given ones: data noised and denoised again, and ways between two latents or noises."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.samplers.base import Noise
from pcdiff.diffusion.samplers.loop import sample
from pcdiff.errors import InputError
from pcdiff.runtime.call_checks import checked


@checked
def sdedit(
    denoiser: Denoiser,
    x: Tensor,
    t_start: float,
    *,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
    **options: Any,
) -> Tensor:
    """Noise data up to a time and sample from there: partial diffusion (Meng et al., SDEdit, 2022, algorithm 1).

    The larger `t_start`, the less is left of `x` and the likelier the result.

    Args:
        denoiser: the model.
        x: data, or a rough guide to it, `(B, *dims)`.
        t_start: the time to go up to; of a chain a whole step.
        generator: source of every draw, the perturbation's first.
        noise: overrides all draws: maps x to a standard normal like it.
        **options: see `sample`.

    Returns:
        Samples, like `x`.

    Raises:
        InputError: `t_start` is out of range, or see `sample`.

    Example:
        >>> sdedit(denoiser, clouds, 30, cond=z)  # of DPM's 100 steps
    """
    process = denoiser.process
    t = torch.full((len(x),), float(t_start), dtype=torch.float64, device=x.device)
    process.checked(t)
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) if noise is None else noise(x)
    start = process.perturb(x, t, z)
    return sample(denoiser, x_init=start, t_start=t_start, generator=generator, noise=noise, **options)


@checked
def slerp(a: Tensor, b: Tensor, weights: float | Tensor) -> Tensor:
    """Interpolate on the great circle, each sample by itself: `sin((1 - w) A) / sin A a + sin(w A) / sin A b`.

    A is the angle between a and b (Shoemake, 1985; Song, Meng & Ermon, DDIM, 2021, appendix D.5). What is between
    two normal noises is then as long as they are; on a straight line it would be shorter. Samples that are nearly
    parallel go along a straight line.

    Args:
        a: latents or noises `(B, *dims)`.
        b: like `a`.
        weights: 0 gives `a` and 1 gives `b`; a number, or `(W,)` for all of them at once.

    Returns:
        Like `a`, or `(W, B, *dims)`.

    Raises:
        InputError: the shapes differ, `weights` is not a number or `(W,)` or not finite, or two samples are
            opposite, so that no circle is the shortest.

    Example:
        >>> slerp(invert(denoiser, x, cond=z), invert(denoiser, y, cond=z), torch.linspace(0, 1, 7))
    """
    if a.shape != b.shape or a.dim() < 2:
        raise InputError(f"slerp needs a and b alike (B, *dims), got {tuple(a.shape)} and {tuple(b.shape)}")
    w = torch.as_tensor(weights, dtype=torch.float64, device=a.device)
    if w.dim() > 1 or not w.isfinite().all():
        raise InputError(f"weights must be a finite number or (W,) of them, got shape {tuple(w.shape)}")
    flat_a, flat_b = (v.double().flatten(1) for v in (a, b))
    unit_a, unit_b = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-300) for v in (flat_a, flat_b))
    # the angle by its tangent: exact for small ones too
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))
    if (angle > torch.pi - 1e-6).any():
        raise InputError("slerp has no way between opposite samples, got a = -b (up to length); go by a third")
    w = w[..., None]  # (W, 1) or (1,)
    straight, safe = angle < 1e-6, angle.clamp(min=1e-6)
    of_a = torch.where(straight, 1 - w, ((1 - w) * safe).sin() / safe.sin())
    of_b = torch.where(straight, w, (w * safe).sin() / safe.sin())
    mixed = of_a[..., None] * flat_a + of_b[..., None] * flat_b
    return mixed.to(a.dtype).view(*w.shape[:-1], *a.shape)
