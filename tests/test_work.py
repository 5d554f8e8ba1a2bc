"""Blocks of work: remembered after a kill, cut off where torn, refused where they belong to something else."""

import errno
import struct

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.runtime.resumable import ResultCache, ResumableMap, _checksum
from pcdiff.runtime.stopping import Stop, Stopped

SETTINGS = {"seed": 1, "clouds": "ab"}


class StopWhen(Stop):
    """Out of time once `over()` is true."""

    def __init__(self, over):
        super().__init__()
        self._over = over

    def __call__(self):
        return self._over()


def compute(block):
    return np.full((2, block), block, dtype=np.float32), np.array(block)


def results(work, name="blocks", count=6):
    return [tuple(array.tolist() for array in arrays) for arrays in work.map(name, range(count), compute)]


EXPECTED = results(ResumableMap())


def counted(counter):
    def run(block):
        counter.append(block)
        return compute(block)

    return run


def test_results_come_in_order_and_are_remembered(tmp_path):
    path = tmp_path / "new" / "journal"
    journal = ResultCache(path, SETTINGS)
    assert results(ResumableMap(journal)) == EXPECTED
    journal.close()
    again = ResultCache(path, SETTINGS)
    work, calls = ResumableMap(again), []
    assert work.remembered == 6
    found = [arrays[1].item() for arrays in work.map("blocks", range(6), counted(calls))]
    assert found == list(range(6))
    assert not calls
    again.remove()
    assert not path.exists()


def test_a_journal_torn_anywhere_gives_the_same_results(tmp_path):
    path = tmp_path / "journal"
    journal = ResultCache(path, SETTINGS)
    results(ResumableMap(journal))
    journal.close()
    whole = path.read_bytes()
    computed = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        torn = ResultCache(path, SETTINGS)
        work, calls = ResumableMap(torn), []
        found = [tuple(a.tolist() for a in arrays) for arrays in work.map("blocks", range(6), counted(calls))]
        assert found == EXPECTED
        assert calls == list(range(6 - len(calls), 6))
        computed.add(len(calls))
        torn.close()
        assert path.read_bytes() == whole
    assert computed == set(range(1, 7))


def test_a_flipped_byte_loses_only_what_follows(tmp_path):
    path = tmp_path / "journal"
    journal = ResultCache(path, SETTINGS)
    results(ResumableMap(journal))
    journal.close()
    whole = path.read_bytes()
    start = whole.index(b'["blocks", 3')
    path.write_bytes(whole[: start + 20] + bytes([whole[start + 20] ^ 1]) + whole[start + 21 :])
    with ResultCache(path, SETTINGS) as again:
        assert sorted(again.records) == [("blocks", k) for k in range(3)]
        assert results(ResumableMap(again)) == EXPECTED


def test_other_settings_are_refused_and_the_file_stays(tmp_path):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS) as journal:
        results(ResumableMap(journal))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"journal: holds stopped work with seed = 1, not 2; give its flags"):
        ResultCache(path, SETTINGS | {"seed": 2})
    with pytest.raises(InputError, match="with extra = null, not 5"):
        ResultCache(path, SETTINGS | {"extra": 5})
    assert path.read_bytes() == before
    path.write_bytes(b"something else\nentirely")
    with pytest.raises(InputError, match="not a journal of this version"):
        ResultCache(path, SETTINGS)
    assert path.read_bytes() == b"something else\nentirely"


@pytest.mark.parametrize("byte", [b"\xff", b"\x00", b"{", b'"', b"[", b"9"])
def test_a_damaged_settings_line_is_one_line_with_the_way_out(tmp_path, byte):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS) as journal:
        results(ResumableMap(journal))
    whole = path.read_bytes()
    end = whole.index(b"\n", len(b"pcdiff journal 2\n"))
    for place in range(len(b"pcdiff journal 2\n"), end):
        damaged = whole[:place] + byte + whole[place + 1 :]
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"journal: (damaged: .*|holds stopped work with .*); .*delete it to start over"
        ):
            ResultCache(path, SETTINGS)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "line", ["[1]", "5", "null", '{"seed": ' + "9" * 5000 + "}", "[" * 9999, '{"a":' * 99 + "1" + "}" * 99]
)
def test_settings_that_are_none(tmp_path, line):
    (tmp_path / "journal").write_bytes(b"pcdiff journal 2\n" + line.encode() + b"\n")
    with pytest.raises(InputError, match=r"journal: damaged: its settings.*; delete it to start over") as caught:
        ResultCache(tmp_path / "journal", SETTINGS)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "head",
    [
        b"[1, 2]",
        b"\xff",
        b"[[], 0, []]",
        b'["a", "b", [["<f8", [1]]]]',
        b'["a", 0, 7]',
        b'["a", 0, []]',
        *(
            b'["a", 0, [[' + array + b"]]]"
            for array in b'"O", [1]|"<f8", [-1]|"<f8", [9]|"<f8", [1.5]|"<M8", [1]'.split(b"|")
        ),
    ],
)
def test_a_record_that_nobody_wrote(tmp_path, head):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS) as journal:
        results(ResumableMap(journal), count=1)
    content = head + bytes(8)
    packed = struct.pack("<IQI", len(head), 8, _checksum(content)) + content
    path.write_bytes(path.read_bytes() + packed)
    with pytest.raises(
        InputError, match=r"journal: damaged: one of its records is none .*; delete it to start over"
    ):
        ResultCache(path, SETTINGS)


