"""The paths that every test of the ops' values runs on."""

import pytest

from pcdiff import ops

PATHS = [*ops.cpu_capabilities(), "reference"]


def take(path, monkeypatch):
    if path == "reference":
        monkeypatch.setattr("pcdiff.ops._native._missing", "hidden by the test")
        monkeypatch.setattr("pcdiff.ops._native._warned", {"cpu"})
    else:
        monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", path)
    return path


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Run the test once on each instruction set and once on the PyTorch reference."""
    return take(request.param, monkeypatch)


@pytest.fixture(params=[PATHS[-2:][0], *(pytest.param(path, marks=pytest.mark.slow) for path in PATHS[1:][-1:])])
def native_or_not(request, monkeypatch):
    """Run the test on the fastest instruction set, and by `make test-all` on the PyTorch reference too.

    For what Python makes of the kernels' values, such as derivatives: other tests show that the instruction sets
    and the reference return the same bits. `make test-isa` takes the others as well.
    """
    return take(request.param, monkeypatch)
