"""Instance normalization++, which keeps what the plain one forgets: how bright a channel is beside the others.

Song & Ermon (2019, appendix A): `gamma (x - mu_c) / sigma_c + gamma alpha (mu_c - m) / v + beta`, where mu_c and
sigma_c are a channel's own mean and standard deviation and m and v are those of the means over all channels. Of one
channel the mean is m, and the term is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _standardized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel of `x (B, C, H, W)` standardized, and the channels' means `(B, C, 1, 1)` likewise."""
    means = x.mean(dim=(2, 3), keepdim=True)
    apart = means - means.mean(dim=1, keepdim=True)
    spread = means.var(dim=1, keepdim=True) if x.shape[1] > 1 else torch.zeros_like(means)
    return F.instance_norm(x), apart / (spread + 1e-5).sqrt()


class InstanceNormPlus(nn.Module):
    """Instance normalization++ that is the same at all noise levels (Song & Ermon, 2020, appendix B).

    Args:
        channels: C; alpha and gamma start at N(1, 0.02^2), beta at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha, self.gamma = (nn.Parameter(1 + 0.02 * torch.randn(channels)) for _ in range(2))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `x (B, C, H, W)` normalized; the label is not asked."""
        h, means = _standardized(x)
        alpha, gamma, beta = (v[:, None, None] for v in (self.alpha, self.gamma, self.beta))
        return gamma * (h + alpha * means) + beta


class ConditionalInstanceNormPlus(nn.Module):
    """Instance normalization++ with alpha, gamma and beta of each noise level (Song & Ermon, 2019, appendix A).

    Args:
        channels: C.
        num_scales: L.
    """

    def __init__(self, channels: int, num_scales: int):
        super().__init__()
        self.embed = nn.Embedding(num_scales, 3 * channels)
        with torch.no_grad():
            self.embed.weight[:, : 2 * channels].normal_(1, 0.02)
            self.embed.weight[:, 2 * channels :].zero_()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `x (B, C, H, W)` normalized as levels `label (B,)` want it."""
        h, means = _standardized(x)
        gamma, alpha, beta = self.embed(label)[:, :, None, None].chunk(3, dim=1)
        return gamma * (h + alpha * means) + beta


def _of_unit_variance(x: Tensor) -> Tensor:
    """Return each channel of `x (B, C, H, W)` over its standard deviation (of H W - 1), its mean kept."""
    return x / (x.var(dim=(2, 3), keepdim=True) + 1e-5).sqrt()


class VarianceNorm(nn.Module):
    """Channels brought to one spread, their means kept: the VarianceNorm of NCSNv2's code (its papers have none).

    Args:
        channels: C; alpha starts at N(1, 0.02^2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `x (B, C, H, W)` normalized; the label is not asked."""
        return self.alpha[:, None, None] * _of_unit_variance(x)


class ConditionalVarianceNorm(nn.Module):
    """`VarianceNorm` with a factor for each noise level.

    Args:
        channels: C.
        num_scales: L.
    """

    def __init__(self, channels: int, num_scales: int):
        super().__init__()
        self.embed = nn.Embedding(num_scales, channels)
        nn.init.normal_(self.embed.weight, 1, 0.02)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `x (B, C, H, W)` normalized as levels `label (B,)` want it."""
        return self.embed(label)[:, :, None, None] * _of_unit_variance(x)


# by the names of the authors' configs, model.normalization: the same at all levels, and of each level its own
NORMS = {
    "InstanceNorm++": (InstanceNormPlus, ConditionalInstanceNormPlus),
    "VarianceNorm": (VarianceNorm, ConditionalVarianceNorm),
}


class Unnormalized(nn.Module):
    """No normalization, where a block would have one: NCSNv2's refine blocks.

    Args:
        channels: not asked.
    """

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `x`."""
        return x
