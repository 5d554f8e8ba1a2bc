"""What a data set is, in plain values that a checkpoint or a result file keeps."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from pcdiff.errors import InputError

T = TypeVar("T", bound="Identity")


@dataclass(frozen=True)
class Identity:
    """To and from JSON for a frozen dataclass whose fields are plain values and tuples of them.

    Attributes:
        kind: what it is called in messages.
    """

    kind: ClassVar[str] = "data set identity"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls: type[T], entries: dict[str, Any]) -> T:
        """Rebuild from `to_dict`.

        Raises:
            InputError: a key is missing or unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(entries) != expected:
            raise InputError(f"{cls.kind} must have the keys {sorted(expected)}, got {sorted(map(str, entries))}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})
