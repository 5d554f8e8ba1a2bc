"""What people read: the table, the picture, the JSON; and several results in one table."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pcdiff.errors import Lines
from pcdiff.evaluation.job import Places
from pcdiff.metrics import (
    compare,
    completion_table,
    label_files,
    prepared,
    read_result,
    reconstruction_table,
    table,
)
from pcdiff.metrics.protocols import get_protocol
from pcdiff.metrics.tables import fitted
from pcdiff.runtime import distributed
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.progress import terminal_width
from pcdiff.runtime.run_folder import log, write_json, write_text
from pcdiff.version import __version__
from pcdiff.viz import save_neighbors

_PICTURED = 8


def compare_results(files: Sequence[Path], form: str = "markdown") -> str:
    """Print results side by side and return the table.

    Markdown goes to the log, cut to the terminal's width; other formats go to the output, to be kept in a file.

    Raises:
        InputError: a file is no result, or they do not belong in one table.
    """
    text = compare(list(zip(label_files(files), map(read_result, files), strict=True)), form)
    if form == "markdown":
        log.info("%s", Lines(fitted(text, terminal_width())))
    elif distributed.rank() == 0:
        print(text, end="")
    return text


def report(result: dict[str, Any], places: Places) -> None:
    """Complete a result, print its table, and write JSON and table; on the process that writes."""
    if distributed.rank() > 0:
        return
    result |= {"version": __version__, "commit": source_commit()}
    of_pairs = completion_table if "completions" in result["counts"] else reconstruction_table
    text = table(result) if "protocol" in result else of_pairs(result)
    if result["dataset"].get("stand_in"):
        text += "\nThese are scores on built-in STAND-IN shapes; they compare with nothing published.\n"
    log.info("%s", Lines(fitted(text, terminal_width())))
    if places.results is None:
        return
    if is_file(places.results):  # the training script's record of the training stays
        try:
            earlier = read_json(places.results)
            result |= {"training": earlier["training"]}
        except (ValueError, KeyError, TypeError):
            log.info("%s: replaced", places.results)
    write_text(places.beside(".md"), text)
    write_json(places.results, result)
    log.info("results: %s", places.results)


def picture(result: dict[str, Any], places: Places, title: str, **sets: Tensor | None) -> None:
    """Draw samples above their nearest reference and training clouds, beside the results, where these were found.

    Args:
        result: of `evaluate`.
        places: where it goes.
        title: above the picture.
        **sets: `samples`, `reference`, `train` and `num_points` as `evaluate` got them.
    """
    path = places.beside(".png")
    if distributed.rank() > 0 or path is None or "CD" not in result["nearest"]:
        return
    clouds = prepared(**sets, protocol=get_protocol(result["protocol"]["name"]))
    nearest, memory = result["nearest"]["CD"], result.get("memorization")
    shown = min(_PICTURED, len(clouds["samples"]))
    save_neighbors(
        path,
        clouds["samples"][:shown].cpu(),
        clouds["reference"][nearest["reference_index"][:shown]].cpu(),
        clouds["train"][memory["train_index"][:shown]].cpu() if memory else None,
        sample_labels=[f"sample {i}" for i in range(shown)],
        reference_labels=[f"CD {distance:.4f}" for distance in nearest["distance"][:shown]],
        train_labels=[f"CD {distance:.4f}" for distance in memory["distance"][:shown]] if memory else None,
        title=title,
    )
    log.info("picture: %s", path)


def source_commit() -> str | None:
    """Return the commit of the checkout that the package runs from, marked where it was changed; None elsewhere."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    # A package installed inside another repository does not belong to that repository's commits.
    questions = ["ls-files", "--error-unmatch", "__init__.py"], ["describe", "--always", "--dirty", "--exclude=*"]
    try:
        answers = [subprocess.run([*git, *q], capture_output=True, text=True, timeout=10) for q in questions]
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answers[1].stdout.strip() if all(answer.returncode == 0 for answer in answers) else None
