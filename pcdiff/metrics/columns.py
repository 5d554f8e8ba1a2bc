"""Tables of scores in Markdown, and the columns that all tables of scores have."""

from collections.abc import Collection, Mapping, Sequence

from pcdiff.errors import printable
from pcdiff.metrics.metric import Column
from pcdiff.metrics.registry import metric_columns

Row = tuple[str, dict, dict | None]  # label, scores, intervals: both by score name, in the same unit


PAIR_COLUMNS = (
    # Of reconstructions, in the scales of DPM's tables.
    Column("CD", "CD", 1e4, "low", 3),
    Column("CD-median", "CD median", 1e4, "low", 3),
    Column("EMD", "EMD", 1e2, "low", 3),
    Column("EMD-median", "EMD median", 1e2, "low", 3),
    Column("F-score", "F-score", 1.0, "high", 3),
    Column("F-score-median", "F-score median", 1.0, "high", 3),
    # Of completions, in the scales of PoinTr's tables, and of Wu et al. (2020).
    Column("CD-L1", "CD-L1", 1e3, "low", 3),
    Column("CD-L2", "CD-L2", 1e3, "low", 3),
    Column("CD-L2-best", "CD-L2 best", 1e3, "low", 3),
    Column("UHD", "UHD", 1e2, "low", 3),
    Column("TMD", "TMD", 1e2, "high", 3),
)


def all_columns() -> list[Column]:
    """Return the columns of all scores, those of the registered metrics first, in the order of print."""
    return [*metric_columns(), *PAIR_COLUMNS]


def markdown(
    rows: Sequence[Row],
    highlight: bool = True,
    *,
    floors: Sequence[Row] = (),
    bold: Mapping[str, Collection[int]] | None = None,
) -> str:
    """Return scores as a Markdown table, padded so that it reads well as plain text too; no final newline.

    Columns are those of `all_columns` that any row has a score for, in that order; a dash is a missing score. Where
    a row has an interval of a score, it follows in brackets, in the column's scale. Where no row has a label there
    is no column of labels.

    Args:
        rows: (label, scores, intervals) each.
        highlight: make the best score of each column bold, where there is a worse one.
        floors: rows in italics below the others, which take no part in what is best.
        bold: by score, the rows that are bold, in place of the best in print.

    Example:
        >>> print(markdown([("ours", {"JSD": 0.0012}, {"JSD": (0.001, 0.002)}), ("theirs", {"JSD": 0.01}, None)]))
        |        |               JSD ×10³ ↓ |
        | ------ | -----------------------: |
        | ours   | **1.200** [1.000, 2.000] |
        | theirs |                   10.000 |
    """
    columns = columns_of(*rows, *floors)
    bold = bold if bold is not None else _best_in_print(rows, columns) if highlight else {}
    lines = [["", *(column.title for column in columns)]]
    for i, row in enumerate(rows):
        lines.append(
            [_escaped(row[0]), *(_cell(column, row, i in bold.get(column.name, ())) for column in columns)]
        )
    for row in floors:
        cells = [_escaped(row[0]), *(_cell(column, row, False) for column in columns)]
        lines.append([f"*{cell}*" if cell else "" for cell in cells])
    labeled = any(label for label, _, _ in (*rows, *floors))
    lines = lines if labeled else [line[1:] for line in lines]
    widths = [max(4, *map(len, cells)) for cells in zip(*lines, strict=True)]
    left = [labeled and i == 0 for i in range(len(widths))]
    rule = ["-" * w if is_left else "-" * (w - 1) + ":" for w, is_left in zip(widths, left, strict=True)]
    return "\n".join(_line(line, widths, left) for line in (lines[0], rule, *lines[1:]))


def columns_of(*rows: Row) -> list[Column]:
    """Return the columns that any of the rows has a score for, in the order of print."""
    return [column for column in all_columns() if any(column.name in scores for _, scores, _ in rows)]


def _best_in_print(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, list[int]]:
    """Return the rows of the best score as printed, by score, where there is a worse one."""
    best = {}
    for column in columns:
        found = {i: column.badness(row[1][column.name]) for i, row in enumerate(rows) if column.name in row[1]}
        if len(set(found.values())) > 1:
            best[column.name] = [i for i, badness in found.items() if badness == min(found.values())]
    return best


def _cell(column: Column, row: Row, bold: bool) -> str:
    _, scores, intervals = row
    if column.name not in scores:
        return "–"
    score = scores[column.name]
    text = column.text(score)
    if bold:
        text = f"**{text}**"
    if intervals and column.name in intervals:
        low, high = intervals[column.name]
        text += f" [{column.text(low)}, {column.text(high)}]"
    return text


def _line(cells: list[str], widths: list[int], left: list[bool]) -> str:
    parts = [c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(cells, widths, left, strict=True)]
    return "| " + " | ".join(parts) + " |"


def _escaped(label: str) -> str:
    return printable(label).replace("|", "\\|").replace("*", "\\*")
