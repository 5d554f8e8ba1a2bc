"""The command `prepare`: write a data set as a zip of images of one size."""

from image_pipeline import data
from image_pipeline.commands.tool_flags import Prepare
from pcdiff.runtime.progress import bar


def prepare(command: Prepare) -> str:
    """Write a data set as a zip of one size."""
    options = {"crop": command.crop, "filter": command.filter, "channels": command.channels}
    with bar("prepare", "image") as progress:
        manifest = data.prepare(
            str(command.source),
            command.output,
            command.size,
            command.split,
            labels=command.labels,
            progress=lambda count: progress(count, count),
            **options,
        )
    shape = "x".join(map(str, manifest["shape"]))
    return f"prepare: {manifest['count']} images {shape} -> {command.output}"
