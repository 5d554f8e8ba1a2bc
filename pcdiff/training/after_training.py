"""What a training script does in the end: sample or reconstruct, picture, score on the validation split.

The processes of a job share the work, and the first one writes.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pcdiff.config import RunConfig
from pcdiff.errors import Lines
from pcdiff.metrics import evaluate, reconstruction_scores, reconstruction_table, table
from pcdiff.metrics.bootstrap import RESAMPLES, jsd_interval
from pcdiff.metrics.generation import pairs_compared
from pcdiff.metrics.tables import fitted
from pcdiff.models import Generator, PointCloudModel
from pcdiff.models.sampling import reconstruct_all, sample_all, seconds_to_decode
from pcdiff.runtime import distributed
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.progress import bar, terminal_width
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.run_folder import log
from pcdiff.runtime.stopping import Stop
from pcdiff.runtime.user_modules import FLAG
from pcdiff.training import Outcome
from pcdiff.training.closing_phases import Closing, told_how_to_go_on
from pcdiff.training.job import keep_clouds, keep_results

_TIMED_CLOUDS, _TIMED_RESAMPLES = 8, 20  # of the scoring, to estimate how long it takes


def needed(config: RunConfig) -> str:
    """Return the flag that commands on a run need: the files of its own parts, or nothing."""
    places = [str(path) for path in config.imports]
    for part in config.model.parts:
        place, _, _ = getattr(config.model, part).rpartition(":")
        places += [place] if place.endswith(".py") and place not in places else []
    return f" {FLAG} {' '.join(places)}" if places else ""


class GeneratorEnding:
    """Draw the clouds asked for; then as many as there are in `reference`, and score them against it.

    The last validation has drawn the latter already, where there was one.

    Args:
        config: the run's.
        dataset: the data set's identity.
        reference: validation clouds `(n, P, 3)`.
        num_points: points compared, of each cloud.
        stop: the signals and the time of the whole call.
        labels: of the validation clouds' classes `(n,)`, where the model is class-conditional.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: dict[str, Any],
        reference: Tensor,
        num_points: int,
        stop: Stop,
        labels: Tensor | None = None,
    ) -> None:
        self.config, self.dataset, self.stop = config, dataset, stop
        self.reference, self.num_points, self.labels = reference, num_points, labels
        self.names = (
            f"drawing {config.num_samples} clouds of {config.sample_points} points",
            f"scoring {len(reference)} clouds of {num_points} points on the validation split",
        )
        estimates = self._seconds_to_draw, self._seconds_to_score
        self.closing = Closing(stop, dict(zip(self.names, estimates, strict=True)))

    def seconds(self, model: nn.Module) -> float:
        """Estimate how long it takes, with a model in evaluation mode."""
        return self.closing.seconds(model)

    def __call__(
        self,
        config: RunConfig,
        folder: Path,
        model: Generator,
        outcome: Outcome,
        made: Tensor | None = None,
        beside: Tensor | None = None,
    ) -> None:
        """Do it, and write `samples.npy`, their picture and `results.json` into the run's folder.

        Args:
            config: the run's, with what was planned.
            folder: the run's.
            model: trained.
            outcome: of the training.
            made: the clouds `(n, num_points, 3)` to score, where a validation has drawn them from these weights.
            beside: training clouds `(m, P, 3)` for a row of the picture above the samples, to compare with.
        """
        model.eval()
        with told_how_to_go_on(folder):
            draws = f"{command_line('sample')} --run {folder}{needed(config)} draws them"
            shown = self.closing.phase(self.names[0], lambda: self._drawn(model, *self._wanted), draws)
            if shown is not None and distributed.rank() == 0:
                above = None if beside is None else beside[:, : config.sample_points]
                title = f"samples: {self.dataset['name']}, step {outcome.step}"
                keep_clouds(folder, "samples", shown, title, beside=above)
            scores = f"score the test split with: {command_line('evaluate')} --run {folder}{needed(config)}"
            results = self.closing.phase(self.names[1], lambda: self._scored(model, made), scores)
            if distributed.rank() == 0:
                keep_results(folder, results or {}, self.dataset, config, outcome)
                if results is not None:
                    log.info("%s\n%s", Lines(fitted(table(results), terminal_width())), scores)

    @property
    def _wanted(self) -> tuple[int, int]:
        return self.config.num_samples, self.config.sample_points

    def _drawn(self, model: Generator, count: int, num_points: int, labels: Tensor | None = None) -> Tensor:
        with bar("sampling", "step") as progress:
            options = {"stop": self.stop, "progress": progress, "flexibility": self.config.flexibility}
            return sample_all(model, count, num_points, self.config.seed, labels=labels, **options)

    def _scored(self, model: Generator, made: Tensor | None) -> dict[str, Any]:
        drawn = made
        if drawn is None:
            drawn = self._drawn(model, len(self.reference), self.num_points, self.labels)
        with bar("comparing", "pair") as progress:
            return self._compared(
                drawn, self.reference, RESAMPLES, progress=progress, map_blocks=ResumableMap(stop=self.stop).map
            )

    def _compared(self, samples: Tensor, reference: Tensor, resamples: int, **options: Any) -> dict[str, Any]:
        sets = {"samples": samples, "reference": reference}
        return evaluate(**sets, num_points=self.num_points, emd=False, resamples=resamples, **options)

    def _seconds_to_draw(self, model: nn.Module) -> float:
        return seconds_to_decode(model, *self._wanted)

    def _seconds_to_score(self, model: nn.Module) -> float:
        count = len(self.reference)
        few = self.reference[:_TIMED_CLOUDS, : self.num_points]
        start = time.perf_counter()
        self._compared(few, few, resamples=0)
        compared = time.perf_counter()
        cut = self.reference[:, : self.num_points]
        jsd_interval(cut, cut, resamples=_TIMED_RESAMPLES)
        resampled = time.perf_counter()
        drawing = 0.0 if self.config.train.val_every else seconds_to_decode(model, count, self.num_points)
        return (
            drawing
            + (compared - start) * pairs_compared(count) / pairs_compared(len(few))
            + (resampled - compared) * 2 * RESAMPLES / _TIMED_RESAMPLES  # of the JSD and of the normalized one
        )


