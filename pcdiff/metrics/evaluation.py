"""One call from two sets of clouds to the result that is written, printed and compared."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.metrics._blocks import MapBlocks, in_order
from pcdiff.metrics._inputs import as_clouds
from pcdiff.metrics.bootstrap import LEVEL, RESAMPLES
from pcdiff.metrics.columns import all_columns, markdown
from pcdiff.metrics.emd_search import EMD_METHOD
from pcdiff.metrics.generation import Scores, Steps, check_sets, pairs_compared, score_by
from pcdiff.metrics.memorization import memorization
from pcdiff.metrics.neighbors import nearest_by_chamfer
from pcdiff.metrics.protocols import Protocol, get_protocol
from pcdiff.metrics.registry import METRICS, neighbor_metrics, set_metrics
from pcdiff.ops import estimated_emd_seconds
from pcdiff.ops.far_origin import shared_offset
from pcdiff.runtime import rng
from pcdiff.runtime.call_checks import checked

EMD_LIMIT_SECONDS = 600.0
# The search for neighbors took 2 % of the time of all pairs for 405 clouds (docs/results.md).
_SHARE_OF_PAIRS = 0.03
# Not those of this process: whether the EMD is computed must not depend on who does the work.
_NOMINAL_THREADS = 2
_FLOOR = "training clouds in the samples' place"


@checked
def evaluate(
    *,
    samples,
    reference,
    train=None,
    protocol: str = "dpm",
    num_points: int | None = None,
    metrics: Sequence[str] | None = None,
    emd: bool | None = None,
    floor: bool = True,
    resamples: int = RESAMPLES,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    map_blocks: MapBlocks = in_order,
) -> dict:
    """Score generated clouds against a reference set under a named protocol.

    Args:
        samples: `(n, P, 3)` generated clouds.
        reference: `(n, Q, 3)` clouds of the reference set (for `dpm` the test split).
        train: `(m, M, 3)` clouds that the generator was trained on: for `memorization`, and for `floor`.
        protocol: a name from `PROTOCOLS`.
        num_points: compare so many points of every cloud, chosen by the protocol's rule; None takes the protocol's
            number, or all where there are fewer.
        metrics: names from `METRICS`; by default all that need no file.
        emd: True or False; None computes it where `emd_seconds` stays below ten minutes.
        floor: score n training clouds, drawn at random, in the samples' place, as a baseline for the scores;
            needs n of them.
        resamples: of the bootstrap intervals; 0 leaves these out.
        seed: of the bootstrap, and of the draw of the training clouds; the protocol's by default.
        progress: called with (pairs of clouds compared, pairs in all).
        map_blocks: computes the blocks of the work; by default this process does, one after the other.

    Returns:
        A dict ready for JSON, the same to the bit however the work is shared: `protocol`, `counts`, `scores` (MMD
        and JSD raw, COV and 1-NNA in percent), `intervals`, `floor`, `memorization`, `terms` (what MMD, COV and
        1-NNA are means of, by each distance, for paired comparisons), `nearest` (of each sample: index of and
        distance to its nearest reference, by each distance), `dataset` with the sets' hashes, `seed` and `details`.
        Where the EMD is left out, `details["EMD"]["left_out"]` has the reason.

    Raises:
        InputError: for bad clouds (argument and index are named), unequal set sizes, too few points, an unknown
            protocol or metric, or `emd=True` with unequal point counts.

    Example:
        >>> import numpy as np
        >>> clouds = np.random.default_rng(0).normal(size=(8, 64, 3))
        >>> result = evaluate(samples=clouds[:4], reference=clouds[4:])
        >>> sorted(result["scores"])
        ['1-NNA-CD', '1-NNA-EMD', 'COV-CD', 'COV-EMD', 'JSD', 'JSD-normalized', 'MMD-CD', 'MMD-EMD']
    """
    chosen = get_protocol(protocol)
    names = check_metrics(metrics)
    by_distance = [name for name in neighbor_metrics() if name in names]
    given = {"samples": samples, "reference": reference, "train": train}
    sets = prepared(**given, protocol=chosen, num_points=num_points)
    ours, theirs, trained = sets["samples"], sets["reference"], sets.get("train")

    seed = chosen.seed if seed is None else seed
    stand_ins = _drawn(trained, len(theirs), seed) if floor else None
    reason = None if emd or not by_distance else _why_no_emd(ours, theirs, emd, 1 if stand_ins is None else 2)
    wanted = chosen.distances if by_distance else ()
    distances = [distance for distance in wanted if not (reason and distance == "emd")]
    check_sets(ours, theirs, distances)
    if stand_ins is not None and "emd" in distances and stand_ins.shape[1] != theirs.shape[1]:
        stand_ins = None

    compared = len(distances) * pairs_compared(len(ours)) * (1 if stand_ins is None else 2)
    memorized = 0 if trained is None else (len(ours) + len(theirs)) * len(trained)
    steps = Steps(progress, compared + memorized)

    found, details = score_by(ours, theirs, distances, map_blocks, "", steps)
    result: dict[str, Any] = {
        "protocol": chosen.to_dict(),
        "dataset": {name: {"sha256": fingerprint(clouds)} for name, clouds in sets.items()},
        "counts": _counts(sets),
    }
    result |= _scored(names, found, ours, theirs, resamples, seed)
    if stand_ins is not None:
        stood_in, _ = score_by(stand_ins, theirs, distances, map_blocks, "floor ", steps)
        result["floor"] = {"what": _FLOOR} | _scored(names, stood_in, stand_ins, theirs, resamples, seed)
    if trained is not None:
        to_train = nearest_by_chamfer(ours, trained, map_blocks, "CD samples to train", steps)
        held_out = nearest_by_chamfer(theirs, trained, map_blocks, "CD reference to train", steps)
        result["memorization"] = {"distance_is": "CD"} | memorization(
            sample_distance=to_train.distance,
            sample_index=to_train.index,
            reference_distance=held_out.distance,
        )
    result["terms"] = {name: each.record() for name, each in found.items()}
    result["nearest"] = {
        name: {"reference_index": each.nearest_reference.tolist(), "distance": each.sample_distance.tolist()}
        for name, each in found.items()
    }
    if reason:
        details["EMD"] = {"left_out": reason}
    elif "EMD" in details:
        details["EMD"] |= {"method": EMD_METHOD, "tolerance": 0.0}
    for name, metric in set_metrics().items():
        if name in names and (found_beside := metric.details(ours, theirs)):
            details[name] = found_beside
    printed = [column for column in all_columns() if column.name in result["scores"]]
    details["scales_in_print"] = {column.name: column.scale for column in printed if column.scale != 1}
    notes = _notes(chosen, reference, ours, theirs, seed, details)
    details["notes"] = notes
    if floor and trained is not None and stand_ins is None:
        notes.append(_why_no_floor(trained, theirs))
    offset = _offset(_checked(**given), chosen)
    if offset.any():
        notes.append(
            f"the clouds are far from the origin: {tuple(offset.tolist())} was subtracted from all, in double"
        )
    return result | {"details": details, "seed": seed}


def prepared(
    *, samples, reference, train=None, protocol: Protocol, num_points: int | None = None
) -> dict[str, Tensor]:
    """Return the sets as a protocol compares them, by name: checked, their points chosen, normalized; float32.

    Under a protocol that leaves clouds where they are, sets far from the origin lose one common offset in double
    before float32 could blur them: the distances between clouds stay.

    Raises:
        InputError: as `evaluate`.
    """
    sets = _checked(samples, reference, train)
    offset = _offset(sets, protocol)
    for name, clouds in sets.items():
        if name == "reference":
            sets[name] = protocol.choose_points(clouds, num_points)
        elif num_points is not None and not 1 <= num_points <= clouds.shape[1]:
            raise InputError(f"num_points must be in 1..{clouds.shape[1]}, the points of {name}, got {num_points}")
        else:
            sets[name] = clouds[:, : num_points or protocol.points]
    if offset.any():
        sets = {name: clouds.double() - offset.to(clouds.device) for name, clouds in sets.items()}
    return {name: protocol.normalize(clouds, name) for name, clouds in sets.items()}


def _checked(samples, reference, train=None) -> dict[str, Tensor]:
    sets = {"samples": samples, "reference": reference, "train": train}
    return {name: as_clouds(clouds, name, keep_double=True) for name, clouds in sets.items() if clouds is not None}


def _offset(sets: dict[str, Tensor], protocol: Protocol) -> Tensor:
    """Return what all sets lose before they become float32, `(3,)`: zeros where each cloud is centered alone."""
    return shared_offset(sets.values()) if protocol.normalization == "none" else torch.zeros(3, dtype=torch.float64)


def fingerprint(clouds: Tensor) -> str:
    """Return the SHA-256 of a set of clouds `(n, P, 3)`: of its shape and its float32 coordinates."""
    array = clouds.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def emd_seconds(clouds: int, points: int) -> float:
    """Return a rough estimate of the seconds that the EMD scores of two sets of `clouds` clouds take on two cores.

    Most pairs are never solved: see `pcdiff.metrics.emd_search`.
    """
    return _SHARE_OF_PAIRS * estimated_emd_seconds(pairs_compared(clouds), points, _NOMINAL_THREADS)


def table(result: dict) -> str:
    """Return a result of `evaluate` as a Markdown table, in the scales that papers print, with its notes.

    Example:
        >>> print(table(result))  # doctest: +SKIP
        | MMD-CD ×10³ ↓ | COV-CD % ↑ | 1-NNA-CD % (50 is best) | JSD ×10³ ↓ |
        ...
    """
    counts, intervals, floor = result["counts"], result.get("intervals"), result.get("floor")
    classes = result.get("classes") or {}
    rows = [("samples" if floor or classes else "", result["scores"], intervals)]
    rows += [
        (f"of class {name} ({part['counts']['samples']})", part["scores"], part.get("intervals"))
        for name, part in classes.items()
    ]
    floors = [(floor["what"], floor["scores"], floor.get("intervals"))] if floor else []
    points = counts["points"]
    points = points if isinstance(points, int) else f"{points[0]} against {points[1]}"
    notes = [
        f"Protocol `{result['protocol']['name']}`: {counts['samples']} samples against {counts['reference']} "
        f"reference clouds, {points} points each."
    ]
    if classes:
        notes.append("A class's samples are compared with the reference clouds of that class alone.")
    if intervals:
        notes.append(f"In brackets: bootstrap confidence intervals ({100 * intervals['level']:g} %).")
    for name in ("CD", "EMD"):
        test = result["details"].get(name, {})
        if "1-NNA-samples" in test:
            notes.append(
                f"1-NNA-{name} is {test['|1-NNA-50|']:.2f} from 50: {test['1-NNA-samples']:.2f} % of the samples "
                f"and {test['1-NNA-reference']:.2f} % of the reference are classified correctly."
            )
    if "memorization" in result:
        notes.append(f"Against {counts['train']} training clouds: {result['memorization']['summary']}.")
    effort = result["details"].get("EMD", {})
    if "share_solved_to_the_end" in effort:
        solved, started = (100 * effort[key] / effort["pairs"] for key in ("solved_to_the_end", "stopped_early"))
        notes.append(
            f"EMD: of {effort['pairs']:,} pairs {solved:.1f} % were solved to the end and {started:.1f} % a part "
            "of the way; bounds decided the others, and the scores are those of all."
        )
    notes += [f"Note: {note}." for note in result["details"]["notes"]]
    return "\n".join([markdown(rows, highlight=False, floors=floors), "", *notes]) + "\n"


def check_metrics(names: Sequence[str] | None) -> list[str]:
    """Return the names of metrics to compute: those given, or all that need no file of weights.

    Raises:
        InputError: a name is unknown (the message lists the known ones), or none is given.
    """
    if names is None:
        return [name for name, metric in METRICS.items() if getattr(metric, "by_default", True)]
    if not names:
        raise InputError(f"metrics must be some of {sorted(METRICS)}, got none")
    return [METRICS.canonical(name) for name in names]


def _scored(
    names: Sequence[str], found: dict[str, Scores], ours: Tensor, theirs: Tensor, resamples: int, seed: int
) -> dict:
    """Return `scores` of one set by the metrics named, and `intervals` where they are wanted."""
    compared: dict[str, tuple[Any, tuple[Any, ...]]] = {
        f"{name}-{distance}": (metric, (each,))
        for distance, each in found.items()
        for name, metric in neighbor_metrics().items()
        if name in names
    }
    compared |= {name: (metric, (ours, theirs)) for name, metric in set_metrics().items() if name in names}
    scores = {name: float(metric.score(*sets)) for name, (metric, sets) in compared.items()}
    if not resamples:
        return {"scores": scores}
    settings: dict[str, Any] = {"resamples": resamples, "level": LEVEL, "seed": seed}
    intervals: dict[str, Any] = dict(settings)
    for name, (metric, sets) in compared.items():
        interval = metric.interval(*sets, name=name, **settings)
        if interval is not None:
            intervals[name] = list(interval)
    return {"scores": scores, "intervals": intervals}


def _counts(sets: dict[str, Tensor]) -> dict:
    points = [sets["samples"].shape[1], sets["reference"].shape[1]]
    return {name: len(clouds) for name, clouds in sets.items()} | {
        "points": points[0] if points[0] == points[1] else points
    }


def _drawn(train: Tensor | None, count: int, seed: int) -> Tensor | None:
    """Return `count` training clouds drawn at random, None where there are not as many."""
    if train is None or len(train) < count:
        return None
    order = torch.randperm(len(train), generator=rng.generator(seed, "floor"))
    return train[order[:count].sort().values]


def _why_no_floor(train: Tensor, reference: Tensor) -> str:
    if len(train) < len(reference):
        return f"no row of training clouds: there are {len(train)} of them, fewer than the {len(reference)} needed"
    return f"no row of training clouds: they have {train.shape[1]} points, the reference {reference.shape[1]}"


def _why_no_emd(ours: Tensor, theirs: Tensor, emd: bool | None, comparisons: int) -> str | None:
    """Return why the EMD is left out of so many comparisons of like size, None where it is not."""
    if emd is not None:
        return "not asked for"
    if ours.shape[1] != theirs.shape[1]:
        return f"point counts differ ({ours.shape[1]} and {theirs.shape[1]})"
    seconds = comparisons * emd_seconds(len(ours), ours.shape[1])
    if seconds > EMD_LIMIT_SECONDS:
        return (
            f"it would take about {seconds / 60:.0f} min on two cores (limit {EMD_LIMIT_SECONDS / 60:.0f}); "
            "ask for it with emd=True (--emd yes), or compare fewer points with num_points"
        )
    return None


def _notes(chosen: Protocol, reference, ours: Tensor, theirs: Tensor, seed: int, details: dict) -> list[str]:
    """Return notes for a reader who compares the scores with others."""
    notes = []
    points = {ours.shape[1], theirs.shape[1]}
    if chosen.points is not None and points != {chosen.points}:
        here = " and ".join(map(str, sorted(points)))
        notes.append(
            f"not comparable with published `{chosen.name}` figures, which use {chosen.points} points, not {here}; "
            "fewer points mean larger distances"
        )
    if seed != chosen.seed:
        notes.append(f"seed {seed}, where the protocol has {chosen.seed}")
    if chosen.already_chosen(reference):
        notes.append(
            f"the reference clouds have {chosen.points} points, so they are taken to be the points "
            f"{chosen.reference_points} on already"
        )
    if "left_out" in details.get("EMD", {}):
        notes.append(f"EMD left out: {details['EMD']['left_out']}")
    for name in ("CD", "EMD"):
        found = details.get(name, {})
        if found.get("1-NNA-ties"):
            notes.append(f"{found['1-NNA-ties']} ties in 1-NNA-{name} counted one half each")
        if found.get("COV-ties"):
            notes.append(f"{found['COV-ties']} samples have several nearest references by {name}; the first counts")
        if found.get("copies"):
            notes.append(f"{found['copies']} samples are exact copies of a reference cloud by {name}")
    return notes
