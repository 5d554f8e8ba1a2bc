"""Our own format of a ready denoiser: one safetensors file, from which it is rebuilt to the bit.

The tensors `model.*` are the net's; the JSON in the file's metadata has the rest, all in plain values: the net's
config, process, parametrization, label, variance, and what must be known of the images.
"""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from image_pipeline.interop.imported import Imported
from image_pipeline.interop.settings import blaming
from image_pipeline.nets import build_model, plain_config
from image_pipeline.nets.sigma_label import SigmaLabel
from pcdiff.diffusion import denoiser_from_dict, denoiser_to_dict
from pcdiff.errors import InputError
from pcdiff.runtime.memory_limit import budget_for, built_for
from pcdiff.training import checkpoint

KIND = "image denoiser"
_FACTS = tuple(field.name for field in dataclasses.fields(Imported) if field.name != "denoiser")
_KEYS = {"kind", "net", "sigma_label", "denoiser", *_FACTS}


def save(path: str | Path, model: Imported) -> None:
    """Write a denoiser and what must be known to use it; the file is there whole or not at all.

    Args:
        path: the file, by custom `*.safetensors`.
        model: whose net is one of `image_pipeline.nets.MODELS`, in a `SigmaLabel` or not.

    Raises:
        InputError: its net, process or parametrization has no plain form, or the file cannot be written.

    Example:
        >>> save("cifar10.safetensors", load("score_sde", "checkpoint_24.pth", "cifar10_ncsnpp_continuous.json"))
    """
    net = model.denoiser.net
    labeled = isinstance(net, SigmaLabel)
    metadata = {
        "kind": KIND,
        "net": plain_config(getattr(net.net if labeled else net, "config", None)),
        "sigma_label": net.scale if labeled else None,
        "denoiser": denoiser_to_dict(model.denoiser),
        **{name: getattr(model, name) for name in _FACTS},
    }
    checkpoint.save(Path(path), {f"model.{key}": value for key, value in net.state_dict().items()}, metadata)


def load(path: str | Path) -> Imported:
    """Rebuild what `save` wrote, in evaluation mode and on the CPU; no code in the file is run.

    Raises:
        InputError: the file is missing, truncated, damaged or of another kind, or weights do not fit the config.

    Example:
        >>> found = load("cifar10.safetensors")
        >>> images = sample(found.denoiser, (16, *found.image_shape), sampler="heun", num_steps=18)
    """
    path = Path(path)
    tensors, metadata = checkpoint.read(path, ("model.",))
    if metadata.get("kind") != KIND:
        raise InputError(f"{path}: expected an {KIND}, got {metadata.get('kind') or 'another kind of checkpoint'}")
    if set(metadata) != _KEYS:
        unknown, missing = sorted(set(metadata) - _KEYS), sorted(_KEYS - set(metadata))
        raise InputError(f"{path}: damaged: its metadata has unknown {unknown}, and lacks {missing}")
    with blaming(path, TypeError, ValueError, RuntimeError, ArithmeticError), budget_for(tensors):
        net = built_for(tensors, lambda: _net(metadata["net"], metadata["sigma_label"]))
        for name, tensor in net.state_dict(keep_vars=True).items():  # a part of a net may be in half precision
            if f"model.{name}" in tensors:
                tensor.data = tensor.data.to(tensors[f"model.{name}"].dtype)
        denoiser = denoiser_from_dict(net, metadata["denoiser"]).eval()
    checkpoint.load_weights(net, tensors, "model.", str(path))
    facts = {name: _tuple(metadata[name]) for name in _FACTS}
    with blaming(path):
        return Imported(denoiser, **facts)


def _net(config: dict[str, Any], sigma_label: float | None) -> nn.Module:
    net = build_model(config)
    return net if sigma_label is None else SigmaLabel(net, sigma_label)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
