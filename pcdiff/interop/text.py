"""Text of other programs: lines, comments and numbers, whatever ends a line and whatever charset names are in.

All of it works on bytes: digits, blanks, `#` and line ends are the same in every charset that extends ASCII, so
names and comments in Latin-1, GBK or Shift JIS need not be understood.
"""

import codecs
import re
from collections.abc import Sequence

import numpy as np

_WIDE = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def without_bom(content: bytes) -> bytes:
    """Return text without its byte order mark; UTF-16 and UTF-32, recognized by theirs, become UTF-8.

    Raises:
        ValueError: a mark announces UTF-16 or UTF-32 and the rest is none.
    """
    for mark, encoding in _WIDE:
        if content.startswith(mark):
            return content.decode(encoding).encode()
    return content.removeprefix(codecs.BOM_UTF8)


def text_lines(content: bytes) -> list[bytes]:
    r"""Return the lines that hold anything but blanks and comments (from `#` on); LF, CR LF or CR ends a line.

    Example:
        >>> text_lines(b"1 2 # first\r\r\n\n# none\n3 4")
        [b'1 2', b'3 4']
    """
    content = without_bom(content)
    if b"#" in content:
        content = re.sub(rb"#[^\r\n]*", b"", content)
    return [line for line in map(bytes.strip, content.splitlines()) if line]


def header_lines(content: bytes, last: bytes) -> tuple[list[bytes], int]:
    """Return the lines of a header down to the one whose first word is `last`, and where the rest starts.

    The first line end decides which kind the header has, so that binary data after it may begin with any byte.

    Raises:
        ValueError: there is no such line.
    """
    kind = re.search(rb"\r\n|\n|\r", content)
    end = kind[0] if kind else b"\n"
    found = re.search(rb"(?:^|%b)[ \t]*%b(?=[ \t\r\n])[^\r\n]*%b" % (end, last, end), content)
    if not found:
        raise ValueError(f"no {last.decode()} line")
    return content[: found.end()].split(end)[:-1], found.end()


def table(rows: Sequence[bytes], columns: Sequence[int] | None = None) -> np.ndarray:
    """Return rows of numbers between blanks, or commas, as float64 `(rows, columns)`; `(0, 3)` of no row.

    Args:
        rows: none of them empty.
        columns: which to take, by number; then rows may differ in what else they have. None: all, as many in each.

    Raises:
        ValueError: a row has another number of columns, or something else than numbers.
    """
    if not rows:
        return np.empty((0, 3))
    comma = "," if b"," in rows[0] else None
    try:
        return np.loadtxt(rows, usecols=columns, delimiter=comma, comments=None, ndmin=2, encoding="latin1")
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from None  # numpy goes on about its own arguments
