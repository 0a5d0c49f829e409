"""Tables that fit the terminal, and bars: all that is laid out by rich."""

import copy
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TextColumn
from rich.table import Column, Table
from rich.text import Text

from featstore.cli.common import printable, size

if TYPE_CHECKING:
    from featstore.probe.results.views import View


class Clocked(Bars):
    """Bars that are brought up to the clock before each time that they are drawn."""

    tick = staticmethod(lambda: None)

    def get_renderables(self):
        """Yield what is drawn."""
        self.tick()
        yield from super().get_renderables()


def bars(console: Console, tick: Callable[[], None], counted: bool) -> Bars:
    """Return bars for the width of a console: what is done and what is left are never cut.

    The text before a bar is, and the bar is what is left of the line.
    """
    text = TextColumn("{task.description}", table_column=Column(ratio=2, no_wrap=True))
    pace = TextColumn("{task.fields[pace]}", table_column=Column(no_wrap=True))
    count = [MofNCompleteColumn(table_column=Column(no_wrap=True))] if counted else []
    made = Clocked(
        text,
        BarColumn(bar_width=None, table_column=Column(ratio=3)),
        *count,
        pace,
        console=console,
        transient=True,
        expand=True,
    )
    made.tick = tick
    return made


PLAIN = {
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "title_justify": "left",
    "title_style": "bold",
}
# The same without a character that ASCII lacks.
_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
# Texts are folded to this width, or that of a word up to the other, before a column is left out.
_FOLDED, _WORD = 12, 24


def of_view(view: "View") -> Table:
    """Lay out a view: numbers to the right and never cut, texts folded."""
    shown = Table(title=view.title or None, **PLAIN)
    for column in view.columns:
        if column.numeric:
            shown.add_column(column.title, justify="right", no_wrap=True)
        else:
            shown.add_column(column.title, overflow="fold")
    for row in view.rows():
        shown.add_row(*row)
    return shown


def show(*things: "Table | View | str") -> None:
    """Print tables and sentences, wrapped to the terminal, or to 80 columns where there is none.

    Columns that a table has no room for are left out, the last ones first; a mark stands in each
    row for them, and a line below names them. Numbers are never cut, and names that are to be
    copied (columns with `no_wrap`) only where one alone is wider than the terminal.
    """
    console = _Console(markup=False, highlight=False, emoji=False)
    mark = printable("…", console.encoding)
    left_out: dict[str, None] = {}
    wanted = 0
    for thing in things:
        thing = thing if isinstance(thing, Table | str) else of_view(thing)
        if isinstance(thing, Table):
            table = _encodable(thing, console)
            shown, kept = _fitting(table, console, mark)
            if kept < len(table.columns):
                titles = [" ".join(str(each.header).split()) for each in table.columns[kept:]]
                left_out |= dict.fromkeys(titles)
                wanted = max(wanted, _width(table, console))
            if shown.title:  # which would be wrapped to the width of the table
                console.print(Text(str(shown.title), style=str(shown.title_style)))
                shown.title = None
            console.print(shown)
            if thing.title:
                console.print()
        else:
            console.print(printable(thing, console.encoding))
    if left_out:
        console.print(f"{mark} left out: {', '.join(left_out)}; {wanted} columns have room for all")


