"""A training of one weight, for the tests of the loop and its parts."""

import math

import torch
from torch import nn

from pcdiff.config import TrainConfig
from pcdiff.training import Trainer, checkpoint

METADATA = {"dataset": {"name": "made up", "fingerprint": "f"}}
BATCH = 4


class Line(nn.Module):
    """Fits a slope; `poison` makes its loss NaN at one call."""

    def __init__(self, poison=None):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(()))
        self.calls, self.poison = 0, poison

    def draw(self, x, count, generator):
        return {"noise": torch.randn(count, *x.shape[1:], generator=generator)}

    def loss_terms(self, x, noise):
        self.calls += 1
        self.seen += 1
        loss = (self.slope * x - 2 * x - 0.01 * noise).square().mean()
        loss = loss * math.nan if self.calls == self.poison else loss
        self.last.copy_(loss.detach())
        return {"loss": loss}


class Scores:
    """Returns given scores in turn and notes what was asked."""

    def __init__(self, *scores):
        self.scores, self.modes, self.shown = list(scores), [], []

    def __call__(self, model):
        self.modes.append(model.training)
        return {"score": self.scores[len(self.modes) - 1]}

    def show(self, writer, step):
        self.shown.append(step)


def batches(step, rows):
    return torch.linspace(0.5, 1.5, BATCH)[rows, None] * (1.0 + step % 3)


def trainer(folder, model=None, validate=None, seed=0, **config):
    defaults = {"max_iters": 10, "batch_size": BATCH, "lr": 0.1, "log_every": 1, "save_every": 4, "val_every": 0}
    settings = TrainConfig(**defaults | config)
    device = torch.device("cpu")
    return Trainer(model or Line(), batches, settings, folder, dict(METADATA), seed, device, validate)


def last(folder):
    return checkpoint.read(folder / "checkpoints" / "last.safetensors")
