"""The command `noise-scales`: choose NCSNv2's noise levels for a data set."""

from image_pipeline import data
from image_pipeline.commands.tool_flags import NoiseScales


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
