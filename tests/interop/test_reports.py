"""Files that users of other projects reported, where they are at hand; the kinds have tests of their own."""

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set


def test_reported_clouds(reports):
    extents = {
        "01-*/cloud.off": (1.5, 1.5, 1.5),
        "01-*/quads.off": (1, 1, 1),
        "02-*/two.obj": (1, 1, 5),
        "03-*/two.glb": (1, 1, 5),
        "04-*/fan.glb": (1, 1, 5),
        "11-*/prism5.off": (1.809017, 1.902114, 1),
        "12-*/gbk_name.obj": (1, 1, 0),
        "12-*/trailing_bytes.stl": (1, 1, 0),
        "13-*/views_ascii.ply": (1, 1, 0),
        "14-*/lower_ascii.pcd": (2.6622, 2.3159, 4.407),
        "15-*/bom.obj": (1, 1, 0),
        "15-*/some_coloured.obj": (1, 1, 1),
        "15-*/tab_after_v.obj": (1, 1, 0),
        "16-*/bom.ply": (1, 1, 0),
        "16-*/cr.ply": (1, 1, 0),
    }
    for pattern, expected in extents.items():
        (path,) = reports.glob(pattern)
        cloud = read_cloud_set(path, mesh_points=4000).clouds[0]
        # of 4,000 points on a face, none within 2 % of an edge has the chance 0.98^1000
        np.testing.assert_allclose(np.ptp(cloud, axis=0), expected, atol=0.04, err_msg=pattern)
        if pattern.startswith(("02", "03", "04", "some")):
            assert (cloud[:, 2] == 5).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(4000))


def test_reported_files_that_are_refused(reports):
    for pattern, match in {"05-*/*.obj": "index 0", "12-*/truncated.stl": "truncated .stl file"}.items():
        (path,) = reports.glob(pattern)
        with pytest.raises(InputError, match=match):
            read_cloud_set(path)
