"""A Gaussian of any covariance over whole samples: its exact denoiser, and its law given measurements."""

import torch

from pcdiff.diffusion import Denoiser


class ExactGaussian(Denoiser):
    """E[x_0 | x_t] of data N(mean, covariance), `(d,)` and `(d, d)` over the flat sample, d = prod(dims)."""

    def __init__(self, process, mean, covariance):
        super().__init__(process)
        self.mean, self.covariance = mean, covariance
        self.spectrum, self.axes = torch.linalg.eigh(covariance)

    def forward(self, x, t, cond=None):
        alpha, sigma = (v.to(x)[:, None] for v in self.process.scales(t))
        along = (x.flatten(1) - alpha * self.mean.to(x)) @ self.axes.to(x)
        spectrum = self.spectrum.to(x)
        gain = alpha * spectrum / (alpha.square() * spectrum + sigma.square())
        return (self.mean.to(x) + (gain * along) @ self.axes.T.to(x)).view_as(x)

    def given(self, matrix, y):
        """Return mean `(d,)` and covariance `(d, d)` of x_0 where A x_0 = y, A `(m, d)` and y `(m,)`."""
        gain = self.covariance @ matrix.T @ torch.linalg.inv(matrix @ self.covariance @ matrix.T)
        return self.mean + gain @ (y - matrix @ self.mean), self.covariance - gain @ matrix @ self.covariance


def gaussian(process, dims, correlation=0.7):
    """Return one whose numbers all correlate alike, with standard deviations about 1."""
    size = torch.Size(dims).numel()
    draw = torch.Generator().manual_seed(3)
    mean = torch.randn(size, generator=draw, dtype=torch.float64)
    std = 0.7 + 0.6 * torch.rand(size, generator=draw, dtype=torch.float64)
    covariance = correlation + (1 - correlation) * torch.eye(size, dtype=torch.float64)
    return ExactGaussian(process, mean, std[:, None] * covariance * std)
