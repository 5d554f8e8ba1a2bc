"""Where work is done: the device by name, and what the machine allows."""

import ctypes
import logging
import sys

import torch

from pcdiff.errors import InputError
from pcdiff.runtime import distributed

log = logging.getLogger("pcdiff")


def resolve_device(name: str) -> torch.device:
    """Return the device a flag names; `auto` is CUDA where there is one.

    Without a number, each process of a `torchrun` job gets a GPU of its own, as far as they go.

    Raises:
        InputError: the name is not a device, or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{distributed.local_rank() % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("expected auto, cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return device


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back to the kernel; elsewhere do nothing.

    A step on the CPU frees and takes the same tens of megabytes over and over. By default each goes back to the
    kernel, which then clears the pages anew: a fifth to a third of a step (`benchmarks/training.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def prepare(device: torch.device) -> torch.device:
    """Set this process up for long work on a device, and return it: on the CPU, freed memory is kept."""
    if device.type == "cpu":
        keep_freed_memory()
    return device


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile can work for `device`; log it where a C++ compiler is missing."""
    if device.type == "cpu":
        # here, since torch's compiler takes more than a second of a program's start
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            log.warning("no C++ compiler found: training continues uncompiled, which is slower")
            return False
    return True
