"""What a net conditioned on classes refuses."""

import torch
from torch import Tensor

from pcdiff.errors import InputError


def check_classes(cond: Tensor, t: Tensor, count: int) -> Tensor:
    """Return class indices `(B,)` as int64, or refuse them.

    Args:
        cond: the indices.
        t: labels `(B,)`.
        count: indices must lie below it.

    Raises:
        InputError: they are not one integer a sample, or (looked at on the CPU, outside compiled code) outside.
    """
    if cond.shape != t.shape or cond.is_floating_point() or cond.dtype == torch.bool:
        got = f"{tuple(cond.shape)} of {cond.dtype}"
        raise InputError(f"cond must be class indices (B,) = {tuple(t.shape)} of an integer type, got {got}")
    looks = cond.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere a look costs a wait
    if looks and len(cond) and not 0 <= int(cond.min()) <= int(cond.max()) < count:
        raise InputError(f"cond must be in 0..{count - 1}, got {int(cond.min())} to {int(cond.max())}")
    return cond.long()
