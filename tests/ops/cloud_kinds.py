"""Clouds of the kinds that break searches, for the tests of every op."""

import torch

KINDS = ["random", "surface", "clustered", "duplicated", "collinear", "identical", "far"]


def cloud(kind, batch, n, dim, seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, dim, generator=g, dtype=torch.float64)
    if kind == "surface":
        x = x / x.norm(dim=-1, keepdim=True)
    elif kind == "clustered":
        centers = torch.randn(batch, 4, dim, generator=g, dtype=torch.float64)
        which = torch.randint(4, (batch, n), generator=g)
        x = centers.gather(1, which[..., None].expand(-1, -1, dim)) + 1e-3 * x
    elif kind == "duplicated":
        x = (2 * x).round()
    elif kind == "collinear":
        x = x[..., :1].expand(-1, -1, dim).clone()
    elif kind == "identical":
        x = torch.ones_like(x)
    elif kind == "far":
        x = x + 1000 * seed
    else:
        assert kind == "random"
    return x.to(dtype)


def tied(batch, n, dim, seed, dtype=torch.float32):
    """Return points of a small grid whose step is no binary fraction: most distances tie, and their sums round."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (batch, n, dim), generator=g).to(dtype) * 0.1


def rotation(seed):
    """Return a random 3 x 3 rotation or reflection, float64."""
    g = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
    return q * r.diagonal().sign()
