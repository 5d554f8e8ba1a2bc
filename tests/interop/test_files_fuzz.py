"""Whatever bytes a file holds, it gives checked clouds or an `InputError` of one line, and runs nothing."""

import os
import struct

import h5py
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set
from pcdiff.interop.files import SUFFIXES

CLOUDS = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
BOX = trimesh.creation.box((1, 2, 3))
PCD = b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA "
PCD_BODIES = {
    "ascii": b"0 1 2\n3 4 5\n-6 7 8\n",
    "binary": CLOUDS[0].tobytes(),
    # 32 + 4 literal bytes: nothing is compressed
    "binary_compressed": struct.pack("<IIB", 38, 36, 31) + CLOUDS.tobytes()[:32] + b"\3" + CLOUDS.tobytes()[32:36],
}
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Trap:
    """Makes a folder if it is ever unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def samples(folder):
    """Write small sound files of every format, and some with code in them."""
    np.save(folder / "a.npy", CLOUDS)
    np.savez(folder / "stored.npz", CLOUDS)
    np.savez_compressed(folder / "a.npz", CLOUDS)
    for name in ("a.h5", "a.hdf5"):
        with h5py.File(folder / name, "w") as file:
            file["clouds"] = CLOUDS
    torch.save(list(torch.from_numpy(CLOUDS)), folder / "a.pt")
    torch.save({"clouds": torch.from_numpy(CLOUDS)}, folder / "a.pth", _use_new_zipfile_serialization=False)
    for kind in ("off", "obj", "stl", "glb"):
        BOX.export(folder / f"a.{kind}")
    for encoding in ("ascii", "binary"):
        (folder / f"{encoding}.ply").write_bytes(BOX.export(file_type="ply", encoding=encoding))
    (folder / "text.stl").write_text(BOX.export(file_type="stl_ascii"))
    np.savetxt(folder / "a.xyz", CLOUDS[0])
    for form, body in PCD_BODIES.items():
        (folder / f"{form}.pcd").write_bytes(PCD + form.encode() + b"\n" + body)
    for path in list(folder.iterdir()):
        read_cloud_set(path)
    np.save(folder / "trap.npy", np.array([Trap(folder / "ran")], dtype=object), allow_pickle=True)
    np.savez(folder / "trap.npz", np.array([Trap(folder / "ran")], dtype=object))
    torch.save(Trap(folder / "ran"), folder / "trap.pt", _use_new_zipfile_serialization=False)
    return sorted(path for path in folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    yield [(path.name, path.read_bytes()) for path in samples(folder)]
    assert not (folder / "ran").exists()


def try_reading(path, content):
    """Read `content` from a file; anything but sound clouds and a one-line `InputError` fails the test."""
    path.write_bytes(content)
    clouds, message = [], None
    try:
        clouds = read_cloud_set(path, mesh_points=8).clouds
    except InputError as error:
        message = str(error)
    assert bool(clouds) != bool(message)
    assert message is None or (message.startswith(str(path)) and "\n" not in message)
    for cloud in clouds:
        assert cloud.dtype in (np.float32, np.float64)
        assert cloud.shape[1:] == (3,)
        assert np.isfinite(cloud).all()
    path.unlink()


def test_every_format_is_covered(files):
    assert {os.path.splitext(name)[1] for name, _ in files} == set(SUFFIXES)


def test_truncation_at_every_length(tmp_path, files):
    for name, content in files:
        for length in range(0, len(content), 1 + len(content) // 1500):  # every length of the smaller files
            try_reading(tmp_path / name, content[:length])


@FUZZ
@given(data=st.data())
def test_changed_bytes(tmp_path, files, data):
    for name, content in files:
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            piece = data.draw(st.binary(min_size=1, max_size=4))
            changed[place : place + data.draw(st.sampled_from([0, len(piece)]))] = piece
        try_reading(tmp_path / name, bytes(changed))


@FUZZ
@given(content=st.binary(max_size=400), keep=st.integers(0, 60))
def test_random_bytes_after_a_sound_beginning(tmp_path, files, content, keep):
    for name, sound in files:
        try_reading(tmp_path / name, sound[:keep] + content)


@FUZZ
@given(
    words=st.lists(st.sampled_from("0 1 3 -1 1e400 nan 99999999999 x f v OFF ply # , \n".split(" ")), max_size=30)
)
def test_random_words(tmp_path, words):
    for suffix, head in ((".xyz", ""), (".off", "OFF"), (".obj", ""), (".stl", "solid a\n"), (".ply", "ply\n")):
        text = head + " ".join(words)
        try_reading(tmp_path / f"a{suffix}", text.encode())


def test_files_under_each_others_names(tmp_path, files):
    for _, content in files:
        for suffix in SUFFIXES:
            try_reading(tmp_path / f"a{suffix}", content)
