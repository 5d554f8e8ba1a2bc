"""Constraints that hold a sample to what is known of it: a part, a mean, or linear measurements.

All of them replace: after every update the known part of x becomes the known values at x's noise level, and the
rest is kept (Song et al., 2021, appendix I). The last update gives the known exactly. The rest is then near, but
not from, the posterior: x is held to y_t, drawn again at every time, where the posterior asks for y. Of Gaussians
whose numbers correlate by 0.7, its mean stopped short of the conditional mean: by 10 % where 24 of 30 numbers were
known, 31 % of 1 of 2 and 50 % of 6 of 30 with predictors that draw, and by 26, 50 and 69 % with flows, in 1,000
steps as in 100. Eight steps of `ConstrainedCorrector` at every time left 0.1 to 3 % (flows in 50 steps: 6 %).
Steps even in sigma of an EDM process, which only `grid="uniform"` takes, are worse: 16 to 63 %, and 5 to 33 %
after such steps. A new constraint is a class and a line in `CONSTRAINTS`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Constraint, Noise
from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry

# x `(B, *dims)` to y `(B, *measured)`, and a right inverse of it
Operator = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


class Inpaint:
    """Keep a part of every sample: inpainting of images, completion of clouds (Song et al., 2021, appendix I.2).

    Args:
        process: the forward process.
        known: data `(B, *dims)`, or `(1, *dims)` for all samples; values outside the mask are ignored.
        mask: True (or 1) where the data are known; it broadcasts to `known`, such as `(B, N, 1)` or `(H, W)`.

    Raises:
        InputError: the mask has other values or does not broadcast, or a known value is not finite.

    Example:
        >>> keep = Inpaint(denoiser.process, clouds, mask)  # (4, 2048, 3) and (4, 2048, 1)
        >>> sample(denoiser, clouds.shape, constraint=keep)
    """

    def __init__(self, process: Process, known: Tensor, mask: Tensor):
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise InputError("mask must be True or 1 where the data are known and False or 0 elsewhere")
        if not _broadcasts(mask.shape, known.shape):
            fix = "a mask of points needs a last dimension of 1"
            raise InputError(f"mask must broadcast to known {tuple(known.shape)}, got {tuple(mask.shape)}; {fix}")
        mask = mask.bool()
        if not known[mask.expand_as(known)].isfinite().all():
            raise InputError("known must be finite where the mask is True")
        self.process, self.known, self.mask = process, known, mask

    def __call__(self, x: Tensor, t: Tensor, noise: Noise | None) -> Tensor:
        """Return x_t with the known part put at times `t (B,)`, like `x`.

        Raises:
            InputError: `x` has another shape than the known data.
        """
        _check_sample(x, self.known.shape[1:], len(self.known))
        known = self.known.to(x).expand_as(x)
        if noise is not None:
            known = self.process.perturb(known, t, noise(x))
        return torch.where(self.mask.to(x.device), known, x)


class Colorize:
    """Keep the mean over the channels: colors for a gray image (Song et al., 2021, appendix I.3).

    An orthogonal change of the channels makes their mean, times sqrt(C), the first of them, which is then kept.

    Args:
        process: the forward process.
        gray: `(B, *dims)`, or `(1, *dims)` for all samples; its mean over the channels counts, and one will do.
        dim: the dimension of the channels, such as 1 of `(B, C, H, W)` and -1 of `(B, N, 3)`.

    Raises:
        InputError: `gray` is not finite, or `dim` is the batch's or none of its own.

    Example:
        >>> sample(denoiser, (4, 3, 32, 32), constraint=Colorize(denoiser.process, gray))  # gray (4, 1, 32, 32)
    """

    def __init__(self, process: Process, gray: Tensor, dim: int = 1):
        if not 1 <= dim % gray.dim() < gray.dim() or not -gray.dim() <= dim < gray.dim():
            raise InputError(f"dim must be a dimension of gray {tuple(gray.shape)} after the first, got {dim}")
        if not gray.isfinite().all():
            raise InputError("gray must be finite")
        self.process, self.dim = process, dim % gray.dim()
        self.channels, self.mean = gray.shape[self.dim], gray.mean(dim=self.dim, keepdim=True)

    def __call__(self, x: Tensor, t: Tensor, noise: Noise | None) -> Tensor:
        """Return x_t with the mean put at times `t (B,)`, like `x`.

        Raises:
            InputError: `x` has another shape than the gray data.
        """
        wanted = list(self.mean.shape[1:])
        if x.dim() == self.mean.dim():
            wanted[self.dim - 1] = x.shape[self.dim] if self.channels == 1 else self.channels
        _check_sample(x, wanted, len(self.mean))
        mean = self.mean.to(x)
        if noise is not None:
            # the first of the changed channels has unit noise, their mean that over sqrt(C)
            first = noise(x).narrow(self.dim, 0, 1) / math.sqrt(x.shape[self.dim])
            mean = self.process.perturb(mean.expand_as(first), t, first)
        return x + (mean - x.mean(dim=self.dim, keepdim=True))


class Linear:
    r"""Hold samples to measurements y = A x: compressed sensing, tomography, super-resolution.

    `x + strength A^+ (y_t - A x)` with `y_t = alpha y + sigma A z` (Song et al., "Solving inverse problems in
    medical imaging with score-based generative models", 2022, section 3).

    Args:
        process: the forward process.
        known: the measurements y: `(B, m)` of a matrix, else what the operator gives; a batch of 1 is for all.
        operator: A as a matrix `(m, d)` with independent rows, which meets every sample flat, d numbers; or the
            pair `(A, A^+)` of linear maps on batches with A A^+ = 1, such as means over blocks and repetition.
        strength: lambda in (0, 1]; less than 1 where y is noisy, and then y is approached, not met.

    Raises:
        InputError: the shapes or the rows do not fit, the pair is none, or a number is out of range.

    Example:
        >>> sense = Linear(process, y, operator)  # (4, 500) and (500, 6144) for clouds (4, 2048, 3)
        >>> sample(denoiser, (4, 2048, 3), constraint=sense)
    """

    def __init__(self, process: Process, known: Tensor, operator: Tensor | Operator, strength: float = 1.0):
        if not 0 < strength <= 1:
            raise OutOfRange("strength", "in (0, 1]", strength)
        if not known.isfinite().all():
            raise InputError("known, the measurements, must be finite")
        self.process, self.known, self.strength = process, known, strength
        self.flat = isinstance(operator, Tensor)
        self.measure, self.inverse = _of_matrix(operator, known) if isinstance(operator, Tensor) else operator
        self.dims = _dims_of_pair(self.measure, self.inverse, known)

    def __call__(self, x: Tensor, t: Tensor, noise: Noise | None) -> Tensor:
        """Return x_t held to the measurements put at times `t (B,)`, like `x`.

        Raises:
            InputError: the operator is for samples of another shape.
        """
        state = x.flatten(1) if self.flat else x
        _check_sample(state, self.dims, len(self.known))
        wanted = self.known.to(x)
        if noise is not None:
            # the operator is asked of noise in x's own room, so that any A has the right covariance
            z = self.measure(noise(x).reshape(state.shape))
            alpha, sigma = self.process.scales(t)
            wanted = append_dims(alpha, z) * wanted + append_dims(sigma, z) * z
        return x + self.strength * self.inverse(wanted - self.measure(state)).reshape(x.shape)


def average(process: Process, known: Tensor, factor: int, dims: Sequence[int], strength: float = 1.0) -> Linear:
    """Return the constraint that means over blocks are `known`: super-resolution by `Linear`'s replacement.

    Args:
        process: the forward process.
        known: the means, `(B, *dims)` where `dims` are `factor` times shorter than the samples'.
        factor: numbers in a block along each of `dims`.
        dims: what is averaged over, such as (2, 3) of `(B, C, H, W)`, or (1,) for runs of a cloud's points.
        strength: see `Linear`.

    Raises:
        InputError: `factor` is not positive, a dimension is the batch's or missing, or see `Linear`.

    Example:
        >>> sample(denoiser, (4, 3, 32, 32), constraint=average(denoiser.process, small, 4, (2, 3)))
    """
    if factor < 1:
        raise OutOfRange("factor", "at least 1", factor)
    if not dims or not all(0 < dim < known.dim() for dim in dims):
        raise InputError(f"dims must be dimensions 1..{known.dim() - 1} of known, got {list(dims)}")

    def means(x: Tensor) -> Tensor:
        for dim in dims:
            x = x.unflatten(dim, (-1, factor)).mean(dim=dim + 1)
        return x

    def repeat(y: Tensor) -> Tensor:
        for dim in dims:
            y = y.repeat_interleave(factor, dim=dim)
        return y

    return Linear(process, known, (means, repeat), strength)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    aligned = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, other) for size, other in aligned)


def _check_sample(x: Tensor, dims: Sequence[int], count: int) -> None:
    if tuple(x.shape[1:]) != tuple(dims) or count not in (1, len(x)):
        wanted = ", ".join(map(str, ("B" if count == 1 else count, *dims)))
        raise InputError(f"the constraint is for samples ({wanted}), got {tuple(x.shape)}")


def _of_matrix(matrix: Tensor, known: Tensor) -> Operator:
    """Return the pair of a matrix, its pseudo-inverse found in float64."""
    if matrix.dim() != 2 or known.dim() != 2 or known.shape[1] != len(matrix):
        shapes = f"{tuple(matrix.shape)} and {tuple(known.shape)}"
        raise InputError(f"operator and known must be (m, d) and (B, m), got {shapes}")
    exact = matrix.double()
    rank = int(torch.linalg.matrix_rank(exact))
    if rank < len(matrix):
        raise InputError(f"operator must have independent rows, got {len(matrix)} rows of rank {rank}")
    forward, back = exact.T.to(known), torch.linalg.pinv(exact).T.to(known)
    return lambda x: x @ forward.to(x), lambda y: y @ back.to(y)


def _dims_of_pair(measure: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], known: Tensor) -> Any:
    """Return the dimensions of the samples that a pair is for, once it has shown that it is one."""
    x = inverse(known)
    measured = measure(x)
    if measured.shape != known.shape:
        shapes = f"{tuple(x.shape)} and back {tuple(measured.shape)}"
        raise InputError(f"operator must map known {tuple(known.shape)} to samples and back, got {shapes}")
    # measurements all 0 would show nothing
    draw = torch.Generator().manual_seed(0)
    probe = known + measure(torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x))
    error = (measure(inverse(probe)) - probe).abs().max() / probe.abs().max()
    if not error < 1e-3:
        raise InputError(f"operator must be (A, A^+) with A A^+ = 1, got a relative error of {float(error):.2g}")
    return x.shape[1:]


CONSTRAINTS: Registry[Callable[..., Constraint]] = Registry(
    "constraint",
    {
        "inpaint": Inpaint,
        "colorize": Colorize,
        "linear": Linear,
        "average": average,
    },
)


def constraint(name: str, **options: Any) -> Constraint:
    """Return a constraint by name.

    Args:
        name: a key of `CONSTRAINTS`.
        **options: what that constraint takes, the process among them.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), one is missing, or does not
            fit.

    Example:
        >>> keep = constraint("inpaint", process=denoiser.process, known=clouds, mask=mask)
        >>> sample(denoiser, clouds.shape, constraint=keep)
    """
    return CONSTRAINTS.build(name, **options)
