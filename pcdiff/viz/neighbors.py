"""A picture of samples above their nearest clouds, to see whether a generator repeats its training set."""

import os
from collections.abc import Sequence
from pathlib import Path

from pcdiff.errors import InputError
from pcdiff.viz.grid import save_grid

COLUMNS = 8
_ELEVATION = 38.0  # of the camera, as in the pictures of a run


def save_neighbors(
    path: str | os.PathLike,
    samples,
    nearest_reference,
    nearest_train=None,
    *,
    sample_labels: Sequence[str] | None = None,
    reference_labels: Sequence[str] | None = None,
    train_labels: Sequence[str] | None = None,
    title: str | None = None,
    **settings,
) -> Path:
    """Write a PNG with a column for each sample: the sample, its nearest reference, its nearest training cloud.

    Each cloud fills its cell, whatever its size or unit.

    Args:
        path: of the picture, ending in `.png`; it appears whole or not at all.
        samples: up to 8 clouds `(P, 3)`: an array or tensor `(n, P, 3)`, or a sequence.
        nearest_reference: as many; `nearest_reference[i]` is the reference cloud nearest to `samples[i]`.
        nearest_train: as many; None leaves the row out.
        sample_labels: one short text under each sample, such as its number; None for none.
        reference_labels: under each reference cloud, such as its distance.
        train_labels: under each training cloud.
        title: one line above all.
        **settings: passed on to `render_grid` (size, azimuth, up, ...).

    Returns:
        The path.

    Raises:
        InputError: for no or more than 8 samples, rows or labels of another length, labels of training clouds that
            are not given, a bad cloud, or a path that does not end in `.png`.

    Example:
        >>> clouds = np.random.default_rng(0).normal(size=(4, 256, 3))
        >>> save_neighbors("near.png", clouds, clouds[::-1], reference_labels=["0.1"] * 4)  # doctest: +SKIP
        PosixPath('near.png')
    """
    rows = [
        ("samples", "samples", samples, sample_labels),
        ("nearest_reference", "nearest reference cloud", nearest_reference, reference_labels),
    ]
    if nearest_train is not None:
        rows.append(("nearest_train", "nearest training cloud", nearest_train, train_labels))
    elif train_labels is not None:
        raise InputError("train_labels needs nearest_train, the clouds they label")
    count = len(samples)
    if not 1 <= count <= COLUMNS:
        raise InputError(f"samples must hold 1 to {COLUMNS} clouds, got {count}; pick those to show")
    for name, _, clouds, labels in rows:
        if len(clouds) != count:
            raise InputError(f"{name} must hold one cloud for each of the {count} samples, got {len(clouds)}")
        if labels is not None and len(labels) != count:
            raise InputError(f"labels of {name} must be one for each of the {count} clouds, got {len(labels)}")
    texts = [text for *_, labels in rows for text in (labels or [""] * count)]
    return save_grid(
        path,
        [cloud for _, _, clouds, _ in rows for cloud in clouds],
        columns=count,
        labels=texts if any(texts) else None,
        title=title,
        row_titles=[row_title for _, row_title, _, _ in rows],
        **({"elevation": _ELEVATION} | settings),
    )