class OnePhaseEnding:
    """Draw what stands for validation clouds and score it, in one phase; subclasses say what and how.

    Args:
        config: the run's.
        dataset: the data set's identity.
        name: of the phase.
        stop: the signals and the time of the whole call.
    """

    table: ClassVar[Callable[[dict[str, Any]], str]]

    def __init__(self, config: RunConfig, dataset: dict[str, Any], name: str, stop: Stop) -> None:
        self.config, self.dataset, self.name, self.stop = config, dataset, name, stop
        self.closing = Closing(stop, {name: self._seconds})

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

        The arguments are those of `GeneratorEnding`; `made` is what the last validation has drawn already.
        """
        model.eval()
        with told_how_to_go_on(folder):
            scores = f"score the test split with: {command_line('evaluate')} --run {folder}{needed(config)}"
            found = self.closing.phase(self.name, lambda: self._scored(model, made), scores)
            if distributed.rank() > 0:
                return
            drawn, results = found or (None, {})
            if drawn is not None:
                self._keep(folder, drawn, outcome)
            keep_results(folder, results, self.dataset, config, outcome)
            if results:
                log.info("%s\n%s", Lines(fitted(type(self).table(results), terminal_width())), scores)

    def _scored(self, model: PointCloudModel, made: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        raise NotImplementedError

    def _keep(self, folder: Path, drawn: Tensor, outcome: Outcome) -> None:
        raise NotImplementedError

    def _seconds(self, model: nn.Module) -> float:
        raise NotImplementedError


class AutoencoderEnding(OnePhaseEnding):
    """Reconstruct the clouds `given`, and score that in the data set's own unit.

    Args:
        config: the run's.
        dataset: the data set's identity.
        given: validation clouds `(n, P, 3)`.
        denormalize: brings clouds of the split, by index, back to the data set's unit.
        stop: the signals and the time of the whole call.
    """

    table = staticmethod(reconstruction_table)

    def __init__(
        self,
        config: RunConfig,
        dataset: dict[str, Any],
        given: Tensor,
        denormalize: Callable[[Tensor, Iterable[int]], Tensor],
        stop: Stop,
    ) -> None:
        self.given, self.denormalize = given, denormalize
        name = f"reconstructing {len(given)} clouds of {given.shape[1]} points of the validation split"
        super().__init__(config, dataset, name, stop)

    def _keep(self, folder: Path, drawn: Tensor, outcome: Outcome) -> None:
        pairs = torch.stack([self.given, drawn], dim=1).flatten(0, 1)[: 2 * self.config.num_samples]
        title = f"input and reconstruction in turn: {self.dataset['name']}, step {outcome.step}"
        keep_clouds(folder, "samples", drawn, title, pictured=pairs)

    def _scored(self, model: PointCloudModel, made: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        if made is None:
            with bar("reconstructing", "step") as progress:
                moving = {"stop": self.stop, "progress": progress, "flexibility": self.config.flexibility}
                made = reconstruct_all(model, self.given, self.given.shape[1], self.config.seed, **moving)
        there, indices = {"reconstructions": made, "reference": self.given}, range(len(self.given))
        sets = {name: self.denormalize(clouds, indices) for name, clouds in there.items()}
        return made, reconstruction_scores(**sets, emd=False)

    def _seconds(self, model: nn.Module) -> float:
        return 0.0 if self.config.train.val_every else seconds_to_decode(model, *self.given.shape[:2])
