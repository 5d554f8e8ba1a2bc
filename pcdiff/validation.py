"""Validation during training, by the scores that count in the end. Never on the test split."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pcdiff.metrics import generation_scores, get_protocol
from pcdiff.ops import chamfer
from pcdiff.sampling import CHUNK, reconstruct, sample_all

_SHOWN = 4


@dataclass(frozen=True)
class GeneratorValidation:
    """Score samples against validation clouds; `score` is how far 1-NNA-CD is from its ideal of 50.

    Args:
        clouds: validation clouds `(n, P, 3)`.
        num_points: points compared, of each cloud.
        seed: of the samples; the same at every validation, so that only the model differs.
        protocol: the protocol whose normalisation is used.
    """

    clouds: Tensor
    num_points: int
    seed: int
    protocol: str = "dpm"

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return MMD-CD, COV-CD, 1-NNA-CD and `score` of `model`."""
        normalise = get_protocol(self.protocol).normalise
        samples = sample_all(model, len(self.clouds), self.num_points, self.seed)
        reference = normalise(self.clouds[:, : self.num_points], "validation clouds")
        scores = generation_scores(samples=normalise(samples, "samples"), reference=reference, distances=["cd"])
        names = ("MMD-CD", "COV-CD", "1-NNA-CD")
        return {name: scores[name] for name in names} | {"score": abs(scores["1-NNA-CD"] - 50)}

    def show(self, writer: SummaryWriter, model: nn.Module, step: int) -> None:
        """Log a few samples to TensorBoard's mesh plugin."""
        clouds = sample_all(model, _SHOWN, self.num_points, self.seed)
        writer.add_mesh("samples", clouds, global_step=step)


@dataclass(frozen=True)
class AutoencoderValidation:
    """Score reconstructions of validation clouds; `score` is the mean Chamfer distance.

    Args:
        clouds: validation clouds `(n, P, 3)` in the model's normalisation.
        num_points: points encoded and decoded, of each cloud.
        seed: of the decoding.
    """

    clouds: Tensor
    num_points: int
    seed: int

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the mean squared Chamfer distance as `CD` and `score`."""
        given = self.clouds[:, : self.num_points]
        result = torch.cat(list(reconstruct(model, given, self.num_points, self.seed)))
        distance = torch.cat([chamfer(a, b) for a, b in zip(result.split(CHUNK), given.split(CHUNK), strict=True)])
        return {"CD": float(distance.mean()), "score": float(distance.mean())}

    def show(self, writer: SummaryWriter, model: nn.Module, step: int) -> None:
        """Log a few clouds and their reconstructions to TensorBoard's mesh plugin."""
        given = self.clouds[:_SHOWN, : self.num_points]
        writer.add_mesh("input", given, global_step=step)
        writer.add_mesh(
            "reconstruction",
            torch.cat(list(reconstruct(model, given, self.num_points, self.seed))),
            global_step=step,
        )
