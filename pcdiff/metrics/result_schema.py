"""The schema of result files: names, kinds and shapes of all that is read."""

import math
from collections.abc import Callable
from typing import Any

from pcdiff.errors import InputError, short
from pcdiff.metrics.columns import all_columns

_COUNTS = ("samples", "reference", "train", "pairs", "completions")


def check_result(result: Any, file: str) -> None:
    """Refuse a result that `evaluate.py` cannot have written, as far as `pcdiff.metrics.compare` reads it.

    Args:
        result: the JSON's content.
        file: for messages.

    Raises:
        InputError: names the first part that is absent or of another kind.
    """
    expected = f"{file}: expected the JSON that evaluate.py writes, got"
    if not isinstance(result, dict):
        raise InputError(f"{expected} {type(result).__name__}")
    for key in ("scores", "counts"):
        if not isinstance(result.get(key), dict):
            raise InputError(f"{expected} one without {key!r}")
    for key in ("intervals", "details", "dataset", "protocol", "floor", "oracle", "baseline"):
        if not isinstance(result.get(key, {}), dict | None):
            raise InputError(f"{expected} {type(result[key]).__name__} as {key!r}")
    if "protocol" in result:
        needed = [("protocol", "name"), ("counts", "reference")]
    else:
        needed = [("counts", "pairs")]
    for key, name in (*needed, ("counts", "points")):
        if name not in (result[key] or {}):
            raise InputError(f"{expected} {key!r} without {name!r}")
    if not any(column.name in result["scores"] for column in all_columns()):
        raise InputError(f"{expected} no known score among {short(sorted(result['scores']))}")
    if (result.get("intervals") or {}) and not is_number(result["intervals"].get("level")):
        raise InputError(f"{expected} 'intervals' without a 'level'")
    _check_terms(result, expected)
    classes = _part(result, "classes", expected)
    if not all(isinstance(part, dict) for part in classes.values()):
        raise InputError(f"{expected} {short(classes)} as classes, where named scores belong")
    beside = [result.get(key) or {} for key in ("floor", "oracle", "baseline")]
    for part in (result, *beside, *classes.values()):
        _check_scores(part, expected)
    for what, value, fits in _facts(result):
        if not fits(value):
            raise InputError(f"{expected} {short(value)} as {what}")


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_scores(part: dict, expected: str) -> None:
    scores, intervals = part.get("scores") or {}, part.get("intervals") or {}
    if not isinstance(scores, dict) or not isinstance(intervals, dict):
        raise InputError(f"{expected} {short(scores)} as scores, {short(intervals)} as their intervals")
    for name in (column.name for column in all_columns() if column.name in scores):
        if not is_number(scores[name]):
            raise InputError(f"{expected} {short(scores[name])} as {name}")
        interval = intervals.get(name, [0.0, 0.0])
        if not (isinstance(interval, list | tuple) and len(interval) == 2 and all(map(is_number, interval))):
            raise InputError(f"{expected} {short(interval)} as the interval of {name}")


def _check_terms(result: dict, expected: str) -> None:
    """Refuse terms that no score is the mean of: of another kind, or not as many as there are clouds."""
    counts, groups = result["counts"], {}
    for distance, held in _part(result, "terms", expected).items():
        if not isinstance(held, dict):
            raise InputError(f"{expected} {short(held)} as terms of {short(distance)}")
        for key in ("reference_distance", "covered", "reference_votes"):
            groups[f"terms.{distance}.{key}"] = held.get(key), counts.get("reference")
        groups[f"terms.{distance}.sample_votes"] = held.get("sample_votes"), counts.get("samples")
    for name, values in _part(result, "per_cloud", expected).items():
        groups[f"per_cloud.{name}"] = values, counts.get("pairs")
    for name, (values, count) in groups.items():
        if not (isinstance(values, list) and values and len(values) == count and all(map(is_number, values))):
            raise InputError(f"{expected} {short(values)} as {short(name)}, where {short(count)} numbers belong")


def _part(result: dict, key: str, expected: str) -> dict:
    part = result.get(key, {})
    if not isinstance(part, dict):
        raise InputError(f"{expected} {short(part)} as {key!r}")
    return part


def _facts(result: dict) -> list[tuple[str, Any, Callable[[Any], bool]]]:
    """Return what is printed or compared besides the scores: what it is, its value, and what it must be."""
    protocol, counts, details, dataset = (result.get(k) or {} for k in ("protocol", "counts", "details", "dataset"))
    emd, f_score = details.get("EMD"), details.get("F-score")
    return [
        ("the protocol's name", protocol.get("name", ""), _is_text),
        ("split", result.get("split"), lambda v: v is None or _is_text(v)),
        ("points", counts["points"], _is_points),
        *((f"the number of {key}", counts[key], _is_count) for key in _COUNTS if key in counts),
        ("details of EMD", emd, _is_part),
        ("details of F-score", f_score, _is_part),
        ("EMD method", (emd or {}).get("method", "") if _is_part(emd) else "", _is_text),
        ("F-score threshold", (f_score or {}).get("threshold", 0) if _is_part(f_score) else 0, is_number),
        ("notes", details.get("notes", []), lambda v: isinstance(v, list) and all(map(_is_text, v))),
        ("the data set's fingerprint", dataset.get("fingerprint", ""), lambda v: v is None or _is_text(v)),
        *(
            (f"what {k} is", (result.get(k) or {}).get("what", ""), _is_text)
            for k in ("floor", "oracle", "baseline")
        ),
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict | None)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_points(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(map(_is_count, value))
    return _is_count(value)
