"""What the training of a completion model does in the end: complete, picture, score on the validation split."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config import RunConfig
from pcdiff.interop.files import write_clouds
from pcdiff.metrics import completion_scores, completion_table
from pcdiff.models import PointCloudModel
from pcdiff.models.completing import completions
from pcdiff.models.sampling import seconds_to_decode
from pcdiff.runtime.progress import bar
from pcdiff.runtime.run_folder import log
from pcdiff.runtime.stopping import Stop
from pcdiff.training import Outcome
from pcdiff.training.after_training import OnePhaseEnding
from pcdiff.viz import save_completions

COMPLETIONS = 3
"""Completions of every cloud that are drawn, shown and scored."""


class CompletionEnding(OnePhaseEnding):
    """Complete validation clouds several times, and score that.

    Args:
        config: the run's.
        dataset: the data set's identity.
        clouds: validation clouds `(n, P, 3)`, their given points first; the first `num_samples` are taken.
        denormalize: brings clouds of the split, by index, back to the data set's unit.
        unit: of the scores, in words.
        stop: the signals and the time of the whole call.
    """

    table = staticmethod(completion_table)

    def __init__(
        self,
        config: RunConfig,
        dataset: dict[str, Any],
        clouds: Tensor,
        denormalize: Callable[[Tensor, Iterable[int]], Tensor],
        unit: str,
        stop: Stop,
    ) -> None:
        self.clouds, self.denormalize, self.unit = clouds[: config.num_samples], denormalize, unit
        count, points = self.clouds.shape[:2]
        super().__init__(
            config, dataset, f"completing {count} clouds to {points} points, {COMPLETIONS} times each", stop
        )

    def _keep(self, folder: Path, drawn: Tensor, outcome: Outcome) -> None:
        write_clouds(folder / "samples.npy", drawn.flatten(0, 1))
        given = self.clouds[:, : self.config.model.num_given]
        title = f"completions: {self.dataset['name']}, step {outcome.step}"
        save_completions(folder / "samples.png", given, drawn, self.clouds, title=title)
        log.info("clouds: %s", folder / "samples.png")

    def _scored(self, model: PointCloudModel, made: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """See `OnePhaseEnding`; what a validation completed, one of each cloud, is not enough."""
        given, points = self.clouds[:, : self.config.model.num_given], self.clouds.shape[1]
        with bar("completing", "step") as progress:
            moving = {"stop": self.stop, "progress": progress, "flexibility": self.config.flexibility}
            several = completions(model, given, points, self.config.seed, COMPLETIONS, **moving)
        indices = range(len(self.clouds))
        in_unit = torch.stack([self.denormalize(several[:, k], indices) for k in range(COMPLETIONS)], dim=1)
        truth = self.denormalize(self.clouds, indices)
        own = self.denormalize(given, indices)
        scores = completion_scores(completions=in_unit, reference=truth, given=own, emd=False)
        return several, scores | {"unit": self.unit}

    def _seconds(self, model: nn.Module) -> float:
        count, points = self.clouds.shape[:2]
        return COMPLETIONS * seconds_to_decode(model, count, points - self.config.model.num_given)
