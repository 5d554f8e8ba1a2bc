"""Image files and folders that nobody's program wrote, and disks that are full: one line, and nothing dies."""

import errno
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_files import lsun_lmdb, pictures, png, stylegan_zip
from PIL import Image

from image_pipeline.configs import ImageRunConfig, read_config
from image_pipeline.data import files as image_files_module
from image_pipeline.data import load_images, stored_images
from image_pipeline.data.image_files import read_images
from image_pipeline.data.unpickling import load_arrays
from pcdiff.config import to_json
from pcdiff.errors import InputError
from pcdiff.runtime.resumable import ResumableMap


def read(place, **options):
    dataset = load_images(place, "all", **options)
    return dataset.images[torch.arange(len(dataset))]


def refused(place, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        read(place, **options)
    assert str(caught.value).isprintable()


def test_a_zip_member_without_a_name(tmp_path):
    path = tmp_path / "a.zip"
    stylegan_zip(path, with_labels=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"nameless")
    assert len(load_images(path, "all")) == 9


def test_a_damaged_directory_of_a_zip(tmp_path):
    path = tmp_path / "a.zip"
    stylegan_zip(path, with_labels=False)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    for place in range(start, len(whole), 7):  # every field of the directory meets a zero
        path.write_bytes(whole[:place] + b"\0\0" + whole[place + 2 :])
        try:
            read(path)
        except InputError as error:
            text = str(error)
            assert text.isprintable(), text


def test_a_member_that_unpacks_to_more_than_an_image_has(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(5000))
    monkeypatch.setattr(image_files_module, "_LARGEST", 4096)
    refused(tmp_path / "a.zip", r"a\.zip: a\.png: unpacks to 5000 bytes, more than an image has")


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [["a.png", "one\ntwo\x1b[2J"]]},
        {"labels": [["a.png"]]},
        {"labels": {"a\nb": 1}},
        {"labels": [["a.png", 0]], "class_names": {"a\nb": 1}},
        {"labels": [["a.png", 10**12]]},
        {"labels": 5},
        [1],
    ],
)
def test_labels_of_another_kind(tmp_path, content):
    png(tmp_path / "a.png", pictures(1, side=8)[0])
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    refused(tmp_path, r"dataset\.json: ")
    for text, message in (("[" * 9999, "nested deeper"), ('{"labels": ' + "9" * 5000 + "}", "an integer of 5000")):
        (tmp_path / "dataset.json").write_text(text)
        refused(tmp_path, message)


def test_a_name_of_several_lines_stays_in_one(tmp_path):
    png(tmp_path / "a\nb\x1b[2J.png", pictures(1, side=8)[0])
    (tmp_path / "dataset.json").write_text('{"labels": []}')
    refused(tmp_path, r"must give a\\nb\\x1b\[2J\.png a class number")


def test_names_that_are_no_utf_8_are_read(tmp_path):
    for k in range(2):
        png(tmp_path / "plain" / f"{k}.png", pictures(1, side=8)[0])
    os.rename(tmp_path / "plain" / "0.png", os.fsencode(tmp_path / "plain") + b"/\xff0.png")
    assert len(load_images(tmp_path / "plain", "all")) == 2


def test_a_link_that_leads_nowhere(tmp_path):
    png(tmp_path / "a.png", pictures(1, side=8)[0])
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    refused(tmp_path, r"b\.png: (leads nowhere|cannot be read)")


LIMITS = SimpleNamespace(batch_size=2, max_iters=None)


def drawn(k, progress=None):
    return torch.full((2, 1, 4, 4), k, dtype=torch.uint8)


def test_what_was_drawn_comes_back(tmp_path):
    images = stored_images.generated(tmp_path / "a.npy", (6, 1, 4, 4), LIMITS, drawn, ResumableMap())
    assert images[torch.arange(6)].flatten(1)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_disk_without_room_is_noticed_before_the_first_image(tmp_path, monkeypatch):
    def full(handle, start, size):
        assert (start, size) == (0, 128 + 96)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match=r"a\.partial\.npy: cannot write \(No space left on device\); make room"):
        stored_images.generated(tmp_path / "a.npy", (6, 1, 4, 4), LIMITS, drawn, ResumableMap())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_later_is_one_line_and_no_signal():
    with pytest.raises(InputError, match=r"/dev/full: cannot write \(No space left on device\); it is kept"):
        stored_images._write(Path("/dev/full"), 0, bytes(10_000))


def test_a_draft_of_another_kind_is_made_anew(tmp_path):
    for other in (
        np.zeros((6, 4, 4, 1)),
        np.zeros((5, 4, 4, 1), np.uint8),
        np.asfortranarray(np.zeros((6, 4, 4, 1), np.uint8)),
    ):
        np.save(tmp_path / "a.partial.npy", other)
        assert len(stored_images.generated(tmp_path / "a.npy", (6, 1, 4, 4), LIMITS, drawn, ResumableMap())) == 6
    (tmp_path / "a.partial.npy").write_bytes(b"\x93NUMPY" + struct.pack("<BBH", 1, 0, 9) + b"nonsense\n")
    assert len(stored_images.generated(tmp_path / "a.npy", (6, 1, 4, 4), LIMITS, drawn, ResumableMap())) == 6


def test_a_class_that_asks_for_a_name_for_every_number_below_it(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 10**12]))
    refused(tmp_path / "a.npz", r"arr_1 must be classes below 1,000,000, got up to 1000000000000")


def test_a_damaged_lmdb_is_one_line(tmp_path):
    pytest.importorskip("lmdb")
    lsun_lmdb(tmp_path / "a")
    path = tmp_path / "a" / "data.mdb"
    whole = path.read_bytes()
    for place in range(0, len(whole), 401):  # page numbers among them: what they lead to may be nowhere
        path.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        try:
            read(tmp_path / "a")
        except InputError as error:
            text = str(error)
            assert text.isprintable(), text


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"just bytes")
    refused(tmp_path / "a.npz", r"a\.npz: cannot be read as images \(arr_0 is no array\)")


@pytest.mark.parametrize("value", [{}, [1], 5, True])
@pytest.mark.parametrize(
    "place", ["net", "process.name", "process.predicts", "sampling.grid", "objective.objectives"]
)
def test_a_config_that_names_no_names(tmp_path, place, value):
    values = json.loads(to_json(ImageRunConfig()))
    part, _, name = place.rpartition(".")
    (values[part] if part else values)[name] = [value] if name == "objectives" else value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"config\.json: "):
        read_config(tmp_path)


def test_arrays_of_protocol_5_own_their_numbers(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for order in ("C", "F"):
        (tmp_path / "a").write_bytes(pickle.dumps(np.asarray(array, order=order), protocol=5))
        found = load_arrays(tmp_path / "a")
        assert found.flags.owndata or found.base is None or isinstance(found.base, np.ndarray)
        assert np.array_equal(found, array)


def test_pixels_that_a_file_cannot_hold_are_refused_before_there_is_memory_for_them(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    # the tag ImageLength, 257: SHORT or LONG, one value
    at = content.index((257).to_bytes(2, "little"))
    content[at : at + 12] = struct.pack("<HHII", 257, 4, 1, 2**22)
    (tmp_path / "a.tif").write_bytes(content)
    message = rf"a\.tif: damaged: {len(content)} bytes do not hold 8 x 4194304 pixels"
    with pytest.raises(InputError, match=message):
        read_images(tmp_path / "a.tif", None)
    with pytest.raises(InputError, match=message):
        load_images(tmp_path, "all", size=8).images[:1]
