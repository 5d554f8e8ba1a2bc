"""Open checkpoints of yang-song/score_sde_pytorch (Song et al., ICLR 2021).

Such a file is `{"optimizer", "model", "ema", "step"}`; it does not hold its config, which must be given.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.interop.imported import Imported
from image_pipeline.interop.refinenet_names import refinenet_names
from image_pipeline.interop.settings import Config, blaming, read_settings, setting
from image_pipeline.interop.unet_names import unet_names
from image_pipeline.interop.weights import fill, named_tensors
from image_pipeline.nets import MODELS, build_model
from image_pipeline.nets.unet import ScoreUNet
from pcdiff.diffusion import VE, VP, DiscreteProcess, NetDenoiser, Process, SubVP, linear_betas
from pcdiff.errors import InputError, UnknownName
from pcdiff.interop.numpy_scalars import NUMPY_SCALARS
from pcdiff.runtime.memory_limit import budget_for, built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import load_without_code

_NORM = {"normalization": "InstanceNorm++"}  # the only one that those nets have there
# score_sde's name of a net: ours, and fields that follow from the name
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("ddpm", {}),
    "ncsnpp": ("ncsnpp", {}),
    "ncsn": ("ncsn", {"variant": "base", **_NORM}),
    "ncsnv2_64": ("ncsnv2", {"variant": "base", **_NORM}),
    "ncsnv2_128": ("ncsnv2", {"variant": "deeper", **_NORM}),
    "ncsnv2_256": ("ncsnv2", {"variant": "deepest", **_NORM}),
}
SDES = ("vesde", "vpsde", "subvpsde")


def load(path: str | Path, config: Config, ema: bool = True) -> Imported:
    """Open a checkpoint without running any code in it.

    The denoiser's process is the one that the net was trained with. Of discrete training with VP that is DDPM's
    chain, whose table lies a little off the continuous VP process; VE's levels lie on VE itself, which is taken.

    Args:
        path: a `checkpoint_<n>.pth`.
        config: score_sde's config of that run, as a dict, JSON or the path of a JSON file.
        ema: take the moving average of the weights, as score_sde does for samples and scores.

    Raises:
        InputError: the file is missing, damaged, would run code or is not score_sde's; the config lacks something
            or does not fit the weights; keys left over or missing are listed.

    Example:
        >>> found = load("checkpoint_24.pth", "cifar10_ncsnpp_continuous.json")
        >>> found.denoiser.score(x, torch.tensor([0.5]))
    """
    path, settings = Path(path), read_settings(config)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a checkpoint of score_sde (.pth)")
    checkpoint = load_without_code(path, *NUMPY_SCALARS)
    with blaming(path, TypeError, ArithmeticError, RuntimeError, ValueError):
        return _rebuild(checkpoint, settings, ema)


def _rebuild(checkpoint: Any, settings: Mapping[str, Any], ema: bool) -> Imported:
    if not isinstance(checkpoint, dict) or "model" not in checkpoint or (ema and "ema" not in checkpoint):
        raise InputError("expected a dict with 'model' and 'ema', as score_sde saves it")
    name = setting(settings, "model", "name", str)
    if name not in NETS:
        raise UnknownName("config: model.name", name, sorted(NETS))
    sde = setting(settings, "training", "sde", str).lower()
    if sde not in SDES:
        raise UnknownName("config: training.sde", sde, sorted(SDES))
    continuous = setting(settings, "training", "continuous", bool)
    _check_labels(settings, name, sde, continuous)

    weights = named_tensors(checkpoint["model"], "model")
    net = _build(settings, name, weights)
    if ema:
        weights |= _averages(checkpoint["ema"], weights)
    if "sigmas" in weights:
        _check_table(weights["sigmas"], settings)
        if not hasattr(net, "sigmas"):
            del weights["sigmas"]
    if isinstance(net, ScoreUNet):
        biggan = name == "ncsnpp" and net.config.resblock_type == "biggan"
        # its 1x1 convolutions ("NIN") are matrices W (in, out)
        turned = {k: w.t() if k.endswith(".W") and w.dim() == 2 else w for k, w in weights.items()}
        fill(net, unet_names(net, biggan), turned)
    else:
        fill(net, refinenet_names(net), weights)

    with budget_for(weights):
        process, label = _process(settings, sde, continuous)
    denoiser = NetDenoiser(net, process, "score" if sde == "vesde" else "eps", label).eval()
    size = setting(settings, "data", "image_size", int)
    centered = setting(settings, "data", "centered", bool)
    return Imported(
        denoiser=denoiser,
        data_range=(-1.0, 1.0) if centered else (0.0, 1.0),
        image_shape=(net.config.num_channels, size, size),
        name=f"score_sde {name}",
        ema=ema,
    )


def _check_labels(settings: Mapping[str, Any], name: str, sde: str, continuous: bool) -> None:
    """Refuse nets whose label the training does not give."""
    unet = name in ("ddpm", "ncsnpp")
    if not unet and (sde != "vesde" or continuous):
        raise InputError(f"config: {name} goes with discrete training and vesde only, got {sde}, {continuous=}")
    if unet and not setting(settings, "model", "conditional", bool):
        raise InputError("config: model.conditional must be true: score_sde's U-Nets need a label")
    fourier = name == "ncsnpp" and setting(settings, "model", "embedding_type", str).lower() == "fourier"
    if fourier and not continuous:
        raise InputError("config: model.embedding_type 'fourier' goes with continuous training only")
    step = continuous or sde == "subvpsde"  # score_sde counts 999 steps then, whatever the levels
    if unet and not fourier and step and setting(settings, "model", "scale_by_sigma", bool):
        raise InputError("config: model.scale_by_sigma looks levels up by their index: discrete VE or VP only")
    if not unet and (norm := setting(settings, "model", "normalization", str)) != "InstanceNorm++":
        raise InputError(f"config: model.normalization must be 'InstanceNorm++' here, got {norm!r}")


def _build(settings: Mapping[str, Any], name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the net from the fields that our config and theirs both have."""
    ours, fields = NETS[name]
    fields = dict(fields)
    data, model = settings.get("data"), settings.get("model")
    for field in dataclasses.fields(MODELS[ours].Config):
        if field.name in fields or (field.name == "fourier_scale" and field.name not in model):
            continue
        section = "data" if isinstance(data, Mapping) and field.name in data else "model"
        value = setting(settings, section, field.name)
        fields[field.name] = value.lower() if isinstance(value, str) else value
    return built_for(weights, lambda: build_model(ours, **fields))


