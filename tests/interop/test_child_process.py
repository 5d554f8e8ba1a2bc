"""HDF5 files are looked at by a child process first: what crashes the library there does not crash it here."""

import os
import signal

import h5py
import numpy as np
import pytest

from pcdiff.data import load_clouds
from pcdiff.errors import InputError
from pcdiff.interop import child_process, read_cloud_set

CLOUDS = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)


def written(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("clouds", data=CLOUDS, **options)
    return path


@pytest.fixture
def looker(monkeypatch):
    """Give a fresh looker in the place of the process's own."""
    fresh = child_process._Looker()
    monkeypatch.setattr(child_process, "_LOOKER", fresh)
    yield fresh
    fresh.end()


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf", "fletcher32": True}]
)
def test_the_usual_packings_are_read(tmp_path, options):
    np.testing.assert_array_equal(read_cloud_set(written(tmp_path / "a.h5", **options)).clouds, CLOUDS)


def test_another_filter_is_refused_by_name(tmp_path):
    path = written(tmp_path / "a.h5", scaleoffset=3, chunks=True)
    with pytest.raises(
        InputError, match=r"a\.h5: /clouds: packed by the filter b'scaleoffset' .*; pack it by one of gzip"
    ):
        read_cloud_set(path)


def test_a_crash_in_the_child_is_one_line_and_the_next_file_is_read(tmp_path, looker, monkeypatch):
    good = written(tmp_path / "good.h5")
    crashing = tmp_path / "child.py"
    crashing.write_text(
        "import sys, os, signal\nfor line in sys.stdin:\n"
        "    if 'bad' in line: os.kill(os.getpid(), signal.SIGSEGV)\n    print('null', flush=True)\n"
    )
    monkeypatch.setattr(child_process, "_CHILD", crashing)
    bad = written(tmp_path / "bad.h5")
    for _ in range(2):  # what was found is remembered
        with pytest.raises(InputError, match=rf"bad\.h5: crashes the hdf5 library \(status -{signal.SIGSEGV:d}\)"):
            read_cloud_set(bad)
    assert len(read_cloud_set(good).clouds) == 2


def test_a_child_that_does_not_answer_is_ended(tmp_path, looker, monkeypatch):
    silent = tmp_path / "child.py"
    silent.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(child_process, "_CHILD", silent)
    monkeypatch.setattr(child_process, "_PATIENCE", 0.2)
    with pytest.raises(InputError, match=r"a\.h5: holds up the hdf5 library"):
        read_cloud_set(written(tmp_path / "a.h5"))


def test_a_child_that_left_is_started_again(tmp_path, looker):
    read_cloud_set(written(tmp_path / "a.h5"))
    looker._child.stdin.close()
    looker._child.wait()
    looker._child.stdin = open(os.devnull, "wb")  # noqa: SIM115 - closed by the looker
    assert len(read_cloud_set(written(tmp_path / "b.h5")).clouds) == 2


def test_a_file_is_looked_at_once_until_it_changes(tmp_path, looker, monkeypatch):
    path, asked = written(tmp_path / "a.h5"), []
    monkeypatch.setattr(looker, "_asked", lambda kind, path: asked.append(path))
    read_cloud_set(path)
    read_cloud_set(path)
    assert len(asked) == 1
    os.utime(path, (1, 1))
    read_cloud_set(path)
    assert len(asked) == 2


def test_a_data_set_of_clouds_is_looked_at_too(tmp_path, looker, monkeypatch):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for split in ("train", "val", "test"):
            file.create_dataset(f"03001627/{split}", data=CLOUDS, scaleoffset=3)
    with pytest.raises(InputError, match=r"a\.hdf5: /03001627/.*: packed by the filter"):
        load_clouds(path, "chair", "train", "none")


def test_damage_is_told_as_h5py_tells_it(tmp_path):
    path = written(tmp_path / "a.h5", compression="gzip")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.h5: truncated, damaged or not an HDF5 file"):
        read_cloud_set(path)
