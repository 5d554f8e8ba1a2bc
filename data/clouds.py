"""Clouds in memory: the data set's identity, and the data set itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcdiff.errors import InputError
from pcdiff.ops.far_origin import placed
from pcdiff.ops.normalization import GLOBAL_MODES, MEAN_MODES, SHARED_MODES
from pcdiff.runtime.identity import Identity


@dataclass(frozen=True)
class DatasetIdentity(Identity):
    """What a data set is, for the record in checkpoints and result files.

    Attributes:
        name: where the clouds come from, e.g. `"shapenet.hdf5 layout: chair_1024.hdf5"`.
        stand_in: true for the built-in procedural shapes, which are no substitute for real data.
        categories: the names loaded, in the order of their synset ids.
        fingerprint: short SHA-256 over the categories and, in all three splits of each, the shapes (of a folder:
            the file names and sizes) and the coordinates of up to 16 clouds, spread evenly. So it is the same
            whichever split is loaded, and does not see a change of coordinates in the other clouds of a larger
            split. For the stand-in: over the generator's version, seed, counts and points.
    """

    name: str
    stand_in: bool
    categories: tuple[str, ...]
    fingerprint: str


class StreamingMoments:
    """Mean and standard deviation of many clouds without holding them all.

    Chan's pairwise merge in float64: a float32 running sum over 10^8 coordinates is off by percents.

    Attributes:
        count: points added.
        mean: `(3,)` float64, over the points.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean, self._squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def add(self, points: Tensor) -> None:
        """Merge points `(..., 3)`."""
        for chunk in points.reshape(-1, 3).split(1 << 20):
            values = chunk.double()
            mean = values.mean(dim=0)
            squares = (values - mean).square_().sum(dim=0)
            total = self.count + len(values)
            delta = mean - self.mean
            self._squares += squares + delta**2 * (self.count * len(values) / total)
            self.mean += delta * (len(values) / total)
            self.count = total

    def std(self, ddof: int) -> float:
        """Return the deviation of all coordinates about ONE scalar mean of x, y and z (not about `mean`)."""
        apart = self.count * (self.mean - self.mean.mean()).square().sum()
        return float(((self._squares.sum() + apart) / (3 * self.count - ddof)).sqrt())

    def std_per_axis(self) -> Tensor:
        """Return the deviation `(3,)` of x, y and z, each about its own mean, with ddof = 0."""
        return (self._squares / self.count).sqrt()


@dataclass(eq=False)
class CloudDataset(Dataset):
    """Normalized clouds of one split, all in memory, with what is needed to undo the normalization.

    `dataset[i]` is a dict: `points (P, 3)`, `shift (1, 3)`, `scale (1, 1)`, `category`, `id`, `index`.

    Attributes:
        points: `(n, P, 3)` float32, normalized.
        shift: `(n, 1, 3)` float64, in the units of the source.
        scale: `(n, 1, 1)`, or `(n, 1, 3)` where each axis has its own, float64, in the units of the source.
        categories: name per cloud.
        ids: id per cloud (row number or file name), unique within its category.
        split: train, val or test.
        normalization: the mode.
        identity: what the data set is.
    """

    points: Tensor = field(repr=False)
    shift: Tensor = field(repr=False)
    scale: Tensor = field(repr=False)
    categories: list[str] = field(repr=False)
    ids: list[str] = field(repr=False)
    split: str
    normalization: str
    identity: DatasetIdentity

    def __len__(self) -> int:
        return len(self.points)

    @property
    def statistics(self) -> dict:
        """Return what a global normalization took from the train split, JSON-ready: `mean (3,)`, `std` or three."""
        found = {}
        if self.normalization in MEAN_MODES:
            found["mean"] = self.shift[0, 0].tolist()
        if self.normalization in GLOBAL_MODES:
            std = self.scale[0, 0].tolist()
            found["std"] = std if len(std) == 3 else std[0]
        return found

    def __getitem__(self, index: int) -> dict:
        return {
            "points": self.points[index],
            "shift": self.shift[index],
            "scale": self.scale[index],
            "category": self.categories[index],
            "id": self.ids[index],
            "index": index,
        }

    def labels(self, names: Sequence[str]) -> Tensor:
        """Return the label of each cloud's category `(n,)` int64: its place among the names of classes.

        Raises:
            InputError: a category is none of the classes.
        """
        if strange := sorted(set(self.categories) - set(names)):
            raise InputError(f"classes must be among {', '.join(names)}, got clouds of {', '.join(strange)}")
        places = {name: label for label, name in enumerate(names)}
        return torch.tensor([places[name] for name in self.categories], dtype=torch.long)

    def subset(self, indices: Tensor) -> CloudDataset:
        """Return the data set of the clouds of these indices `(m,)`, in their order."""
        chosen = indices.tolist()
        return replace(
            self,
            points=self.points[indices],
            shift=self.shift[indices],
            scale=self.scale[indices],
            categories=[self.categories[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
        )

    def denormalize(self, points: Tensor, indices: Tensor | Sequence[int]) -> Tensor:
        """Return clouds to the source's units: `points * scale + shift` of the clouds named.

        Args:
            points: `(B, M, 3)` normalized; any M.
            indices: `(B,)` which cloud's shift and scale each takes.

        Returns:
            `(B, M, 3)`, of the points' type; float64 where float32 would blur clouds far from the origin.

        Raises:
            InputError: B does not match, or an index is out of range.
        """
        indices = torch.as_tensor(indices, dtype=torch.long)
        if points.ndim != 3 or points.shape[-1] != 3 or indices.shape != points.shape[:1]:
            raise InputError(
                f"points must be (B, M, 3) with B indices, got {tuple(points.shape)} and {tuple(indices.shape)}"
            )
        if len(indices) and not (-len(self) <= int(indices.min()) and int(indices.max()) < len(self)):
            raise InputError(f"indices must be in 0..{len(self) - 1}, got up to {int(indices.max())}")
        return placed(points, self.scale[indices], self.shift[indices])

    def denormalize_generated(self, points: Tensor) -> Tensor:
        """Return generated clouds to the source's units; only where all clouds share one shift and scale.

        Args:
            points: `(B, M, 3)` normalized; any B and M.

        Returns:
            `(B, M, 3)`, of the points' type; float64 where float32 would blur clouds far from the origin.

        Raises:
            InputError: wrong shape, or a normalization whose shift and scale are each cloud's own.
        """
        if self.normalization not in SHARED_MODES:
            raise InputError(
                f"normalization {self.normalization} keeps a shift and scale for each cloud, which generated clouds"
                " lack; to denormalize them, train with --normalization global (or none)"
            )
        if points.ndim != 3 or points.shape[-1] != 3:
            raise InputError(f"points must be (B, M, 3), got {tuple(points.shape)}")
        return placed(points, self.scale[0], self.shift[0])
