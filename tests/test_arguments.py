"""A mistake among arguments is one line that names the flag, with the closest of that command's own."""

import io
import sys

import pytest
from script_tools import script

import image_pipeline.__main__ as image_pipeline
import pcdiff.__main__ as pcdiff
from image_pipeline.commands.parsing import COMMANDS, parse
from pcdiff.commands import cli, model_commands
from pcdiff.commands.flags import COMMANDS as ON_FILES
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.version import __version__

PARSERS = {
    "images": parse,
    "clouds": lambda argv: model_commands.parse(argv[0], argv[1:]),
    "train": lambda argv: cli.parse_run(GENERATOR_PRESETS, argv),
    "evaluate": cli.parse_evaluation,
}
IMAGES, NEW = "sample --run x --output y.png", "sample --run x --output y.npy"


@pytest.mark.parametrize(
    ("parser", "argv", "says"),
    [
        ("images", f"{IMAGES} --num-samples abc", "sample: --num-samples must be a whole number, got 'abc'"),
        ("images", f"{IMAGES} --num-samples=abc", "sample: --num-samples must be a whole number, got 'abc'"),
        ("images", f"{IMAGES} --num_samples", "sample: --num-samples must be a whole number, got none"),
        ("images", f"{IMAGES} --churn a", "sample: --churn must be a number or None, got 'a'"),
        ("images", f"{IMAGES} --checkpoint x", "sample: --checkpoint must be one of auto, best, last, got 'x'"),
        ("images", f"{IMAGES} --classes 1 b", "sample: --classes must be a whole number, or several, got '1' 'b'"),
        ("images", f"{IMAGES} --trajectory yes", "sample: 'yes' follows no flag that takes it"),
        ("images", "sample --run x --outptu y", "sample: no such flag: '--outptu'; did you mean --output?"),
        ("images", "inpaint --run x --output y.png", "inpaint: --input PATH must be given"),
        ("images", "train --lr high", "train: --lr must be a number, got 'high'"),
        ("images", "train --model.num-heads 0", "train: num_heads must be a positive integer, got 0"),
        ("images", "evaluate --metric fid", "evaluate: no such flag: '--metric'; did you mean --metrics?"),
        ("clouds", f"{NEW} --mean 1 2", "sample: --mean must be 3 values, each a number, got '1' '2'"),
        ("clouds", f"{NEW} --seed 1.5", "sample: --seed must be a whole number, got '1.5'"),
        ("clouds", "invert --run x", "invert: --input PATH and --output PATH must be given"),
        ("train", "--kind vqvae", "--kind must be one of latent, autoencoder, direct, completion, got 'vqvae'"),
        ("train", "--lr", "--lr must be a number, got none"),
        ("evaluate", "--emd maybe", "--emd must be one of auto, yes, no, got 'maybe'"),
    ],
)
def test_a_mistake_names_the_flag_and_what_it_takes(parser, argv, says):
    with pytest.raises(InputError) as refused:
        PARSERS[parser](argv.split())
    assert str(refused.value) == says


def test_former_spellings_of_flags_work():
    config = cli.parse_run(GENERATOR_PRESETS, ["--normalisation", "global"])
    assert config == cli.parse_run(GENERATOR_PRESETS, ["--normalization=global"])
    assert parse(["train", "--dequantise"]) == parse(["train", "--dequantize"]) != parse(["train"])
    old = "--labelled --dequantisation variational --dequantisation_steps=7".split()
    new = parse(["likelihood", "--run", "x", *old])
    assert (new.labeled, new.dequantization, new.dequantization_steps) == (True, "variational", 7)


def test_only_the_commands_own_flags_are_proposed():
    with pytest.raises(InputError) as refused:
        parse([*IMAGES.split(), "--mesurements", "3"])  # a flag of inverse
    assert str(refused.value) == "sample: no such flag: '--mesurements'"
    with pytest.raises(InputError, match="did you mean --measurements"):
        parse("inverse --run x --input z --output y.png --mesurements 3".split())


@pytest.mark.parametrize(
    ("argv", "got"),
    [([], "got none"), (["smaple"], "got 'smaple'; did you mean sample"), (["--run", "x"], "got '--run'")],
)
@pytest.mark.parametrize("program", [image_pipeline, pcdiff])
def test_without_a_command_all_are_named(program, argv, got):
    with pytest.raises(InputError, match=r"the first argument must be a command, one of .*sample") as refused:
        program.main(argv)
    assert got in str(refused.value)


@pytest.mark.parametrize(
    ("program", "commands"),
    [(image_pipeline, {*COMMANDS}), (pcdiff, {*ON_FILES, "train-gen", "train-ae", "evaluate", "images"})],
)
def test_the_list_of_commands_is_that_of_those_there_are(program, commands, capsys):
    assert sorted(name for group in program.GROUPS.values() for name in group) == sorted(commands)
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    for name in commands:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line) <= 116
        assert line.endswith(".")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        pcdiff.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"pcdiff {__version__}\n")


def test_a_script_ends_with_status_2_and_one_line(capsys):
    for name in ("train_gen.py", "evaluate.py", "image_pipeline/__main__.py", "pcdiff/__main__.py"):
        assert script(name, "--no-such-flag", "1") == 2
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert shown.err.startswith("error: ")


def test_a_narrow_terminal_without_unicode_changes_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(InputError, match=r"^sample: --num-samples must be a whole number, got 'x'$"):
        parse([*IMAGES.split(), "--num-samples", "x"])
