"""How well single clouds are reconstructed: Chamfer distance, EMD, F-score, and an oracle's scores."""

from collections.abc import Sequence

import numpy as np
import torch

from pcdiff.errors import InputError, short
from pcdiff.metrics._blocks import MapBlocks, in_order
from pcdiff.metrics._inputs import as_clouds
from pcdiff.metrics.columns import markdown
from pcdiff.ops import emd as earth_mover
from pcdiff.ops import nearest
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.progress import Progress, part_of

F_SCORE_THRESHOLD = 1e-3  # squared distance, the default of other projects
_CLOUDS_AT_ONCE = 64  # between two calls of `progress`


def f_score(squared_a, squared_b, threshold: float = F_SCORE_THRESHOLD) -> tuple[float, float, float]:
    """Return F-score, precision and recall from the nearest-neighbor distances of two clouds.

    Tatarchenko et al., "What Do Single-view 3D Reconstruction Networks Learn?" (CVPR 2019): the harmonic mean of
    the shares of points that find a neighbor nearer than the threshold (strictly); 0 where both are 0.

    Args:
        squared_a: `(P,)` squared distances from each reconstructed point to the reference.
        squared_b: `(Q,)` squared distances from each reference point to the reconstruction.
        threshold: on the **squared** distance.

    Raises:
        InputError: for a threshold that is not positive.
    """
    if not threshold > 0:
        raise InputError(f"threshold must be positive (a squared distance), got {threshold}")
    precision = float((np.asarray(squared_a) < threshold).mean())
    recall = float((np.asarray(squared_b) < threshold).mean())
    both = precision + recall
    return (2 * precision * recall / both if both > 0 else 0.0), precision, recall


@checked
def reconstruction_scores(
    *,
    reconstructions,
    reference,
    threshold: float = F_SCORE_THRESHOLD,
    thresholds: Sequence[float] = (),
    emd: bool = True,
    progress: Progress | None = None,
) -> dict:
    """Score reconstructions against their reference clouds, pair by pair, in the clouds' own unit.

    Args:
        reconstructions: `(n, P, 3)`; `reconstructions[i]` reconstructs `reference[i]`.
        reference: `(n, Q, 3)`; P = Q where `emd` is asked.
        threshold: of the F-score, on the **squared** distance.
        thresholds: further ones; their F-scores are in `details["F-score"]["at"]`, by threshold.
        emd: also the exact Earth Mover's Distance (about 0.05 s a pair of 2048 points on one core).
        progress: called with (pairs done, pairs in all).

    Returns:
        `counts`; `scores` with mean and median (`CD`, `CD-median`, ...; CD is squared, mean + mean; EMD is the mean
        Euclidean matching distance; F-score in [0, 1]); `per_cloud` lists in the clouds' order; `details`.

    Raises:
        InputError: for bad clouds, unequal counts, unequal point counts with `emd`, or a threshold not positive.
    """
    pair = _check_pair({"reconstructions": reconstructions, "reference": reference}, emd)
    return _score_pair(*pair, threshold, thresholds, emd, progress)


@checked
def oracle_scores(
    first,
    second,
    *,
    threshold: float = F_SCORE_THRESHOLD,
    thresholds: Sequence[float] = (),
    emd: bool = True,
    progress: Progress | None = None,
) -> dict:
    """Score two samplings of each shape against each other: the scores of the exact shape, its points resampled.

    The best possible scores of an autoencoder (Yang et al., PointFlow, ICCV 2019), unless it copies its
    input points or spaces its own more evenly than chance. The fewer the points, the larger the distances.

    Args:
        first: `(n, P, 3)`.
        second: `(n, P, 3)`; `second[i]` samples the shape of `first[i]`, by other points.
        threshold: as `reconstruction_scores` takes it, like all that follows.
        thresholds: further ones.
        emd: also the exact Earth Mover's Distance.
        progress: called with (pairs done, pairs in all).

    Returns:
        As `reconstruction_scores`.

    Raises:
        InputError: as `reconstruction_scores`.

    Example:
        >>> first, second = split_samplings(torch.rand(2, 64, 3), num_points=32)
        >>> sorted(oracle_scores(first, second, emd=False)["scores"])
        ['CD', 'CD-median', 'F-score', 'F-score-median']
    """
    pair = _check_pair({"first": first, "second": second}, emd)
    return _score_pair(*pair, threshold, thresholds, emd, progress)


