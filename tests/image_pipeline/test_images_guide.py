"""The guide to images: its commands parse, its Python runs, its tables list what there is."""

import re
import shlex
from pathlib import Path

import pytest
from image_runs import train

from image_pipeline.commands.flags import check
from image_pipeline.commands.parsing import COMMANDS as ALL
from image_pipeline.commands.parsing import parse
from image_pipeline.configs import PRESETS, ImageRunConfig
from image_pipeline.configs.classifier import ClassifierRunConfig
from image_pipeline.nets import MODELS
from image_pipeline.training import classifier_job

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
NAMES = set(ALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command, tmp_path, monkeypatch):
    words = shlex.split(command)
    if words[0] == "torchrun":
        words = [
            "python",
            "-m",
            *words[words.index("--") + 1 :],
        ]  # without the dashes torchrun takes --run for its own
    assert words[:3] == ["python", "-m", "image_pipeline"]
    if words[3] == "train-classifier":  # whose defaults are those of a run that is not here
        monkeypatch.setattr(classifier_job, "classifier_default", lambda *places: ClassifierRunConfig())
    elif "--resume" in words:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "scores").mkdir()
        (tmp_path / "scores" / "evaluation.json").write_text("{}", encoding="utf-8")
    given = parse(words[3:])
    if not isinstance(given, ImageRunConfig | ClassifierRunConfig):
        check(given)


def test_the_python_runs(tmp_path, monkeypatch):
    run = train(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for code in [text for kind, text in BLOCKS if kind == "python"]:
        names = {}
        exec(compile(code.replace("runs/digits", str(run)), "docs/images.md", "exec"), names)
        assert names["images"].shape == names["halves"].shape == (4, 1, 8, 8)
        assert (tmp_path / "halves.png").stat().st_size > 100


def test_every_command_is_told():
    (rows,) = re.findall(r"^\| command \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    listed = [name for row in rows.splitlines() for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(NAMES)


def test_every_preset_is_told():
    (rows,) = re.findall(r"^\| presets \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    told = re.findall(r"`([\w/*]+)`", rows)
    for name in PRESETS:
        family = name.startswith(("ve/", "vp/", "subvp/"))
        assert family or name in told or name.removesuffix("_conditional") in told, name
    assert set(re.findall(r"`(ncsn|ncsnv2|ddpm|ddpmpp|ncsnpp)`", rows)) < set(MODELS)
