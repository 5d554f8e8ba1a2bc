"""Parts by name: a mapping from names to what makes the parts, which checks names and options."""

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from pcdiff.errors import InputError, UnknownField, UnknownName
from pcdiff.runtime.call_checks import check_kinds
from pcdiff.runtime.dataclass_json import from_dict
from pcdiff.runtime.user_modules import is_place, load_attribute

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """Names of one kind of part, each with the class or function that makes it.

    A part's options are the fields of its `Config`, a dataclass, where its class has one, and the part is then made
    of a `Config`; else they are the parameters of the class or function. It is a mapping, so that `name in NETS`,
    `sorted(NETS)`, `NETS["mine"] = MyNet` and `del NETS["mine"]` do what they do with a dict; aliases and parts
    from outside are found by name but not listed.

    Args:
        kind: what is chosen, as messages call it ("net").
        entries: the first names.
        given: parameters that are no options: whoever calls the part gives them, such as an objective's `x0`.
        aliases: former names, each with the name of today.

    Example:
        >>> NETS = Registry("net")
        >>> @NETS.register("linear")
        ... class Linear(torch.nn.Module):
        ...     @dataclasses.dataclass(frozen=True)
        ...     class Config:
        ...         width: int = 8
        ...
        ...     def __init__(self, config):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(config.width, 3)
        >>> NETS.build("linear", width=4).layer.in_features
        4
        >>> NETS.resolve("torch.nn:Identity")  # a class from outside; from now on NETS.build takes that name
        <class 'torch.nn.modules.linear.Identity'>
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, T] | None = None,
        *,
        given: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
    ):
        self.kind, self.given = kind, tuple(given)
        self.aliases = dict(aliases or {})
        self._entries: dict[str, T] = dict(entries or {})
        self._outside: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        return self._outside[name] if name in self._outside else self._entries[self.aliases[name]]

    def __setitem__(self, name: str, part: T) -> None:
        self._entries[name] = part

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {sorted(self)})"

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Return a decorator that enters a class or function under a name, and returns it unchanged.

        Raises:
            InputError: the name is another part's already.
        """

        def enter(part: T) -> T:
            for key in (name, *aliases):
                # the same file run twice makes the same part anew
                if (there := self.get(key)) is not None and _identity(there) != _identity(part):
                    raise InputError(f"{self.kind} {key!r} is taken, by {_identity(there)}; choose another name")
            self._entries[name] = part
            self.aliases.update(dict.fromkeys(aliases, name))
            return part

        return enter

    def lookup(self, name: str) -> T:
        """Return the class or function of a name.

        Raises:
            InputError: the name is unknown; the message lists the known ones, or states that the part is from
                outside the package, which a name alone does not import.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        if isinstance(name, str) and is_place(name):
            raise InputError(f"{self.kind} {name!r} comes from outside the package; name it to have it imported")
        raise UnknownName(self.kind, name, sorted(self))

    def canonical(self, name: str) -> str:
        """Return the name of today: an alias's own, and any other as it is.

        Raises:
            InputError: see `lookup`.
        """
        self.lookup(name)
        return name if name in self._entries else self.aliases.get(name, name)

    def name_of(self, part: Any) -> str | None:
        """Return the registered name of a class or function, not an alias; None where it has none."""
        known = [*self._entries.items(), *self._outside.items()]
        return next((name for name, other in known if other is part), None)

    def resolve(self, name: str) -> T:
        """Return the class or function of a name, imported where it is a place: `FILE.py:NAME` or `MODULE:NAME`.

        It runs that file, so it is for names that a user gave, not for those that a checkpoint holds: `lookup`
        finds only what has been resolved. From then on the place is a name like others.

        Raises:
            InputError: the name is unknown, or the file, the module or the name in it is not there, or fails.
        """
        if name in self or not (isinstance(name, str) and is_place(name)):
            return self.lookup(name)
        self._outside[name] = load_attribute(name, self.kind)
        return self._outside[name]

    def options(self, name: str) -> list[str]:
        """Return the names of a part's options.

        Raises:
            InputError: see `lookup`.
        """
        part = self.lookup(name)
        takes = inspect.signature(getattr(part, "Config", part)).parameters
        return [key for key in takes if key not in self.given]

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a name that is unknown, or options that its part does not take.

        Raises:
            InputError: the name or an option is unknown (the message lists the known ones), or an option is of
                another kind than its annotation.
        """
        part = self.lookup(name)
        if hasattr(part, "Config"):
            self.config(name, **options)
            return
        takes = self.options(name)
        if unknown := sorted(set(options) - set(takes)):
            raise UnknownField(f"{self.kind} {name!r} takes {takes}, got {unknown}", unknown, takes)
        check_kinds(part, options)

    def config(self, name: str, /, **options: Any) -> Any:
        """Return the `Config` of a part with these fields, sequences as tuples.

        Raises:
            InputError: the name or a field is unknown, a value does not fit, or the part has no `Config`.
        """
        part = self.lookup(name)
        if not hasattr(part, "Config"):
            raise InputError(f"{self.kind} {name!r} has no Config; its options are {self.options(name)}")
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
        return from_dict(part.Config, values, f"{self.kind} {name!r}")

    def bind(self, name: str, /, **options: Any) -> Callable[..., Any]:
        """Return a function by name, its options bound; the parameters that are `given` are left to the caller.

        Raises:
            InputError: see `check`.
        """
        self.check(name, options)
        part: Any = self[name]
        return partial(part, **options) if options else part

    def build(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Make a part by name.

        Args:
            name: a name or an alias.
            *args: what every part of this kind takes besides its options, before them (after its `Config`).
            **options: its options.

        Raises:
            InputError: the name or an option is unknown (the message lists the known ones), or one is missing.
        """
        part = self.lookup(name)
        if hasattr(part, "Config"):
            return part(self.config(name, **options), *args)
        self.check(name, options)
        parameters = [p for p in inspect.signature(part).parameters.values() if p.name not in self.given]
        needed = [p for p in parameters[len(args) :] if p.default is p.empty and p.kind not in _STARRED]
        if missing := [p.name for p in needed if p.name not in options]:
            raise InputError(f"{self.kind} {name!r} needs {missing}")
        return part(*args, **options)

    def facts(self, *attributes: str) -> dict[str, dict[str, Any]]:
        """Return, by name, the values of these attributes of each part; None where it does not have one.

        Example:
            >>> PREDICTORS.facts("evaluations")["heun"]
            {'evaluations': 2}
        """
        return {name: {key: getattr(part, key, None) for key in attributes} for name, part in self.items()}


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _identity(part: Any) -> str:
    return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', repr(part))}"
