"""The paths that every test of the ops' values runs on."""

import pytest

from pcdiff import ops

PATHS = [*ops.cpu_capabilities(), "reference"]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Run the test once on each instruction set and once on the PyTorch reference."""
    if request.param == "reference":
        monkeypatch.setattr("pcdiff.ops._native._missing", "hidden by the test")
        monkeypatch.setattr("pcdiff.ops._native._warned", {"cpu"})
    else:
        monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", request.param)
    return request.param
