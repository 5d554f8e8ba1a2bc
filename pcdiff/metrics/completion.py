"""How well partial clouds are completed: nearness to the truth, and how far several completions differ."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.metrics._blocks import MapBlocks, in_order
from pcdiff.metrics._inputs import as_clouds
from pcdiff.metrics.columns import markdown
from pcdiff.metrics.reconstruction import f_score
from pcdiff.ops import emd as earth_mover
from pcdiff.ops import nearest
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.progress import Progress

F_SCORE_SHARE = 0.01
_CLOUDS_AT_ONCE = 64  # completions compared between two calls of `progress`
_POINTS_AT_ONCE = 1 << 20  # of training clouds


@checked
def completion_scores(
    *,
    completions: Any,
    reference: Any,
    given: Any = None,
    threshold: float = F_SCORE_SHARE,
    emd: bool = True,
    progress: Progress | None = None,
    map_blocks: MapBlocks = in_order,
    name: str = "completions",
) -> dict[str, Any]:
    """Score completions of partial clouds against the whole ones, in the clouds' own unit.

    Over the K completions of a cloud, and then over the clouds, are averaged: CD-L1, the mean of both directions'
    mean distances, `(mean d + mean d') / 2`, and CD-L2, the sum of their mean squared distances, as PoinTr's tables
    have them (Yu et al., ICCV 2021; its CD-L1 is that of PCN); the F-score (Tatarchenko et al., CVPR 2019) at a
    share of the longest side of the true cloud's bounding box; and the exact EMD, the mean distance of the best
    bijection. CD-L2-best is the smallest CD-L2 of a cloud's K completions.

    Of several completions TMD tells how far they differ, whatever the truth: the sum over them of the mean CD-L2 to
    the others. UHD tells how far they leave the points given: the mean over them of the largest distance from a
    given point to the nearest point of the completion. Both are of Wu et al. (ECCV 2020) as their code has them.

    Args:
        completions: `(n, K, P, 3)`, or `(n, P, 3)` for one each; `completions[i]` complete `given[i]`.
        reference: the whole clouds `(n, Q, 3)`; P = Q where `emd` is asked.
        given: the points given, `(n, G, 3)`; without them there is no UHD.
        threshold: of the F-score, as a share of the longest side.
        emd: also the exact Earth Mover's Distance.
        progress: called with (completions done, completions in all).
        map_blocks: computes the blocks of the work; by default this process does, one after the other.
        name: of these blocks, for `map_blocks`.

    Returns:
        `counts`; `scores` by name; `per_cloud`, their terms in the clouds' order; `details`.

    Raises:
        InputError: for bad clouds, unequal counts, unequal point counts with `emd`, or a threshold not positive.

    Example:
        >>> whole = torch.rand(2, 64, 3)
        >>> found = completion_scores(completions=whole[:, None].repeat(1, 3, 1, 1), reference=whole, emd=False)
        >>> found["scores"]["CD-L1"], found["scores"]["TMD"]
        (0.0, 0.0)
    """
    ours, truth = _completions(completions), as_clouds(reference, "reference", keep_double=True)
    parts = None if given is None else as_clouds(given, "given", keep_double=True)
    for what, clouds in (("completions", ours), ("given", parts)):
        if clouds is not None and len(clouds) != len(truth):
            raise InputError(f"{what} and reference must pair up, got {len(clouds)} and {len(truth)} clouds")
    if emd and ours.shape[2] != truth.shape[1]:
        raise InputError(
            f"emd needs equal point counts, got completions with {ours.shape[2]} and reference with "
            f"{truth.shape[1]} points; pass emd=False"
        )
    if not threshold > 0:
        raise InputError(f"threshold must be positive, a share of the longest side, got {threshold}")
    count, each = ours.shape[:2]
    at_once = max(1, _CLOUDS_AT_ONCE // each)

    def compute(first: int) -> tuple[np.ndarray, ...]:
        rows = slice(first, first + at_once)
        block = ours[rows].double(), truth[rows].double(), None if parts is None else parts[rows].double()
        return tuple(_terms(*block, threshold, emd).values())

    firsts = range(0, count, at_once)
    found = []
    for first, arrays in zip(firsts, map_blocks(name, firsts, compute), strict=True):
        found.append(arrays)
        if progress is not None:
            progress(min(first + at_once, count) * each, count * each)
    names = _names(each, emd, parts is not None)
    per_cloud = {
        score: np.concatenate(values) for score, values in zip(names, zip(*found, strict=True), strict=True)
    }
    return {
        "counts": {"pairs": count, "points": [ours.shape[2], truth.shape[1]], "completions": each},
        "scores": {score: float(values.mean()) for score, values in per_cloud.items()},
        "per_cloud": {score: values.tolist() for score, values in per_cloud.items()},
        "details": {"F-score": {"threshold": threshold, "threshold_on": "share of the truth's longest side"}},
    }


def total_mutual_difference(completions: Tensor) -> Tensor:
    """Return TMD `(n,)` of K completions `(n, K, P, 3)`: the sum over them of the mean CD-L2 to the others.

    Raises:
        InputError: K is below 2.
    """
    each = completions.shape[1]
    if each < 2:
        raise InputError(f"completions must be two or more of each cloud to differ, got {each}")
    total = completions.new_zeros(len(completions))
    for i in range(each):
        for j in range(i + 1, each):
            total += _squared_chamfer(completions[:, i], completions[:, j])
    return 2 * total / (each - 1)


def unidirectional_hausdorff(given: Tensor, completions: Tensor) -> Tensor:
    """Return UHD `(n,)`: the largest distance of a given point from a completion, averaged over the completions.

    Args:
        given: `(n, G, 3)`.
        completions: `(n, K, P, 3)`.
    """
    each = completions.shape[1]
    farthest = [nearest(given, completions[:, k]).squared_distance.amax(dim=1).sqrt() for k in range(each)]
    return torch.stack(farthest, dim=1).mean(dim=1)


class NearestTraining(NamedTuple):
    """The training cloud that fits each partial cloud best.

    Attributes:
        index: `(n,)` int64.
        distance: mean squared distance from the points given to it, `(n,)`.
    """

    index: Tensor
    distance: Tensor


def nearest_by_given(
    given: Tensor,
    train: Tensor,
    *,
    progress: Progress | None = None,
    map_blocks: MapBlocks = in_order,
) -> NearestTraining:
    """Find the training cloud with the least one-sided Chamfer distance from the points given: a baseline.

    What completing by memory alone would give: whatever a model makes should be nearer to the truth.

    Args:
        given: `(n, G, 3)`.
        train: `(m, P, 3)`, in the same unit.
        progress: called with (clouds done, n).
        map_blocks: computes the blocks of the work; by default this process does, one after the other.

    Example:
        >>> train = torch.rand(5, 64, 3)
        >>> nearest_by_given(train[[3]][:, :16], train).index
        tensor([3])
    """
    at_once = max(1, _POINTS_AT_ONCE // train.shape[1])

    def compute(i: int) -> tuple[np.ndarray, ...]:
        distances = [
            nearest(given[i].to(part).expand(len(part), -1, -1), part).squared_distance.mean(dim=1)
            for part in train.split(at_once)
        ]
        least = torch.cat(distances).min(dim=0)
        return least.indices[None].cpu().numpy(), least.values[None].double().cpu().numpy()

    index, distance = [], []
    for rows in map_blocks("nearest training", range(len(given)), compute):
        index.append(torch.from_numpy(rows[0]))
        distance.append(torch.from_numpy(rows[1]))
        if progress is not None:
            progress(len(index), len(given))
    return NearestTraining(torch.cat(index), torch.cat(distance))


def completion_table(result: dict[str, Any]) -> str:
    """Return a result of `completion_scores`, maybe with a `baseline`, as a Markdown table with its notes.

    Example:
        >>> print(completion_table(result))  # doctest: +SKIP
        |                          | EMD ×10² ↓ | F-score ↑ | CD-L1 ×10³ ↓ | ...
    """
    counts, baseline = result["counts"], result.get("baseline")
    p, q = counts["points"]
    rows = {f"completions, {p if p == q else f'{p} against {q}'} points": result["scores"]}
    share, unit = result["details"]["F-score"]["threshold"], result.get("unit", "the clouds' own unit")
    notes = [
        f"{counts['pairs']} clouds, {counts['completions']} completions each; distances: {unit}. "
        "CD-L1: distances, half of both directions' sum; CD-L2: squared, both directions added; F-score at "
        f"{share:g} of the truth's longest side."
    ]
    if "TMD" in result["scores"]:
        notes.append("TMD: how far the completions of a cloud differ. UHD: how far they leave the points given.")
    if baseline is not None:
        rows[baseline["what"]] = baseline["scores"]
    notes += [f"Note: {note}." for note in result["details"].get("notes", [])]
    table = markdown([(label, scores, None) for label, scores in rows.items()], highlight=False)
    return "\n".join([table, "", *notes]) + "\n"


def _completions(completions: Any) -> Tensor:
    shape = np.shape(completions)
    if len(shape) == 4:
        flat = (
            completions.reshape(-1, *shape[2:]) if hasattr(completions, "reshape") else np.concatenate(completions)
        )
        return as_clouds(flat, "completions", keep_double=True).unflatten(0, shape[:2])
    return as_clouds(completions, "completions", keep_double=True)[:, None]


def _names(each: int, emd: bool, given: bool) -> list[str]:
    several = ["CD-L2-best", "TMD"] if each > 1 else []
    return ["CD-L1", "CD-L2", "F-score", *(["EMD"] if emd else []), *several, *(["UHD"] if given else [])]


def _terms(ours: Tensor, truth: Tensor, given: Tensor | None, threshold: float, emd: bool) -> dict[str, np.ndarray]:
    """Return each score's terms `(n,)`, by the names of `_names`; ours `(n, K, P, 3)`, all float64."""
    each = ours.shape[1]
    sides = truth.amax(dim=1) - truth.amin(dim=1)
    limits = (threshold * sides.amax(dim=1)).square().cpu().numpy()
    columns: dict[str, list[Tensor]] = {"CD-L1": [], "CD-L2": [], "F-score": [], **({"EMD": []} if emd else {})}
    for k in range(each):
        there, back = nearest(ours[:, k], truth).squared_distance, nearest(truth, ours[:, k]).squared_distance
        columns["CD-L1"].append((there.sqrt().mean(dim=1) + back.sqrt().mean(dim=1)) / 2)
        columns["CD-L2"].append(there.mean(dim=1) + back.mean(dim=1))
        rows = zip(there.cpu().numpy(), back.cpu().numpy(), limits, strict=True)
        # a cloud of one point has no sides, and nothing is nearer than 0
        columns["F-score"].append(torch.tensor([f_score(a, b, max(limit, 1e-300))[0] for a, b, limit in rows]))
        if emd:
            columns["EMD"].append(earth_mover(ours[:, k], truth, method="exact").cost)
    terms = {name: torch.stack(values, dim=1).double().mean(dim=1) for name, values in columns.items()}
    if each > 1:
        terms["CD-L2-best"] = torch.stack(columns["CD-L2"], dim=1).amin(dim=1)
        terms["TMD"] = total_mutual_difference(ours)
    if given is not None:
        terms["UHD"] = unidirectional_hausdorff(given, ours)
    return {name: values.cpu().numpy() for name, values in terms.items()}


def _squared_chamfer(a: Tensor, b: Tensor) -> Tensor:
    return nearest(a, b).squared_distance.mean(dim=1) + nearest(b, a).squared_distance.mean(dim=1)
