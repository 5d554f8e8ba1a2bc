"""Open checkpoints of ermongroup/ncsn and ermongroup/ncsnv2 (Song & Ermon, 2019 and 2020).

Such a file is a list: weights, optimizer state, and in ncsnv2 epoch, step and the moving average of the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.interop.imported import Imported
from image_pipeline.interop.refinenet_names import refinenet_names
from image_pipeline.interop.settings import Config, blaming, read_settings, setting
from image_pipeline.interop.weights import fill, named_tensors
from image_pipeline.nets import build_model
from image_pipeline.nets.instance_norm import NORMS
from pcdiff.diffusion import NetDenoiser, NoiseLevels, geometric_sigmas
from pcdiff.errors import InputError, UnknownName
from pcdiff.interop.checks import listed
from pcdiff.interop.numpy_scalars import NUMPY_SCALARS
from pcdiff.runtime.memory_limit import budget_for, built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import load_without_code

_WHAT = "a checkpoint of NCSN or NCSNv2 (a list that starts with the weights)"


def load(path: str | Path, config: Config | None = None, ema: bool = True) -> Imported:
    """Open a checkpoint without running any code in it.

    Net, widths and, in NCSNv2, noise levels are in the file; a config has the rest and must agree with it.

    Args:
        path: a `checkpoint_<step>.pth`.
        config: the config of that run, as a dict, JSON or the path of a JSON file. None stands for what all configs
            published with both papers say: images in [0, 1], ELU, and for NCSN, whose file does not hold them,
            geometric levels from 1 to 0.01.
        ema: take the moving average, where the file has one; the result's `ema` is true then. NCSN's own code keeps
            none.

    Raises:
        InputError: the file is missing, damaged, would run code or is not theirs; the config lacks something or
            does not fit the weights; keys left over or missing are listed.

    Example:
        >>> found = load("checkpoint_300000.pth")
        >>> sample(found.denoiser, (4, 3, 32, 32), sampler="none", corrector=corrector("ncsnv2", step_size=6.2e-6))
    """
    path, settings = Path(path), None if config is None else read_settings(config)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected {_WHAT}")
    checkpoint = load_without_code(path, *NUMPY_SCALARS)
    with blaming(path, TypeError, ArithmeticError, RuntimeError, ValueError):
        return _rebuild(checkpoint, settings, ema)


def _rebuild(checkpoint: Any, settings: Mapping[str, Any] | None, ema: bool) -> Imported:
    if not isinstance(checkpoint, list) or not checkpoint:
        raise InputError(f"expected {_WHAT}, got a {type(checkpoint).__name__}")
    weights = named_tensors(checkpoint[0], "the list's first entry")
    ema = ema and len(checkpoint) > 4
    if ema:
        average = named_tensors(checkpoint[4], "the list's fifth entry, the moving average,")
        if unknown := sorted(set(average) - set(weights)):
            raise InputError(f"the moving average has tensors that the weights have not: {listed(unknown)}")
        if lacking := sorted(set(weights) - set(average) - {"sigmas"}):
            raise InputError(f"the moving average lacks tensors of the weights: {listed(lacking)}")
        weights |= average
    net = _build(weights, settings)
    with budget_for(weights):
        sigmas = weights["sigmas"].double() if "sigmas" in weights else _levels(settings, net.config.num_scales)
    if "sigmas" in weights and settings is not None:
        expected = _levels(settings, len(sigmas))
        if not torch.allclose(sigmas, expected, rtol=1e-4, atol=0):
            ends = " to ".join(f"{float(sigma):g}" for sigma in sigmas[[0, -1]])
            raise InputError(
                f"config does not fit: the file's levels, {ends}, are not what model.sigma_begin, sigma_end and "
                "sigma_dist give"
            )
    fill(net, refinenet_names(net), weights)
    size = None if settings is None else setting(settings, "data", "image_size", int)
    return Imported(
        denoiser=NetDenoiser(net, NoiseLevels(sigmas), "score", "level").eval(),
        data_range=(-1.0, 1.0) if net.config.centered else (0.0, 1.0),
        image_shape=(net.config.num_channels, size, size),
        name="ncsn" if "sigmas" not in weights else f"ncsnv2 {net.config.variant}",
        ema=ema,
    )


def _build(weights: Mapping[str, Tensor], settings: Mapping[str, Any] | None) -> nn.Module:
    """Build the net that the tensors' names and shapes speak of, after comparing them with the config."""
    stem, embed, sigmas = (weights.get(k) for k in ("begin_conv.weight", "normalizer.embed.weight", "sigmas"))
    table = sigmas if embed is None else embed
    if stem is None or stem.dim() != 4 or table is None or table.dim() != (2 if embed is not None else 1):
        raise InputError(f"expected {_WHAT}, with begin_conv and either normalizer.embed or sigmas")
    found = {"nf": stem.shape[0], "num_channels": stem.shape[1], "num_scales": len(table)}
    fields: dict[str, Any] = dict(found)
    if settings is not None:
        fields |= _said(settings, found)
    names = {key.split(".")[0] for key in weights}
    fields["variant"] = "deepest" if "res31" in names else "deeper" if "res5" in names else "base"
    fields["normalization"] = _normalization(weights, stem.shape[0])
    if settings is not None:
        said = settings["model"].get("normalization", "InstanceNorm++")
        if said != fields["normalization"]:
            got = f"{said!r}, the weights are of {fields['normalization']!r}"
            raise InputError(f"config does not fit: model.normalization is {got}")
    if embed is None:
        fields |= {"sigma_max": float(sigmas.max()), "sigma_min": float(sigmas.min())}
    name = "ncsn" if embed is not None else "ncsnv2"
    return built_for(weights, lambda: build_model(name, **fields))


