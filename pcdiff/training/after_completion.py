"""What the training of a completion model does in the end: complete, picture, score on the validation split."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.config import RunConfig
from pcdiff.errors import Lines
from pcdiff.interop.files import write_clouds
from pcdiff.metrics import completion_scores, completion_table
from pcdiff.metrics.tables import fitted
from pcdiff.models import PointCloudModel
from pcdiff.models.completing import completions
from pcdiff.models.sampling import seconds_to_decode
from pcdiff.runtime import distributed
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.progress import bar, terminal_width
from pcdiff.runtime.run_folder import log
from pcdiff.runtime.stopping import Stop
from pcdiff.training import Outcome
from pcdiff.training.after_training import needed
from pcdiff.training.closing_phases import Closing, told_how_to_go_on
from pcdiff.training.job import keep_results
from pcdiff.viz import save_completions

COMPLETIONS = 3
"""Completions of every cloud that are drawn, shown and scored."""


class CompletionEnding:
    """Complete validation clouds several times, and score that.

    Args:
        config: the run's.
        dataset: the data set's identity.
        clouds: validation clouds `(n, P, 3)`, their given points first; the first `num_samples` are taken.
        denormalize: brings clouds of the split, by index, back to the data set's unit.
        stop: the signals and the time of the whole call.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: dict[str, Any],
        clouds: Tensor,
        denormalize: Callable[[Tensor, Iterable[int]], Tensor],
        unit: str,
        stop: Stop,
    ) -> None:
        self.config, self.dataset, self.stop = config, dataset, stop
        self.clouds, self.denormalize, self.unit = clouds[: config.num_samples], denormalize, unit
        count, points = self.clouds.shape[:2]
        self.name = f"completing {count} clouds to {points} points, {COMPLETIONS} times each"
        self.closing = Closing(stop, {self.name: self._seconds})

    def seconds(self, model: nn.Module) -> float:
        """Estimate how long it takes, with a model in evaluation mode."""
        return self.closing.seconds(model)

    def __call__(
        self,
        config: RunConfig,
        folder: Path,
        model: PointCloudModel,
        outcome: Outcome,
        made: Tensor | None = None,
    ) -> None:
        """Do it, and write `samples.npy`, a picture and `results.json` into the run's folder.

        Args:
            config: the run's, with what was planned.
            folder: the run's.
            model: trained.
            outcome: of the training.
            made: what the validation completed, of which there is but one of each cloud; not used.
        """
        model.eval()
        with told_how_to_go_on(folder):
            scores = f"score the test split with: {command_line('evaluate')} --run {folder}{needed(config)}"
            found = self.closing.phase(self.name, lambda: self._scored(model), scores)
            if distributed.rank() > 0:
                return
            drawn, results = found or (None, {})
            if drawn is not None:
                write_clouds(folder / "samples.npy", drawn.flatten(0, 1))
                given = self.clouds[:, : self.config.model.num_given]
                title = f"completions: {self.dataset['name']}, step {outcome.step}"
                save_completions(folder / "samples.png", given, drawn, self.clouds, title=title)
                log.info("clouds: %s", folder / "samples.png")
            keep_results(folder, results, self.dataset, config, outcome)
            if results:
                log.info("%s\n%s", Lines(fitted(completion_table(results), terminal_width())), scores)

    def _scored(self, model: PointCloudModel) -> tuple[Tensor, dict[str, Any]]:
        given, points = self.clouds[:, : self.config.model.num_given], self.clouds.shape[1]
        with bar("completing", "step") as progress:
            moving = {"stop": self.stop, "progress": progress, "flexibility": self.config.flexibility}
            made = completions(model, given, points, self.config.seed, COMPLETIONS, **moving)
        indices = range(len(self.clouds))
        several = torch.stack([self.denormalize(made[:, k], indices) for k in range(COMPLETIONS)], dim=1)
        truth = self.denormalize(self.clouds, indices)
        own = self.denormalize(given, indices)
        scores = completion_scores(completions=several, reference=truth, given=own, emd=False)
        return made, scores | {"unit": self.unit}

    def _seconds(self, model: nn.Module) -> float:
        count, points = self.clouds.shape[:2]
        return COMPLETIONS * seconds_to_decode(model, count, points - self.config.model.num_given)
