"""Read other people's configs: dicts of plain values, given as such, as JSON text or as a JSON file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcdiff.errors import InputError
from pcdiff.runtime.json_files import parse_json, read_json

Config = Mapping[str, Any] | str | Path
"""A dict, JSON text that starts with `{`, or the path of a JSON file."""


@contextmanager
def blaming(source: str | Path, *others: type[Exception]) -> Iterator[None]:
    """Put what is to blame before the message of an `InputError`.

    Args:
        source: the file, or what a setting came from.
        *others: what a value of the wrong kind may raise besides.

    Raises:
        InputError: the block raised one, or one of `others`.
    """
    try:
        yield
    except InputError as error:
        raise error.within(source) from None
    except others as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{source}: its settings do not fit ({type(error).__name__}: {reason})") from None


def called(config: Config) -> str:
    """Return how messages call a config: by its path, if it has one."""
    return "config" if isinstance(config, Mapping) or _is_text(config) else f"config {config}"


def _is_text(config: Any) -> bool:
    return isinstance(config, str) and config.lstrip().startswith("{")


def read_settings(config: Config) -> Mapping[str, Any]:
    """Return a config as a dict.

    Args:
        config: the dict, JSON text that starts with `{`, or the path of a JSON file.

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, (str, Path)):
        raise InputError(f"config must be a dict, JSON or a path, got a {type(config).__name__}")
    source = called(config)
    if _is_text(config):
        found = parse_json(config, source)
    else:
        found = read_json(Path(config), "expected the JSON of a config")
    if not isinstance(found, dict):
        raise InputError(f"{source} must be a JSON object, got a {type(found).__name__}")
    return found


def setting(settings: Mapping[str, Any], section: str, name: str, *kinds: type) -> Any:
    """Return one setting.

    Args:
        settings: the whole config.
        section: such as `model`.
        name: such as `sigma_max`.
        *kinds: what the value may be, anything if none is said; a `float` may be written as an integer.

    Raises:
        InputError: it is not there, or is of another type.
    """
    part = settings.get(section)
    if not isinstance(part, Mapping) or name not in part:
        raise InputError(f"config lacks {section}.{name}")
    value = part[name]
    if not kinds:
        return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"config: {section}.{name} must be {expected}, got {value!r}")
    return value
