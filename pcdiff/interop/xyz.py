"""Points as text: `.xyz` files, and the table parser that other text formats share with them."""

from pathlib import Path

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.checks import unreadable


def read_xyz(path: Path) -> np.ndarray:
    """Read x, y, z from the first three columns of a text file; further columns (normals, colours) are left out.

    Columns are separated by blanks or by commas; `#` starts a comment.

    Raises:
        InputError: a row has another number of columns than the first, or something else than numbers.
    """
    with unreadable(str(path), "text with the columns x y z"):
        table = parse_table(path.read_bytes())
        if len(table) and table.shape[1] < 3:
            raise InputError(f"{path}: expected the columns x y z, got {table.shape[1]} of them")
        return table[:, :3]


def parse_table(text: bytes) -> np.ndarray:
    """Return a text of numbers, as many in every row, as float64 `(rows, columns)`; `(0, 3)` if there are none.

    Raises:
        ValueError: it is no such text.
    """
    rows = [line.partition("#")[0].strip() for line in text.decode("utf-8-sig").split("\n")]
    rows = [row for row in rows if row]
    if not rows:
        return np.empty((0, 3))
    try:
        return np.loadtxt(rows, delimiter="," if "," in rows[0] else None, comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from None  # numpy goes on about its own arguments