def split_samplings(clouds, num_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two disjoint samplings of each cloud: its points [0, P) and [P, 2P).

    Both sample the shape alike where a cloud's points come in random order, as in `shapenet.hdf5` and PC15k.

    Args:
        clouds: `(n, Q, 3)`.
        num_points: P, of each sampling.

    Returns:
        Two of `(n, P, 3)`.

    Raises:
        InputError: for bad clouds, or Q < 2P.
    """
    clouds = as_clouds(clouds, "clouds", keep_double=True)
    most = clouds.shape[1] // 2
    if not 1 <= num_points <= most:
        raise InputError(
            f"num_points must be in 1..{most}, so that clouds of {clouds.shape[1]} points give two disjoint "
            f"samplings, got {num_points}"
        )
    return clouds[:, :num_points], clouds[:, num_points : 2 * num_points]


@checked
def reconstruction_report(
    *,
    reconstructions,
    reference,
    second=None,
    threshold: float = F_SCORE_THRESHOLD,
    thresholds: Sequence[float] = (),
    emd: bool = True,
    progress: Progress | None = None,
    map_blocks: MapBlocks = in_order,
) -> dict:
    """Score reconstructions, and the oracle (`oracle_scores`) at the same number of points.

    The oracle compares `reference` with `second`. Without that, it compares two disjoint samplings taken from the
    reference, and the reconstructions are scored once more with as few points. All clouds must be in one unit.

    Args:
        reconstructions: `(n, P, 3)`; `reconstructions[i]` reconstructs `reference[i]`.
        reference: `(n, Q, 3)`; P = Q where `emd` is asked.
        second: `(n, R, 3)`, other points of the reference's shapes, at least min(P, Q) of them.
        threshold: as `reconstruction_scores` takes it, as `thresholds` and `emd` are.
        thresholds: further ones.
        emd: also the exact Earth Mover's Distance.
        progress: called with (pairs done, pairs in all), over all comparisons.
        map_blocks: computes the blocks of the work; by default this process does, one after the other.

    Returns:
        A dict ready for JSON: what `reconstruction_scores` returns, and `oracle` with `points`, of both its rows;
        `samplings`, which two; `scores`, the oracle's; `reconstructions`, their scores at `points`; `details`.

    Raises:
        InputError: as `reconstruction_scores`, and for a `second` that does not pair up or has too few points.
    """
    ours, theirs = _check_pair({"reconstructions": reconstructions, "reference": reference}, emd)
    points = min(ours.shape[1], theirs.shape[1])
    if second is not None:
        _, other = _check_pair({"reference": theirs, "second": second}, emd=False)
        if other.shape[1] < points:
            raise InputError(f"second must have at least {points} points a cloud, got {other.shape[1]}")
        first, other, samplings = theirs[:, :points], other[:, :points], "reference and second"
    else:
        if theirs.shape[1] < 2:
            raise InputError("reference must have at least 2 points a cloud, to be split, got 1; or give second")
        points = min(points, theirs.shape[1] // 2)
        first, other = split_samplings(theirs, points)
        samplings = f"points 0 to {points - 1} and {points} to {2 * points - 1} of the reference"

    pairs = {"whole": (ours, theirs), "cut": (ours[:, :points], first), "oracle": (first, other)}
    if ours.shape[1] == theirs.shape[1] == points:
        del pairs["cut"]
    scored: dict[str, dict] = {}
    for row, pair in pairs.items():
        part = part_of(progress, len(scored), len(pairs))
        scored[row] = _score_pair(*pair, threshold, thresholds, emd, part, map_blocks, row)
    cut, oracle = scored.get("cut", scored["whole"]), scored["oracle"]
    return scored["whole"] | {
        "oracle": {
            "points": points,
            "samplings": samplings,
            "scores": oracle["scores"],
            "reconstructions": cut["scores"],
            "details": {"oracle": oracle["details"], "reconstructions": cut["details"]},
        }
    }


def reconstruction_table(result: dict) -> str:
    """Return a result of `reconstruction_report` or `reconstruction_scores` as a Markdown table with its notes.

    Example:
        >>> print(reconstruction_table(result))  # doctest: +SKIP
        |                                                 | CD ×10⁴ ↓ | CD median ×10⁴ ↓ | ...
    """
    counts, oracle = result["counts"], result.get("oracle")
    p, q = counts["points"]
    rows = {f"reconstructions, {p if p == q else f'{p} against {q}'} points": result["scores"]}
    notes = [
        f"{counts['pairs']} pairs, distances in the clouds' own unit. CD: squared, both directions added; F-score: "
        f"points nearer than {result['details']['F-score']['threshold']:g}, a squared distance."
    ]
    for further, found in result["details"]["F-score"].get("at", {}).items():
        notes.append(f"F-score at {further}: mean {found['mean']:.3f}, median {found['median']:.3f}.")
    if oracle is not None:
        at = oracle["points"]
        # Where the oracle has all points, this label is the first one's again, and the row stays as it is.
        rows[f"reconstructions, {at} points"] = oracle["reconstructions"]
        rows[f"oracle (two samplings of one shape), {at} points"] = oracle["scores"]
        notes.append(f"Oracle: {oracle['samplings']}; the scores of the exact shape, its points resampled.")
        if len(rows) > 2:
            notes.append(f"Note: compare the oracle with the row of {at} points; fewer mean larger distances.")
    table = markdown([(label, scores, None) for label, scores in rows.items()], highlight=False)
    return "\n".join([table, "", *notes]) + "\n"


def _check_pair(sets: dict, emd: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two sets of `sets`, checked; their names are the keys."""
    (one, a), (other, b) = ((name, as_clouds(clouds, name, True)) for name, clouds in sets.items())
    if len(a) != len(b):
        raise InputError(f"{one} and {other} must pair up, got {len(a)} and {len(b)} clouds")
    if emd and a.shape[1] != b.shape[1]:
        raise InputError(
            f"emd needs equal point counts, got {one} with {a.shape[1]} and {other} with {b.shape[1]} points; "
            "pass emd=False"
        )
    return a, b


def _score_pair(ours, theirs, threshold, thresholds, emd, progress, map_blocks=in_order, name="pairs") -> dict:
    """Compute what `reconstruction_scores` returns, of checked clouds, block by block."""
    try:
        at = [threshold, *map(float, thresholds)]
    except (TypeError, ValueError):
        raise InputError(f"thresholds must be numbers, got {short(thresholds)}") from None

    def compute(first: int) -> tuple[np.ndarray, ...]:
        # float64: a distance close to the F-score's threshold must fall on the right side of it.
        a, b = (clouds[first : first + _CLOUDS_AT_ONCE].double() for clouds in (ours, theirs))
        there, back = nearest(a, b).squared_distance, nearest(b, a).squared_distance
        cd = there.mean(dim=1) + back.mean(dim=1)
        rows = zip(there.cpu().numpy(), back.cpu().numpy(), strict=True)
        f_scores = np.array([[f_score(*row, each)[0] for each in at] for row in rows])
        cost = earth_mover(a, b, method="exact").cost if emd else cd.new_zeros(0)
        return cd.cpu().numpy(), cost.cpu().numpy(), f_scores

    firsts, found = range(0, len(ours), _CLOUDS_AT_ONCE), []
    for first, arrays in zip(firsts, map_blocks(name, firsts, compute), strict=True):
        found.append(arrays)
        if progress is not None:
            progress(min(first + _CLOUDS_AT_ONCE, len(ours)), len(ours))
    cd, cost, f_scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    per_cloud = {"CD": cd, "EMD": cost, "F-score": f_scores[:, 0]}
    if not emd:
        del per_cloud["EMD"]
    scores = {}
    for score, values in per_cloud.items():
        scores[score] = float(np.mean(values))
        scores[f"{score}-median"] = float(np.median(values))
    details: dict = {"threshold": threshold, "threshold_on": "squared distance"}
    if len(at) > 1:
        details["at"] = {
            str(further): {"mean": float(np.mean(values)), "median": float(np.median(values))}
            for further, values in zip(at[1:], f_scores[:, 1:].T, strict=True)
        }
    return {
        "counts": {"pairs": len(ours), "points": [ours.shape[1], theirs.shape[1]]},
        "scores": scores,
        "per_cloud": {score: values.tolist() for score, values in per_cloud.items()},
        "details": {"F-score": details},
    }
