"""The command `dump`: write a data set as loose files."""

from image_pipeline import data
from image_pipeline.commands.tool_flags import Dump


def dump(command: Dump) -> str:
    """Write a data set as loose files."""
    dataset = data.load_images(str(command.source), command.split)
    paths = data.dump(dataset, command.output)
    return (
        f"dump: {len(paths)} images of split {command.split} ({dataset.identity.splits}), {paths[0].name} to "
        f"{paths[-1].name} -> {command.output}"
    )
