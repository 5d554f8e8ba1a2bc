"""The command `configs`: list the presets, or show one as JSON."""

from image_pipeline.commands.tool_flags import Configs
from image_pipeline.configs import PRESETS, preset
from pcdiff.config import to_json
from pcdiff.errors import Lines


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
