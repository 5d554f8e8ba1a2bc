"""Cases of a test, of which `make test` runs the first ones and `make test-all` all."""

from collections.abc import Iterable

import pytest


def first(count: int, cases: Iterable) -> list:
    """Return the cases, all but the first `count` of them marked slow: they repeat what those show."""
    cases = list(cases)
    return cases[:count] + [pytest.param(*_values(case), marks=pytest.mark.slow) for case in cases[count:]]


def _values(case: object) -> tuple:
    return case if isinstance(case, tuple) else (case,)
