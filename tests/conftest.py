"""Shared fixtures: where the golden files and the real data lie, and what this machine has."""

import gc
import os
from pathlib import Path

import h5py
import pytest
import torch
from nursery import Nursery
from script_tools import train

from pcdiff.data import procedural

ROOT = Path(__file__).resolve().parent.parent

# Until all tests are collected next to nothing becomes garbage, and what was imported stays: looking through it for
# garbage again and again takes a twentieth of the time of all tests.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


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


# What takes longest. Workers take whole files, since tests of a file share what was trained, in the order of this
# list: none is left with one of these while the others wait. (By `--no-loadscope-reorder`; else the files of fewest
# tests would come last.)
LONGEST = """
training/test_faults.py training/test_shared_training.py test_scripts.py test_evaluate.py ops/test_approxmatch.py
ops/test_cuda_bodies.py image_pipeline/test_image_commands.py ops/test_ops_backend.py ops/test_sinkhorn.py
image_pipeline/test_every_objective.py ops/test_knn.py test_evaluate_jobs.py ops/test_chamfer_derivatives.py
image_pipeline/test_image_training.py diffusion/test_solvers.py image_pipeline/test_golden_conversion.py
flows/test_flows.py diffusion/test_default_times.py diffusion/test_likelihood.py test_flow_priors.py
diffusion/test_constraint.py image_pipeline/test_score_checkpoints.py image_pipeline/test_ncsn_checkpoints.py
test_long_runs.py commands/test_commands.py test_refused_first.py training/test_budget.py
""".split()


def pytest_collection_modifyitems(items):
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))
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
                file[f"{synset}/{split}"] = procedural.shape_clouds(name, split, count)[:, :64]
    return path


@pytest.fixture(scope="session")
def generator_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "gen"
    return train("train_gen.py", dataset, out, "--max-iters", 12, "--val-every", 6, cell=None)


@pytest.fixture(scope="session")
def autoencoder_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ae"
    return train("train_ae.py", dataset, out, "--max-iters", 12, "--val-every", 6, cell=None)
