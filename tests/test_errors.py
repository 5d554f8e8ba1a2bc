"""What files and names say reaches people in one line that no terminal obeys."""

import logging
import pickle

import pytest
from refusals import refused

from pcdiff.commands import cli
from pcdiff.config import TrainConfig, from_dict
from pcdiff.config.train import check_train
from pcdiff.errors import (
    InputError,
    Lines,
    OneLineArguments,
    OutOfRange,
    UnknownField,
    UnknownName,
    WrongType,
    escaped,
    printable,
)
from pcdiff.registry import Registry
from pcdiff.runtime.call_checks import checked

HOSTILE = "a\nb\r\x1b[2J\x1b]0;title\x07\u202eevil\u2028\udcff\x85é"
TOLD = r"a\nb\r\x1b[2J\x1b]0;title\x07\u202eevil\u2028\udcff\x85é"


def test_what_moves_a_cursor_is_escaped_and_escaping_twice_changes_nothing():
    assert printable(HOSTILE) == TOLD
    assert printable(TOLD) == TOLD
    assert printable("über, 雲 and C:\\new") == "über, 雲 and C:\\new"


def test_every_message_of_bad_input_is_one_printable_line():
    error = InputError(f"{HOSTILE}: must be one line")
    assert str(error) == f"{TOLD}: must be one line"
    assert error.args == (str(error),)
    assert str(InputError(f"outer: {error}")) == f"outer: {TOLD}: must be one line"
    with pytest.raises(InputError, match="inner"):
        raise InputError(InputError("inner"))


def test_of_a_long_message_both_ends_are_left():
    told = str(InputError(f"name must be one of a, b, got {[1] * 10_000}; take a"))
    assert len(told) == InputError.LONGEST


def test_a_place_before_a_message_leaves_the_kind():
    error = UnknownName("norm", "l3", ["l1", "l2"])
    within = error.within("a.json").within("run")
    assert (type(within), within.name, str(within)) == (
        UnknownName,
        "l3",
        "run: a.json: norm must be one of l1, l2, got 'l3'",
    )


def test_errors_go_from_process_to_process():
    for error in (UnknownName("norm", "l3", ["l1"]).within("a.json"), OutOfRange("k", "at least 1", 0)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_errors_have_kinds_with_the_values_in_question():
    shapes = Registry("shape", {"circle": lambda radius=1.0: radius})
    with refused(UnknownName, what="shape", name="line", known=("circle",)):
        shapes.build("line")
    with refused(UnknownField, unknown=("side",), known=("radius",)):
        shapes.build("circle", side=2.0)
    with refused(WrongType, what="x", expected="a number", value="a"):
        _half("a")
    with refused(OutOfRange, what="lr", expected="above 0", value=0.0):
        check_train(TrainConfig(lr=0.0))
    with refused(UnknownField, unknown=("rate",)):
        from_dict(TrainConfig, {"rate": 1}, "config.json")
    with refused(WrongType, what="config.json: lr", expected="float", value="fast"):
        from_dict(TrainConfig, {"lr": "fast"}, "config.json")


@checked
def _half(x: float):
    return x / 2


def test_log_lines_escape_what_is_put_into_them(tmp_path):
    record = logging.LogRecord(
        "pcdiff", logging.INFO, "", 0, "two\nlines: %s, %d, %s", (HOSTILE, 3, Lines("t\ta\nb")), None
    )
    assert OneLineArguments().filter(record)
    assert record.getMessage() == f"two\nlines: {TOLD}, 3, t\\ta\nb"
    single = logging.LogRecord("pcdiff", logging.INFO, "", 0, "%(a)s", ({"a": 1},), None)
    assert OneLineArguments().filter(single)
    assert single.getMessage() == "1"
    assert escaped(tmp_path / HOSTILE) == f"{tmp_path}/{TOLD}"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError(f"{HOSTILE}: bad"), 2, f"error: {TOLD}: bad\n"),
        (
            PermissionError(13, "Permission denied", f"/data/{HOSTILE}"),
            2,
            f"error: /data/{TOLD}: Permission denied\n",
        ),
        (OSError(36, "File name too long", "x"), 2, "error: x: File name too long\n"),
    ],
)
def test_the_command_boundary_ends_in_one_line(error, status, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_an_error_of_the_system_without_a_file_is_no_users_mistake():
    def main():
        raise OSError("out of something")

    with pytest.raises(OSError, match="out of something"):
        cli.run(main)
