"""Other people's formats.

`checkpoints.load(path)` opens other projects' models; `dpm.load(path)`, `gecco.load(path)`, `pointe.load(path)` and
`pvd.load(path)` those of one. `read_cloud_set(path)` reads clouds from files, and `stack_clouds` makes one array of
them.
"""

from pcdiff.interop import checkpoints, dpm, gecco, pointe, pvd
from pcdiff.interop.files import CloudSet, read_cloud_set, write_clouds
from pcdiff.interop.point_rules import POINT_RULES, stack_clouds

__all__ = [
    "POINT_RULES",
    "CloudSet",
    "checkpoints",
    "dpm",
    "gecco",
    "pointe",
    "pvd",
    "read_cloud_set",
    "stack_clouds",
    "write_clouds",
]
