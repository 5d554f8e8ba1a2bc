"""A checkpoint that is a pickle with code in it must not run it, and a damaged one is an `InputError`."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.interop import dpm


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_does_not_run(tmp_path):
    marker = tmp_path / "it-ran"
    torch.save({"args": Runs(marker), "state_dict": {}}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt: refused to open: it asks for \S*mkdir, which could run code"):
        dpm.load(tmp_path / "evil.pt")
    assert not marker.exists()


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        dpm.load(tmp_path / "none.pt")


def test_a_torch_file_that_is_not_dpms(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="expected a dict with 'args' and 'state_dict'"):
        dpm.load(tmp_path / "other.pt")


ARGS = {
    "latent_dim": 2,
    "num_steps": 4,
    "sched_mode": "linear",
    "beta_1": 1e-4,
    "beta_T": 0.05,
    "residual": True,
}


def write(path, zipped=True, state_dict=None, **args):
    """Write a file of DPM's form; it names few of the model's tensors, so that even whole it does not fit."""
    if state_dict is None:
        state_dict = {f"encoder.conv{i}.bias": torch.arange(5.0) for i in range(1, 4)}
    content = {"args": argparse.Namespace(**{**ARGS, **args}), "state_dict": state_dict, "others": {"step": 3}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refused(path, match):
    with pytest.raises(InputError, match=match) as raised:
        dpm.load(path)
    assert "\n" not in str(raised.value)
    assert path.name in str(raised.value)
    assert "weights_only" not in str(raised.value)  # torch's advice: open it unsafely


UNREADABLE = "truncated, damaged or not a torch file"


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path, zipped):
    path = write(tmp_path / "cut.pt", zipped)
    refused(path, "does not fit a DPM autoencoder model")
    content = path.read_bytes()
    for length in [0, 1, 3, 4, 100, *np.linspace(200, len(content) - 1, 15).astype(int)]:
        path.write_bytes(content[:length])
        refused(path, f"{UNREADABLE}|it asks for .*or the file is damaged")  # cut in the middle of a class's name


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes(tmp_path, zipped):
    path = write(tmp_path / "hurt.pt", zipped)
    content, rng = path.read_bytes(), np.random.default_rng(1)
    for place in rng.integers(len(content), size=40):
        hurt = bytearray(content)
        hurt[place] ^= int(rng.integers(1, 256))
        path.write_bytes(hurt)
        refused(path, r"hurt\.pt: ")


def test_other_pickles(tmp_path):
    for protocol in (2, 4):
        (tmp_path / "plain.pt").write_bytes(pickle.dumps({"args": 1}, protocol=protocol))
        refused(tmp_path / "plain.pt", UNREADABLE)
    (tmp_path / "plain.pt").write_bytes(b"<html>not found</html>")
    refused(tmp_path / "plain.pt", UNREADABLE)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("latent_dim", "x", r"its args: latent_dim must be int, got 'x'"),
        ("num_steps", 10.5, r"its args: num_steps must be int \| None, got 10\.5"),
        ("num_steps", 0, r"its args: process.num_steps must be at least 1, got 0"),
        ("latent_dim", 10**13, r"asks for a net of .* or more; the file holds 15 numbers"),
        ("latent_dim", 10**30, r"asks for a net of 10\^32 numbers or more; the file holds"),
        ("residual", 1, r"its args: net: residual must be bool, got 1"),
        ("beta_T", float("nan"), r"its args: process.beta_T must be in \(0, 1\), got nan"),
        ("sched_mode", "sigmoid", r"its args: schedule must be .*, got 'sigmoid'"),
        ("kl_weight", "big", r"its args: kl_weight must be float, got 'big'"),
        ("kl_weight", torch.zeros(3, 3), r"its args: kl_weight must be a number or a word, got a Tensor"),
        ("model", "diffusion", r"model must be 'flow', 'gaussian' or absent \(autoencoder\), got 'diffusion'"),
        ("model", [1], r"its args: kind must be a number or a word, got a list"),
    ],
)
def test_wrong_args(tmp_path, name, value, match):
    refused(write(tmp_path / "odd.pt", **{name: value}), match)


def test_missing_arg(tmp_path):
    path = tmp_path / "odd.pt"
    args = argparse.Namespace(**{name: value for name, value in ARGS.items() if name != "num_steps"})
    torch.save({"args": args, "state_dict": {}}, path)
    refused(path, "its args lack 'num_steps', which every DPM checkpoint has")


@pytest.mark.parametrize("state_dict", [[torch.zeros(2)], {"a": 1.0}, {3: torch.zeros(2)}, torch.zeros(2)])
def test_state_dict_of_something_else(tmp_path, state_dict):
    refused(
        write(tmp_path / "odd.pt", state_dict=state_dict), "state_dict must be a dict of tensors by name, got a"
    )


def test_parts_that_do_not_go_together(tmp_path):
    key = "diffusion.net.layers.{}._hyper_bias.weight"
    weights = {key.format(0): torch.zeros(3, 4), key.format(1): torch.zeros(3, 5)}
    refused(write(tmp_path / "odd.pt", state_dict=weights), "shapes do not fit its own args: ")
    weights = {"flow.chain.0.net_s_t.0.weight_orig": torch.zeros(3, 4)}
    refused(write(tmp_path / "odd.pt", state_dict=weights), "is spectrally normalized but its u or v is missing")
