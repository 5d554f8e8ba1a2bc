"""Shared fixtures: where the golden files and the real data lie, and what this machine has."""

import os
from pathlib import Path

import h5py
import pytest
import torch
from nursery import Nursery
from script_tools import train

from pcdiff.data import load_clouds

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


@pytest.fixture(scope="session")
def reports() -> Path:
    """Return the folder of small odd files (`PCDIFF_SHARED_REPORTS`, or beside the real data), or skip aloud."""
    data = os.environ.get("PCDIFF_SHARED_DATA")
    if data is None or "PCDIFF_SHARED_REPORTS" in os.environ:
        return _folder("PCDIFF_SHARED_REPORTS", "reports")
    return _folder("PCDIFF_SHARED_REPORTS", str(Path(data).absolute().parent / "reports"))


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session")
def nursery():
    """Start a process whose children run scripts without importing everything anew."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Write a small file in the shapenet.hdf5 layout, from the built-in shapes."""
    path = tmp_path_factory.mktemp("data") / "small.hdf5"
    with h5py.File(path, "w") as file:
        for synset, name in (("03001627", "chair"), ("02691156", "airplane")):
            for split, count in (("train", 10), ("val", 6), ("test", 6)):
                clouds = load_clouds(None, name, split, "none").points[:count, :64]
                file[f"{synset}/{split}"] = clouds.numpy()
    return path


@pytest.fixture(scope="session")
def generator_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "gen"
    return train("train_gen.py", dataset, out, "--max-iters", 12, "--val-every", 6)


@pytest.fixture(scope="session")
def autoencoder_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ae"
    return train("train_ae.py", dataset, out, "--max-iters", 12, "--val-every", 6)
