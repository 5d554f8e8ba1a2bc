"""The flags of `pcdiff sample`, `interpolate` and the other commands that use a trained model on files."""

from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.commands.flags import COMMANDS, Command, check


def parse(name: str, argv: Sequence[str], prog: str | None = None) -> Command:
    """Return the command `name` of `COMMANDS`, its flags filled in.

    Raises:
        InputError: a mistake in the flags, or a value out of range.
    """
    command = cli.parse(COMMANDS[name], argv, prog=prog, where=name)
    check(command)
    return command


def main(name: str, argv: Sequence[str], prog: str) -> None:
    """Read the flags of a command, and do it."""
    command = parse(name, argv, prog)
    from pcdiff.commands.run_command import perform

    perform(command)
