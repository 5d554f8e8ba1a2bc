"""What the makers of golden files share: recorded normals, files, and the exact score of a mixture of Gaussians."""

import numpy as np


def normal(seed, shape, scale=1.0):
    """Return normals of this deviation as float32 holds them, in float64."""
    drawn = scale * np.random.default_rng(seed).standard_normal(shape)
    return drawn.astype(np.float32).astype(np.float64)


def save(path, rounded, whole):
    """Write arrays, the first ones in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: np.asarray(v).astype(np.float32) for key, v in rounded.items()}, **whole)


def both(arrays):
    """Return arrays twice, as `<name>_f32` and `<name>_f64`."""
    found = {f"{key}_f64": np.asarray(value) for key, value in arrays.items()}
    narrow = {key: v.astype(np.float32) if v.dtype.kind == "f" else v for key, v in found.items()}
    return found | {f"{key.removesuffix('_f64')}_f32": value for key, value in narrow.items()}


class Mixture:
    """Data sum_k w_k N(mu_k, s_k^2 I).

    Args:
        seed: of its numbers.
        dims: of one sample.
        count: K.
    """

    def __init__(self, seed, dims, count=2):
        draw = np.random.default_rng(seed)
        weights = draw.uniform(0.5, 1.5, count).astype(np.float32)
        self.weights = weights / weights.sum(dtype=np.float32)
        self.means = (0.5 * draw.standard_normal((count, *dims))).astype(np.float32)
        self.stds = draw.uniform(0.2, 0.5, count).astype(np.float32)

    def arrays(self):
        """Return them by the files' names."""
        return {"gmm.weights": self.weights, "gmm.means": self.means, "gmm.stds": self.stds}

    def parts(self, x, a, s):
        """Return log w_k N(x; a mu_k, v_k) `(B, K)`, v_k `(K,)` and x - a mu_k."""
        variance = a**2 * self.stds.astype(np.float64) ** 2 + s**2
        offsets = x[:, None] - a * self.means.astype(np.float64)
        squares = (offsets**2).reshape(*offsets.shape[:2], -1).sum(axis=2)
        weights = np.log(self.weights.astype(np.float64))
        size = x[0].size
        return weights - squares / (2 * variance) - size / 2 * np.log(2 * np.pi * variance), variance, offsets

    def log_density(self, x, a, s):
        """Return log p `(B,)` in nats of x = a x_0 + s noise."""
        log_p = self.parts(x, a, s)[0]
        top = log_p.max(axis=1, keepdims=True)
        return (top + np.log(np.exp(log_p - top).sum(axis=1, keepdims=True)))[:, 0]

    def score(self, x, a, s):
        """Return its gradient."""
        log_p, variance, offsets = self.parts(x, a, s)
        share = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        share = share / share.sum(axis=1, keepdims=True) / variance
        return -(share.reshape(*share.shape, *[1] * (x.ndim - 1)) * offsets).sum(axis=1)

    def score_jacobian_probe(self, x, a, s, probe, step=1e-5):
        """Return probe . (d score / dx) probe `(B,)`, by a central difference."""
        apart = self.score(x + step * probe, a, s) - self.score(x - step * probe, a, s)
        return (probe * apart).reshape(len(x), -1).sum(axis=1) / (2 * step)
