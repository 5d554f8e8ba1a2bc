"""Exceptions for a user's mistakes, and text from files and names as one escaped line."""

import logging
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any


class InputError(ValueError):
    """Bad input: names the file or argument, what was expected, what came, and what to do.

    Library code raises it; the scripts print it as one line and exit with status 2. It is a `ValueError`,
    so callers of the library can catch that. Text from files and names is escaped in the message (`printable`),
    and of a message longer than `LONGEST` characters the middle is left out: a file may hold a list of any length
    where a name belongs, and the ends have what was expected and what to do.
    """

    LONGEST = 4000

    def __init__(self, message: object = ""):
        super().__init__(_bounded(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle kind, message and values, whatever the constructor takes: a worker's error reaches its parent."""
        return _restored, (type(self), self.args, self.__dict__)

    def within(self, place: object) -> "InputError":
        """Put a place, such as a file's name, in front of the message; the kind and its values stay."""
        self.args = (_bounded(f"{place}: {self}"),)
        return self


class UnknownName(InputError):
    """A name that is none of those there are.

    Args:
        what: is named, such as `predictor` or `--preset`.
        name: the name that came.
        known: the names there are, in the order of the message.
        note: behind the known names, such as `or FILE.py:CLASS`.

    Example:
        >>> raise UnknownName("norm", "l3", ["l1", "l2"])
        Traceback (most recent call last):
        pcdiff.errors.UnknownName: norm must be one of l1, l2, got 'l3'
    """

    def __init__(self, what: str, name: object, known: Iterable[object], note: str = ""):
        self.what, self.name, self.known = what, name, tuple(known)
        super().__init__(f"{what} must be one of {', '.join(map(str, self.known))}{note}, got {short(name)}")


class OutOfRange(InputError):
    """A number out of its range.

    Args:
        what: the argument, flag or field.
        expected: its range in words, such as `at least 1`.
        value: the number that came.

    Example:
        >>> raise OutOfRange("num_steps", "at least 1", 0)
        Traceback (most recent call last):
        pcdiff.errors.OutOfRange: num_steps must be at least 1, got 0
    """

    def __init__(self, what: str, expected: str, value: object):
        self.what, self.expected, self.value = what, expected, value
        super().__init__(f"{what} must be {expected}, got {value}")


class WrongType(InputError):
    """A value of another type than the one that is expected.

    Args:
        what: the argument or field.
        expected: the type in words, such as `an integer`.
        value: what came.
    """

    def __init__(self, what: str, expected: str, value: object):
        self.what, self.expected, self.value = what, expected, value
        super().__init__(f"{what} must be {expected}, got {short(value)}")


class UnknownField(InputError):
    """Fields, options or flags that a config or part does not have.

    Args:
        message: names them, and what there is.
        unknown: their names.
        known: the names there are.
    """

    def __init__(self, message: object, unknown: Iterable[str], known: Iterable[str]):
        self.unknown, self.known = tuple(unknown), tuple(known)
        super().__init__(message)


def _restored(kind: type[InputError], args: tuple[Any, ...], values: dict[str, Any]) -> InputError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(values)
    return error


def _bounded(message: object) -> str:
    text, half = printable(message), InputError.LONGEST // 2
    return text if len(text) <= InputError.LONGEST else f"{text[: half - 3]} ... {text[2 - half :]}"


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
