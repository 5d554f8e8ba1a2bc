"""The commands of the README and of the guide to evaluation parse, their make targets exist, their Python runs."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from small_models import small_run

from pcdiff.commands import cli, model_commands
from pcdiff.commands.flags import COMMANDS as ON_FILES
from pcdiff.config import EvaluateConfig, to_json
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS
from pcdiff.models import build_model
from pcdiff.nets import NETS
from pcdiff.runtime import user_modules
from pcdiff.runtime.run_folder import write_config
from pcdiff.training import checkpoint

ROOT = Path(__file__).resolve().parent.parent
TEXT = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/evaluation.md"))
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
FILES = {named[1]: text for _, text in BLOCKS if (named := re.match(r"# (\w+\.py)\n", text))}
TRAINED = {text for _, text in BLOCKS if "pcdiff.Trainer(" in text}  # run by test_notebook.py
TINY = {
    "latent_dim": 4,
    "encoder_widths": (8,),
    "encoder_head_widths": (8,),
    "flow_depth": 2,
    "flow_hidden_dim": 8,
    "net_widths": (8,),
    "num_steps": 3,
}


@pytest.fixture
def run(tmp_path):
    """A run's folder with an untrained tiny generator."""
    folder = tmp_path / "NAME"
    config = small_run(TINY)
    write_config(folder, config)
    model = build_model(config)
    metadata = {"config": json.loads(to_json(config)), "step": 0, "best": None, "dataset": {}}
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(folder / "checkpoints" / "last.safetensors", tensors, metadata)
    return folder


def test_there_is_something_to_test():
    assert len([c for c in COMMANDS if c.startswith("python ")]) >= 6
    commands = {typed.split()[1] for typed in COMMANDS if typed.startswith("pcdiff ")}
    assert commands == {*ON_FILES, "train-gen"}
    assert len([kind for kind, _ in BLOCKS if kind == "python"]) >= 2
    assert list(FILES) == ["my_net.py"]
    assert len(TRAINED) == 1


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The guides' files in the working directory; what is imported of them is forgotten afterward."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_modules, "_LOADED", {})
    monkeypatch.setattr(NETS, "_outside", {})
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, run):
    words = shlex.split(command.replace("runs/NAME", str(run)), comments=True)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("--") + 1 :]]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif words[0] == "pcdiff" and words[1] in ON_FILES:
        assert type(model_commands.parse(words[1], words[2:])) is ON_FILES[words[1]]
    elif words[0] == "pcdiff":
        assert words[1] == "train-gen"
        cli.parse_run(GENERATOR_PRESETS, words[2:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
        if words[1] == "evaluate.py":
            cli.parse(EvaluateConfig, words[2:])
        else:
            presets = GENERATOR_PRESETS if words[1] == "train_gen.py" else AUTOENCODER_PRESETS
            cli.parse_run(presets, words[2:])
    else:
        assert words[:2] == ["pip", "install"]


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python" and text not in TRAINED])
def test_python(code, run):
    x, y = (torch.rand(2, 16, 3, generator=torch.Generator().manual_seed(i)) for i in range(2))
    code = code.replace("runs/NAME", str(run)).replace("8192", "16")
    exec(compile(code, "a guide", "exec"), {"x": x, "y": y, "samples": x, "refs": y})


def test_the_tree_names_the_rooms_there_are():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are\n")[2].split("```")[1]
    inside = re.findall(r"^[├└]── (\S+) ", tree, flags=re.MULTILINE)
    rooms = {path.name for path in (ROOT / "pcdiff").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(inside)
    assert all((ROOT / "pcdiff" / name).exists() for name in inside)
    outside = re.findall(r"^(\w+) ", tree, flags=re.MULTILINE)
    assert all((ROOT / name).is_dir() for name in outside)
    images = next(line for line in tree.splitlines() if line.startswith("image_pipeline"))
    assert {p.parent.name for p in (ROOT / "image_pipeline").glob("*/__init__.py")} == set(
        re.findall(r"\w+", images.partition(":")[2])
    )
