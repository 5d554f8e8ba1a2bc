"""Scores of a class-conditional run, class by class."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pcdiff.config import EvaluateConfig
from pcdiff.evaluation.files import compared
from pcdiff.runtime.resumable import ResumableMap


def add_classes(
    result: dict[str, Any],
    config: EvaluateConfig,
    work: ResumableMap,
    names: Sequence[str],
    labels: Tensor,
    samples: Tensor,
    reference: Tensor,
) -> None:
    """Add to the result of all clouds together what each class scores by itself, under `classes`.

    Each has `counts`, `scores` and `intervals`, by the distances of the whole. A class of fewer than two clouds has
    none, which the result's notes say.

    Args:
        result: of `compared`, for all clouds.
        config: what was asked.
        work: shares and keeps the blocks of work.
        names: of the classes.
        labels: of the samples and of the reference clouds alike `(n,)`.
        samples: `(n, P, 3)`.
        reference: `(n, Q, 3)`.
    """
    each = replace(config, floor=False, emd="yes" if "1-NNA-EMD" in result["scores"] else "no")
    found, few = {}, []
    for label, name in enumerate(names):
        here = labels == label
        if (count := int(here.sum())) < 2:
            few += [f"{name} ({count})"] if count else []
            continue
        own = compared(each, work, f"class {name}", samples=samples[here], reference=reference[here])
        found[name] = {key: own[key] for key in ("counts", "scores", "intervals") if key in own}
    result["classes"] = found
    if few:
        result["details"]["notes"].append(f"no scores of their own for classes of one cloud: {', '.join(few)}")
