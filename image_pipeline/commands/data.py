"""What the commands without a model do: list presets, prepare and dump data sets, choose noise levels."""

from image_pipeline import data
from image_pipeline.commands.tool_flags import Configs, Dump, NoiseScales, Prepare
from image_pipeline.configs import PRESETS, preset
from pcdiff.config import to_json
from pcdiff.errors import Lines
from pcdiff.runtime.progress import bar


def configs(command: Configs) -> str:
    """Return a table of the presets, or one of them as JSON."""
    if command.preset is not None:
        return Lines(to_json(preset(command.preset)).rstrip())
    width = max(map(len, PRESETS))
    head = f"{'preset':{width}}  {'net':8}{'process':10}{'size':>5}{'batch':>7}{'steps':>12}  data"
    lines = [
        f"{name:{width}}  {c.net:8}{c.process.name:10}{c.data.size or 'own':>5}{c.train.batch_size:>7}"
        f"{c.train.max_iters:>12,}  {c.data.dataset_path}"
        for name, c in PRESETS.items()
    ]
    return Lines("\n".join([head, *lines]))


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


def dump(command: Dump) -> str:
    """Write a data set as loose files."""
    dataset = data.load_images(str(command.source), command.split)
    paths = data.dump(dataset, command.output)
    return (
        f"dump: {len(paths)} images of split {command.split} ({dataset.identity.splits}), {paths[0].name} to "
        f"{paths[-1].name} -> {command.output}"
    )


def noise_scales(command: NoiseScales) -> str:
    """Return NCSNv2's noise levels and Langevin step for a data set."""
    found = data.noise_scales(
        data.load_images(str(command.source), command.split, command.size),
        command.data_range,
        command.sigma_min,
        command.steps_per_level,
    )
    first, second = found.farthest
    return (
        f"noise-scales: sigma_max {found.sigma_max:.4g} (images {first} and {second}), sigma_min "
        f"{found.sigma_min:g}, {found.num_levels} levels at a ratio of {found.ratio:.4f}, step size "
        f"{found.langevin_step:.3g} for {found.steps_per_level} steps at each level"
    )
