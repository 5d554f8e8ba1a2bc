"""Paths that no file can have end in one line, in the library and in every command."""

import os

import pytest
from script_tools import script

import pcdiff
from image_pipeline.data import load_images
from image_pipeline.data.image_files import read_images
from image_pipeline.interop import LOADERS
from image_pipeline.models.loading import load_model
from pcdiff.data import load_clouds
from pcdiff.errors import InputError
from pcdiff.interop import dpm, pvd, read_cloud_set
from pcdiff.metrics.comparison import read_result
from pcdiff.runtime.paths import entries, exists, is_file, is_folder, look

LONG, NUL = "x" * 300, "a\0b"
ABSURD = {"long": LONG, "nul": NUL, "long folder": f"{LONG}/inside.npy"}


def test_what_lies_there(tmp_path):
    (tmp_path / "file").touch()
    assert (is_file(tmp_path / "file"), is_folder(tmp_path / "file"), exists(tmp_path / "file")) == (
        True,
        False,
        True,
    )
    assert (is_file(tmp_path), is_folder(tmp_path)) == (False, True)
    assert look(tmp_path / "file" / "below") is None
    assert not exists(tmp_path / "gone")
    assert entries(tmp_path) == [tmp_path / "file"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=r"loop: cannot be opened \(Too many levels of symbolic links\)"):
        look(tmp_path / "loop")
    with pytest.raises(InputError, match=r"file: cannot list it \(Not a directory\)"):
        entries(tmp_path / "file")


def test_a_folder_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(InputError, match=r"shut: cannot be opened \(Permission denied\)"):
        look(tmp_path / "shut")


READERS = {
    "clouds": read_cloud_set,
    "a data set of clouds": lambda path: load_clouds(path, "all", "train", "none"),
    "images": lambda path: read_images(path, None),
    "a data set of images": load_images,
    "a run of clouds": pcdiff.load,
    "a run of images": load_model,
    "a DPM checkpoint": dpm.load,
    "a PVD checkpoint": pvd.load,
    "a result": read_result,
    **{
        f"a checkpoint of {kind}": lambda p, k=kind: LOADERS[k].load(
            *([p, {}] if LOADERS[k].config == "needed" else [p])
        )
        for kind in LOADERS
    },
}


@pytest.mark.parametrize("path", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_refuses_it_in_one_line(reader, path, tmp_path):
    with pytest.raises(InputError) as caught:
        reader(tmp_path / path)
    assert str(caught.value).isprintable()


COMMANDS = [
    ("train_gen.py", "--out {}"),
    ("train_gen.py", "--resume {}"),
    ("train_gen.py", "--dataset-path {}"),
    ("train_ae.py", "--out {}"),
    ("evaluate.py", "--run {}"),
    ("evaluate.py", "--resume {}"),
    ("evaluate.py", "--samples {} --reference {}"),
    ("evaluate.py", "--compare {}"),
    ("evaluate.py", "--samples a.npy --reference b.npy --output {}.json"),
    ("pcdiff/__main__.py", "sample --run {} --output a.npy"),
    ("pcdiff/__main__.py", "sample --run a --output {}.npy"),
    ("pcdiff/__main__.py", "reconstruct --run a --input {} --output b.npy"),
    ("image_pipeline/__main__.py", "train --out {}"),
    ("image_pipeline/__main__.py", "train --resume {}"),
    ("image_pipeline/__main__.py", "train --dataset-path {}"),
    ("image_pipeline/__main__.py", "sample --run {} --output a.png"),
    ("image_pipeline/__main__.py", "sample --run a --output {}.png"),
    ("image_pipeline/__main__.py", "evaluate --run {}"),
    ("image_pipeline/__main__.py", "evaluate --resume {}"),
    ("image_pipeline/__main__.py", "convert --kind adm --input {} --output a.safetensors"),
    ("image_pipeline/__main__.py", "prepare --source {} --output a.zip"),
]


@pytest.mark.parametrize("path", [LONG, NUL], ids=["long", "nul"])
@pytest.mark.parametrize(("name", "flags"), COMMANDS)
def test_every_command_refuses_it_in_one_line(name, flags, path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert script(name, *(flag.format(path) for flag in flags.split())) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert not list(tmp_path.iterdir())
