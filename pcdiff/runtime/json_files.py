"""JSON from files that anyone may have written: what a reader cannot take is refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

from pcdiff.errors import InputError

DEEPEST = 64
"""Levels of lists and dicts within one another; our own files have six."""
_LONGEST = 40  # digits of an integer: far beyond 64 bits, and still a float
_STRUCTURE = re.compile(r'[\[{]|[\]}]|"(?:[^"\\]|\\.)*"?')


def parse_json(text: str | bytes, source: str | Path, fix: str = "") -> Any:
    """Return the value of JSON text.

    Args:
        text: the JSON; bytes are UTF-8.
        source: what messages name.
        fix: what to do about it, after a semicolon.

    Raises:
        InputError: it is no JSON, is nested deeper than `DEEPEST` levels, or has an integer of more than 40 digits.
    """
    fix = f"; {fix}" if fix else ""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        if _depth(text) > DEEPEST:
            raise InputError(f"{source}: nested deeper than {DEEPEST} levels{fix}")
        return json.loads(text, parse_int=_integer)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # of which the decoders' errors are kinds
        raise InputError(f"{source}: not JSON ({error}){fix}") from None


def read_json(path: Path, fix: str = "") -> Any:
    """Return the value in a JSON file.

    Raises:
        InputError: it cannot be read, or as `parse_json`.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # the latter from a NUL byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})" + (f"; {fix}" if fix else "")) from None
    return parse_json(content, path, fix)


def shown(value: Any, longest: int = 80) -> str:
    """Return a JSON value for a message, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _depth(text: str) -> int:
    depth = deepest = 0
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0
    for match in _STRUCTURE.finditer(text):
        first = match[0][0]
        depth += (first in "[{") - (first in "]}")
        deepest = max(deepest, depth)
        if deepest > DEEPEST:
            break
    return deepest
