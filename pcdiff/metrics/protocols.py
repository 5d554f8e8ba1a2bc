"""Named evaluation protocols: what is done to the clouds before they are compared.

Scores under two protocols never belong in one table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pcdiff.errors import InputError
from pcdiff.metrics._inputs import as_clouds


def normalise_bbox(clouds, name: str = "clouds") -> torch.Tensor:
    """Move each cloud's bounding-box centre to 0 and scale its longest half-side to 1.

    Args:
        clouds: `(n, P, 3)`.
        name: of the argument, for the error message.

    Returns:
        `(n, P, 3)` float32 within [-1, 1].

    Raises:
        InputError: for bad clouds, or one of zero extent (its index is named).
    """
    clouds = as_clouds(clouds, name)
    low, high = clouds.amin(dim=1, keepdim=True), clouds.amax(dim=1, keepdim=True)
    half = (high - low).amax(dim=2, keepdim=True) / 2
    _refuse_flat(half, name)
    return (clouds - (low + high) / 2) / half


def normalise_unit(clouds, name: str = "clouds") -> torch.Tensor:
    """Move each cloud's mean to 0 and scale it to standard deviation 1 over all its coordinates.

    The deviation is about one mean of x, y and z together, with n - 1, as DPM's `shape_unit` has it.

    Args:
        clouds: `(n, P, 3)`.
        name: of the argument, for the error message.

    Returns:
        `(n, P, 3)` float32.

    Raises:
        InputError: for bad clouds, or one of zero extent (its index is named).
    """
    clouds = as_clouds(clouds, name)
    spread = clouds.flatten(1).std(dim=1)[:, None, None]
    _refuse_flat((clouds.amax(dim=1, keepdim=True) - clouds.amin(dim=1, keepdim=True)).amax(2, True), name)
    return (clouds - clouds.mean(dim=1, keepdim=True)) / spread


def as_they_come(clouds, name: str = "clouds") -> torch.Tensor:
    """Return the clouds `(n, P, 3)` checked but unchanged."""
    return as_clouds(clouds, name)


NORMALISATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "shape_bbox": normalise_bbox,
    "shape_unit": normalise_unit,
    "none": as_they_come,
}


@dataclass(frozen=True)
class Protocol:
    """What is done to both sets before they are scored.

    Attributes:
        name: as in result files and tables.
        normalisation: a key of `NORMALISATIONS`, applied to every cloud of both sets.
        points: in a cloud, in the published figures; another number is scored, with a note.
        description: one line for a reader.
    """

    name: str
    normalisation: str
    points: int | None
    description: str

    def normalise(self, clouds, name: str = "clouds") -> torch.Tensor:
        """Return the clouds `(n, P, 3)` as this protocol compares them; raises InputError for bad ones."""
        return NORMALISATIONS[self.normalisation](clouds, name)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="dpm",
            normalisation="shape_bbox",
            points=2048,
            description="every cloud of both sets: bounding-box centre to 0, longest half-side to 1",
        ),
        Protocol(
            name="raw",
            normalisation="none",
            points=None,
            description="clouds as they come; both sets must be in one unit",
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        InputError: for an unknown name; the known ones are listed.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol must be one of {sorted(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]


def _refuse_flat(extent: torch.Tensor, name: str) -> None:
    flat = torch.nonzero(extent.flatten() == 0).flatten()
    if flat.numel():
        raise InputError(f"{name}[{int(flat[0])}] has zero extent: all its points are one, nothing to scale")
