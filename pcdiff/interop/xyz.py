"""Points as text: `.xyz` files."""

from pathlib import Path

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.checks import unreadable
from pcdiff.interop.text import table, text_lines


def read_xyz(path: Path) -> np.ndarray:
    """Read x, y, z from the first three columns of a text file; further columns (normals, colors) are left out.

    Columns are separated by blanks or by commas; `#` starts a comment.

    Returns:
        `(P, 3)` float64.

    Raises:
        InputError: a row has another number of columns than the first, or something else than numbers.
    """
    with unreadable(str(path), "text with the columns x y z"):
        columns = table(text_lines(path.read_bytes()))
        if len(columns) and columns.shape[1] < 3:
            raise InputError(f"{path}: expected the columns x y z, got {columns.shape[1]} of them")
        return columns[:, :3]
