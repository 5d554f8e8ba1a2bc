"""numpy's numbers in a torch file are read as numbers, under both names; nothing else of numpy's is."""

import os
import pickle

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.interop.numpy_scalars import NUMPY_SCALARS
from pcdiff.runtime.torch_files import load_without_code

NUMBERS = [
    np.float64(2e-4),
    np.float32(0.5),
    np.float16(-1.5),
    np.int64(-7),
    np.uint8(200),
    np.bool_(True),
    np.array(3.25, ">f8")[()],
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_numbers_come_back(tmp_path, zipped, old):
    path = tmp_path / "numbers.pt"
    content = {"numbers": NUMBERS, "weights": torch.arange(3.0)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if old and not zipped:  # the old name is shorter, and text in this format
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    found = load_without_code(path, *NUMPY_SCALARS)
    assert found["numbers"] == [number.item() for number in NUMBERS]
    assert [type(value) for value in found["numbers"]] == [type(number.item()) for number in NUMBERS]
    assert torch.equal(found["weights"], content["weights"])


def test_numbers_are_refused_unless_allowed(tmp_path):
    torch.save(NUMBERS, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="refused to open"):
        load_without_code(tmp_path / "numbers.pt")


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


SCALAR = type(np.float64(0)).__reduce__(np.float64(0))[0]


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3),  # an array, by another function of numpy's
        np.dtype([("a", "f8")]),
        Calls(np.dtype, "O"),
        Calls(np.dtype, "f8,f8"),
        Calls(SCALAR, np.dtype("O"), b"12345678"),
        Calls(SCALAR, np.dtype("f8"), b"1234567"),  # a byte short
        Calls(SCALAR, "f8", b"12345678"),
        Calls(np.load, "file.npy"),
    ],
)
def test_nothing_else_of_numpys_is_read(tmp_path, value):
    torch.save({"value": value}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"bad\.pt"):
        load_without_code(tmp_path / "bad.pt", *NUMPY_SCALARS)


def test_code_beside_numbers_does_not_run(tmp_path):
    marker = tmp_path / "it-ran"
    torch.save([np.float64(1), Calls(os.mkdir, str(marker))], tmp_path / "evil.pt")
    with pytest.raises(InputError, match="refused to open: it asks for"):
        load_without_code(tmp_path / "evil.pt", *NUMPY_SCALARS)
    assert not marker.exists()


def test_what_numpy_pickles_is_what_is_told_here():
    """Should a numpy to come pickle its numbers otherwise, this says so before a user does."""
    names = {name for _, name in NUMPY_SCALARS}
    function, (kind, _) = np.float64(1).__reduce__()
    assert f"{function.__module__}.{function.__name__}" in names
    assert pickle.loads(pickle.dumps(kind)) == kind
    assert kind.__reduce__()[0] is np.dtype
