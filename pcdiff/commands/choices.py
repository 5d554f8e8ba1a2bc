"""Parts of a config that a flag chooses by name: the flags of the part are those of the one chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pcdiff.commands.cli import value_of
from pcdiff.errors import UnknownName

C = TypeVar("C", bound=Any)


def with_choice(config: C, argv: Sequence[str], flag: str, part: str, known: Mapping[str, Callable[[], Any]]) -> C:
    """Return the config that flags start from, with the part that a flag names.

    Another part than the config's own starts from its own defaults; its options are flags then, those of the
    config's own part are not.

    Args:
        config: a frozen dataclass with a field of the flag's name, the part's name, and one for the part's config.
        argv: the arguments, not parsed yet.
        flag: such as `--net`.
        part: the field of the part's config, such as `model`.
        known: by name, what makes a part's default config: its config's class.

    Raises:
        InputError: the name is unknown; the message lists the known ones.

    Example:
        >>> with_choice(config, ["--net", "ddpm"], "--net", "model", {"ddpm": DDPMConfig, "unet": UNetConfig})
    """
    field = flag.removeprefix("--").replace("-", "_")
    name = value_of(flag, argv)
    if name in (None, getattr(config, field)):
        return config
    if name not in known:
        raise UnknownName(flag, name, sorted(known))
    return replace(config, **{field: name, part: known[name]()})
