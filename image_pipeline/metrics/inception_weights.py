"""Find, check and open the weights file of FID's Inception."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from image_pipeline.metrics.features import FeatureNetIdentity
from image_pipeline.metrics.inception import InceptionV3
from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import load_without_code

# The same weights under pytorch-fid's and torch-fidelity's name; both names end in the file's SHA-256.
FILE_NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
SHA256_PREFIX = "6726825d"
VARIABLE = "PCDIFF_INCEPTION"


def find_inception_weights(path: Path | str | None = None) -> Path:
    """Return the weights file: the one given, else `$PCDIFF_INCEPTION`, else in torch's hub folder.

    Raises:
        InputError: it is nowhere; the message names the file and where to put it. Nothing is downloaded.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        if not is_file(named):
            source = "" if path else f" (from {VARIABLE})"
            raise InputError(f"Inception weights: no file {named}{source}")
        return Path(named)
    folder = Path(torch.hub.get_dir()) / "checkpoints"  # follows TORCH_HOME
    for name in FILE_NAMES:
        if is_file(folder / name):
            return folder / name
    raise InputError(
        f"Inception weights: put {FILE_NAMES[0]} (a release file of mseitzer/pytorch-fid) or {FILE_NAMES[1]} (of"
        f" toshas/torch-fidelity) into {folder}, or name it by --weights or {VARIABLE};"
        " --features random and pixels are stand-ins that need no file"
    )


def load_inception(path: Path | str | None = None, device: torch.device | str = "cpu") -> InceptionV3:
    """Open FID's Inception with the standard weights.

    Args:
        path: the weights file; see `find_inception_weights`.
        device: where it runs.

    Raises:
        InputError: the file is nowhere, is another file, or does not fit.
    """
    found = find_inception_weights(path)
    sha256 = hashlib.sha256(found.read_bytes()).hexdigest()
    if not sha256.startswith(SHA256_PREFIX):
        raise InputError(
            f"{found}: must be the file whose SHA-256 begins with {SHA256_PREFIX}, got {sha256[:8]}; fetch it again"
        )
    net = InceptionV3(FeatureNetIdentity("inception-2015-12-05", sha256[:16]))
    fill(net, load_without_code(found), str(found))
    return net.to(device)


def fill(net: InceptionV3, weights: object, where: str) -> None:
    """Put a state dict into the network; every tensor must be there in its shape, and no other.

    Raises:
        InputError: it is no state dict, or does not fit; `where` is named.
    """
    if not isinstance(weights, dict):
        raise InputError(f"{where}: must hold a dict of tensors, got {type(weights).__name__}")
    own = net.state_dict()
    # a counter that evaluation never reads, absent from files of old torch versions
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    missing, unknown = sorted(needed - set(weights)), sorted(set(weights) - set(own), key=str)
    if missing or unknown:
        what = f"has no {missing[0]}" if missing else f"has {unknown[0]}, which Inception has not"
        raise InputError(f"{where}: no weights of FID's Inception: {what}")
    for name in sorted(needed):
        if not isinstance(weights[name], torch.Tensor) or weights[name].shape != own[name].shape:
            shape = getattr(weights[name], "shape", None)
            raise InputError(f"{where}: {name} must be {tuple(own[name].shape)}, got {shape and tuple(shape)}")
    net.load_state_dict({**own, **weights})
