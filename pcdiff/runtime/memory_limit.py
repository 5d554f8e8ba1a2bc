"""Build what a file's settings describe, but no more than its tensors fill: nothing else is allocated.

Settings may ask for a layer of a billion numbers or for a billion layers. Every tensor that is asked for while a
net is built passes here first, as a size; memory comes after.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pcdiff.errors import InputError, short
from pcdiff.runtime.ranges import MOST_STEPS

T = TypeVar("T")

_MOST_LEVELS = 32
# Tables of times and noise levels are built besides the weights, and are not stored.
_NUMBERS_BESIDE = 10_000_000
_TENSORS_BESIDE = 5_000
_BY_SIZE = {"empty", "zeros", "ones", "rand", "randn", "full", "empty_strided", "randint"}
_OF_TENSORS = {f"new_{name}" for name in ("empty", "zeros", "ones", "full")}


class Budget(TorchFunctionMode):
    """Counts the tensors that torch is asked for within it, and their numbers, before they are made.

    Args:
        numbers: how many the tensors may hold together.
        tensors: how many there may be.
        there: what the budget comes from, for messages.

    Raises:
        InputError: within it, more is asked for.
    """

    def __init__(self, numbers: int, tensors: int, there: str):
        super().__init__()
        self.numbers, self.tensors, self.there = numbers, tensors, there
        self._numbers = self._tensors = 0

    @classmethod
    def of_tensors(cls, numbers: int, count: int) -> "Budget":
        """Return the budget of a file of `count` tensors with so many numbers."""
        there = f"the file holds {numbers:,} numbers in {count:,} tensors"
        return cls(2 * numbers + _NUMBERS_BESIDE, 4 * count + _TENSORS_BESIDE, there)

    @classmethod
    def of_machine(cls) -> "Budget":
        """Return the budget of a net that is trained from its start: this machine's memory, for float32."""
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40
        return cls(size // 4, 4 * _TENSORS_BESIDE, f"this machine has {size / 2**30:.0f} GiB of memory")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Count what a call makes, and refuse it where that is too much."""
        kwargs = kwargs or {}
        asked = _asked_for(func, args, kwargs)
        if asked is not None:
            self._tensors, self._numbers = self._tensors + 1, self._numbers + asked
            if self._numbers > self.numbers:
                raise InputError(f"asks for a net of {_in_digits(self._numbers)} numbers or more; {self.there}")
            if self._tensors > self.tensors:
                raise InputError(f"asks for a net of {self._tensors:,} tensors or more; {self.there}")
        return func(*args, **kwargs)


def built_for(weights: Mapping[str, Tensor] | Iterable[Tensor], make: Callable[[], T]) -> T:
    """Return `make()`, which reads a file's settings and builds what the file's tensors go into.

    Its own start, soon overwritten, costs the caller no random number.

    Args:
        weights: the tensors that are there.
        make: builds net, process and what belongs to them.

    Raises:
        InputError: it asks for more than the tensors fill, the settings are refused, or nothing comes of them.
    """
    with torch.random.fork_rng(devices=[]):
        return within(budget_for(weights), make)


def budget_for(weights: Mapping[str, Tensor] | Iterable[Tensor]) -> Budget:
    """Return the budget of what a file's tensors go into."""
    tensors = list(weights.values() if isinstance(weights, Mapping) else weights)
    return Budget.of_tensors(sum(tensor.numel() for tensor in tensors), len(tensors))


def within(budget: Budget, make: Callable[[], T]) -> T:
    """Return `make()`, built within a budget.

    Raises:
        InputError: see `built_for`.
    """
    try:
        with budget:
            return make()
    except InputError:
        raise
    except Exception as error:  # of values that no check foresaw: OverflowError, RuntimeError, IndexError, ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"no net can be built of the config: {reason}") from None


def check_count(name: str, value: Any) -> None:
    """Refuse a number of steps or levels that no process has; None passes.

    Raises:
        InputError: it is no integer in 1..`MOST_STEPS`.
    """
    if value is not None and (type(value) is not int or not 1 <= value <= MOST_STEPS):
        raise InputError(f"{name} must be an integer in 1..{MOST_STEPS}, got {value!r}")


def check_depth(name: str, value: Any) -> None:
    """Refuse a list with an entry for each level of a net that is longer than any net is deep, or not finite.

    Raises:
        InputError: it has more than 32 entries: one number in the deepest would count for 2^31 in the first; or an
            entry is infinite or NaN, which no width follows from.
    """
    if isinstance(value, list | tuple) and len(value) > _MOST_LEVELS:
        raise InputError(f"{name} must name at most {_MOST_LEVELS} levels, got {len(value)}")
    if isinstance(value, list | tuple) and any(isinstance(v, float) and not math.isfinite(v) for v in value):
        raise InputError(f"{name} must be finite numbers, got {short(value)}")


def _in_digits(count: int) -> str:
    """Return a count in digits, or in powers of ten where they are many."""
    return f"{count:,}" if count < 10**18 else f"10^{len(str(count)) - 1}"


def _asked_for(func: Any, args: tuple, kwargs: dict[str, Any]) -> int | None:
    """Return how many numbers a function that makes tensors is asked for; None for all other functions."""
    name = getattr(func, "__name__", "")
    if name in _BY_SIZE or name in _OF_TENSORS:
        given = args[1:] if name in _OF_TENSORS else args
        size = kwargs.get("size", given)
        nested = next((part for part in size if isinstance(part, tuple | list)), None)
        sizes = size if nested is None else nested
        return math.prod(part for part in sizes if type(part) is int and part >= 0)
    if name in ("linspace", "logspace"):
        steps = kwargs.get("steps", args[2] if len(args) > 2 else 0)
        return steps if type(steps) is int else 0
    if name == "arange":
        # of numbers alone; `arange(end)`, `arange(start, end)` or `arange(start, end, step)`
        numbers = [part for part in args if isinstance(part, int | float)]
        first, last, step = (*numbers, 1)[:3] if len(numbers) > 1 else (0, *(numbers or [0]), 1)
        last, step = kwargs.get("end", last), kwargs.get("step", step)
        return max(0, math.ceil((last - first) / step)) if step else 0
    if name == "eye":
        return math.prod(part for part in (args[0], args[1] if len(args) > 1 else args[0]) if type(part) is int)
    return None
