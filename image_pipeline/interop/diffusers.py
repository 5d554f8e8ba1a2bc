"""Open and write the model folders of Hugging Face diffusers: unconditional and class-conditional UNet2DModels.

A model folder is `config.json` with `diffusion_pytorch_model.safetensors`; a pipeline folder has it in
`unet/`, with `model_index.json` and `scheduler/` beside. diffusers itself is not needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from image_pipeline.interop.diffusers_config import net_config, plain_json, skip_json
from image_pipeline.interop.diffusers_scheduler import VE_SCHEDULER, denoiser, scheduler_json
from image_pipeline.interop.imported import Imported
from image_pipeline.interop.settings import Config, blaming, called, read_settings
from image_pipeline.interop.weights import Names, fill, names_of, read_state_dict
from image_pipeline.nets import build_model
from image_pipeline.nets.sigma_label import SigmaLabel
from image_pipeline.nets.song_unet import SongUNet
from pcdiff.errors import InputError
from pcdiff.nets import UNet
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.memory_limit import budget_for, built_for
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.run_folder import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED_WEIGHTS = "diffusion_pytorch_model.bin"
VERSION = "0.42.1"  # the format written, and the release it was read back with
PARTS = {
    "embed": "time_emb_proj",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "proj": "to_out.0",
}
# how attentions were called before diffusers 0.17
OLD_PARTS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(folder: str | Path, scheduler: Config | None = None) -> Imported:
    """Rebuild a model with its process.

    A bare model folder has no record of its net's chain: it is taken to be the one that diffusers'
    schedulers assume, DDPM's thousand linear steps, or the noise levels of `ScoreSdeVeScheduler` for nets
    conditioned on the noise level; `scheduler` overrides that. The second half of an output twice as wide as the
    input is taken to be a learned variance between both bounds, as ADM's (Nichol & Dhariwal, 2021, eq. 15).

    Args:
        folder: a pipeline folder or a model folder.
        scheduler: a `scheduler_config.json`, as a dict, JSON or its path, in place of the folder's own.

    Raises:
        InputError: a file is missing or damaged, the model or scheduler is of another kind, or a weight is left
            over or missing.

    Example:
        >>> model = load("ddpm-cifar10-32")
        >>> sample(model.denoiser, (4, *model.image_shape), sampler="ddim", num_steps=50)
    """
    folder = Path(folder)
    pipeline = is_file(folder / "model_index.json")
    unet = folder / "unet" if pipeline else folder
    config_path = unet / "config.json"
    if not is_file(config_path):
        raise InputError(f"{config_path}: no such file; expected a diffusers folder")
    settings = read_settings(config_path)
    path, weights = _read_weights(unet)
    with blaming(config_path):
        net = built_for(weights, lambda: build_model(net_config(settings)))
    config, conditioned_on_sigma = net.config, isinstance(net, SongUNet)
    with blaming(path):
        fill(net, _names(net), weights)
    if scheduler is None and pipeline:
        scheduler = folder / "scheduler" / "scheduler_config.json"
    elif scheduler is None:
        scheduler = {"_class_name": VE_SCHEDULER if conditioned_on_sigma else "DDPMScheduler"}
        if config.out_channels == 2 * config.in_channels:  # without a scheduler, the width shows it
            scheduler["variance_type"] = "learned_range"
    chain = read_settings(scheduler)
    with blaming(f"scheduler's {called(scheduler)}", TypeError, ArithmeticError, RuntimeError), budget_for(weights):
        if conditioned_on_sigma != (chain.get("_class_name") == VE_SCHEDULER):
            label = "the noise level" if conditioned_on_sigma else "the step"
            raise InputError(f"{chain.get('_class_name')} does not fit a net conditioned on {label}")
        model = denoiser(SigmaLabel(net) if conditioned_on_sigma else net, chain)
    with blaming(config_path):
        return Imported(
            model.eval(),
            (0.0, 1.0) if conditioned_on_sigma else (-1.0, 1.0),
            _image_shape(settings.get("sample_size"), config.in_channels),
            f"diffusers {folder.name}",
            config.num_classes,
        )


def save(model: Imported, folder: str | Path) -> None:
    """Write a pipeline folder that diffusers opens and samples.

    Its pipeline is `DDPMPipeline`, or `ScoreSdeVePipeline` for scores of variance-exploding noise.

    The scheduler's options that are a choice of sampling (clipping, spacing) are diffusers' own defaults.

    Args:
        model: with a `UNet`, or a `SigmaLabel` of a `SongUNet`.
        folder: made where it is missing; files of these names are replaced.

    Raises:
        InputError: diffusers cannot express the model, or its images' range, or the folder cannot be written.

    Example:
        >>> save(Imported(denoiser, (-1.0, 1.0), (3, 32, 32), "my model"), "my-model")
    """
    folder = Path(folder)
    shape = model.image_shape
    size = None if shape is None else shape[1] if shape[1] == shape[2] else list(shape[1:])
    net = model.denoiser.net
    if isinstance(net, SigmaLabel) and isinstance(net.net, SongUNet) and net.scale == 1:
        net, pipeline = net.net, "ScoreSdeVePipeline"
        config = skip_json(net.config, size)
    elif isinstance(net, UNet):
        config, pipeline = plain_json(net.config, size), "DDPMPipeline"
        _check_groups(net)
    else:
        raise InputError(
            f"diffusers needs a UNet, or a SongUNet conditioned on the noise level; got {type(net).__name__}"
        )
    drawn = (0.0, 1.0) if pipeline == "ScoreSdeVePipeline" else (-1.0, 1.0)  # what the pipeline shows as images
    if model.data_range != drawn:
        raise InputError(f"{pipeline} takes images in {list(drawn)}, the model's are in {list(model.data_range)}")
    scheduler = scheduler_json(model.denoiser)
    version = {"_diffusers_version": VERSION}
    tensors: dict[str, Tensor] = {}
    ours = net.state_dict()
    for key, theirs in _names(net).items():
        for name, part in zip(theirs, ours[key].chunk(len(theirs)), strict=True):
            tensors[name] = part.detach().cpu().contiguous().clone()
    with replacing(folder / "unet" / WEIGHTS) as draft:
        try:
            save_file(tensors, draft, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from None
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DModel", **version, **config})
    write_json(folder / "scheduler" / "scheduler_config.json", {**scheduler, **version})
    index = {"_class_name": pipeline, **version, "scheduler": ["diffusers", scheduler["_class_name"]]}
    # last: a folder is a pipeline when the rest is there
    write_json(folder / "model_index.json", {**index, "unet": ["diffusers", "UNet2DModel"]})


def _check_groups(net: UNet) -> None:
    apart = net.middle.attentions[0].norm  # has its own setting
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm) and module is not apart]
    groups = {module.num_groups for module in norms}
    if groups != {net.config.norm_groups}:
        wanted = f"norms must all have {net.config.norm_groups} groups"
        raise InputError(f"diffusers cannot express this net: {wanted}, got {sorted(groups)}")


def _image_shape(size: Any, channels: int) -> tuple[int, int | None, int | None]:
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    return channels, height, width


def _read_weights(model: Path) -> tuple[Path, dict[str, Tensor]]:
    path = model / WEIGHTS
    if is_file(path):
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: truncated or not a safetensors file ({error})") from None
    elif is_file(model / PICKLED_WEIGHTS):
        path = model / PICKLED_WEIGHTS
        weights = read_state_dict(path)
    else:
        raise InputError(f"{model}: expected {WEIGHTS} or {PICKLED_WEIGHTS}, found neither")
    return path, {_modern(key): value for key, value in weights.items()}


def _modern(key: str) -> str:
    module, _, leaf = key.rpartition(".")
    parent, _, part = module.rpartition(".")
    return f"{parent}.{OLD_PARTS[part]}.{leaf}" if part in OLD_PARTS and ".attentions." in parent else key


def _names(net: nn.Module) -> Names:
    names = names_of(net, _song_modules(net) if isinstance(net, SongUNet) else _modules(net), PARTS)
    for key, (theirs,) in list(names.items()):
        if ".qkv." in key:
            names[key] = tuple(theirs.replace(".qkv.", f".to_{part}.") for part in "qkv")
    return names


def _modules(net: UNet) -> Iterator[tuple[str, str]]:
    yield from (
        ("time_mlp.0", "time_embedding.linear_1"),
        ("time_mlp.2", "time_embedding.linear_2"),
        ("class_embed", "class_embedding"),
        ("conv_in", "conv_in"),
        ("norm_out", "conv_norm_out"),
        ("conv_out", "conv_out"),
    )
    for way in ("down", "up"):
        for k, level in enumerate(getattr(net, way)):
            theirs = f"{way}_blocks.{k}"
            for i in range(len(level.blocks)):
                yield f"{way}.{k}.blocks.{i}", f"{theirs}.resnets.{i}"
                yield f"{way}.{k}.attentions.{i}", f"{theirs}.attentions.{i}"
            yield f"{way}.{k}.resample", f"{theirs}.{way}samplers.0"
    for i in range(2):
        yield f"middle.blocks.{i}", f"mid_block.resnets.{i}"
    yield "middle.attentions.0", "mid_block.attentions.0"


def _song_modules(net: SongUNet) -> Iterator[tuple[str, str]]:
    yield from (
        ("features.frequencies", "time_proj.weight"),
        ("time_mlp.0", "time_embedding.linear_1"),
        ("time_mlp.2", "time_embedding.linear_2"),
        ("conv_in", "conv_in"),
        ("middle.0", "mid_block.resnets.0"),
        ("middle.1", "mid_block.resnets.1"),
        ("middle_attention", "mid_block.attentions.0"),
    )
    for k, level in enumerate(net.down):
        # what leads into a level is a part of the one before
        yield f"down.{k}.resample", f"down_blocks.{k - 1}.resnet_down"
        yield f"down.{k}.side", f"down_blocks.{k - 1}.skip_conv"
        for i in range(len(level.blocks)):
            yield f"down.{k}.blocks.{i}", f"down_blocks.{k}.resnets.{i}"
            yield f"down.{k}.attentions.{i}", f"down_blocks.{k}.attentions.{i}"
    last = len(net.up) - 1
    for k, level in enumerate(net.up):
        yield f"up.{k}.resample", f"up_blocks.{k - 1}.resnet_up"
        for i in range(len(level.blocks)):
            yield f"up.{k}.blocks.{i}", f"up_blocks.{k}.resnets.{i}"
        yield f"up.{k}.attention", f"up_blocks.{k}.attentions.0"
        yield f"up.{k}.image_norm", f"up_blocks.{k}.skip_norm" if k < last else "conv_norm_out"
        yield f"up.{k}.image_conv", f"up_blocks.{k}.skip_conv" if k < last else "conv_out"
