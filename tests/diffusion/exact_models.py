"""Exact denoisers of known targets, and what golden files say of theirs."""

import torch

from pcdiff.diffusion import Denoiser, Estimate, append_dims


class Mixture(Denoiser):
    """Exact denoiser of data sum_k w_k N(mu_k, s_k^2 I), means `(K, *dims)`."""

    def __init__(self, process, weights, means, stds, variance="small"):
        super().__init__(process)
        self.weights, self.means, self.stds, self.variance = weights, means, stds, variance

    @classmethod
    def of(cls, process, table, dtype, **options):
        """Read the mixture of a golden file; its weights are float32, rounded."""
        weights, means, stds = (torch.from_numpy(table[f"gmm.{key}"]).to(dtype) for key in KEYS)
        return cls(process, weights, means, stds, **options)

    def forward(self, x, t, cond=None):
        """Return E[x_0 | x_t]: the components' own posterior means, by their shares."""
        return self.x0(*self.components(x, t))

    def components(self, x, t):
        """Return x less each one's mean, `(K, B, *dims)`, its share, variance and alpha `(K, B, 1, ...)`."""
        alpha, sigma = (append_dims(v, x)[None] for v in self.process.scales(t))
        stds = self.stds.to(x.dtype).view(-1, *[1] * x.dim())
        variance = (alpha * stds).square() + sigma.square()
        offset = torch.addcmul(x[None], alpha, self.means.to(x.dtype)[:, None], value=-1)
        each = variance.flatten(1)
        log_p = -offset.flatten(2).square().sum(dim=2) / (2 * each) - each.log() * (x[0].numel() / 2)
        share = (log_p + self.weights.to(x.dtype).log()[:, None]).softmax(dim=0).view_as(variance)
        return offset, share, variance, alpha

    def x0(self, offset, share, variance, alpha):
        """Return E[x_0 | x_t]."""
        gain = alpha * self.stds.to(offset.dtype).square().view(-1, *[1] * (offset.dim() - 1)) / variance
        return (share * self.means.to(offset.dtype)[:, None] + share * gain * offset).sum(dim=0)

    def estimate(self, x, t, cond=None):
        """Return x_0 and eps, the latter from the score: it does not cancel."""
        found = self.components(x, t)
        return Estimate(self.x0(*found), -append_dims(self.process.sigma(t), x) * self.score_of(*found))

    def score_of(self, offset, share, variance, alpha):
        """Return the score."""
        return -(share / variance * offset).sum(dim=0)

    def score(self, x, t, cond=None):
        """Return the score itself."""
        return self.score_of(*self.components(x, t))


KEYS = ("weights", "means", "stds")


def close(ours, theirs, rtol):
    """Compare within rtol of the largest value."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    error = (ours.to(theirs.dtype) - theirs).abs().max() / theirs.abs().max()
    assert error <= rtol, float(error)


def replay(noise, dtype):
    """Return a noise source that gives the recorded draws in turn."""
    draws = iter(torch.from_numpy(noise).to(dtype))
    return lambda x: next(draws)
