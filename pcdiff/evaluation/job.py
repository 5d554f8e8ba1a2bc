"""One evaluation as a job: where its files are, what it has finished, when it stops."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pcdiff.config import EvaluateConfig
from pcdiff.config.files import remove_settings, write_settings
from pcdiff.errors import InputError
from pcdiff.models.sampling import CHUNK
from pcdiff.runtime import distributed
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.resumable import ResultCache, ResumableMap
from pcdiff.runtime.run_folder import log
from pcdiff.runtime.stopping import Stop, Stopped, interruptible
from pcdiff.version import __version__

T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """Where an evaluation writes.

    Attributes:
        results: the JSON file; its table (.md), picture (.png) and journal (.partial) are written beside it. None:
            nowhere.
        folder: the folder that `--resume` takes; None where only one file is written.
    """

    results: Path | None
    folder: Path | None = None

    @classmethod
    def asked_for(cls, config: EvaluateConfig, run: Path | None = None) -> "Places":
        """Return the places that the flags name; `run` is the scored run's folder."""
        folder = config.out or run
        return cls(config.output or (folder / "results.json" if folder else None), folder)

    def beside(self, suffix: str) -> Path | None:
        """Return the file beside the results that ends in `suffix`."""
        return None if self.results is None else self.results.with_suffix(suffix)


def finish(
    config: EvaluateConfig,
    places: Places,
    settings: dict[str, Any],
    job: Callable[[ResumableMap], T],
    stop: Stop | None = None,
) -> T | None:
    """Return `job(work)`, shared by all processes and kept in a journal; None when it was stopped, which is logged.

    Once the job is done, its results written, the journal is deleted.

    Args:
        config: has the limits, and is written as `evaluation.json` for `--resume`.
        places: where the journal is written.
        settings: all that the job's results depend on, ready for JSON.
        job: the work, up to the writing of its results.
        stop: the signals and the time of the whole call; by default signals are handled from here on,
            and `max_minutes` begin here.

    Raises:
        InputError: the journal belongs to other settings, or another process of the job has others.
    """
    settings = {**settings, "version": __version__, "device": resolve_device(config.device).type}
    if distributed.broadcast(settings) != settings:
        raise InputError(
            f"process {distributed.rank()} has other clouds or flags than process 0; give all the same files"
        )

    def begin() -> None:
        if places.folder is not None:
            write_settings(places.folder, replace(config, resume=None))

    journal, refused = None, None
    if distributed.rank() == 0 and places.results is not None:
        try:
            journal = ResultCache(places.beside(".partial"), settings, config.save_every, begin)
        except InputError as error:
            refused = str(error)
    refused = distributed.broadcast(refused)  # no process waits for one that has exited
    if refused is not None:
        raise InputError(refused)
    if journal is not None and journal.records:
        log.info("continuing after %d finished blocks of work", len(journal.records))
    heard = interruptible(config.max_minutes) if stop is None else nullcontext(stop)
    with heard as stop, journal or nullcontext():
        try:
            result = job(ResumableMap(journal, stop))
        except Stopped:
            if journal is not None and not journal.path.exists():
                log.info("stopped before any block was finished; the same command starts over")
            elif journal is not None:
                go_on = f"--resume {places.folder}" if places.folder else "the same command"
                log.info("stopped; finished blocks are in %s; resume with: %s", journal.path, go_on)
            elif distributed.rank() == 0:
                log.info("stopped; nothing is saved without --out or --output")
            return None
    if journal is not None:
        journal.remove()
        if places.folder is not None:
            remove_settings(places.folder)
    return result


def generated_enough(config: EvaluateConfig, work: ResumableMap) -> bool:
    """Return whether this call has generated `max_iters` clouds."""
    return config.max_iters is not None and work.computed * CHUNK >= config.max_iters
