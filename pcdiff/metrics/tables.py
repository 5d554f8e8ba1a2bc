"""Tables of scores as LaTeX and CSV, and Markdown fitted to a terminal's width."""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence

from pcdiff.metrics.columns import Row, columns_of
from pcdiff.metrics.metric import Column

FORMATS = ("markdown", "latex", "csv")
_CELLS = re.compile(r"(?<!\\)\|")  # a literal bar is escaped
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}
_ARROWS = {"low": r" $\downarrow$", "high": r" $\uparrow$", "near 50": " (50 is best)"}


def latex(
    rows: Sequence[Row],
    *,
    floors: Sequence[Row] = (),
    bold: Mapping[str, Collection[int]],
    notes: Sequence[str] = (),
) -> str:
    """Return scores as a LaTeX tabular (package booktabs), intervals as small print behind the scores.

    Args:
        rows: (label, scores, intervals) each.
        floors: rows below the others, in italics.
        bold: by score, the rows that are bold.
        notes: written above as comments.
    """
    columns = columns_of(*rows, *floors)
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    lines.append(" & ".join(["", *map(_title, columns)]) + r" \\")
    lines.append(r"\midrule")
    for i, row in enumerate(rows):
        cells = [_latex_cell(c, row, r"\textbf{%s}" if i in bold.get(c.name, ()) else "%s") for c in columns]
        lines.append(" & ".join([_escaped(row[0]), *cells]) + r" \\")
    if floors:
        lines.append(r"\midrule")
    for row in floors:
        cells = [_latex_cell(column, row, r"\textit{%s}") for column in columns]
        lines.append(" & ".join([rf"\textit{{{_escaped(row[0])}}}", *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(
    rows: Sequence[Row], *, floors: Sequence[Row] = (), verdicts: Mapping[str, Mapping[int, str]]
) -> str:
    """Return scores as CSV (RFC 4180), unrounded and in their own units: a line for each score of each row.

    Columns: row, score, value, low, high (of the interval, empty where there is none), verdict.

    Args:
        rows: (label, scores, intervals) each.
        floors: rows that take no part in what is best.
        verdicts: by score and row, the comparison's outcome.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "score", "value", "low", "high", "verdict"])
    for i, (label, scores, intervals) in enumerate([*rows, *floors]):
        for name in (column.name for column in columns_of((label, scores, intervals))):
            low, high = (intervals or {}).get(name, ("", ""))
            word = verdicts.get(name, {}).get(i, "") if i < len(rows) else ""
            writer.writerow([label, name, repr(float(scores[name])), low, high, word])
    return text.getvalue()


def fitted(text: str, width: int | None) -> str:
    """Return a text whose Markdown tables are cut into several, one below the other, where they are too wide.

    Each has the first column, that of the labels, and as many others as the width holds, at least one.

    Args:
        text: with tables as `markdown` writes them, and anything else.
        width: characters; None leaves the text as it is.
    """
    if width is None:
        return text
    out, block = [], []
    for line in [*text.split("\n"), None]:
        if line is not None and line.startswith("|"):
            block.append(line)
            continue
        out += _stacked(block, width) if block else []
        block = []
        if line is not None:
            out.append(line)
    return "\n".join(out)


def _stacked(table: list[str], width: int) -> list[str]:
    if max(map(len, table)) <= width:
        return table
    rows = [_CELLS.split(line)[1:-1] for line in table]
    widths = [len(cell) + 1 for cell in rows[0]]  # with a bar
    labeled = not rows[0][0].strip()
    fixed = [0] if labeled else []
    out: list[str] = []
    group: list[int] = []
    for k in [*range(len(fixed), len(widths)), None]:
        full = k is None or (group and 1 + sum(widths[i] for i in [*fixed, *group, k]) > width)
        if full and group:
            out += [""] if out else []
            out += ["|" + "|".join(row[i] for i in [*fixed, *group]) + "|" for row in rows]
            group = []
        if k is not None:
            group.append(k)
    return out


def _title(column: Column) -> str:
    powers = {
        1.0: "",
        10.0: r" $\times 10$",
        1e2: r" $\times 10^2$",
        1e3: r" $\times 10^3$",
        1e4: r" $\times 10^4$",
    }
    return _escaped(column.header) + powers[column.scale] + _ARROWS[column.better]


def _latex_cell(column: Column, row: Row, form: str) -> str:
    _, scores, intervals = row
    if column.name not in scores:
        return "--"
    text = form % column.text(scores[column.name])
    if intervals and column.name in intervals:
        low, high = map(column.text, intervals[column.name])
        text += rf" {{\scriptsize [{low}, {high}]}}"
    return text


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
