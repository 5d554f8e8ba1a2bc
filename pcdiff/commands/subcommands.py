"""Commands of commands: the list that `--help` shows, and the one that the first argument names."""

import sys
from collections.abc import Mapping, Sequence

from pcdiff.commands.arguments import closest
from pcdiff.errors import InputError
from pcdiff.version import __version__

Groups = Mapping[str, Mapping[str, str]]
"""By a title, the commands of a group: one line of help each, by name."""


def choose(groups: Groups, argv: Sequence[str], prog: str, description: str) -> tuple[str, list[str]]:
    """Return the command that the first argument names, and the other arguments.

    `--help` prints the list of commands and `--version` the version; then the program ends, with status 0.

    Args:
        groups: the commands.
        argv: the arguments.
        prog: how the program is called.
        description: first lines of `--help`.

    Raises:
        InputError: no such command; names the closest.
    """
    known = [name for group in groups.values() for name in group]
    first = argv[0] if argv else None
    if first in ("-h", "--help"):
        print(listing(groups, prog, description))
        sys.exit(0)
    if first == "--version":
        print(f"pcdiff {__version__}")
        sys.exit(0)
    if first not in known:
        got = "none" if first is None else repr(first) + closest(first, known)
        raise InputError(f"the first argument must be a command, one of {', '.join(known)}; got {got}")
    return first, list(argv[1:])


def listing(groups: Groups, prog: str, description: str) -> str:
    """Return the text of `--help`: every command with its line, by group."""
    width = max(len(name) for group in groups.values() for name in group)
    lines = [f"usage: {prog} COMMAND [flags]", "", description.strip()]
    for title, group in groups.items():
        lines += ["", f"{title}:", *(f"  {name:{width}}  {summary}" for name, summary in group.items())]
    return "\n".join([*lines, "", f"The flags of one command: {prog} COMMAND --help"])
