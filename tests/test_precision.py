"""Precisions by name."""

import pytest
import torch
from refusals import refused

from pcdiff.errors import UnknownName
from pcdiff.runtime import precision
from pcdiff.runtime.precision import PRECISIONS, autocast, native_bf16, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", sorted(PRECISIONS))
def test_products_are_of_the_precision_asked_for(name):
    a = torch.randn(8, 8)
    with autocast(name, CPU):
        assert (a @ a).dtype == (PRECISIONS[name] or torch.float32)
    assert resolve_precision(name, CPU) == name


def test_fp32_leaves_what_stands_around_it():
    a = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16), autocast("fp32", CPU):
        assert (a @ a).dtype == torch.bfloat16


def test_auto_is_what_the_machine_multiplies(monkeypatch):
    assert resolve_precision("auto", CPU) == ("bf16" if native_bf16(CPU) else "fp32")
    for native, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("pcdiff.runtime.precision.native_bf16", lambda device, native=native: native)
        assert resolve_precision("auto", CPU) == name


@pytest.mark.parametrize("hardware", [True, False])
def test_what_the_hardware_does_not_multiply_is_warned_of_once(hardware, monkeypatch, caplog):
    precision._tell_slow.cache_clear()
    monkeypatch.setattr(precision, "native_bf16", lambda device: hardware)
    for _ in range(3):
        resolve_precision("bf16", CPU)
        resolve_precision("fp32", CPU)
        resolve_precision("auto", CPU)
    assert len(caplog.records) == (0 if hardware else 1)
    if not hardware:
        assert caplog.messages[0].startswith("precision bf16: this processor does not multiply it in hardware")
        assert "\n" not in caplog.messages[0]


def test_unknown_precisions_list_the_known_ones():
    with refused(UnknownName, what="precision", name="int8"):
        resolve_precision("int8", CPU)
