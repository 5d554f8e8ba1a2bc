"""What cannot end well is refused before anything is begun; and a reader that leaves is no error."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from script_tools import ROOT, TINY, script

from image_pipeline.nets import build_model
from pcdiff.errors import InputError
from pcdiff.training.validation import GeneratorValidation


@pytest.mark.parametrize("every", [0, 2])
def test_one_validation_cloud(tmp_path, capsys, every):
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        for split, count in (("train", 6), ("val", 1), ("test", 1)):
            file[f"tree/{split}"] = np.random.default_rng(0).normal(size=(count, 64, 3)).astype(np.float32)
    flags = ["--dataset-path", tmp_path / "one.hdf5", "--categories", "tree", "--out", tmp_path / "run"]
    assert script("train_gen.py", *TINY, *flags, "--max-iters", 4, "--val-every", every) == 2
    error = capsys.readouterr().err
    assert "the validation has 1 cloud, and a generator's scores need 2 or more" in error
    assert "--val-clouds" in error
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="has 1 cloud"):
        GeneratorValidation(torch.zeros(1, 4, 3), 4, 0)


def test_one_cloud_to_evaluate_against(generator_run, tmp_path, capsys):
    flags = ["--run", generator_run, "--num-samples", 1, "--out", tmp_path / "out", "--device", "cpu"]
    assert script("evaluate.py", *flags) == 2
    assert "need 2 clouds or more (1-NNA leaves one out), got 1 of the split test" in capsys.readouterr().err
    assert not (tmp_path / "out" / "samples.npy").exists()


def images(folder, count, side):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_images_that_the_net_cannot_halve(tmp_path, capsys):
    flags = ["--dataset-path", images(tmp_path / "odd", 12, 9), "--out", tmp_path / "run", "--max-iters", 1]
    flags += ["--model.num-classes", "None", "--model.no-null-class", "--val-every", 0, "--device", "cpu"]
    assert script("image_pipeline/__main__.py", "train", *flags) == 2
    error = capsys.readouterr().err
    assert (
        "the images do not fit the net unet: x must have sizes divisible by 2, got (9, 9); take --size N" in error
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "ddpmpp", "song"])
def test_nets_tell_their_sizes_before_they_are_called(name):
    small = {"model_channels": 8, "channel_mult": [1, 1]} if name == "song" else {"nf": 4}
    net = build_model({"name": name, **small})
    net.check_sizes((32, 16))
    with pytest.raises(InputError, match=r"multiples of \d+, at least \d+, got \(32, 17\)"):
        net.check_sizes((32, 17))


def test_too_few_images_are_told_with_numbers_and_flags(tmp_path, capsys):
    for count, match in (
        (5, "which 5 images are too few for; give 6 or more"),
        (6, "one in ten of 5 training images"),
    ):
        folder = images(tmp_path / str(count), count, 8)
        assert script("image_pipeline/__main__.py", "train", "--dataset-path", folder, "--device", "cpu") == 2
        error = capsys.readouterr().err
        assert match in error
        assert "--split all" in error or "--val-every 0" in error


@pytest.mark.parametrize("lines", [1, 100_000])  # in the buffer until the end, and not
def test_a_reader_that_leaves_gets_no_traceback(lines):
    code = f"from pcdiff.commands import cli; cli.run(lambda: [print('x') for _ in range({lines})] and None)"
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    program.stdout.close()  # before anything is written: the import takes seconds
    assert (program.stderr.read(), program.wait()) == ("", 141)
    program.stderr.close()


def test_another_pipe_that_breaks_is_told():
    code = "from pcdiff.commands import cli; import os; r, w = os.pipe(); os.close(r); "
    code += "cli.run(lambda: os.write(w, b'x'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_every_script_runs_under_cli():
    scripts = ["train_gen.py", "train_ae.py", "evaluate.py", "pcdiff/__main__.py", "image_pipeline/__main__.py"]
    scripts += [f"benchmarks/{name}.py" for name in ("images", "metrics", "ops", "sampling", "startup", "training")]
    for name in scripts:
        assert (ROOT / name).read_text().rstrip().endswith('if __name__ == "__main__":\n    cli.run(main)'), name