def test_settings_are_compared_as_json(tmp_path):
    with ResultCache(tmp_path / "journal", {"sizes": (1, 2)}) as journal:
        results(ResumableMap(journal))
    with ResultCache(tmp_path / "journal", {"sizes": [1, 2]}) as journal:
        assert len(journal.records) == 6


def test_told_to_stop_it_keeps_what_is_done(tmp_path):
    path = tmp_path / "journal"
    journal = ResultCache(path, SETTINGS)
    seen = []
    work = ResumableMap(journal, stop=StopWhen(lambda: len(seen) >= 2))
    with pytest.raises(Stopped):
        seen.extend(arrays[1].item() for arrays in work.map("blocks", range(6), compute))
    assert seen == [0, 1]
    journal.close()
    with ResultCache(path, SETTINGS) as again:
        assert len(again.records) == 2
        assert results(ResumableMap(again)) == EXPECTED


def test_a_stop_at_the_very_end_is_no_stop():
    assert results(ResumableMap(stop=StopWhen(lambda: True)), count=1) == EXPECTED[:1]


def test_a_name_serves_once():
    work = ResumableMap()
    results(work)
    with pytest.raises(ValueError, match="one piece of work only"):
        results(work)


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(True), np.arange(6).reshape(2, 3).T, np.float64(1)])
def test_arrays_keep_shape_type_and_values(array, tmp_path):
    array = np.asarray(array)
    journal = ResultCache(tmp_path / "journal", SETTINGS)
    list(ResumableMap(journal).map("one", [0], lambda _: (array,)))
    journal.close()
    with ResultCache(tmp_path / "journal", SETTINGS) as again:
        ((found,),) = ResumableMap(again).map("one", [0], compute)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_full_disk_is_one_clear_line(tmp_path):
    journal = ResultCache(tmp_path / "journal", SETTINGS)
    results(ResumableMap(journal), count=2)

    class Full:
        closed = True

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    journal._file, kept = Full(), journal._file
    with pytest.raises(InputError, match=r"journal: cannot write \(No space left on device\); it is kept"):
        results(ResumableMap(journal), name="more")
    kept.close()
    with ResultCache(tmp_path / "journal", SETTINGS) as again:
        assert len(again.records) == 2


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        results(ResumableMap(ResultCache(tmp_path / "file" / "journal", SETTINGS)))


def test_zeros_behind_the_last_record_are_cut_off(tmp_path):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS) as journal:
        results(ResumableMap(journal))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(4096))  # what a power cut leaves behind
    with ResultCache(path, SETTINGS) as again:
        assert len(again.records) == 6
    assert path.read_bytes() == whole


def test_a_second_process_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS) as journal:
        results(ResumableMap(journal), count=3)
        before = path.read_bytes()
        with pytest.raises(InputError, match="another process writes there"):
            ResultCache(path, SETTINGS)
        assert path.read_bytes() == before


def test_nothing_is_made_before_the_first_block(tmp_path):
    begun = []
    with ResultCache(tmp_path / "a" / "journal", SETTINGS, begin=lambda: begun.append(1)) as journal:
        assert not (tmp_path / "a").exists()
        assert not begun
        results(ResumableMap(journal))
    assert begun == [1]
    with ResultCache(tmp_path / "a" / "journal", SETTINGS, begin=lambda: begun.append(2)) as journal:
        assert begun == [1, 2]
        assert results(ResumableMap(journal)) == EXPECTED
        assert len(journal.records) == 6  # what was read stays known as such


@pytest.mark.parametrize("every", [2, 5, 100])
def test_records_wait_for_one_another_and_for_the_end(every, tmp_path):
    path = tmp_path / "journal"
    with ResultCache(path, SETTINGS, every) as journal:
        for k in range(6):
            journal.add("blocks", k, compute(k))
            assert path.exists() == (k + 1 >= every)
    with ResultCache(path, SETTINGS) as again:
        assert len(again.records) == 6


def test_a_stop_is_heard_between_two_pieces_of_work():
    told = []
    work = ResumableMap(stop=StopWhen(lambda: bool(told)))
    results(work, "one")
    told.append(True)
    with pytest.raises(Stopped):
        results(work, "two")
