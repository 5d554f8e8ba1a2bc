"""Time a training step: ours against the arithmetic of the original, on the same batch in one run.

The baseline is a plain fp32 rendering of the model of Luo & Hu (2021), layer by layer: 1x1 convolutions with
channels first, a gate and a shift computed in every layer, a Python-level Adam. Ours is `pcdiff.training.Trainer`.

python benchmarks/training.py --batch-size 32 --num-points 512
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.config import ModelConfig, TrainConfig
from pcdiff.flows import standard_normal_log_prob
from pcdiff.models import FlowVAE, gaussian_entropy
from pcdiff.precision import native_bf16
from pcdiff.training import Trainer, keep_freed_memory


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
        self.flow = FlowVAE(config).flow
        self.betas = torch.linspace(config.beta_1, config.beta_T, config.num_steps)
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
        h = xt = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
        context = torch.cat([beta, beta.sin(), beta.cos(), z[:, None]], dim=-1)
        for i, layer in enumerate(self.layers):
            h = layer(context, h)
            if i < len(self.layers) - 1:
                h = F.leaky_relu(h)
        return F.mse_loss(xt + h, noise) + 1e-3 * prior


def plain_step(model: PlainModel, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """Make one optimiser step the plain way."""
    optimizer.zero_grad()
    model(x).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10)
    optimizer.step()


def seconds(step: Callable[[], object], repeats: int) -> list[float]:
    """Time `step` after two warm-up calls."""
    step()
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def interleaved(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time all in three rounds, so that a slow minute of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for name, step in steps.items():
            times[name] += seconds(step, max(1, repeats // 3))
    return times


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32, help="clouds in a batch (default: 32)")
    parser.add_argument("--num-points", type=int, default=512, help="points of a cloud (default: 512)")
    parser.add_argument("--repeats", type=int, default=15, help="timed steps of each (default: 15)")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, args.num_points, 3)
    config = ModelConfig()
    plain = PlainModel(config)
    optimizer = torch.optim.Adam(plain.parameters(), lr=2e-3)
    steps: dict[str, Callable[[], object]] = {"plain fp32": lambda: plain_step(plain, optimizer, x)}
    precisions = ["fp32", "bf16"] if native_bf16(x.device) else ["fp32"]
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            for compiled in (False, True):
                model = FlowVAE(config)
                train = dataclasses.replace(TrainConfig(), precision=precision)
                trainer = Trainer(model, lambda step: x, train, Path(folder), {}, 0, x.device)
                if compiled:
                    model.compile()
                steps[f"pcdiff {precision}{' compiled' if compiled else ''}"] = trainer.train_step
        times = interleaved(steps, args.repeats)
        # It cannot be undone, so what it brings is timed last.
        keep_freed_memory()
        kept = interleaved(steps, args.repeats)
        times |= {f"{name}, freed memory kept": values for name, values in kept.items()}
    baseline = statistics.median(times["plain fp32"])
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"batch {args.batch_size} x {args.num_points} points, {threads}")
    print("| step | median ms | steps/s | against plain |\n| --- | ---: | ---: | ---: |")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median * 1e3:.0f} | {1 / median:.2f} | {baseline / median:.2f} x |")


if __name__ == "__main__":
    main()
