"""Exact denoisers of known targets, and what golden files say of theirs."""

import numpy as np
import torch

from pcdiff.diffusion import Denoiser, append_dims


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
        return self.shared(x, t)[0]

    def shared(self, x, t):
        """Return E[x_0 | x_t] and the score."""
        alpha, sigma = (append_dims(v, x)[None] for v in self.process.scales(t))
        means = self.means.to(x.dtype)[:, None]
        stds = self.stds.to(x.dtype).view(-1, *[1] * x.dim())
        variance = (alpha * stds).square() + sigma.square()  # (K, B, 1, ..., 1)
        offset = x[None] - alpha * means  # (K, B, *dims)
        log_p = -(offset.square() / (2 * variance) + variance.log() / 2).flatten(2).sum(dim=2)
        share = (
            (log_p + self.weights.to(x.dtype).log()[:, None])
            .softmax(dim=0)
            .view(*log_p.shape, *[1] * (x.dim() - 1))
        )
        x0 = (share * (means + alpha * stds.square() / variance * offset)).sum(dim=0)
        return x0, -(share * offset / variance).sum(dim=0)

    def estimate(self, x, t, cond=None):
        """Return x_0 and eps, the latter from the score: it does not cancel."""
        x0, score = self.shared(x, t)
        return type(super().estimate(x, t, cond))(x0, -append_dims(self.process.sigma(t), x) * score)

    def score(self, x, t, cond=None):
        """Return the score itself."""
        return self.shared(x, t)[1]


KEYS = ("weights", "means", "stds")


def load(golden, pattern):
    """Return the arrays of the one golden file of this pattern."""
    (path,) = sorted((golden / "2d").glob(pattern))
    return dict(np.load(path))


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
