"""Other projects' checkpoints of models of clouds, told apart by what the files hold."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcdiff.errors import InputError
from pcdiff.interop import dpm, gecco, pointe, pvd
from pcdiff.models import PointCloudModel
from pcdiff.runtime.torch_files import load_without_code

FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[Path], PointCloudModel]]] = {
    "DPM": (dpm.fits, dpm.load),
    "GECCO": (gecco.fits, gecco.load),
    "point-e": (pointe.fits, pointe.load),
    "PVD": (pvd.fits, pvd.load),
}
"""By project: whether what a file holds is laid out as its checkpoints are, and what opens one."""
SUFFIXES = (".pt", ".pth", ".ckpt")


def load(path: str | Path) -> PointCloudModel:
    """Rebuild another project's model from its checkpoint, whichever of the known ones it is.

    Args:
        path: a file that torch wrote.

    Returns:
        The model in evaluation mode, on the CPU; its `metadata` has the config and, where known, the statistics of
        its normalization.

    Raises:
        InputError: the file is unreadable or would run code, no known project saves so, or it does not fit.
    """
    path = Path(path)
    held = load_without_code(path, argparse.Namespace)
    for fits, opened in FORMATS.values():
        if fits(held):
            return opened(path)
    keys = sorted(map(str, held))[:8] if isinstance(held, dict) else type(held).__name__
    raise InputError(f"{path}: expected a checkpoint of {', '.join(FORMATS)}, got one that holds {keys}")
