"""The Frechet distance between two Gaussians, and their moments summed up in bounded memory.

torchmetrics has these scores too. It is not used: its Inception Score divides by n - 1, and its KID and Inception
Score draw from torch's global generator, so neither gives the reference implementations' numbers; its FID keeps raw
second moments, which cancel where features lie far from zero. The tests compare with it where the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcdiff.errors import InputError


@dataclass
class FeatureMoments:
    """Count, mean and scatter of features, in float64, whatever their number.

    Sums are taken about the mean and merged by Chan's formula: about zero they would lose digits. Parts of several
    processes merge to the whole, up to rounding.

    Attributes:
        count: rows seen.
        mean: `(D,)`.
        scatter: `(D, D)`, the sum of `(x - mean) (x - mean)^T`.

    Example:
        >>> moments = FeatureMoments.empty(2).add(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> moments.covariance()
        tensor([[2., 0.],
                [0., 0.]], dtype=torch.float64)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dims: int) -> FeatureMoments:
        """Return the moments of nothing, on the CPU."""
        return cls(0, torch.zeros(dims, dtype=torch.float64), torch.zeros(dims, dims, dtype=torch.float64))

    def add(self, features: Tensor) -> FeatureMoments:
        """Return the moments with rows `(B, D)` added.

        Raises:
            InputError: wrong shape, or a value that is not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise InputError(f"features must be (B, {len(self.mean)}), got {tuple(features.shape)}")
        if not len(features):
            return self
        rows = features.detach().double().cpu()
        if not rows.isfinite().all():
            raise InputError("features must be finite, got NaN or infinity; is the feature network right?")
        mean = rows.mean(dim=0)
        centered = rows - mean
        return self.merge(FeatureMoments(len(rows), mean, centered.T @ centered))

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Return the moments of both together."""
        total = self.count + other.count
        if not total:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / total)
        apart = torch.outer(delta, delta) * (self.count * other.count / total)
        return FeatureMoments(total, mean, self.scatter + other.scatter + apart)

    def covariance(self) -> Tensor:
        """Return the unbiased covariance `(D, D)`.

        Raises:
            InputError: fewer than two rows.
        """
        if self.count < 2:
            raise InputError(f"a covariance needs two images or more, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Return the squared Frechet distance of two Gaussians: FID (Heusel et al., 2017, eq. 6).

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`. The trace of the root is the sum of the singular values of
    `A^T B` where `C_a = A A^T` and `C_b = B B^T`: real, and exact to rounding also where covariances are singular
    (fewer images than features), where a matrix root loses half of the digits. Not clipped at zero, so equal
    Gaussians may come out at minus a rounding error.

    Args:
        mean_a: `(D,)`.
        covariance_a: `(D, D)`.
        mean_b: `(D,)`.
        covariance_b: `(D, D)`.

    Raises:
        InputError: shapes that do not fit, or values that are not finite.
    """
    a, b, c, d = (torch.as_tensor(x).double().cpu() for x in (mean_a, covariance_a, mean_b, covariance_b))
    dims = len(a) if a.ndim else 0
    if not dims or c.shape != (dims,) or b.shape != (dims, dims) or d.shape != (dims, dims):
        shapes = ", ".join(str(tuple(x.shape)) for x in (a, b, c, d))
        raise InputError(f"two means (D,) and covariances (D, D) must have one D, got {shapes}")
    if not all(x.isfinite().all() for x in (a, b, c, d)):
        raise InputError("means and covariances must be finite, got NaN or infinity")
    cross = torch.linalg.svdvals(_factor(b).T @ _factor(d)).sum()
    return float((a - c).square().sum() + b.trace() + d.trace() - 2 * cross)


def _factor(covariance: Tensor) -> Tensor:
    """Return F with `F F^T` the covariance; directions that are only rounding are left out."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return vectors * values.where(values > noise, 0).sqrt()
