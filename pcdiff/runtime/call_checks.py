"""Plain mistakes among the arguments of a call: one line that names the argument, where it is made."""

import functools
import inspect
import numbers
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
import torch

from pcdiff.errors import InputError, WrongType

F = TypeVar("F", bound=Callable[..., Any])


@typing.overload
def checked(function: F) -> F: ...


@typing.overload
def checked(*, renamed: Mapping[str, str]) -> Callable[[F], F]: ...


def checked(function: Callable[..., Any] | None = None, *, renamed: Mapping[str, str] | None = None) -> Any:
    """Return the function with its arguments checked against their names and plain annotations.

    An argument that is unknown, missing or given twice, and one that does not match its annotation, is refused.
    Checked are numbers, texts, tensors, generators, callables and sequences, and unions of them; what has another
    annotation passes. What an argument may be beyond its kind, its range above all, the function checks itself.

    Example:
        >>> @checked
        ... def half(x: float): return x / 2
        >>> half("a")
        Traceback (most recent call last):
        pcdiff.errors.WrongType: x must be a number, got 'a'

    Args:
        function: what is called; without it (`@checked(renamed=...)`) a decorator is returned.
        renamed: former names of keywords, each with the name of today; the former ones are refused with that name.
    """
    if function is None:
        return functools.partial(checked, renamed=renamed)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        for former in kwargs.keys() & (renamed or {}).keys():
            raise InputError(f"{function.__name__}(): {former} is called {renamed[former]} now")
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{function.__name__}(): {error}{_nearest(kwargs, signature)}") from None
        check_kinds(function, bound.arguments)
        return function(*args, **kwargs)

    return call


def check_kinds(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments, by name, that do not match the function's annotations.

    Raises:
        WrongType: names the argument, what was expected and what came.
    """
    kinds = _kinds(function)
    for name, value in arguments.items():
        expected = kinds.get(name)
        if expected is not None and not any(fits(value) for _, fits in expected):
            raise WrongType(name, " or ".join(what for what, _ in expected), value)


def _nearest(given: Mapping[str, Any], signature: inspect.Signature) -> str:
    takes = [name for name in signature.parameters if name not in ("self", "args", "kwargs", "options")]
    unknown = [name for name in given if name not in takes]
    near = get_close_matches(unknown[0], takes, n=1) if unknown else []
    return f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(takes)}"


_Kind = tuple[str, Callable[[Any], bool]]


def _is_integer(value: Any) -> bool:
    try:
        operator.index(value)
    except (TypeError, RuntimeError):  # the latter of a tensor with many numbers
        return False
    return not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__")


_PLAIN: dict[Any, _Kind] = {
    int: ("an integer", _is_integer),
    float: ("a number", _is_real),
    bool: ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    str: ("a text", lambda value: isinstance(value, str)),
    torch.Tensor: ("a tensor", lambda value: isinstance(value, torch.Tensor)),
    torch.Generator: ("a torch.Generator", lambda value: isinstance(value, torch.Generator)),
    types.NoneType: ("None", lambda value: value is None),
}


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, list[_Kind]]:
    """Return what each argument with a plain annotation must be."""
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hints = typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker understands
        return {}
    starred = {
        name
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    found: dict[str, list[_Kind]] = {}
    for name, hint in hints.items():
        kinds = [_kind(part) for part in _parts(hint)]
        known = [kind for kind in kinds if kind is not None]
        if name not in ("return", *starred) and len(known) == len(kinds):
            found[name] = known
    return found


def _parts(hint: Any) -> Sequence[Any]:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _kind(hint: Any) -> _Kind | None:
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin = typing.get_origin(hint)
    if origin is Callable:
        return ("a function", callable)
    if origin in (Sequence, list, tuple):
        return ("a sequence", _is_sequence)
    return None
