"""Other people's formats.

`dpm.load(path)` opens DPM's checkpoints; `read_cloud_set(path)` reads clouds from files, and `stack_clouds` makes
one array of them.
"""

from pcdiff.interop import dpm
from pcdiff.interop.files import CloudSet, read_cloud_set, write_clouds
from pcdiff.interop.point_rules import POINT_RULES, stack_clouds

__all__ = ["POINT_RULES", "CloudSet", "dpm", "read_cloud_set", "stack_clouds", "write_clouds"]