def _averages(ema: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the moving averages, which the file keeps as a list.

    It follows the model's order, without what is not trained: the table of levels and the Fourier frequencies.
    """
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(tensor, Tensor) for tensor in shadow):
        raise InputError("ema must hold a list of tensors 'shadow_params'")
    trained = [key for key in weights if key != "sigmas" and not re.fullmatch(r"all_modules\.\d+\.W", key)]
    if len(shadow) != len(trained):
        raise InputError(f"ema must hold {len(trained)} tensors, one for each trained one, got {len(shadow)}")
    for key, tensor in zip(trained, shadow, strict=True):
        if tensor.shape != weights[key].shape:
            shapes = f"{tuple(tensor.shape)}, the weight {tuple(weights[key].shape)}"
            raise InputError(f"ema does not follow the model: the average of {key} has shape {shapes}")
    return dict(zip(trained, shadow, strict=True))


def _check_table(sigmas: Tensor, settings: Mapping[str, Any]) -> None:
    """Refuse a config whose levels are not those in the file."""
    ends = [setting(settings, "model", name, float) for name in ("sigma_max", "sigma_min")]
    count = setting(settings, "model", "num_scales", int)
    found = sigmas.double().flatten()
    fits = len(found) == count and torch.allclose(found[[0, -1]], torch.tensor(ends).double(), rtol=1e-4, atol=0)
    if not fits:
        got = f"{len(found)} from {float(found[0]):g} to {float(found[-1]):g}" if len(found) else "none"
        raise InputError(f"config: model has {count} levels from {ends[0]:g} to {ends[1]:g}, the file {got}")


def _process(settings: Mapping[str, Any], sde: str, continuous: bool) -> tuple[Process, str]:
    """Return the process and the name of the label, as score_sde feeds it."""
    steps = setting(settings, "model", "num_scales", int)
    if sde == "vesde":
        low, high = (setting(settings, "model", name, float) for name in ("sigma_min", "sigma_max"))
        return VE(low, high, num_scales=steps), "sigma" if continuous else "level"
    low, high = (setting(settings, "model", name, float) for name in ("beta_min", "beta_max"))
    if sde == "vpsde" and not continuous:
        return DiscreteProcess(linear_betas(steps, low / steps, high / steps)), "step"
    return (SubVP if sde == "subvpsde" else VP)(low, high, num_scales=steps), "999t"
