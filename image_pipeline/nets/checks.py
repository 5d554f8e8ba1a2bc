"""What every image net refuses, in one place: bad configurations and inputs that do not fit."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcdiff.errors import InputError, short

_RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda v: v >= 1,
    "at least 2": lambda v: v >= 2,
    "at least 4": lambda v: v >= 4,
    "positive": lambda v: v > 0,
    "in [0, 1)": lambda v: 0 <= v < 1,
}


def check_fields(config: Any, ranges: dict[str, str]) -> None:
    """Refuse fields of a config that are out of range.

    Args:
        config: a net's config dataclass.
        ranges: by the range, the names of fields that must be in it, apart by spaces; of a tuple every entry must.

    Raises:
        InputError: names the first such field, what was expected and what came.

    Example:
        >>> check_fields(config, {"at least 1": "nf num_channels", "positive": "sigma_min"})
    """
    for expected, names in ranges.items():
        for name in names.split():
            value = getattr(config, name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(_RANGES[expected](v) for v in values):
                raise InputError(f"{name} must be {expected}, got {short(value)}")


def check_images(x: Tensor, t: Tensor, channels: int, multiple: int, smallest: int) -> None:
    """Refuse a call that an image net cannot take.

    Args:
        x: must be `(B, channels, H, W)`, H and W multiples of `multiple` and at least `smallest`.
        t: must be `(B,)`.
        channels: of the images.
        multiple: what the net's halvings divide H and W by.
        smallest: least H and W.

    Raises:
        InputError: names what does not fit, what was expected and what came.
    """
    if x.dim() != 4 or x.shape[1] != channels:
        raise InputError(f"x must be (B, {channels}, H, W), got {tuple(x.shape)}")
    check_sizes(x.shape[2:], multiple, smallest)
    if t.shape != x.shape[:1]:
        raise InputError(f"t must be ({len(x)},), one label for each image, got {tuple(t.shape)}")


def check_sizes(sizes: Sequence[int], multiple: int, smallest: int) -> None:
    """Refuse images whose sides a net cannot halve as often as it does.

    Raises:
        InputError: a side is no multiple of `multiple`, or below `smallest`.
    """
    if any(size % multiple or size < smallest for size in sizes):
        expected = f"multiples of {multiple}, at least {smallest}"
        raise InputError(f"x must have H and W that are {expected}, got {tuple(sizes)}")


def check_no_condition(cond: Any) -> None:
    """Refuse a condition: none of the score nets is conditioned on classes.

    Raises:
        InputError: there is one.
    """
    if cond is not None:
        raise InputError(f"cond must be None, this net takes no condition, got a {type(cond).__name__}")


def check_levels(t: Tensor, num_scales: int) -> Tensor:
    """Return labels `(B,)` that are indices of noise levels, or refuse them.

    Raises:
        InputError: they are no integers, or (looked at on the CPU, outside compiled code) outside the table.
    """
    if t.is_floating_point() or t.dtype == torch.bool:
        raise InputError(f"t must be indices of noise levels, integers, got {t.dtype}")
    looked_at = t.device.type == "cpu" and not torch.compiler.is_compiling() and t.numel() > 0
    if looked_at and (int(t.min()) < 0 or int(t.max()) >= num_scales):
        raise InputError(f"t must be in 0..{num_scales - 1}, got {int(t.min())} to {int(t.max())}")
    return t