class _Console(Console):
    """A console whose reader may go away, as `head` does: the rest of the command still runs."""

    def on_broken_pipe(self) -> None:
        """Print nothing any more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _encodable(table: Table, console: Console) -> Table:
    """Return the table with the characters that the console can print."""
    made = copy.copy(table)
    if console.options.ascii_only and made.box is box.SIMPLE_HEAD:
        made.box = _ASCII_HEAD

    def plain(cell):
        return printable(cell, console.encoding) if isinstance(cell, str) else cell

    made.title = plain(table.title)
    made.columns = [
        replace(column, header=plain(column.header), _cells=[plain(c) for c in column.cells])
        for column in table.columns
    ]
    return made


def _fitting(table: Table, console: Console, mark: str) -> tuple[Table, int]:
    """Return the table as it fits, and how many of its columns are left.

    Its texts are folded, and a column of marks stands for the last columns.
    """
    for column in table.columns:
        column.no_wrap = column.no_wrap or column.justify == "right"
    kept, shown = len(table.columns), table
    while kept > 1 and _width(shown, console) > console.width:
        kept -= 1
        shown = copy.copy(table)
        marks = Column(header=mark, no_wrap=True, _cells=[mark] * table.row_count)
        shown.columns = [*table.columns[:kept], replace(marks, _index=kept)]
    return _folded(shown, console), kept


def _folded(table: Table, console: Console) -> Table:
    """Return the table with the widest of its texts folded until it fits.

    A table of rich would make all columns narrower that it may, below a word or a name.
    """
    over = _whole(table, console) - console.width
    if over <= 0:
        return table
    widths = [_widest(column) for column in table.columns]
    least = [_least(column) for column in table.columns]
    if len(table.columns) <= 2:  # one column, and perhaps a mark: its name has to be cut
        least[0] = 1
    while over > 0 and widths != least:
        (_, widest) = max((w, n) for n, w in enumerate(widths) if w > least[n])
        widths[widest] -= 1
        over -= 1
    made = copy.copy(table)
    made.columns = [
        column
        if width == _widest(column)
        else replace(column, width=width, no_wrap=False, overflow="fold")
        for column, width in zip(table.columns, widths, strict=True)
    ]
    return made


def _width(table: Table, console: Console) -> int:
    """Return how many columns of a terminal a table needs, its texts folded and no number cut."""
    folded = sum(_widest(column) - _least(column) for column in table.columns)
    return _whole(table, console) - folded


def _whole(table: Table, console: Console) -> int:
    """Return how many columns of a terminal a table takes with nothing folded."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _widest(column: Column) -> int:
    """Return how wide the lines of a column are."""
    texts = [str(column.header), *map(str, column.cells)]
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _least(column: Column) -> int:
    """Return how narrow a column may become: numbers and names keep their width, texts words."""
    widest = _widest(column)
    if column.no_wrap or column.min_width:
        return widest
    words = " ".join([str(column.header), *map(str, column.cells)]).split()
    short = [cell_len(word) for word in words if cell_len(word) <= _WORD]
    return min(widest, max([_FOLDED, *short]))


def of_sweep(table, correct=None) -> list[Table | str]:
    """Lay out a sweep, one table a curve: accuracy and share of the full layer with intervals.

    What all curves have in common stands above them, the headings once, and below them what the
    intervals are over and what is reached without features. `table` is a pandas table in the long
    form, one row a probe, `correct` says which test rows each has right.
    """
    from featstore.probe.results.views import printed

    sweep = printed(table, correct)
    notes = "\n".join([*sweep.notes, ""]) if sweep.notes else ""
    alone = len(sweep.views) == 1
    tables = [of_view(view) for view in sweep.views]
    for view, shown in zip(sweep.views, tables, strict=True):
        shown.title = sweep.shared if alone else view.title or None
        shown.show_header = shown is tables[0]
        for place, column in enumerate(shown.columns):  # as wide in all
            cells = [row[place] for each in sweep.views for row in each.rows()]
            column.min_width = max(map(len, [column.header, *cells]))
    return [*([] if alone else [sweep.shared]), *tables, *filter(None, [notes])]


def of_layers(table, by_layer) -> list[Table | str]:
    """Lay out accuracy by layer, one table for each store, mode and solver.

    `table` has one row a probe, `by_layer` is what `accuracy_by_layer` made of it.
    """
    from featstore.probe.results import curves_of, percent, shared_and_own
    from featstore.probe.results.intervals import over_of
    from featstore.probe.results.views import layers, without_features

    keys = ("store", "mode", "solver")
    parts = curves_of(by_layer, keys)
    shared, own = shared_and_own(parts, keys)
    over = over_of(by_layer)
    notes = [f"[low, high]: {percent(0.95)} intervals over {over}"] if over else []
    notes += without_features(table)
    shown = [of_view(layers(part, name)) for part, name in zip(parts, own, strict=True)]
    return [", ".join(shared), *shown, *(["\n".join([*notes, ""])] if notes else [])]


def of_curves(table, lay_out) -> "list[View | str]":
    """Lay out a table in long form, one table a curve, under what all curves have in common.

    `lay_out(curve, title)` makes the table of one curve.
    """
    from featstore.probe.results import curves_of, shared_and_own

    curves = curves_of(table)
    shared, own = shared_and_own(curves)
    common = ", ".join(shared)
    if len(curves) == 1:
        return [lay_out(curves[0], common)]
    tables = [lay_out(curve, name) for curve, name in zip(curves, own, strict=True)]
    return [common, *tables] if common else tables


