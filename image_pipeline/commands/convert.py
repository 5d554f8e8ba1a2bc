"""What the command `convert` does: other people's weights to ours, and ours to diffusers."""

from dataclasses import replace

from image_pipeline.commands.tool_flags import Convert
from image_pipeline.interop import Imported, diffusers, load, native
from image_pipeline.models.loading import load_model
from pcdiff.errors import InputError


def convert(command: Convert) -> str:
    """Open a checkpoint and write it in another form; return what it is in one line.

    Raises:
        InputError: the kind is unknown, the file or its config does not fit, or diffusers cannot express the model.
    """
    found = _ours(command) if command.kind is None else _sized(command)
    if command.to == "diffusers":
        diffusers.save(found, command.output)
    else:
        native.save(command.output, found)
    parameters = sum(p.numel() for p in found.denoiser.parameters())
    shape = "unknown" if found.image_shape is None else "x".join(map(str, found.image_shape))
    weights = "moving average" if found.ema else "weights"
    process = type(found.denoiser.process).__name__
    return (
        f"convert: {found.name}, {parameters:,} parameters ({weights}), process {process}, images {shape} in "
        f"{list(found.data_range)}, classes {found.num_classes} -> {command.output}"
    )


def _ours(command: Convert) -> Imported:
    """Open a run of ours, or what was converted before."""
    for name in ("config", "size"):
        if getattr(command, name) is not None:
            raise InputError(f"--{name} is for other people's checkpoints, with --kind; a run of ours is complete")
    model = load_model(command.input, ema=command.ema)
    averaged = model.config.train.ema_decay is not None
    ema = averaged and (command.ema or model.file.name == "best.safetensors")  # `best` holds nothing else
    name = f"pcdiff {model.config.preset}"
    return Imported(model.denoiser, model.data_range, model.image_shape, name, model.num_classes, ema)


def _sized(command: Convert) -> Imported:
    """Open other people's checkpoint, with the size that the flags give."""
    found = load(command.kind, command.input, command.config, command.ema)
    channels, *sides = found.image_shape or (None, None)
    if command.size is not None and channels is not None:
        if sides[0] is not None and tuple(sides) != (command.size, command.size):
            raise InputError(f"{command.input}: its images are {sides[0]}x{sides[1]}, got --size {command.size}")
        found = replace(found, image_shape=(found.image_shape[0], command.size, command.size))
    elif channels is not None and None in sides:
        raise InputError(f"{command.input}: has no size of its images; give --size")
    return found
