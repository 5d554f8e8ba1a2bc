"""Tables of scores: scales, what is best, and the Markdown itself."""

import pytest

from pcdiff.metrics.columns import all_columns, markdown

COLUMN = {column.name: column for column in all_columns()}


def _cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_scales_are_those_of_the_papers():
    assert {name: COLUMN[name].scale for name in ("MMD-CD", "MMD-EMD", "JSD")} == {
        "MMD-CD": 1e3,
        "MMD-EMD": 10,
        "JSD": 1e3,
    }
    assert COLUMN["MMD-CD"].title == "MMD-CD ×10³ ↓"
    assert COLUMN["COV-EMD"].title == "COV-EMD % ↑"
    assert COLUMN["1-NNA-CD"].title == "1-NNA-CD % (50 is best)"


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("MMD-CD", [0.0033, 0.0031, 0.0040], [1]),
        ("JSD", [0.02, 0.01, 0.0100001], [1, 2]),  # alike in print, alike in rank
        ("COV-CD", [40.0, 51.0, 46.0], [1]),
        ("1-NNA-CD", [44.0, 53.0, 90.0], [1]),
        ("1-NNA-EMD", [47.5, 52.5, 60.0], [0, 1]),
        ("F-score", [0.3, 0.9, 0.5], [1]),
    ],
)
def test_the_best_is_bold(name, values, best):
    rows = [(f"r{i}", {name: value}, None) for i, value in enumerate(values)]
    cells = [row[1] for row in _cells(markdown(rows))[2:]]
    assert [i for i, cell in enumerate(cells) if cell.startswith("**")] == best
    assert "**" not in markdown(rows, highlight=False)
    assert "**" not in markdown(rows[:1])  # alone, or all alike, none is best
    assert "**" not in markdown([rows[0]] * 3)


def test_the_whole_table():
    rows = [
        ("ours", {"MMD-CD": 0.0123456, "COV-CD": 40.0}, {"level": 0.95, "MMD-CD": [0.012, 0.013]}),
        ("a|b", {"MMD-CD": 0.02, "JSD": 0.001}, None),
    ]
    floor = ("data", {"MMD-CD": 0.001, "COV-CD": 60.0, "JSD": 0.002}, {"JSD": [0.0, 0.003]})
    assert markdown(rows, floors=[floor]).splitlines() == [
        "|        |               MMD-CD ×10³ ↓ | COV-CD % ↑ |             JSD ×10³ ↓ |",
        "| ------ | --------------------------: | ---------: | ---------------------: |",
        "| ours   | **12.346** [12.000, 13.000] |      40.00 |                      – |",
        r"| a\|b   |                      20.000 |          – |                  1.000 |",
        "| *data* |                     *1.000* |    *60.00* | *2.000 [0.000, 3.000]* |",
    ]


def test_without_labels_there_is_no_column_of_them():
    table = _cells(markdown([("", {"COV-CD": 40.0, "not a column": 3}, None)], highlight=False))
    assert table == [["COV-CD % ↑"], ["---------:"], ["40.00"]]
