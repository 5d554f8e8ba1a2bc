"""Exceptions for a user's mistakes, and text from files and names as one escaped line."""

import logging
from pathlib import PurePath
from typing import Any


class InputError(ValueError):
    """Bad input: names the file or argument, what was expected, what came, and what to do.

    Library code raises it; the scripts print it as one line and exit with status 2. It is a `ValueError`,
    so callers of the library can catch that. Text from files and names is escaped in the message (`printable`).
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class WorkFailed(RuntimeError):
    """Work failed for a reason other than its input; the scripts exit with status 1."""


def printable(text: object) -> str:
    r"""Return a text as one printable line: what cannot be printed becomes its escape, as in `\n`.

    So a file's name or content cannot forge a second line or send control codes to a terminal. Bytes of a name that
    are not UTF-8 are escaped too. What is already escaped stays as it is.

    Example:
        >>> printable("a\nb\x1b[2J")
        'a\\nb\\x1b[2J'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def short(value: object, longest: int = 200) -> str:
    """Return a value as Python writes it, cut where it is long, for a message."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class Lines(str):
    """A text with intended line breaks, such as a table, for the log."""


class OneLineArguments(logging.Filter):
    """Escapes the arguments of log lines: the format may have line breaks, a name or a file's content may not.

    Of `Lines` each line is escaped by itself.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape a record's arguments; every record passes."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(escaped, record.args))
        return True


def escaped(value: Any) -> Any:
    """Return a value as a terminal may show it: text, paths and errors escaped, `Lines` line by line."""
    if isinstance(value, Lines):
        return "\n".join(map(printable, value.split("\n")))
    return printable(value) if isinstance(value, str | PurePath | BaseException) else value