def _normalization(weights: Mapping[str, Tensor], nf: int) -> str:
    """Return the norm whose parameters these are: VarianceNorm has a factor a channel, InstanceNorm++ two more."""
    embed = weights.get("normalizer.embed.weight")
    alone = "normalizer.gamma" not in weights if embed is None else embed.shape[1] == nf
    return "VarianceNorm" if alone else "InstanceNorm++"


def _said(settings: Mapping[str, Any], found: Mapping[str, int]) -> dict[str, Any]:
    """Return what the config alone has; refuse one that contradicts the file, or data that no net here is fed."""
    places = {"nf": ("model", "ngf"), "num_channels": ("data", "channels"), "num_scales": ("model", "num_classes")}
    for name, (section, theirs) in places.items():
        said = setting(settings, section, theirs, int)
        if said != found[name]:
            raise InputError(f"config does not fit: {section}.{theirs} is {said}, the weights are of {found[name]}")
    data, model = settings["data"], settings["model"]
    if data.get("logit_transform"):
        raise InputError("config: data.logit_transform is not supported: those images have no range")
    if model.get("normalization", "InstanceNorm++") not in NORMS:
        raise UnknownName("config: model.normalization", model["normalization"], sorted(NORMS))
    rescaled = setting(settings, "data", "rescaled", bool) if "rescaled" in data else False
    act = setting(settings, "model", "nonlinearity", str) if "nonlinearity" in model else "elu"
    return {"centered": rescaled, "nonlinearity": act.lower()}


def _levels(settings: Mapping[str, Any] | None, count: int) -> Tensor:
    """Return the noise levels `(L,)` that a config speaks of, falling; the NCSN paper's without one."""
    if settings is None:
        return geometric_sigmas(1.0, 0.01, count)
    first, last = (setting(settings, "model", name, float) for name in ("sigma_begin", "sigma_end"))
    kind = settings["model"].get("sigma_dist", "geometric")
    if kind not in ("geometric", "uniform"):
        raise InputError(f"config: model.sigma_dist must be 'geometric' or 'uniform', got {kind!r}")
    if kind == "geometric":
        return geometric_sigmas(first, last, count)
    return torch.linspace(first, last, count).double()
