"""Arguments into dataclasses, by tyro; a mistake in them is one line that names the flag."""

import difflib
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

import tyro

from pcdiff.errors import InputError

_GIVEN = re.compile(r"--?[A-Za-z]")  # -1 is a value
_LISTED = re.compile(r"^│ (--[^\s,]+)(?:, (--[^\s,]+))?(?: ([^ ].*?))?(?:  |│$)", re.MULTILINE)
_NAMED = re.compile(r"(?:Error parsing|for argument) '?(--[\w.-]+)")
_REFUSED = re.compile(r"Error parsing [^:]*: (.*?)(?:─{4}|\Z)", re.DOTALL)
_MISSING = re.compile(r"^ *(--[^\s,]+)", re.MULTILINE)
FORMER_FLAGS = {
    "--normalisation": "--normalization",
    "--dequantise": "--dequantize",
    "--no-dequantise": "--no-dequantize",
    "--dequantisation": "--dequantization",
    "--dequantisation-steps": "--dequantization-steps",
    "--labelled": "--labeled",
    "--no-labelled": "--no-labeled",
}
"""Former spellings of flags, each with the flag of today; they work as before."""

_KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


def fill(cls: Any, args: Sequence[str], prog: str | None = None, where: str = "", **options: Any) -> Any:
    """Fill a dataclass from arguments.

    Args:
        cls: the dataclass.
        args: the arguments.
        prog: how the program is called.
        where: before the message of a mistake, the command that it is in.
        **options: what else `tyro.cli` takes: `default`, `description`, `config`.

    Raises:
        InputError: an unknown flag, with the closest of those there are; a value of another kind; or a flag that
            must be given and is not.
    """
    args = [_of_today(argument) for argument in args]
    try:
        with redirect_stderr(io.StringIO()):
            return tyro.cli(cls, prog=prog, args=args, **options)
    except SystemExit as end:
        if end.code in (None, 0):  # help was asked for
            raise
    raise InputError(f"{where}: {_mistake(cls, args, options)}" if where else _mistake(cls, args, options))


def closest(name: str, known: Iterable[str]) -> str:
    """Return the one or two known names that a mistyped one may have meant, as the end of a message; or nothing."""
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _of_today(argument: str) -> str:
    flag, joined, value = argument.partition("=")
    return FORMER_FLAGS.get(_name(flag), flag) + joined + value


def _mistake(cls: Any, args: list[str], options: dict[str, Any]) -> str:
    flags = _flags(cls, options)
    for argument in args:
        name = _name(argument)
        if _GIVEN.match(argument) and name not in flags:
            return f"no such flag: {name!r}{closest(name, [*flags, '--help'])}"
    text = re.sub(r"[╭╮╰╯│]", "", _shown(cls, args, options))
    if "Missing from" in text:
        listed = text.partition("Missing from")[2].partition("────")[0]
        shown = (f"{name} {flags.get(name, '')}".rstrip() for name in _MISSING.findall(listed))
        return f"{' and '.join(shown)} must be given"
    if named := _NAMED.search(text):
        return f"{named[1]} must be {_in_words(flags.get(named[1], ''))}, got {_values(named[1], args)}"
    if refused := _REFUSED.search(text):  # by the dataclass itself
        return " ".join(refused[1].split())
    return f"{_stray(text, args)!r} follows no flag that takes it"


def _flags(cls: Any, options: dict[str, Any]) -> dict[str, str]:
    """Return what flags take, as the help shows it, by flag."""
    found: dict[str, str] = {}
    for name, other, takes in _LISTED.findall(_shown(cls, ["--help"], options)):
        found |= {flag: takes for flag in (name, other) if flag}
    return found


def _shown(cls: Any, args: list[str], options: dict[str, Any]) -> str:
    """Return what tyro prints, whatever this terminal can show, without colors."""
    paper = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(paper), redirect_stderr(paper), suppress(SystemExit):
        tyro.cli(cls, args=args, **options)
    paper.flush()
    return re.sub(r"\x1b\[[0-9;]*m", "", paper.buffer.getvalue().decode("utf-8"))


def _name(argument: str) -> str:
    flag = argument.partition("=")[0]
    return flag[:2] + flag[2:].replace("_", "-")


def _values(flag: str, args: list[str]) -> str:
    """Return what a flag was given last."""
    values: list[str] = []
    for place, argument in enumerate(args):
        if _name(argument) != flag:
            continue
        values = [argument.partition("=")[2]] if "=" in argument else []
        for value in args[place + 1 :]:
            if _GIVEN.match(value) or (values and "=" in argument):
                break
            values.append(value)
    return " ".join(map(repr, values)) or "none"


def _in_words(takes: str) -> str:
    none = "{None}|" in takes or "|{None}" in takes
    takes = takes.replace("{None}|", "").replace("|{None}", "")
    several = re.fullmatch(r"\[(\S+) \[\S+ \.\.\.\]\]", takes)
    if several:
        return f"{_KINDS.get(several[1], several[1])}, or several"
    together = re.fullmatch(r"\{(\S+)(?: \1)+\}", takes)
    if together:
        return f"{takes.count(' ') + 1} values, each {_KINDS.get(together[1], together[1])}"
    choices = re.fullmatch(r"\{(.*)\}", takes)
    if choices:
        return f"one of {choices[1].replace(',', ', ')}"
    return _KINDS.get(takes, takes or "given a value") + (" or None" if none else "")


def _stray(text: str, args: list[str]) -> str:
    tokens = {token for token in re.split(r"[\s,]+", text) if token}
    return next((argument for argument in args if argument in tokens), " ".join(args))
