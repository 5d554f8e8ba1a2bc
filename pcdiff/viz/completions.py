"""A picture of completions: what was given, what was made of it, and the truth."""

import os
from collections.abc import Sequence
from pathlib import Path

from pcdiff.errors import InputError
from pcdiff.viz.grid import save_grid

ROWS = 24
_ELEVATION = 38.0  # of the camera, as in the pictures of a run


def save_completions(
    path: str | os.PathLike,
    given: Sequence,
    completions: Sequence,
    truth: Sequence | None = None,
    *,
    nearest_train: Sequence | None = None,
    title: str | None = None,
    **settings,
) -> Path:
    """Write a PNG with a row for each partial cloud: the points given, its completions, and the truth.

    Each cloud fills its cell. Rows past `ROWS` are left out.

    Args:
        path: of the picture, ending in `.png`; it appears whole or not at all.
        given: n clouds `(G, 3)`: an array or tensor `(n, G, 3)`, or a sequence.
        completions: of each its K completions `(K, P, 3)`.
        truth: the whole clouds, n of them; None leaves the column out.
        nearest_train: n training clouds, such as the nearest by the points given; None leaves the column out.
        title: one line above all.
        **settings: passed on to `pcdiff.viz.render_grid` (size, azimuth, up, ...).

    Returns:
        The path.

    Raises:
        InputError: for no clouds, another number of completions or of truths, a bad cloud, or a path that does not
            end in `.png`.

    Example:
        >>> clouds = np.random.default_rng(0).normal(size=(2, 256, 3))
        >>> save_completions("done.png", clouds[:, :64], clouds[:, None], clouds)  # doctest: +SKIP
        PosixPath('done.png')
    """
    further = {"truth": truth, "nearest training cloud": nearest_train}
    columns = {name: clouds for name, clouds in further.items() if clouds is not None}
    for name, clouds in {"completions": completions, **columns}.items():
        if len(clouds) != len(given):
            raise InputError(f"{name} must be one for each of the {len(given)} partial clouds, got {len(clouds)}")
    rows, labels = [], []
    for i in range(min(len(given), ROWS)):
        made = list(completions[i])
        names = ["completion"] if len(made) == 1 else [f"completion {k + 1}" for k in range(len(made))]
        rows.append([given[i], *made, *(clouds[i] for clouds in columns.values())])
        labels += ["given", *names, *columns]
    if not rows:
        raise InputError("given must hold at least one partial cloud, got none")
    return save_grid(
        path,
        [cloud for row in rows for cloud in row],
        columns=len(rows[0]),
        labels=labels,
        title=title,
        **({"elevation": _ELEVATION} | settings),
    )
