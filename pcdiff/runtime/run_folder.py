"""A run's folder: its path, config, log and result files."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

from pcdiff.errors import InputError, OneLineArguments
from pcdiff.runtime import distributed
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.dataclass_json import to_json
from pcdiff.runtime.file_lock import sole_writer
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.nonfinite import not_finite
from pcdiff.runtime.paths import exists, is_file, is_folder

T = TypeVar("T")
# a run's: a frozen dataclass with out, resume, preset, seed, train, model, objective, data
Config = TypeVar("Config", bound=Any)
log = logging.getLogger("pcdiff")
NOWHERE = Path(os.devnull)
"""The folder of a dry run: it has no checkpoint, and none can be written."""
# fields of a training that its steps alone depend on
_LEARNING = frozenset(
    "accumulate lr end_lr lr_schedule lr_decay_start lr_decay_end lr_decay_every warmup_iters adam_beta1 "
    "adam_beta2 weight_decay max_grad_norm ema_decay nonfinite precision compile compile_mode".split()
)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        InputError: a number in it is NaN or infinite, which no result may be and JSON does not have.
    """
    if (name := not_finite(content)) is not None:
        raise InputError(f"{path}: not written, since its {name} is not finite")
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def open_run(config: Config, name: str, read: Callable[[Path], Config]) -> tuple[Config, Path]:
    """Make a new run's folder with its `config.json`, or open the one that `config.resume` names.

    Args:
        config: the resolved config; for a resumed run its own with what the flags changed.
        name: what the run is, for the default folder `runs/<name>-<date>-<time>`.
        read: reads the config of a run's folder.

    Of several processes the first one does so, and informs the others. A job that `torchrun` starts again after a
    process died continues the run it had begun.

    Returns:
        The config and the folder. A resumed run's `config.json` is not rewritten yet: its checkpoint may refuse.

    Raises:
        InputError: the folder already holds a run, or cannot be made; a resumed run's model, loss, data or seed
            would change; a job that may be started again has no `out` to find its run by.
    """
    opened: tuple[Config, Path] | None = None
    with distributed.refused_together():
        if distributed.may_restart() and config.out is None and config.resume is None:
            raise InputError("torchrun --max-restarts needs --out, so that a restarted job finds its run")
        if distributed.rank() == 0:
            begun = config.out is not None and is_file(config.out / "config.json")
            again = config.resume is None and distributed.restarted() and begun
            config = replace(config, resume=config.out) if again else config
            opened = _open_run(config, name, read)
    opened = distributed.broadcast(opened)
    assert opened is not None  # the first process's
    return opened


def _open_run(config: Config, name: str, read: Callable[[Path], Config]) -> tuple[Config, Path]:
    if config.resume is not None:
        folder = config.resume
        before = read(folder)
        if config.out not in (None, before.out, folder):
            raise InputError(f"--out {config.out}: cannot be given with --resume; the run stays in {folder}")
        stays = {name: getattr(before, name) for name in ("out", "preset") if hasattr(before, name)}
        config = replace(config, resume=None, **stays)
        config = replace(config, train=_as_planned(config.train, before.train, folder))
        if before.train.batch_size != config.train.batch_size:
            raise InputError(
                f"--resume {folder}: batch_size is {before.train.batch_size} in this run; it cannot change"
            )
        for part in ("model", "process", "objective", "data", "seed"):
            was: Any = getattr(before, part, None)
            now: Any = getattr(config, part, None)
            if part == "data":  # the same data may have moved; the checkpoint has its fingerprint
                was = replace(was, dataset_path=now.dataset_path)
            if was != now:
                raise InputError(f"--resume {folder}: {part} cannot change in a run; was {was}, got {now}")
    else:
        folder = config.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if exists(folder / "config.json"):
            raise InputError(f"--out {folder}: holds a run already; --resume {folder} continues it")
        write_config(folder, config)
    return config, folder


def _as_planned(now: Any, before: Any, folder: Path) -> Any:
    """Return a resumed run's training settings: a plan made for a budget of time is kept, and none is made late."""
    if now.budget_minutes != before.budget_minutes:
        was = "none" if before.budget_minutes is None else f"{before.budget_minutes:g}"
        raise InputError(f"--resume {folder}: budget_minutes is {was} in this run; it cannot change")
    # a job that torchrun starts again comes with its flags, which are not planned
    return before if before.plan and not now.plan else now


def tell_changes(folder: Path, config: Config, step: int) -> None:
    """Log what a resumed run's flags change in how it is trained, against its `config.json`.

    Raises:
        InputError: something would change, and no step is left to be trained with it.
    """
    path = folder / "config.json"
    if not is_file(path):
        return
    was, now = read_json(path)["train"], json.loads(to_json(config))["train"]
    changed = {name: f"{name} {was.get(name)} -> {v}" for name, v in now.items() if was.get(name) != v}
    idle = [text for name, text in changed.items() if name in _LEARNING]
    if idle and step >= config.train.max_iters:
        raise InputError(
            f"--resume {folder}: the run has ended at step {step}, so {', '.join(idle)} would change nothing; "
            f"give --max-iters above {step} to continue"
        )
    if changed and step > 0:
        log.info("changed from step %d on: %s", step, ", ".join(changed.values()))


def write_config(folder: Path, config: Config) -> None:
    """Write a run's resolved config."""
    write_text(folder / "config.json", to_json(config))


class _LateFile(logging.FileHandler):
    """A log file that is made, with its folder, by its first line: refused input leaves nothing.

    A failure to write is reported once; the work continues.
    """

    _warned = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            super().emit(record)
        except OSError:  # the file cannot be made
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell once that the file cannot be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            print(f"{self.baseFilename}: cannot write ({error.strerror}); the log is not kept", file=sys.stderr)

    def close(self) -> None:
        """Close the file; failures to write have been reported."""
        with suppress(OSError):
            super().close()

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a run's folder for this training, as long as this lasts: of a job's processes the first one claims it.

    Raises:
        InputError: another training, of the same run, writes there; on all processes.
    """
    with ExitStack() as claims:
        with distributed.refused_together():
            if distributed.rank() == 0:
                claims.enter_context(sole_writer(folder / "checkpoints"))
        yield


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """Send the package's log to the terminal and, with a folder, to its `log.txt`, for as long as this lasts.

    Of several processes only the first one does.
    """
    if distributed.rank() > 0:
        yield
        return
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    if folder is not None:
        there = next(place for place in (folder, *folder.absolute().parents) if exists(place))
        if not (is_folder(there) and os.access(there, os.W_OK)):
            raise InputError(f"{folder}: cannot write there; give another folder with --out")
        file = _LateFile(folder / "log.txt", encoding="utf-8", delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers.append(file)
    level = log.level
    log.setLevel(logging.INFO)
    for handler in handlers:
        handler.addFilter(OneLineArguments())
        log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
