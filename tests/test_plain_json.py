"""JSON that nobody's own program wrote is refused in one line."""

import json

import pytest

from pcdiff.errors import InputError
from pcdiff.runtime.json_files import DEEPEST, parse_json, read_json, shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe{}", "not JSON .*utf-8"),
        ("9" * 41, r"not JSON \(an integer of 41 digits"),
        ("9" * 5000, r"not JSON \(an integer of 5000 digits"),
        ("[" * 100_000, "nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64 levels"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=f"x.json: {message}.*; delete it"):
        parse_json(text, "x.json", "delete it")


def test_brackets_in_text_are_no_levels():
    for value in ("[" * 200, '"[{' * 100, "\\" * 3 + '"[' * 100):
        assert parse_json(json.dumps([value, 1.5, 10**39]), "x") == [value, 1.5, 10**39]
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "x")
    assert parse_json(json.dumps([[]] * 500), "x") == [[]] * 500


def test_files(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "a.json").write_text('{"a": NaN}')
    assert list(read_json(tmp_path / "a.json")) == ["a"]
    assert shown({"a": "b" * 100}, 10) == '{"a": "...'
