"""Points as text."""

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2\n3 4.5 -6e-1\n",
        "0 1 2\r\n3 4.5 -0.6",
        "0,1,2\n3,4.5,-0.6\n",
        " 0 , 1,\t2\n\n3, 4.5 , -.6\n",
        "# x y z\n0\t1  2 # first\n\n3 4.5 -0.6\n# end",
        "0 1 2 0.1 0.2 0.3\n3 4.5 -0.6 1 0 0\n",
        "0,1,2,255\n3,4.5,-0.6,128\n",
        "\ufeff0 1 2\n3 4.5 -0.6\n",
    ],
)
def test_the_first_three_columns(tmp_path, text):
    (tmp_path / "a.xyz").write_bytes(text.encode())
    (cloud,), (name,) = read_cloud_set(tmp_path / "a.xyz")
    np.testing.assert_allclose(cloud, [[0, 1, 2], [3, 4.5, -0.6]], rtol=1e-6)
    assert cloud.flags.c_contiguous
    assert name == str(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no point"),
        (b"# nothing\n", "holds no point"),
        (b"0 1\n2 3\n", r"expected the columns x y z, got 2 of them"),
        (b"0 1 2\n3 4\n", r"columns changed from 3 to 2 at row 2\)"),
        (b"2\n0 1 2\n3 4 5\n", "columns changed from 1 to 3"),
        (b"x y z\n0 1 2\n", "could not convert string 'x'"),
        (b"0,5 1,5 2,5\n", "could not convert string '5 1'"),  # a decimal comma is no separator
        (b"0 1 2\n3 4 nan\n", "NaN or inf in 1 of 2 points, first in point 1"),
        (b"0 1 1e999\n", "NaN or inf in 1 of 1 points"),
        (b"\xff\xfe0 1 2", "not text with the columns x y z"),
    ],
)
def test_other_text_is_refused(tmp_path, content, match):
    (tmp_path / "a.xyz").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.xyz: .*{match}") as raised:
        read_cloud_set(tmp_path / "a.xyz")
    assert "\n" not in str(raised.value)
