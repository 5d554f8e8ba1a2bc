"""A few mutated files through every reader, and the harness itself: what it must notice, it notices."""

import mmap
import random
import signal

import fuzz_campaign
import fuzz_mutations
import pytest
from fuzz_readers import READERS, Reader
from fuzz_worker import Bench, StopConditions, try_case

from pcdiff.errors import InputError


@pytest.mark.parametrize("name", READERS)
def test_a_few_mutated_files(name, tmp_path):
    bench = Bench(name, READERS[name], tmp_path / "bench")
    for index in range(4):
        outcome, finding = try_case(bench, 7, index, StopConditions(seconds=60.0))
        assert finding is None
        assert outcome in ("read", "refused")


def test_a_case_is_a_function_of_seed_reader_and_number(tmp_path):
    one, other = (Bench("xyz", READERS["xyz"], tmp_path / name) for name in ("one", "other"))
    cases = [(path.name, content) for path, content in (one.case(3, k) for k in range(50))]
    assert cases == [(path.name, content) for path, content in (other.case(3, k) for k in range(50))]
    assert cases != [(path.name, content) for path, content in (one.case(4, k) for k in range(50))]
    assert len({content for _, content in cases}) > 40


@pytest.mark.parametrize("mutation", [v for k, v in vars(fuzz_mutations).items() if k in (
    "json_value", "safetensors_facts", "zip_member", "gzip_inside", "journal_settings"
)])  # fmt: skip
def test_mutations_take_any_bytes(mutation):
    for seed in range(20):
        rng = random.Random(seed)
        for content in (b"", b"[1, 2]", rng.randbytes(30), b"a\nb"):
            assert isinstance(mutation(rng, content), bytes)


def bad(path):
    content = path.read_bytes()
    if len(content) % 5 == 0:
        raise InputError("refused") if len(content) % 2 else IndexError("odd")
    if len(content) % 5 == 1:
        with mmap.mmap(-1, 40 << 20) as fresh:  # not from what this process has freed and kept
            for place in range(0, len(fresh), 4096):
                fresh[place] = 1
    return len(content)


def test_what_is_no_clean_refusal_is_found(tmp_path):
    def write(folder):
        (folder / "a").write_bytes(bytes(100))
        return [folder / "a"]

    bench = Bench("bad", Reader(write, bad), tmp_path / "bench")
    found = [try_case(bench, 0, k, StopConditions(seconds=60.0, memory=20 << 20)) for k in range(60)]
    whats = {finding["what"].split(":")[0] for _, finding in found if finding is not None}
    assert any(what.startswith("took ") and "MiB" in what for what in whats)
    assert "IndexError" in whats
    assert {outcome for outcome, _ in found} >= {"read", "refused", "finding"}


DIES = """
import json, os, signal, sys
readers = sys.argv[sys.argv.index("--readers") + 1 : sys.argv.index("--first")]
value = {name: sys.argv[sys.argv.index(name) + 1] for name in ("--first", "--last", "--place", "--log")}
for number, name in enumerate(readers):
    for index in range(int(value["--first"]) if number == 0 else 0, int(value["--last"])):
        with open(value["--place"], "r+b") as file:
            file.write(number.to_bytes(8, "little") + index.to_bytes(8, "little"))
        if name == "b" and index == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        while name == "c" and index == 2:
            pass
        with open(value["--log"], "a") as log:
            log.write(json.dumps({"reader": name, "outcome": "read", "finding": None}) + "\\n")
"""


def test_a_worker_that_dies_or_hangs_is_noticed_and_begun_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / "worker.py").write_text(DIES)
    monkeypatch.setattr(fuzz_campaign, "WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(fuzz_campaign, "_BUSY", 0.3)
    counts, findings = fuzz_campaign.campaign(["a", "b", "c", "d"], 3, 0)
    fuzz_campaign.report(counts, findings)
    assert [(f["reader"], f["case"], f["what"]) for f in findings] == [
        ("b", 1, f"the process died with status -{signal.SIGSEGV:d}"),
        ("c", 2, "no end"),
    ]
    assert {name: dict(each) for name, each in counts.items()} == {
        "a": {"read": 3}, "b": {"read": 2, "finding": 1}, "c": {"read": 2, "finding": 1}, "d": {"read": 3},
    }  # fmt: skip
    assert "c case 2 (1 times): no end" in capsys.readouterr().out
