"""Several results side by side in one table, refused where they are not comparable."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcdiff.errors import InputError, UnknownName, printable, short
from pcdiff.metrics.columns import Row, columns_of, markdown
from pcdiff.metrics.paired import Verdict, verdict
from pcdiff.metrics.result_schema import check_result
from pcdiff.metrics.tables import FORMATS, comma_separated, latex
from pcdiff.runtime.json_files import read_json

_WHY = {
    "protocol": "scores under two protocols never belong in one table",
    "points": "fewer points mean larger distances; score both at one count (--num-points)",
    "counts": "coverage, 1-NNA, MMD and TMD depend on the counts; score both with as many clouds",
    "EMD": "their EMDs are two different figures; score both with one method",
    "F-score": "score both with one threshold",
    "reference": "scores against two reference sets do not compare; score both against one",
}
_FORMER_NAMES = {"normalisation": "normalization"}  # of a protocol's attributes, in results on record


def read_result(path: str | os.PathLike) -> dict:
    """Return the result that `evaluate.py` wrote to `path`.

    Raises:
        InputError: for a file that is missing, is no JSON, or holds no result; it is named.
    """
    path = Path(path)
    result = read_json(path, "name the results.json that evaluate.py writes")
    check_result(result, str(path))
    return result


def label_files(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Return a short name for each result file: its stem, with as many folders before it as make all names
    different.

    Example:
        >>> label_files(["runs/a/results.json", "runs/b/results.json"]), label_files(["runs/a/lion.json"])
        (['a/results', 'b/results'], ['lion'])
    """
    parts = [Path(os.path.normpath(path)).with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(set(parts)):
            break
    return labels if parts else []


def compare(results: Sequence[tuple[str, dict]], form: str = "markdown") -> str:
    """Return results as one table with notes: a row each, what is best in each column bold.

    A score is worse than the best one where a paired bootstrap over the reference clouds shows it (95 %), and a tie
    where it does not; bold are the best and its ties, where anything is worse. Results without the terms that this
    takes, as older ones and of the JSD, are separated only by intervals that do not touch; else the difference is
    undecided, and nothing is bold.

    Intervals are in brackets. What `evaluate.py` found for training clouds (`floor`) or for the best possible
    reconstruction (`oracle`) belongs to the reference set and is below in italics, once.
    What an older result does not state is taken to be as in the others, with a note.

    Args:
        results: (label, result) each; the results as `read_result` returns them.
        form: `markdown`; `latex`, a tabular with its notes as comments; or `csv`, unrounded, a line for each score.

    Raises:
        InputError: for no results or what is no result, or where two of them do not belong in one table, which are
            named with what differs: the kind (generation, reconstruction, completion), protocol, points, counts,
            EMD method, F-score threshold, reference set.
    """
    results = list(results)
    for pair in results:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise InputError(f"results must be pairs (label, result of evaluate), got {short(pair)}")
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    if not results:
        raise InputError("results must hold at least one result, got none")
    for label, result in results:
        check_result(result, label)
    facts = [(label, _facts(result)) for label, result in results]
    for one, other in itertools.combinations(facts, 2):
        _refuse_mix(one, other)
    rows = [(label, result["scores"], result.get("intervals")) for label, result in results]
    floors = _floors([result for _, result in results])
    # of one reference set, whose clouds are in one order; that the sets are the same was checked above
    paired = all(isinstance(each.get(("reference", "reference set")), str) for _, each in facts)
    verdicts = {c.name: verdict([result for _, result in results], c, paired) for c in columns_of(*rows)}
    bold = {name: each.best for name, each in verdicts.items()}
    if form == "csv":
        words = {name: each.words() for name, each in verdicts.items()}
        return comma_separated(rows, floors=floors, verdicts=words)
    notes = [*_notes(results, facts), *_decisions([label for label, _ in results], verdicts)]
    if form == "latex":
        return latex(rows, floors=floors, bold=bold, notes=list(map(printable, notes)))
    return "\n".join([markdown(rows, floors=floors, bold=bold), "", *map(printable, notes)]) + "\n"


def _decisions(labels: Sequence[str], verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return lines on what is bold, what ties, and what cannot be decided."""
    lines = []
    if any(each.best for each in verdicts.values()):
        lines.append(
            "Bold: the best score and its ties, where a paired bootstrap (95 %) shows that another is worse."
        )
    ties = [f"{name} ({', '.join(labels[i] for i in each.ties)})" for name, each in verdicts.items() if each.ties]
    if ties:
        lines.append(f"Ties with the best score: {', '.join(ties)}.")
    open_ = [
        f"{name} ({', '.join(labels[i] for i in each.undecided)})"
        for name, each in verdicts.items()
        if each.undecided
    ]
    if open_:
        lines.append(
            f"Cannot be decided: {', '.join(open_)}; a paired bootstrap needs each cloud's terms, which results on "
            "record lack for the JSD, and older ones for all scores (score those again), and the intervals touch."
        )
    return lines


def _facts(result: dict) -> dict[tuple[str, str], Any]:
    """Return what must be the same in one table, by (kind of fact, name), as far as the result states it."""
    protocol, counts, details = (result.get(key) or {} for key in ("protocol", "counts", "details"))
    dataset = result.get("dataset") or {}
    facts: dict[tuple[str, str], Any] = {
        ("protocol", f"protocol {_FORMER_NAMES.get(key, key)}"): value
        for key, value in protocol.items()
        if key != "description"
    }
    no_samples = "completion" if "completions" in counts else "reconstruction"
    facts["kind", "kind"] = "generation" if protocol else no_samples
    if "split" in result or "split" in protocol:  # a run may be scored on another split than its protocol's
        facts["reference", "split"] = result.get("split", protocol.get("split"))
    points = counts["points"]
    if isinstance(points, list) and len(set(points)) == 1:
        points = points[0]
    facts["points", "points"] = points
    for key in ("samples", "reference", "pairs", "completions"):
        if key in counts:
            facts["counts", f"number of {key}"] = counts[key]
    emd, f_score = (details.get(name) or {} for name in ("EMD", "F-score"))
    if "method" in emd:
        facts["EMD", "EMD method"] = emd["method"]
    if "threshold" in f_score:
        facts["F-score", "F-score threshold"] = f_score["threshold"]
    reference = dataset.get("reference")
    if isinstance(reference, dict) and "sha256" in reference:
        facts["reference", "reference set"] = reference["sha256"]
    if "fingerprint" in dataset:  # of the whole data set; older results have only this
        facts["reference", "data set"] = dataset["fingerprint"]
    return facts


def _refuse_mix(one: tuple[str, dict], other: tuple[str, dict]) -> None:
    (label, facts), (other_label, other_facts) = one, other
    kinds = facts["kind", "kind"], other_facts["kind", "kind"]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{label} and {other_label}: {kinds[0]} and {kinds[1]} scores; the two kinds share no table, "
            "compare each among themselves"
        )
    both = [key for key in facts if key in other_facts]
    if ("reference", "reference set") in both:  # two data sets may share their test clouds
        both = [key for key in both if key != ("reference", "data set")]
    for kind, name in both:
        ours, theirs = facts[kind, name], other_facts[kind, name]
        if ours != theirs:
            raise InputError(f"{label} and {other_label}: {name} differs, {ours!r} and {theirs!r}; {_WHY[kind]}")


def _floors(results: list[dict]) -> list[Row]:
    """Return the results' rows of what is possible, each once."""
    rows: list[Row] = []
    for key, name in (("floor", "training clouds"), ("oracle", "best possible"), ("baseline", "baseline")):
        for part in (result.get(key) or {} for result in results):
            row = (str(part.get("what", name)), part.get("scores"), part.get("intervals"))
            if row[1] and row not in rows:
                rows.append(row)
    return rows


def _notes(results: list[tuple[str, dict]], facts: list[tuple[str, dict]]) -> list[str]:
    first, counts = facts[0][1], results[0][1]["counts"]
    points = first["points", "points"]
    points = f"{points[0]} against {points[1]}" if isinstance(points, list) else points
    if first["kind", "kind"] == "generation":
        sets = f"{counts.get('samples')} samples against {counts['reference']} reference clouds"
        notes = [f"Protocol `{first['protocol', 'protocol name']}`: {sets}, {points} points each."]
    elif first["kind", "kind"] == "completion":
        each = counts["completions"]
        notes = [f"Completions of {counts['pairs']} clouds, {each} of each, {points} points each."]
    else:
        notes = [f"Reconstructions of {counts['pairs']} clouds, {points} points each."]
    intervals = [result["intervals"] for _, result in results if result.get("intervals")]
    if intervals:
        levels = " and ".join(f"{100 * level:g} %" for level in sorted({i["level"] for i in intervals}))
        notes.append(f"In brackets: bootstrap confidence intervals ({levels}).")
    by_note: dict[str, list[str]] = {}  # which results each further note is about
    said = set().union(*(each for _, each in facts))
    for (label, result), (_, each) in zip(results, facts, strict=True):
        further = list((result.get("details") or {}).get("notes", []))
        if silent := _silent(result, each, said):
            further.append(f"{', '.join(silent)} not on record, taken to be as in the others")
        if (result.get("dataset") or {}).get("stand_in"):
            further.append("scores on built-in STAND-IN shapes, which compare with nothing published")
        for note in further:
            by_note.setdefault(note, []).append(label)
    for note, labels in by_note.items():
        about = "" if len(labels) == len(results) else f" ({', '.join(labels)})"
        notes.append(f"Note{about}: {note}.")
    return notes


def _silent(result: dict, facts: dict, said: set[tuple[str, str]]) -> list[str]:
    """Return the names of what other results state and this one does not."""
    missing = said - set(facts)
    if not any("EMD" in name for name in result["scores"]):
        missing.discard(("EMD", "EMD method"))
    if ("reference", "data set") in facts:
        missing.discard(("reference", "reference set"))
    elif ("reference", "reference set") in facts:
        missing.discard(("reference", "data set"))
    return sorted(name for _, name in missing)
