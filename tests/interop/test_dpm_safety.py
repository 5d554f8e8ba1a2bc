"""A checkpoint that is a pickle with code in it must not run it."""

import os

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
