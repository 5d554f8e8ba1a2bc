"""Shared fixtures: where the golden files and the real data lie, and what this machine has."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{variable}: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of golden files (`PCDIFF_GOLDEN`), or skip aloud."""
    return _folder("PCDIFF_GOLDEN", "golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data (`PCDIFF_SHARED_DATA`), or skip aloud."""
    return _folder("PCDIFF_SHARED_DATA", "data")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
