"""Pickles whose memo asks for memory: refused before the unpickler makes room for it."""

import io
import pickle

import numpy as np
import pytest

from image_pipeline.data.unpickling import load_arrays
from image_pipeline.interop import persistence
from pcdiff.errors import InputError
from pcdiff.interop.pickles import check_memo


def greedy(index):
    """Return the pickle of a list whose memo index is another."""
    sound = pickle.dumps(["x"], protocol=2)
    assert sound[3:5] == b"q\x00"  # BINPUT 0
    return sound[:3] + b"r" + index.to_bytes(4, "little") + sound[5:]


@pytest.mark.parametrize("read", [load_arrays, persistence.read])
def test_an_index_beyond_the_file_is_refused(read, tmp_path):
    path = tmp_path / "greedy.pkl"
    path.write_bytes(greedy(2**32 - 1))  # 32 GiB of pointers
    with pytest.raises(InputError, match=r"greedy\.pkl: truncated, damaged or no .*pickle"):
        read(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sound_pickles_pass(protocol):
    file = io.BytesIO(pickle.dumps({"a": np.arange(3), "b": ["c"] * 400}, protocol=protocol))
    check_memo(file)
    assert file.tell() == 0
    check_memo(io.BytesIO(b"no pickle"))


def test_the_index_is_named():
    with pytest.raises(pickle.UnpicklingError, match="memo index 65536 in a file of"):
        check_memo(io.BytesIO(greedy(2**16)))
