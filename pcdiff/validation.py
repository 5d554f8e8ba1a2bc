"""Validation during training, by the scores that count in the end. Never on the test split.

The processes of a job share the work, so all of them must validate.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pcdiff.metrics import generation_scores, get_protocol
from pcdiff.ops import chamfer
from pcdiff.sampling import reconstruct_all, sample_all

_SHOWN = 4


@dataclass
class GeneratorValidation:
    """Score samples against validation clouds; `score` is how far 1-NNA-CD is from its ideal of 50.

    Args:
        clouds: validation clouds `(n, P, 3)`.
        num_points: points compared, of each cloud.
        seed: of the samples; the same at every validation, so that only the model differs.
        protocol: the protocol whose normalisation is used.
        flexibility: of the sampling chain.
    """

    clouds: Tensor
    num_points: int
    seed: int
    protocol: str = "dpm"
    flexibility: float = 0.0
    made: Tensor | None = field(default=None, init=False)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return MMD-CD, COV-CD, 1-NNA-CD and `score` of `model`."""
        normalise = get_protocol(self.protocol).normalise
        self.made = sample_all(model, len(self.clouds), self.num_points, self.seed, flexibility=self.flexibility)
        reference = normalise(self.clouds[:, : self.num_points], "validation clouds")
        scores = generation_scores(samples=normalise(self.made, "samples"), reference=reference, distances=["cd"])
        names = ("MMD-CD", "COV-CD", "1-NNA-CD")
        return {name: scores[name] for name in names} | {"score": abs(scores["1-NNA-CD"] - 50)}

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a few of the last samples to TensorBoard's mesh plugin."""
        writer.add_mesh("samples", self.made[:_SHOWN], global_step=step)


@dataclass
class AutoencoderValidation:
    """Score reconstructions of validation clouds; `score` is the mean Chamfer distance.

    Args:
        clouds: validation clouds `(n, P, 3)` in the model's normalisation.
        seed: of the decoding.
        flexibility: of the decoding chain.
    """

    clouds: Tensor
    seed: int
    flexibility: float = 0.0
    made: Tensor | None = field(default=None, init=False)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the mean squared Chamfer distance as `CD` and `score`."""
        points = self.clouds.shape[1]
        self.made = reconstruct_all(model, self.clouds, points, self.seed, flexibility=self.flexibility)
        distance = float(chamfer(self.made, self.clouds).mean())
        return {"CD": distance, "score": distance}

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a few clouds and their last reconstructions to TensorBoard's mesh plugin."""
        writer.add_mesh("input", self.clouds[:_SHOWN], global_step=step)
        writer.add_mesh("reconstruction", self.made[:_SHOWN], global_step=step)
