"""Refusals by kind and values, whatever their words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pcdiff.errors import InputError


@contextmanager
def refused(kind: type[InputError], **values: object) -> Iterator[None]:
    """Expect an error of a kind, whose attributes have these values."""
    with pytest.raises(kind) as caught:
        yield
    assert {name: getattr(caught.value, name) for name in values} == values
