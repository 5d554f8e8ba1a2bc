"""In which numbers matrix products are computed, by name."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from pcdiff.errors import UnknownName

log = logging.getLogger("pcdiff")

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The type that products are rounded to; None leaves them as they are."""


def native_bf16(device: torch.device) -> bool:
    """Return whether `device` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def native(name: str, device: torch.device) -> bool:
    """Return whether `device` multiplies matrices in a precision, a key of `PRECISIONS`, in hardware."""
    if name == "bf16":
        return native_bf16(device)
    return name == "fp32" or device.type == "cuda" or torch.cpu._is_amx_fp16_supported()


@cache
def _tell_slow(name: str, device: str) -> None:
    log.warning(
        "precision %s: this %s does not multiply it in hardware, so it may take ten times as long as fp32; "
        "`--precision auto` takes what is quick",
        name,
        "processor" if device == "cpu" else device,
    )


def resolve_precision(name: str, device: torch.device) -> str:
    """Return a key of `PRECISIONS`: `auto` is bf16 where the hardware multiplies it, and fp32 elsewhere.

    One that the hardware does not multiply is warned of, once in a process.

    Raises:
        InputError: the name is unknown.
    """
    if name == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    if name not in PRECISIONS:
        raise UnknownName("precision", name, PRECISIONS, " or auto")
    if not native(name, device):
        _tell_slow(name, device.type)
    return name


def autocast(name: str, device: torch.device) -> AbstractContextManager:
    """Return the context in which products are computed in this precision; weights and sums stay as they are.

    `fp32` changes nothing: what the caller has set around it holds.

    Args:
        name: `auto`, or a key of `PRECISIONS`.
        device: where the products are computed.

    Raises:
        InputError: the name is unknown.

    Example:
        >>> with autocast("bf16", x.device):
        ...     y = net(x, t, z)
    """
    dtype = PRECISIONS[resolve_precision(name, device)]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
