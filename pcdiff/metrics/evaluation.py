"""One call from two sets of clouds to the result that is written, printed and compared."""

from collections.abc import Callable

from pcdiff.errors import InputError
from pcdiff.metrics._inputs import as_clouds
from pcdiff.metrics.generation import DISTANCES, check_sets, generation_scores
from pcdiff.metrics.jsd import jsd_legacy, jsd_normalized, outside_share
from pcdiff.metrics.protocols import get_protocol
from pcdiff.ops import estimated_emd_seconds

EMD_METHOD = "exact"
EMD_LIMIT_SECONDS = 600.0
SCALES_IN_PRINT = {"MMD-CD": 1e3, "MMD-EMD": 10.0, "JSD": 1e3}


def evaluate(
    *,
    samples,
    reference,
    protocol: str = "dpm",
    num_points: int | None = None,
    emd: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Score generated clouds against a reference set under a named protocol.

    Args:
        samples: `(n, P, 3)` generated clouds.
        reference: `(n, Q, 3)` clouds of the reference set (for `dpm` the test split).
        protocol: a name from `PROTOCOLS`.
        num_points: compare the first so many points of every cloud of both sets; None takes all.
        emd: True or False; None computes it where the estimate stays below ten minutes (`emd_seconds`).
        progress: called with (pairs of clouds compared, pairs in all).

    Returns:
        A dict ready for JSON: `protocol`, `counts`, `scores` (MMD and JSD raw, COV and 1-NNA in percent) and
        `details`. Where the EMD is left out, `details["EMD"]["left_out"]` says why.

    Raises:
        InputError: for bad clouds (argument and index are named), unequal set sizes, too few points, an unknown
            protocol, or `emd=True` with unequal point counts.

    Example:
        >>> import numpy as np
        >>> clouds = np.random.default_rng(0).normal(size=(8, 64, 3))
        >>> result = evaluate(samples=clouds[:4], reference=clouds[4:])
        >>> sorted(result)
        ['counts', 'details', 'protocol', 'scores']
    """
    chosen = get_protocol(protocol)
    sets = {"samples": as_clouds(samples, "samples"), "reference": as_clouds(reference, "reference")}
    if num_points is not None:
        sets = {name: _first_points(clouds, num_points, name) for name, clouds in sets.items()}
    normal = {name: chosen.normalise(clouds, name) for name, clouds in sets.items()}
    ours, theirs = normal["samples"], normal["reference"]

    reason = None if emd else _why_no_emd(ours, theirs, emd)
    distances = ["cd"] if reason else ["cd", "emd"]
    check_sets(ours, theirs, distances)

    scores = generation_scores(samples=ours, reference=theirs, distances=distances, progress=progress)
    details: dict = scores.pop("details")
    details["EMD"] = {"left_out": reason} if reason else details["EMD"] | {"method": EMD_METHOD}
    scores["JSD"] = jsd_legacy(ours, theirs)
    details["JSD"] = {
        "form": "legacy: 28^3 grid in a sphere of radius 0.5, points outside snapped to it",
        "outside_share": {"samples": outside_share(ours), "reference": outside_share(theirs)},
        "JSD-normalized": jsd_normalized(ours, theirs),
    }
    details["scales_in_print"] = {name: scale for name, scale in SCALES_IN_PRINT.items() if name in scores}
    details["notes"] = _notes(chosen, ours, theirs, details)
    points = [ours.shape[1], theirs.shape[1]]
    return {
        "protocol": {
            "name": chosen.name,
            "normalisation": chosen.normalisation,
            "description": chosen.description,
        },
        "counts": {
            "samples": len(ours),
            "reference": len(theirs),
            "points": points[0] if points[0] == points[1] else points,
        },
        "scores": scores,
        "details": details,
    }


def emd_seconds(clouds: int, points: int) -> float:
    """Return a rough estimate of the seconds that exact EMD takes here for two sets of `clouds` clouds.

    Three matrices, two of them symmetric, at `pcdiff.ops.estimated_emd_seconds` a pair.
    """
    return estimated_emd_seconds(clouds * clouds + clouds * (clouds - 1), points)


def table(result: dict) -> str:
    """Return a result of `evaluate` as a Markdown table, in the scales that papers print, with its notes.

    Example:
        >>> print(table(result))  # doctest: +SKIP
        | MMD-CD ×10³ ↓ | COV-CD % ↑ | 1-NNA-CD % (50 is best) | JSD ×10³ ↓ |
        ...
    """
    scores, counts = result["scores"], result["counts"]
    columns: list[tuple[str, str]] = []
    for name in (short.upper() for short in DISTANCES):
        if f"MMD-{name}" not in scores:
            continue
        scale = SCALES_IN_PRINT[f"MMD-{name}"]
        columns += [
            (f"MMD-{name} {_times(scale)} ↓", f"{scores[f'MMD-{name}'] * scale:.3f}"),
            (f"COV-{name} % ↑", f"{scores[f'COV-{name}']:.2f}"),
            (f"1-NNA-{name} % (50 is best)", f"{scores[f'1-NNA-{name}']:.2f}"),
        ]
    scale = SCALES_IN_PRINT["JSD"]
    columns.append((f"JSD {_times(scale)} ↓", f"{scores['JSD'] * scale:.3f}"))
    rows = [
        "| " + " | ".join(header for header, _ in columns) + " |",
        "|" + " ---: |" * len(columns),
        "| " + " | ".join(value for _, value in columns) + " |",
    ]
    points = counts["points"]
    points = points if isinstance(points, int) else f"{points[0]} against {points[1]}"
    notes = [
        f"Protocol `{result['protocol']['name']}`: {counts['samples']} samples against {counts['reference']} "
        f"reference clouds, {points} points each."
    ]
    return "\n".join([*rows, "", *notes, *(f"Note: {note}." for note in result["details"]["notes"])]) + "\n"


def _times(scale: float) -> str:
    return {1e3: "×10³", 10.0: "×10"}[scale]


def _first_points(clouds, num_points: int, name: str):
    if not 1 <= num_points <= clouds.shape[1]:
        raise InputError(f"num_points must be in 1..{clouds.shape[1]}, the points of {name}, got {num_points}")
    return clouds[:, :num_points]


def _why_no_emd(ours, theirs, emd: bool | None) -> str | None:
    """Return why the EMD is left out, None where it is not."""
    if emd is not None:
        return "not asked for"
    if ours.shape[1] != theirs.shape[1]:
        return f"point counts differ ({ours.shape[1]} and {theirs.shape[1]})"
    seconds = emd_seconds(len(ours), ours.shape[1])
    if seconds > EMD_LIMIT_SECONDS:
        return (
            f"the exact solver would take about {seconds / 60:.0f} min here (limit {EMD_LIMIT_SECONDS / 60:.0f}); "
            "ask for it with emd=True, or compare fewer points with num_points"
        )
    return None


def _notes(chosen, ours, theirs, details: dict) -> list[str]:
    """Return what a reader must know before comparing the scores with others."""
    notes = []
    points = {ours.shape[1], theirs.shape[1]}
    if chosen.points is not None and points != {chosen.points}:
        here = " and ".join(map(str, sorted(points)))
        notes.append(
            f"not comparable with published `{chosen.name}` figures, which use {chosen.points} points, not {here}; "
            "fewer points mean larger distances"
        )
    if "left_out" in details["EMD"]:
        notes.append(f"EMD left out: {details['EMD']['left_out']}")
    for name in ("CD", "EMD"):
        found = details.get(name, {})
        if found.get("1-NNA-ties"):
            notes.append(f"{found['1-NNA-ties']} ties in 1-NNA-{name} counted one half each")
        if found.get("copies"):
            notes.append(f"{found['copies']} samples are exact copies of a reference cloud by {name}")
    return notes
