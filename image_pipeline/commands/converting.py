"""What the command `convert` does."""

from dataclasses import replace

from image_pipeline.commands.tool_flags import Convert
from image_pipeline.interop import load, native
from pcdiff.errors import InputError


def convert(command: Convert) -> str:
    """Open other people's checkpoint and write it in our own format; return what it is in one line.

    Raises:
        InputError: the kind is unknown, or the file or its config does not fit.
    """
    found = load(command.kind, command.input, command.config, command.ema)
    channels, *sides = found.image_shape or (None, None)
    if command.size is not None and channels is not None:
        if sides[0] is not None and tuple(sides) != (command.size, command.size):
            raise InputError(f"{command.input}: its images are {sides[0]}x{sides[1]}, got --size {command.size}")
        found = replace(found, image_shape=(found.image_shape[0], command.size, command.size))
    elif channels is not None and None in sides:
        raise InputError(f"{command.input}: does not say its images' size; give --size")
    native.save(command.output, found)
    parameters = sum(p.numel() for p in found.denoiser.parameters())
    shape = "unknown" if found.image_shape is None else "x".join(map(str, found.image_shape))
    weights = "moving average" if found.ema else "weights"
    process = type(found.denoiser.process).__name__
    return (
        f"convert: {found.name}, {parameters:,} parameters ({weights}), process {process}, images {shape} in "
        f"{list(found.data_range)}, classes {found.num_classes} -> {command.output}"
    )
