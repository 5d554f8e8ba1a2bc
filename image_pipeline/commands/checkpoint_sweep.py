"""A run's checkpoints in a range, and scores of all of them, one after the other."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from image_pipeline.commands.flags import Evaluate
from pcdiff.config import to_json
from pcdiff.config.files import remove_settings, write_settings
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import is_file, is_folder
from pcdiff.training import checkpoint

_RANGE = re.compile(r"(\d*):(\d*)")
# what may differ between the calls that score one range
_FREE = ("out", "output", "resume", "device", "max_iters", "max_minutes", "save_every")
_FORMAT = "pcdiff checkpoint scores 1"


@dataclass(frozen=True)
class Saved:
    """A checkpoint file, the step it was saved at, and the SHA-256 of its bytes."""

    step: int
    file: Path
    sha256: str


def checkpoints_of(run: Path, wanted: str) -> list[Saved]:
    """Return the checkpoints of a run's folder that lie in a range of steps, by rising step.

    Args:
        run: a run's folder.
        wanted: `all`, or `FIRST:LAST`, steps, both included, either of which may be left out.

    Raises:
        InputError: no such form, no run's folder, a damaged file, or no checkpoint in the range.
    """
    span = _RANGE.fullmatch(wanted)
    if wanted != "all" and span is None:
        raise InputError(f"--checkpoints must be all or FIRST:LAST in steps, such as 1000:5000, got {wanted!r}")
    folder = run / "checkpoints"
    if not is_folder(folder):
        raise InputError(f"{run}: has no folder of checkpoints; --checkpoints needs a run's folder")
    first, last = (int(end) if end else None for end in (span.groups() if span else ("", "")))
    found: dict[int, Saved] = {}
    # of two files of one step the one that can also be resumed
    for file in sorted(folder.glob("*.safetensors"), key=lambda path: path.name != "best.safetensors"):
        if file.name.startswith("."):  # the draft of a process that was killed
            continue
        _, metadata = checkpoint.read(file, ("no tensors",))
        step = metadata.get("step")
        if type(step) is not int:
            raise InputError(f"{file}: damaged: it has no step; use another checkpoint")
        if (first is None or first <= step) and (last is None or step <= last):
            found[step] = Saved(step, file, hashlib.sha256(file.read_bytes()).hexdigest())
    if not found:
        raise InputError(f"{folder}: has no checkpoint in {wanted}; --keep of train sets how many stay")
    return [found[step] for step in sorted(found)]


def sweep(config: Evaluate, score: Callable[[Evaluate], dict[str, Any] | None]) -> dict[str, Any] | None:
    """Score a run's checkpoints in turn; what is finished is not done again.

    Each is scored in a folder of its own under `--out`; `checkpoints.json` there has all scores.

    Args:
        config: has `run` and `checkpoints`.
        score: of one checkpoint; None when it was stopped.

    Returns:
        The scores, or None when a limit or a signal stopped the work.

    Raises:
        InputError: see `checkpoints_of`, or the folder holds scores of other flags.
    """
    folder = config.out or config.run / "checkpoint-scores"
    saved, flags = checkpoints_of(config.run, config.checkpoints), _flags(config)
    with distributed.refused_together():
        done = _done(folder / "checkpoints.json", flags) if distributed.rank() == 0 else {}
    done = distributed.broadcast(done)
    config = replace(config, out=folder, resume=None)
    if distributed.rank() == 0:
        write_settings(folder, config)
    for this in saved:
        known = done.get(str(this.step))
        if known is not None and known["checkpoint"] == this.sha256:
            run_folder.log.info("step %d: scored already", this.step)
            continue
        run_folder.log.info("step %d: %s", this.step, this.file)
        own = folder / f"step-{this.step:08d}"
        result = score(replace(config, run=this.file, out=own, checkpoints=None))
        if result is None:
            run_folder.log.info("resume with: --resume %s", folder)
            return None
        done[str(this.step)] = {**result, "checkpoint": this.sha256, "step": this.step}
        if distributed.rank() == 0:
            run_folder.write_json(folder / "checkpoints.json", {"format": _FORMAT, "flags": flags, "scores": done})
    shown = {str(this.step): done[str(this.step)] for this in saved}
    if distributed.rank() == 0:
        remove_settings(folder)
        run_folder.log.info("%s\nscores: %s", table(shown), folder / "checkpoints.json")
    return shown


def table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the scores of steps in a table, a line each; the best of a column is marked."""
    columns = {
        "FID": lambda s: s.get("fid"),
        "KID": lambda s: (s.get("kid") or {}).get("mean"),
        "IS": lambda s: (s.get("inception_score") or {}).get("mean"),
        "precision": lambda s: (s.get("prc") or {}).get("precision"),
        "recall": lambda s: (s.get("prc") or {}).get("recall"),
    }
    values = {name: {step: take(score) for step, score in scores.items()} for name, take in columns.items()}
    values = {name: column for name, column in values.items() if None not in column.values()}
    best = {name: (min if name in ("FID", "KID") else max)(column.values()) for name, column in values.items()}
    lines = [f"{'step':>10}" + "".join(f"{name:>12}" for name in values)]
    for step in scores:
        cells = (
            f"{column[step]:.4g}{'*' if column[step] == best[name] else ' '}" for name, column in values.items()
        )
        lines.append(f"{step:>10}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join([*lines, "* best of its column; with few images the difference means little"])


def _flags(config: Evaluate) -> dict[str, Any]:
    values = json.loads(to_json(config))
    return {name: value for name, value in values.items() if name not in _FREE}


def _done(path: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the scores that are there already.

    Raises:
        InputError: the file is damaged, or of other flags.
    """
    if not is_file(path):
        return {}
    content = read_json(path)
    scores = content.get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, dict) or not all(isinstance(v, dict) and "checkpoint" in v for v in scores.values()):
        raise InputError(f"{path}: no scores of checkpoints, or damaged; delete it, or give another --out")
    if content.get("format") != _FORMAT or not isinstance(content.get("flags"), dict):
        raise InputError(f"{path}: no scores of checkpoints, or damaged; delete it, or give another --out")
    was = content["flags"]
    # another range of the same run continues with what is there
    changed = [name for name in flags if name != "checkpoints" and was.get(name) != flags[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"{path}: was scored with {name} = {was.get(name)}, not {flags[name]}; give another --out, or its flags"
        )
    return scores
