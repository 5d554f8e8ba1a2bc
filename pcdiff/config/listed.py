"""`--help` lists the registered names of a part, read from its registry when the help is shown."""

from importlib import import_module
from typing import Any

import tyro


def listed(registry: str) -> Any:
    """Return the annotation of a field that holds a name, or several, of a registry.

    The registry is imported only where the help is shown, since flags without parts must not wait for PyTorch.

    Args:
        registry: `MODULE:NAME`.
    """
    module, _, name = registry.partition(":")

    def hint(default: str) -> str:
        names = ", ".join(getattr(import_module(module), name))
        return f"One of: {names}. (default: {default})"

    return tyro.conf.arg(help_behavior_hint=hint)