def of_stores(stores) -> Table:
    """Lay out the stores under the store root, one a row, by what tells them apart."""
    shown = Table(**PLAIN)
    # a narrow terminal leaves out the last columns: what tells a store's state comes before
    shown.add_column("store", no_wrap=True)
    shown.add_column("dataset", overflow="fold")
    for heading in ("rows", "blocks", "made"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("input, weights", "taps"):
        shown.add_column(heading, overflow="fold")
    shown.add_column("size", justify="right", no_wrap=True)
    for store in stores:
        spec = store.spec
        rows = sum(split.n_rows for split in spec.splits)
        taps = "\n".join(f"{tap.name} {tap.dim}" for tap in spec.taps)
        shown.add_row(
            store.path.name,
            spec.dataset,
            f"{rows:,}",
            _state(store),
            str(store.provenance.get("created", ""))[2:10],
            "\n".join(filter(None, (_input(spec.transform), _weights(spec.weights)))),
            taps,
            size(store.bytes_on_disk()),
        )
    return shown


def _input(transform: str) -> str:
    """Say how large the images of a canonical transform are, or how long its texts.

    >>> _input('timm {"crop_pct": 1.0, "input_size": [3, 224, 224]}')
    '224 px'
    >>> _input('tokens {"max_length": 256}'), _input("none")
    ('256 tokens', '')
    """
    import json

    try:
        facts = json.loads(transform[transform.index("{") : transform.rindex("}") + 1])
    except ValueError:
        return ""
    if "max_length" in facts:
        return f"{facts['max_length']} tokens"
    for name in ("input_size", "crop_size", "size", "image_size"):
        found = facts.get(name)
        sides = list(found.values()) if isinstance(found, dict) else found
        sides = sides if isinstance(sides, list) else [sides]
        if sides and all(isinstance(side, int) for side in sides):
            sides = sides[-2:] if sides[-2:].count(sides[-1]) < len(sides[-2:]) else sides[-1:]
            return f"{' x '.join(map(str, sides))} px"
    return ""


def _weights(weights: str) -> str:
    """Name weights in a few letters: the start of their digest, or the seed of random ones.

    >>> _weights("sha256:0123456789abcdef"), _weights("random:3:sha256:01234"), _weights("none")
    ('01234567', 'random 3', '')
    """
    kind, _, rest = weights.partition(":")
    if kind == "random":
        return f"random {rest.partition(':')[0]}"
    return rest[:8] if kind == "sha256" else ""


def of_abandoned(found) -> Table:
    """Lay out what was abandoned, one thing a row."""
    from datetime import datetime

    shown = Table(**PLAIN)
    shown.add_column("abandoned", no_wrap=True)
    shown.add_column("what")
    for heading in ("size", "last changed"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for item in found:
        changed = datetime.fromtimestamp(item.modified).strftime("%Y-%m-%d %H:%M")
        shown.add_row(item.path.name, item.what, size(item.n_bytes), changed)
    return shown


def of_store(store) -> Table:
    """Lay out everything a store's header says, one field a row."""
    spec = store.spec
    shown = Table(box=None, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    facts = {
        "store": store.path,
        "format": store.format
        + ("" if store.header.codec == "none" else f", {store.header.codec}"),
        "backbone": spec.backbone,
        "weights": spec.weights,
        "transform": spec.transform,
        "dataset": spec.dataset,
        **{f"split {s.name}": _split(s) for s in spec.splits},
        **{f"tap {t.name}": f"{t.dim:,} features, pooling {t.pooling}" for t in spec.taps},
        **({"columns": ", ".join(one.name for one in spec.columns)} if spec.columns else {}),
        "dtype": spec.dtype,
        "computed in": spec.precision,
        **({"views": spec.augment} if spec.augment else {}),
        **_labels(spec),
        "limit": "none" if spec.limit is None else f"{spec.limit:,} rows a split",
        "digest": spec.digest(),
        "block": f"{store.block_rows:,} rows",
        "blocks": _state(store),
        "size": size(store.bytes_on_disk()),
        **{
            name: _shortened_text(_listed(value))
            for name, value in store.provenance.items()
            if name != "notices"
        },
    }
    for name, value in facts.items():
        shown.add_row(name, str(value))
    for notice in store.notices:
        shown.add_row("notice", str(notice))
    return shown


def _split(split) -> str:
    views = f", {split.views} views" if split.views > 1 else ""
    return f"{split.n_rows:,} rows{views}, {split.fingerprint}"


def _labels(spec) -> dict[str, str]:
    if spec.targets:
        return {"labels" if spec.binary else "targets": ", ".join(spec.targets)}
    return {"classes": f"{len(spec.classes):,}: {_shortened(spec.classes)}"}


def _state(store) -> str:
    splits = [split.name for split in store.spec.splits]
    total = sum(store.n_blocks(split) for split in splits)
    missing = sum(len(store.missing(split)) for split in splits)
    return f"all {total:,}" if not missing else f"{total - missing:,} of {total:,}"


def _listed(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(part)}" for name, part in value.items())
    return str(value)


def _shortened_text(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _shortened(names, most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
