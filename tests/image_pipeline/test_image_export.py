"""What `prepare` and `dump` write comes back, and is the same bytes every time."""

import json
import time
import zipfile

import pytest
import torch
from image_files import class_folders, stylegan_zip

from image_pipeline.data import ImageDataset, dump, load_images, prepare
from pcdiff.errors import InputError


def all_of(dataset):
    return dataset.images[torch.arange(len(dataset))]


def test_prepared_zips_come_back(tmp_path):
    class_folders(tmp_path / "source", side=12)
    source = load_images(tmp_path / "source", "all", size=4)
    counts = []
    manifest = prepare(tmp_path / "source", tmp_path / "a.zip", 4, progress=counts.append)
    again = load_images(tmp_path / "a.zip", "all")
    assert counts == list(range(1, 9))
    assert torch.equal(all_of(again), all_of(source))
    assert torch.equal(again.labels, source.labels)
    assert again.class_names == ("cat", "dog")
    assert manifest["source"] == source.identity.to_dict()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read("manifest.json")) == manifest
        table = json.loads(archive.read("dataset.json"))["labels"]
    assert table[0] == ["00000/img00000000.png", 0]


def test_the_bytes_depend_on_nothing_else(tmp_path):
    stylegan_zip(tmp_path / "source.zip")
    prepare(tmp_path / "source.zip", tmp_path / "a.zip", 4)
    time.sleep(0.01)
    prepare(tmp_path / "source.zip", tmp_path / "b.zip", 4)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_zip_of_one_split_serves_as_that_split_only(tmp_path):
    class_folders(tmp_path / "source")
    test = load_images(tmp_path / "source", "test")
    prepare(tmp_path / "source", tmp_path / "test.zip", None, split="test")
    again = load_images(tmp_path / "test.zip", "test")
    assert torch.equal(all_of(again), all_of(test))
    assert torch.equal(again.labels, test.labels)
    with pytest.raises(InputError, match="by its manifest it holds the test split, got train"):
        load_images(tmp_path / "test.zip", "train")


def test_gray_images_stay_gray(tmp_path):
    class_folders(tmp_path / "source", channels=1)
    assert prepare(tmp_path / "source", tmp_path / "a.zip", 8)["shape"] == [1, 8, 8]
    assert load_images(tmp_path / "a.zip", "all").images.shape == (8, 1, 8, 8)


def test_dumped_files_come_back(tmp_path):
    class_folders(tmp_path / "source")
    source = load_images(tmp_path / "source", "all")
    paths = dump(source, tmp_path / "out")
    assert paths[4] == tmp_path / "out" / "dog_00004.png"
    again = load_images(tmp_path / "out", "all", labels="names")
    assert torch.equal(all_of(again), all_of(source))
    assert torch.equal(again.labels, source.labels)
    assert again.class_names == source.class_names
    odd = ImageDataset(source.images, source.labels, ("a_b", "c/d"), "all", source.identity)
    assert dump(odd, tmp_path / "odd")[4].name == "1_00004.png"
    bare = ImageDataset(source.images, None, (), "all", source.identity)
    assert dump(bare, tmp_path / "bare")[4].name == "image_00004.png"


def test_errors(tmp_path):
    class_folders(tmp_path / "source")
    dataset = load_images(tmp_path / "source", "all")
    with pytest.raises(InputError, match="must be a new or empty folder"):
        dump(dataset, tmp_path / "source")
    with pytest.raises(InputError, match=r"must end in \.zip"):
        prepare(tmp_path / "source", tmp_path / "a.tar", 4)
    (tmp_path / "source" / "cat" / "001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"cat/001.png: cannot be read"):
        prepare(tmp_path / "source", tmp_path / "a.zip", 4)
    assert not (tmp_path / "a.zip").exists()
