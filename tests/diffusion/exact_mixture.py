"""A mixture of isotropic Gaussians: its density after noise, and the denoiser that knows it."""

import math

import torch

from pcdiff.diffusion import Denoiser, append_dims


class ExactMixture(Denoiser):
    """E[x_0 | x_t] of data sum_k w_k N(mu_k, s_k^2 I).

    Args:
        process: the forward process.
        weights: w `(K,)`.
        means: mu `(K, *dims)`.
        stds: s `(K,)`.
    """

    def __init__(self, process, weights, means, stds):
        super().__init__(process)
        self.weights, self.means, self.stds = weights, means, stds

    def components(self, x, t):
        """Return x less each mean, `(B, K, *dims)`, variances and log-densities with weights, `(B, K)`."""
        alpha, sigma = (scale.to(x.dtype)[:, None] for scale in self.process.scales(t))
        variance = (alpha * self.stds).square() + sigma.square()
        offsets = x[:, None] - alpha.view(-1, *[1] * x.dim()) * self.means
        squares = offsets.square().flatten(2).sum(dim=2) / variance
        size = x[0].numel()
        return offsets, variance, self.weights.log() - (squares + size * (2 * math.pi * variance).log()) / 2

    def log_density(self, x, t):
        """Return log p_t(x) `(B,)` in nats."""
        return self.components(x, t)[2].logsumexp(dim=1)

    def forward(self, x, t, cond=None):
        offsets, variance, log_p = self.components(x, t)
        alpha, sigma = self.process.scales(t)
        share = log_p.softmax(dim=1) / variance
        score = -(share.view(*share.shape, *[1] * (x.dim() - 1)) * offsets).sum(dim=1)
        return (x + append_dims(sigma.square(), x) * score) / append_dims(alpha, x)


def mixture(process, dims, count=3, spread=0.6, std=0.3, dtype=torch.float64):
    """Return a random mixture of `count` Gaussians on `dims`."""
    draw = torch.Generator().manual_seed(5)
    weights = torch.rand(count, generator=draw, dtype=torch.float64) + 0.5
    means = spread * torch.randn(count, *dims, generator=draw, dtype=torch.float64)
    stds = std * (1 + torch.rand(count, generator=draw, dtype=torch.float64))
    return ExactMixture(process, *(v.to(dtype) for v in (weights / weights.sum(), means, stds)))
