"""What a part needs of its denoiser: stated once, at the part, and checked before any work."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.denoisers.variance import LEARNED
from pcdiff.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


class Need(NamedTuple):
    """Something that a denoiser has or lacks.

    Attributes:
        what: in words, behind "needs".
        met: returns whether a denoiser has it.
        found: what it has instead, in words.
    """

    what: str
    met: Callable[[Denoiser], bool]
    found: Callable[[Denoiser], str] = lambda denoiser: type(denoiser.process).__name__


CHAIN = Need("a process with num_steps", lambda denoiser: denoiser.process.num_steps is not None)
BETAS = Need("a discrete process with betas", lambda denoiser: hasattr(denoiser.process, "betas"))
NET = Need(
    "a NetDenoiser", lambda denoiser: hasattr(denoiser, "parametrization"), lambda denoiser: type(denoiser).__name__
)
LEARNED_VARIANCE = Need(
    "a denoiser with a learned variance",
    lambda denoiser: denoiser.variance in LEARNED,
    lambda denoiser: repr(denoiser.variance),
)


def needs(*what: Need) -> Callable[[Function], Function]:
    """Mark an objective `f(denoiser, ...)` with what it needs; it refuses a denoiser that lacks it.

    Example:
        >>> @needs(CHAIN)
        ... def last_step(denoiser, x0, t, noise, cond=None): ...
    """

    def mark(function: Function) -> Function:
        @functools.wraps(function)
        def checked(denoiser: Denoiser, *args: Any, **options: Any) -> Any:
            check_needs(function.__name__, checked, denoiser)
            return function(denoiser, *args, **options)

        checked.needs = what  # type: ignore[attr-defined] # type checkers know no attributes of functions
        return cast(Function, checked)

    return mark


def check_needs(name: str, function: Callable[..., Any], denoiser: Denoiser) -> None:
    """Refuse a denoiser that lacks what an objective needs; one without `needs` needs nothing.

    Raises:
        InputError: names the objective, what it needs and what there is.
    """
    for need in getattr(function, "needs", ()):
        if not need.met(denoiser):
            raise InputError(f"objective {name!r} needs {need.what}, got {need.found(denoiser)}")
