"""Between files and models: clouds in their own unit, and in the model's normalization."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pcdiff.commands.flags import Command, ReadsClouds
from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set, stack_clouds
from pcdiff.ops.far_origin import placed
from pcdiff.ops.normalization import GLOBAL_MODES, MEAN_MODES, SHARED_MODES, normalize, warn_of_side_effects

C = TypeVar("C", bound=Command)


class Clouds(NamedTuple):
    """Clouds as they were read, and as the model takes them.

    Attributes:
        raw: `(n, P, 3)`, in the file's unit and precision.
        points: `(n, P, 3)`, in the model's normalization.
        shift: `(n, 1, 3)`, in the file's unit.
        scale: `(n, 1, 1)`, or `(n, 1, 3)` where each axis has its own, in the file's unit.
    """

    raw: Tensor
    points: Tensor
    shift: Tensor
    scale: Tensor

    def restore(self, clouds: Tensor) -> Tensor:
        """Return clouds `(n, M, 3)` made of these in their unit; float64 where float32 would blur them."""
        return placed(clouds, self.scale, self.shift)


def read_clouds(path: Path, command: ReadsClouds, mode: str) -> Clouds:
    """Read a file's clouds and normalize them as the model's training clouds were.

    Args:
        path: as for `pcdiff.interop.read_cloud_set`.
        command: its flags choose the points, and may give the statistics of a global normalization.
        mode: the run's normalization.

    Raises:
        InputError: a file is unreadable, clouds differ in size, or the statistics are missing.
    """
    options = {} if command.input_points is None else {"mesh_points": command.input_points}
    held = read_cloud_set(path, seed=command.seed, **options)
    sizes = {len(cloud) for cloud in held.clouds}
    if len(sizes) > 1 and command.point_rule is None:
        raise InputError(
            f"{path}: clouds differ in size, {min(sizes)} to {max(sizes)} points; "
            "cut them with --input-points N --point-rule first|random|farthest"
        )
    raw = torch.from_numpy(stack_clouds(held, command.input_points, command.point_rule, command.seed))
    needed = [flag for flag in _statistics(mode) if getattr(command, flag) is None]
    if needed:
        flags = " and ".join(f"--{flag}" for flag in needed)
        raise InputError(f"{command.run}: its normalization is {mode}; give {flags} of its training clouds")
    std = None if command.std is None else torch.tensor(command.std, dtype=torch.float64)
    points, shift, scale = normalize(raw, mode, std, held.names, _mean(command))
    warn_of_side_effects(mode, raw, points, str(path))
    return Clouds(raw, points, shift, scale)


def read_beside(path: Path, command: ReadsClouds, given: Clouds) -> Tensor:
    """Read clouds that belong to others, one each, in the same unit: `(n, Q, 3)`.

    Args:
        path: as for `read_clouds`.
        command: the seed of points drawn on surfaces.
        given: the others.

    Raises:
        InputError: a file is unreadable, clouds differ in size, or there is not one for each.
    """
    raw = torch.from_numpy(stack_clouds(read_cloud_set(path, seed=command.seed), None, None))
    if len(raw) != len(given.raw):
        raise InputError(f"{path}: must hold one cloud for each of {len(given.raw)}, got {len(raw)}")
    return raw


def restore_generated(clouds: Tensor, command: Command, mode: str) -> tuple[Tensor, str]:
    """Return clouds made without an input, in the data's unit where that is known, and the unit's name.

    Args:
        clouds: `(n, P, 3)`, in the model's normalization.
        command: its flags may give the statistics of a global normalization.
        mode: the run's normalization.
    """
    known = mode in SHARED_MODES and all(getattr(command, flag) is not None for flag in _statistics(mode))
    if not known:
        return clouds, f"the model's normalization ({mode})"
    if mode in MEAN_MODES:
        clouds = placed(clouds, torch.tensor(command.std, dtype=torch.float64), _mean(command))
    return clouds, "the data's unit"


def with_statistics(command: C, mode: str, known: dict[str, Any]) -> C:
    """Return the command with the run's own statistics where its flags give none.

    Args:
        command: what was asked.
        mode: the run's normalization.
        known: what the checkpoint has of `mean` and `std`; older ones have neither.

    Raises:
        InputError: a flag is given that the normalization does not take.
    """
    for flag in ("mean", "std"):
        if getattr(command, flag) is not None and flag not in _statistics(mode):
            raise InputError(f"--{flag}: the normalization of {command.run} is {mode}, which takes none")
    missing = {flag: known[flag] for flag in _statistics(mode) if getattr(command, flag) is None and flag in known}
    return replace(command, **missing)


def _statistics(mode: str) -> tuple[str, ...]:
    if mode not in GLOBAL_MODES:
        return ()
    return ("mean", "std") if mode in MEAN_MODES else ("std",)


def _mean(command: Command) -> Tensor | None:
    return None if command.mean is None else torch.tensor(command.mean, dtype=torch.float64)
