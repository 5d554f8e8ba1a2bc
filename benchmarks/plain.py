"""The model of Luo & Hu (2021) written straight down in fp32, layer by layer: the baseline of the benchmarks.

1x1 convolutions with channels first, a gate and a shift computed in every layer, a chain stepped in a Python loop.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import ModelConfig
from pcdiff.config.run import PAPER_PROCESS
from pcdiff.flows import standard_normal_log_prob
from pcdiff.models import Latent, gaussian_entropy


class PlainEncoder(nn.Module):
    """PointNet with channels first and 1x1 convolutions."""

    def __init__(self, latent_dim: int):
        super().__init__()
        sizes = [3, 128, 128, 256, 512]
        self.convs = nn.ModuleList(nn.Conv1d(i, o, 1) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for o in sizes[1:])
        self.heads = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU()),
                *(nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU()),
                nn.Linear(128, latent_dim),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance."""
        h = x.transpose(1, 2)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(h))
            if i < 3:
                h = F.relu(h)
        h = h.max(dim=2).values
        return self.heads[0](h), self.heads[1](h)


class PlainLayer(nn.Module):
    """One concat-squash layer, its context terms computed inside."""

    def __init__(self, in_dim: int, out_dim: int, context_dim: int):
        super().__init__()
        self.layer = nn.Linear(in_dim, out_dim)
        self.gate = nn.Linear(context_dim, out_dim)
        self.shift = nn.Linear(context_dim, out_dim, bias=False)

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return self.layer(x) * torch.sigmoid(self.gate(context)) + self.shift(context)


class PlainModel(nn.Module):
    """The generator of Luo & Hu (2021), written straight down."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoder = PlainEncoder(config.latent_dim)
        sizes = [3, 128, 256, 512, 256, 128, 3]
        self.layers = nn.ModuleList(PlainLayer(i, o, config.latent_dim + 3) for i, o in itertools.pairwise(sizes))
        self.flow = Latent(config).prior
        self.betas = torch.linspace(PAPER_PROCESS.beta_1, PAPER_PROCESS.beta_T, PAPER_PROCESS.num_steps)
        self.alpha_bars = torch.cumprod(1 - self.betas, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of clouds `(B, N, 3)`."""
        mean, log_variance = self.encoder(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        w, log_det = self.flow(z)
        prior = -(standard_normal_log_prob(w) + log_det).mean() - gaussian_entropy(log_variance).mean()
        t = torch.randint(len(self.betas), (len(x),))
        beta, alpha_bar = self.betas[t].view(-1, 1, 1), self.alpha_bars[t].view(-1, 1, 1)
        noise = torch.randn_like(x)
        x_t = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
        return F.mse_loss(self.net(x_t, beta, z), noise) + 1e-3 * prior

    def net(self, x: Tensor, beta: Tensor, z: Tensor) -> Tensor:
        """Return the noise predicted for clouds `(B, N, 3)` at `beta (B, 1, 1)`, with latents `(B, F)`."""
        context = torch.cat([beta, beta.sin(), beta.cos(), z[:, None]], dim=-1)
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(context, h)
            if i < len(self.layers) - 1:
                h = F.leaky_relu(h)
        return x + h

    @torch.no_grad()
    def sample(self, z: Tensor, num_points: int) -> Tensor:
        """Return clouds `(B, num_points, 3)` of latents `(B, F)`, a step at a time."""
        x = torch.randn(len(z), num_points, 3)
        for t in reversed(range(len(self.betas))):
            beta, alpha_bar = self.betas[t], self.alpha_bars[t]
            before = self.alpha_bars[t - 1] if t > 0 else torch.ones(())
            sigma = ((1 - before) / (1 - alpha_bar) * beta).sqrt()
            noise = torch.randn_like(x) if t > 0 else torch.zeros_like(x)
            predicted = self.net(x, beta.expand(len(x), 1, 1), z)
            x = (x - beta / (1 - alpha_bar).sqrt() * predicted) / (1 - beta).sqrt() + sigma * noise
        return x
