"""Tables for notebooks: plain HTML without a stylesheet, so that dark and light are the page's."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from probe.curve import Evidence
from probe.printed import Block, printed
from probe.summaries import score_of, warnings

RIGHT, LEFT = ' style="text-align: right"', ' style="text-align: left"'


def html_table(headings: Sequence[str], blocks: Iterable[Block], caption: str = "") -> str:
    """Return a table as HTML, every text escaped, all but names to the right.

    Arguments:
        headings: of the columns.
        blocks: rows of cells, each block below its name.
        caption: above the table.

    Example:
        >>> html_table(["a"], [Block("x < y", (("1",),))], "b")[:59]
        '<table><caption style="text-align: left">b</caption><thead>'
    """
    above = f"<caption{LEFT}>{escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col"{RIGHT}>{escape(text)}</th>' for text in headings)
    bodies = "".join(_body(block, len(headings)) for block in blocks)
    return f"<table>{above}<thead><tr>{head}</tr></thead>{bodies}</table>"


def _body(block: Block, columns: int) -> str:
    name = f'<tr><th colspan="{columns}"{LEFT}>{escape(block.name)}</th></tr>'
    rows = "".join(
        "<tr>" + "".join(f"<td{RIGHT}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    return f"<tbody>{name if block.name else ''}{rows}</tbody>"


def sweep_as_html(table: pd.DataFrame, correct: Evidence = None) -> str:
    """Return a sweep as HTML: a row for each fraction of each curve, and what did not go as usual.

    Arguments:
        table: one row a probe. Without scores, as `probe.fit` gives it, it is shown as it is.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
    """
    if score_of(table) not in table or not len(table):
        return table.to_html(max_rows=20, border=0)
    shown = printed(table, correct)
    facts = [shown.store, shown.shared, *_rows_of(table)]
    lines = "".join(f"<p>{escape(note)}</p>" for note in shown.notes)
    lines += "".join(f"<p>Warning: {escape(line)}</p>" for line in warnings(table))
    return html_table(shown.headings, shown.blocks, ", ".join(filter(None, facts))) + lines


def _rows_of(table: pd.DataFrame) -> list[str]:
    """Say how many rows the probes were solved and scored on, where it is the same for all."""
    found = []
    for split in ("train", "test"):
        known = table[f"n_{split}"].dropna().unique() if f"n_{split}" in table else []
        if len(known) == 1:
            found.append(f"{int(known[0]):,} {split} rows")
    return found
