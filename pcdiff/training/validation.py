"""Validation during training, by the scores that count in the end. Never on the test split.

The processes of a job share the work, so all of them must validate.
"""

import time
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pcdiff.errors import InputError
from pcdiff.metrics import completion_scores, generation_scores, get_protocol
from pcdiff.metrics.generation import pairs_compared
from pcdiff.models.completing import completions
from pcdiff.models.sampling import reconstruct_all, sample_all, seconds_to_decode
from pcdiff.ops import chamfer
from pcdiff.runtime.progress import bar
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.stopping import Stop

_SHOWN = 4
_TIMED = 8  # clouds whose comparison is timed


@dataclass
class GeneratorValidation:
    """Score samples against validation clouds; `score` is how far 1-NNA-CD is from its ideal of 50.

    Args:
        clouds: validation clouds `(n, P, 3)`.
        num_points: points compared, of each cloud.
        seed: of the samples; the same at every validation, so that only the model differs.
        protocol: the protocol whose normalization is used.
        flexibility: of the sampling chain.
        stop: asked after every step of the sampler; by default a validation is never given up.
        labels: of the clouds' classes `(n,)`, where the model is class-conditional: samples are of the same.

    Raises:
        InputError: there are fewer than two clouds.
    """

    clouds: Tensor
    num_points: int
    seed: int
    protocol: str = "dpm"
    flexibility: float = 0.0
    stop: Stop | None = None
    labels: Tensor | None = None
    made: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if len(self.clouds) < 2:
            raise InputError(
                f"the validation has {len(self.clouds)} cloud, and a generator's scores need 2 or more (1-NNA "
                "leaves one out): give a val split of more clouds, or --val-clouds of 2 or more; an "
                "autoencoder takes one"
            )

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return MMD-CD, COV-CD, 1-NNA-CD and `score` of `model`.

        Raises:
            Stopped: `stop` said so.
        """
        with bar("validation: sampling", "step") as progress:
            self.made = sample_all(
                model,
                len(self.clouds),
                self.num_points,
                self.seed,
                labels=self.labels,
                flexibility=self.flexibility,
                stop=self.stop,
                progress=progress,
            )
        sets = {"samples": self.made, "reference": self.clouds[:, : self.num_points]}
        scores = self._compare(sets)
        names = ("MMD-CD", "COV-CD", "1-NNA-CD")
        return {name: scores[name] for name in names} | {"score": abs(scores["1-NNA-CD"] - 50)}

    def seconds(self, model: nn.Module) -> float:
        """Estimate the seconds that a validation of `model` takes."""
        count = len(self.clouds)
        drawing = seconds_to_decode(model, count, self.num_points)
        few = self.clouds[: min(_TIMED, count), : self.num_points]
        before = time.perf_counter()
        self._compare({"samples": few, "reference": few})
        return drawing + (time.perf_counter() - before) * pairs_compared(count) / pairs_compared(len(few))

    def _compare(self, sets: dict[str, Tensor]) -> dict:
        normalize = get_protocol(self.protocol).normalize
        sets = {name: normalize(clouds, f"validation {name}") for name, clouds in sets.items()}
        with bar("validation: comparing", "pair") as progress:
            return generation_scores(
                **sets, distances=["cd"], progress=progress, map_blocks=ResumableMap(stop=self.stop).map
            )

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a few of the last samples to TensorBoard's mesh plugin."""
        writer.add_mesh("samples", self.made[:_SHOWN], global_step=step)


@dataclass
class AutoencoderValidation:
    """Score reconstructions of validation clouds; `score` is the mean Chamfer distance.

    Args:
        clouds: validation clouds `(n, P, 3)` in the model's normalization.
        seed: of the decoding.
        flexibility: of the decoding chain.
        stop: as of `GeneratorValidation`.
    """

    clouds: Tensor
    seed: int
    flexibility: float = 0.0
    stop: Stop | None = None
    made: Tensor | None = field(default=None, init=False)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the mean squared Chamfer distance as `CD` and `score`.

        Raises:
            Stopped: `stop` said so.
        """
        points = self.clouds.shape[1]
        with bar("validation: reconstructing", "step") as progress:
            self.made = reconstruct_all(
                model,
                self.clouds,
                points,
                self.seed,
                flexibility=self.flexibility,
                stop=self.stop,
                progress=progress,
            )
        distance = float(chamfer(self.made, self.clouds).mean())
        return {"CD": distance, "score": distance}

    def seconds(self, model: nn.Module) -> float:
        """Estimate the seconds that a validation of `model` takes."""
        count, points = self.clouds.shape[:2]
        return seconds_to_decode(model, count, points)

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a few clouds and their last reconstructions to TensorBoard's mesh plugin."""
        writer.add_mesh("input", self.clouds[:_SHOWN], global_step=step)
        writer.add_mesh("reconstruction", self.made[:_SHOWN], global_step=step)


@dataclass
class CompletionValidation:
    """Score completions of validation clouds; `score` is the mean CD-L2 to the whole ones.

    Args:
        clouds: validation clouds `(n, P, 3)`, their given points first, in the model's normalization.
        num_given: how many are given.
        seed: of the completions.
        flexibility: of the sampling chain.
        stop: as of `GeneratorValidation`.
    """

    clouds: Tensor
    num_given: int
    seed: int
    flexibility: float = 0.0
    stop: Stop | None = None
    made: Tensor | None = field(default=None, init=False)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return CD-L1, CD-L2 and `score` of one completion of every cloud.

        Raises:
            Stopped: `stop` said so.
        """
        given, points = self.clouds[:, : self.num_given], self.clouds.shape[1]
        with bar("validation: completing", "step") as progress:
            moving = {"stop": self.stop, "progress": progress, "flexibility": self.flexibility}
            self.made = completions(model, given, points, self.seed, **moving)[:, 0]
        scores = completion_scores(completions=self.made, reference=self.clouds, emd=False)["scores"]
        return {name: scores[name] for name in ("CD-L1", "CD-L2")} | {"score": scores["CD-L2"]}

    def seconds(self, model: nn.Module) -> float:
        """Estimate the seconds that a validation of `model` takes."""
        count, points = self.clouds.shape[:2]
        return seconds_to_decode(model, count, points - self.num_given)

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a few clouds and their last completions to TensorBoard's mesh plugin."""
        writer.add_mesh("given", self.clouds[:_SHOWN, : self.num_given], global_step=step)
        writer.add_mesh("completion", self.made[:_SHOWN], global_step=step)
