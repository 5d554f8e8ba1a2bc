"""The paths that every test of the ops' values runs on."""

import pytest
from cases import first

from pcdiff import ops

PATHS = [*ops.cpu_capabilities(), "reference"]


def take(path, monkeypatch):
    if path == "reference":
        monkeypatch.setattr("pcdiff.ops._native._missing", "hidden by the test")
        monkeypatch.setattr("pcdiff.ops._native._warned", {"cpu"})
    else:
        monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", path)
    return path


@pytest.fixture(params=first(2, PATHS[::-1]))
def path(request, monkeypatch):
    """Run the test on the PyTorch reference and the fastest instruction set; by `make test-all` on each of them.

    `make test-isa` lowers what is the fastest.
    """
    return take(request.param, monkeypatch)


@pytest.fixture(params=first(1, PATHS[-2:]))
def native_or_not(request, monkeypatch):
    """Run the test on the fastest instruction set, and by `make test-all` on the PyTorch reference too.

    For what Python makes of the kernels' values, such as derivatives: other tests show that the instruction sets
    and the reference return the same bits. `make test-isa` takes the others as well.
    """
    return take(request.param, monkeypatch)
