"""Named evaluation protocols: what is done to the clouds before they are compared.

Scores under two protocols are not comparable.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from pcdiff.errors import InputError, OutOfRange, UnknownName
from pcdiff.metrics._inputs import as_clouds


def normalize_bbox(clouds, name: str = "clouds") -> torch.Tensor:
    """Move each cloud's bounding-box center to 0 and scale its longest half-side to 1.

    Args:
        clouds: `(n, P, 3)`.
        name: of the argument, for the error message.

    Returns:
        `(n, P, 3)` float32 within [-1, 1].

    Raises:
        InputError: for bad clouds, or one of zero extent (its index is named).
    """
    clouds = as_clouds(clouds, name, keep_double=True).double()
    low, high = clouds.amin(dim=1, keepdim=True), clouds.amax(dim=1, keepdim=True)
    half = (high - low).amax(dim=2, keepdim=True) / 2
    _refuse_flat(half, name)
    return ((clouds - (low + high) / 2) / half).float()


def normalize_unit(clouds, name: str = "clouds") -> torch.Tensor:
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
    clouds = as_clouds(clouds, name, keep_double=True).double()
    spread = clouds.flatten(1).std(dim=1)[:, None, None]
    _refuse_flat((clouds.amax(dim=1, keepdim=True) - clouds.amin(dim=1, keepdim=True)).amax(2, True), name)
    return ((clouds - clouds.mean(dim=1, keepdim=True)) / spread).float()


def as_they_come(clouds, name: str = "clouds") -> torch.Tensor:
    """Return the clouds `(n, P, 3)` checked but unchanged."""
    return as_clouds(clouds, name)


NORMALIZATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "shape_bbox": normalize_bbox,
    "shape_unit": normalize_unit,
    "none": as_they_come,
}


# What of a reference cloud is compared: the index of the first point taken. PointFlow and PVD keep a PC15k cloud's
# first 10000 points for training and compare with the rest; LION compares with the first ones.
REFERENCE_POINTS: dict[str, int] = {"first": 0, "from 10000": 10_000}


@dataclass(frozen=True)
class Protocol:
    """All that must be the same for two scores to be comparable.

    Attributes:
        name: as in result files and tables.
        split: of the data set that the reference clouds come from, `"test"` or `"val"`.
        normalization: a key of `NORMALIZATIONS`, applied to every cloud of both sets.
        points: in a cloud, in the published figures; another number is scored, with a note. None: any.
        reference_points: a key of `REFERENCE_POINTS`, which points of a reference cloud are taken.
        distances: that the scores are computed on, of `"cd"` (squared, mean + mean) and `"emd"`.
        emd_method: of `pcdiff.ops.emd`.
        seed: of the generated clouds.
        description: one line for a reader.
        data_unit: a run's clouds are compared in the data set's own unit, not in the run's normalization.
    """

    name: str
    split: str
    normalization: str
    points: int | None
    reference_points: str
    distances: tuple[str, ...]
    emd_method: str
    seed: int
    description: str
    data_unit: bool = False

    def __post_init__(self) -> None:
        """Refuse values that are not implemented."""
        for name, value, known in (
            ("normalization", self.normalization, NORMALIZATIONS),
            ("reference_points", self.reference_points, REFERENCE_POINTS),
            ("emd_method", self.emd_method, ("exact",)),
        ):
            if value not in known:
                raise UnknownName(f"{name} of protocol {self.name}", value, sorted(known))

    @property
    def skips_points(self) -> bool:
        """Whether the rule for the reference's points needs more of them than are compared."""
        return REFERENCE_POINTS[self.reference_points] > 0

    def normalize(self, clouds, name: str = "clouds") -> torch.Tensor:
        """Return the clouds `(n, P, 3)` as this protocol compares them; raises InputError for bad ones."""
        return NORMALIZATIONS[self.normalization](clouds, name)

    def already_chosen(self, reference) -> bool:
        """Return whether `choose_points` takes clouds `(n, Q, 3)` for points chosen before, and cannot check it.

        That is so of a rule that skips points, where Q is exactly the protocol's number of points.
        """
        return self.skips_points and as_clouds(reference, "reference").shape[1] == self.points

    def choose_points(self, reference, num_points: int | None = None) -> torch.Tensor:
        """Return the points of the reference clouds that this protocol compares.

        A rule that skips points leaves clouds of exactly the protocol's number of points unskipped: they are taken
        as chosen before (`already_chosen`). The rule `first` takes what there is where that is fewer.

        Args:
            reference: `(n, Q, 3)`.
            num_points: take so many instead of the protocol's number.

        Returns:
            `(n, num_points, 3)` float32, or float64 where the reference is.

        Raises:
            InputError: for bad clouds, or a Q that does not hold the points asked for.

        Example:
            >>> get_protocol("pointflow").choose_points(torch.rand(2, 15000, 3)).shape
            torch.Size([2, 2048, 3])
        """
        reference = as_clouds(reference, "reference", keep_double=True)
        held = reference.shape[1]
        start = 0 if self.already_chosen(reference) else REFERENCE_POINTS[self.reference_points]
        count = num_points if num_points is not None else self.points
        if start == 0 and num_points is None:
            return reference[:, :count]
        if start == 0 and not 1 <= count <= held:
            raise InputError(f"num_points must be in 1..{held}, the points of reference, got {num_points}")
        if count < 1:
            raise OutOfRange("num_points", "at least 1", num_points)
        if held < start + count:
            fits = [f"clouds of {start + count} points or more"]
            fits += [f"of exactly {self.points}, so chosen already"] if count <= self.points else []
            fits += [f"num_points of at most {held - start}"] if held > start else []
            raise InputError(
                f"reference has {held} points a cloud, but protocol {self.name} compares {count} of them from "
                f"point {start} on; give {', or '.join(fits)}"
            )
        return reference[:, start : start + count]

    def to_dict(self) -> dict:
        """Return a JSON-ready dict of all attributes."""
        return {**asdict(self), "distances": list(self.distances)}


_SHARED = {"distances": ("cd", "emd"), "emd_method": "exact", "seed": 2020}
_POINTFLOW = {**_SHARED, "split": "val", "normalization": "none", "points": 2048, "data_unit": True}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="dpm",
            split="test",
            normalization="shape_bbox",
            points=2048,
            reference_points="first",
            description="every cloud of both sets: bounding-box center to 0, longest half-side to 1",
            **_SHARED,
        ),
        Protocol(
            name="pointflow",
            reference_points="from 10000",
            description="clouds in the data set's own unit (samples denormalized); reference points from 10000 on",
            **_POINTFLOW,
        ),
        Protocol(
            name="pointflow-lion",
            reference_points="first",
            description="clouds in the data set's own unit (samples denormalized); the first reference points",
            **_POINTFLOW,
        ),
        Protocol(
            name="raw",
            split="test",
            normalization="none",
            points=None,
            reference_points="first",
            description="clouds as they come; both sets must be in one unit",
            data_unit=True,
            **_SHARED,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        InputError: for an unknown name; the known ones are listed.
    """
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, sorted(PROTOCOLS))
    return PROTOCOLS[name]


def _refuse_flat(extent: torch.Tensor, name: str) -> None:
    flat = torch.nonzero(extent.flatten() == 0).flatten()
    if flat.numel():
        raise InputError(f"{name}[{int(flat[0])}] has zero extent: all its points are one, nothing to scale")
