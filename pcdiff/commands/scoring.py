"""Score files, or load a run's data and score the run."""

from dataclasses import replace

from pcdiff import evaluation
from pcdiff.commands.partial import back, partial_clouds, unit
from pcdiff.config import EvaluateConfig, RunConfig
from pcdiff.config.files import read_config
from pcdiff.data import announce, load_clouds, load_raw, partial_set
from pcdiff.evaluation.completions import Partial
from pcdiff.metrics import get_protocol
from pcdiff.ops.normalization import PART_MODES
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.stopping import Stop, interruptible


def score(config: EvaluateConfig) -> None:
    """Score files, or load a run's data and score the run."""
    run = read_config(config.run) if config.run else None
    with (
        distributed.joined(),
        interruptible(config.max_minutes) as stop,
        run_folder.logging_to(config.out or config.run),
    ):
        if run is not None:
            _score_run(config, run, stop)
        elif config.samples:
            evaluation.score_files(config, stop)
        elif config.reconstructions:
            evaluation.score_reconstructions(config, stop)
        else:
            evaluation.compare_results(config.compare, config.format)


def _score_run(config: EvaluateConfig, run: RunConfig, stop: Stop) -> None:
    """Load the data that the run was trained on, and score the run."""
    split = config.split or get_protocol(config.protocol).split
    path, names = config.dataset_path or run.data.dataset_path, config.categories or run.data.categories
    with stop.at_once():  # there is nothing to save yet
        normalized = load_clouds(path, names, split, run.data.normalization)
        raw = {part: load_raw(path, names, part) for part in (split, "train")}
        cut = partial_clouds(run)
        partial = None
        if cut is not None:
            held, mode = partial_set(normalized.points, cut, config.seed), run.data.normalization
            partial = Partial(held.points, back(held, normalized), unit(mode))
            if mode in PART_MODES:  # what it is scored against, in the same unit
                train = load_clouds(path, names, "train", mode)
                raw = {split: normalized.points, "train": train.points}
    run_folder.log.info(announce(normalized.identity))
    evaluation.score_run(
        replace(config, split=split),
        run,
        normalized,
        reference=raw[split],
        train=raw["train"],
        dataset=normalized.identity.to_dict(),
        partial=partial,
        stop=stop,
    )
