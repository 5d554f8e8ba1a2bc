"""What trained models do on files, behind `python -m pcdiff`."""

from pcdiff.commands.flags import AnyCommand, check
from pcdiff.commands.perform import perform

__all__ = ["AnyCommand", "check", "perform"]
