"""Progress and tables that fit the terminal."""

import copy
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from featstore.cli.common import printable
from featstore.probe.errors import line

if TYPE_CHECKING:
    from featstore.probe.results.views import View

SWEEP = "sweep"
"""The stage in which `probe.sweep` says how long its groups will take."""

PHASES = {
    "rows": "reading",
    "features": "reading",
    "penalties": "choosing",
    "probes": "solving",
    "epochs": "solving",
    "test rows": "scoring",
}
"""Which phase of a group of probes each of a solver's stages is in."""

TEXTS = {
    "reading": "reading rows",
    "choosing": "choosing penalties on train rows",
    "solving": "solving",
    "scoring": "scoring test rows",
}


@dataclass
class Sweep:
    """Progress of a sweep: its group and phase, and how long these were expected to take.

    Attributes:
        total: probes of all groups.
        done: probes of the groups that are solved.
        began: when the sweep did.
        phases: expected seconds of each phase of this group.
        later: of the groups after it.
        phase: the place of the one that is going on.
        since: when it began.
        spoken: how far the bar has come, in [0, 1].
    """

    total: int
    done: int = 0
    began: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    later: float = 0.0
    phase: int = 0
    since: float = 0.0
    spoken: float = 0.0

    @property
    def text(self) -> str:
        """The phase that is going on, in words."""
        return TEXTS[list(self.phases)[self.phase]]

    def enter(self, stage: str, now: float) -> None:
        """Go on to the phase of a stage, if it is a later one."""
        names = list(self.phases)
        place = names.index(PHASES[stage]) if PHASES.get(stage) in names else self.phase
        if place > self.phase:
            self.phase, self.since = place, now

    def left(self, now: float) -> float | None:
        """Return the seconds that are left; None if the phase takes longer than was expected."""
        expected = list(self.phases.values())
        here = expected[self.phase] - (now - self.since)
        if here < 0:
            return None
        return here + sum(expected[self.phase + 1 :]) + self.later

    def share(self, now: float) -> float:
        """Return the share of the sweep's time that is over: it never falls, and waits if late."""
        expected = list(self.phases.values())
        rest = sum(expected[self.phase + 1 :]) + self.later
        left = max(expected[self.phase] - (now - self.since), 0.0) + rest
        over = now - self.began
        self.spoken = max(self.spoken, min(over / max(over + left, 1e-9), 0.99))
        return self.spoken


class Clocked(Bars):
    """Bars that are brought up to the clock before each time that they are drawn."""

    tick = staticmethod(lambda: None)

    def get_renderables(self):
        """Yield what is drawn."""
        self.tick()
        yield from super().get_renderables()


class Progress:
    """A callback that shows done, rate and time left on stderr.

    A bar on a terminal, elsewhere a line every ten seconds; nothing for what takes under two. A
    sweep of probes has one bar for all that it does, and says before it starts how long it will
    take.
    """

    PATIENCE, EVERY = 2.0, 10.0  # seconds

    def __init__(self):
        self.quiet = click.get_current_context().meta["quiet"]
        self.console = Console(stderr=True, markup=False, highlight=False)
        self.began: dict[str, tuple[int, float]] = {}  # stage: units done and time, at its start
        self.last: dict[str, int] = {}  # stage: units done
        self.printed = time.monotonic()
        self.bars: Bars | None = None
        self.tasks: dict[str, TaskID] = {}
        self.sweep: Sweep | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._clear()

    def __call__(self, stage: str, done: int, total: int, **facts) -> None:
        """Take how far a stage has come; the first call of a stage says what was there before."""
        now = time.monotonic()
        if stage == SWEEP:
            self._swept(done, total, now, **facts)
            return
        if self.sweep:
            self.sweep.enter(stage, now)
            self._show_sweep(now)
            return
        if stage not in self.began or done < self.last[stage]:
            self.began[stage] = (done, now)
        self.last[stage] = done
        before, start = self.began[stage]
        if self.quiet or now - start < self.PATIENCE:
            return
        pace = _pace(stage, done - before, total - done, now - start)
        what = ", ".join([stage, *_told(facts)])
        if self.console.is_terminal:
            self._draw(stage, what, done, total, pace)
        elif now - self.printed >= self.EVERY:
            self.printed = now
            click.echo(f"{what}: {done:,} of {total:,}, {pace}", err=True)

    def _swept(
        self,
        done: int,
        total: int,
        now: float,
        phases: Mapping[str, float] | None = None,
        later: float = 0.0,
        **facts,
    ) -> None:
        """Take that a group of a sweep begins, or that all are done."""
        if phases is None:
            self.sweep = None
            self._clear()
            return
        expected = sum(phases.values()) + later
        if self.sweep is None or self.sweep.total != total:
            self.sweep = Sweep(total, began=now)
            self.printed = now
            of = "".join(f"{each}: " for each in _told(facts))
            if not self.quiet:
                click.echo(f"{of}{total - done:,} probes to solve, {about(expected)}", err=True)
        self.sweep.done, self.sweep.phases, self.sweep.later = done, dict(phases), later
        self.sweep.phase, self.sweep.since = 0, now
        if expected > self.PATIENCE or self.bars:
            self._show_sweep(now)

    def _show_sweep(self, now: float) -> None:
        if self.quiet:
            return
        text, share, pace = self._of_sweep(now)
        if self.console.is_terminal:
            self._draw(SWEEP, text, share, 1000, pace, counted=False)
        elif now - self.printed >= self.EVERY:
            self.printed = now
            click.echo(f"{text}: {share / 10:.0f} %, {pace}", err=True)

    def _of_sweep(self, now: float) -> tuple[str, int, str]:
        """Return what a sweep is at, the thousandths of its time that are over, what is left."""
        sweep = self.sweep
        left, share = sweep.left(now), sweep.share(now)
        pace = "longer than expected" if left is None else f"{about(left)} left"
        return sweep.text, round(1000 * share), pace

    def _tick(self) -> None:
        """Move the bar of a sweep by the clock."""
        if self.sweep and SWEEP in self.tasks:
            text, share, pace = self._of_sweep(time.monotonic())
            self.bars.update(self.tasks[SWEEP], description=text, completed=share, pace=pace)

    def _draw(
        self, stage: str, what: str, done: int, total: int, pace: str, counted: bool = True
    ) -> None:
        if not self.bars:
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
            columns += [MofNCompleteColumn()] if counted else []
            columns += [TextColumn("{task.fields[pace]}")]
            self.bars = Clocked(*columns, console=self.console, transient=True, expand=True)
            self.bars.tick = self._tick
            self.bars.start()
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, pace="")
        task = self.tasks[stage]
        self.bars.update(task, description=what, completed=done, total=total, pace=pace)

    def _clear(self) -> None:
        if self.bars:
            self.bars.stop()
        self.bars, self.tasks = None, {}


def _told(facts: Mapping[str, object]) -> list[str]:
    """Return the facts that say something, as words."""
    return [
        line(name if fact is True else f"{name} {fact}") for name, fact in facts.items() if fact
    ]


def about(seconds: float) -> str:
    """Write a time that is not known exactly.

    >>> about(0.4), about(7.2), about(47), about(200), about(9000), about(400_000)
    ('about 1 s', 'about 7 s', 'about 50 s', 'about 3 min', 'about 2.5 h', 'about 4.6 days')
    """
    for unit, length in (("days", 86_400), ("h", 3_600)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.1f} {unit}"
    if seconds >= 100:
        return f"about {seconds / 60:.0f} min"
    return f"about {max(round(seconds, -1 if seconds >= 20 else None), 1):.0f} s"


def _pace(unit: str, done: int, left: int, seconds: float) -> str:
    """Write rate and time left, as in `312 images/s, 0:02:10 left`."""
    rate = done / seconds
    if not rate:
        return "waiting for the first"
    minutes, seconds = divmod(round(left / rate), 60)
    hours, minutes = divmod(minutes, 60)
    digits = 0 if rate >= 10 else 1
    return f"{rate:,.{digits}f} {unit}/s, {hours}:{minutes:02}:{seconds:02} left"


def tested_on(store, name: str | None) -> str:
    """Return the split to test on, and say so where it is another than "test"."""
    split = store.test_split(name)
    if name is None and split != "test":
        notice(f"tested on {split}: {store.path} has no split test")
    return split


def first_notice(text: str) -> None:
    """Say something before the libraries are imported, which takes seconds; of ranks the first."""
    if os.environ.get("RANK", "0") == "0":
        notice(text)


def notice(text: str) -> None:
    """Say something on stderr, unless --quiet."""
    if not click.get_current_context().meta["quiet"]:
        click.echo(line(text), err=True)


PLAIN = {
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "title_justify": "left",
    "title_style": "bold",
}
# The same without a character that ASCII lacks.
_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
# Texts are folded to this width before a column of numbers is left out.
_FOLDED = 12


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
    row for them, and a line below names them.
    """
    console = _Console(markup=False, highlight=False, emoji=False)
    mark = printable("…", console.encoding)
    left_out: dict[str, None] = {}
    wanted = 0
    for thing in things:
        thing = thing if isinstance(thing, Table | str) else of_view(thing)
        if isinstance(thing, Table):
            table = _encodable(thing, console)
            shown = _fitting(table, console, mark)
            if shown is not table:
                kept = len(shown.columns) - 1
                left_out |= dict.fromkeys(str(column.header) for column in table.columns[kept:])
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


def _fitting(table: Table, console: Console, mark: str) -> Table:
    """Return the table, or where it is too wide its first columns and a column of marks."""
    for column in table.columns:
        column.no_wrap = column.no_wrap or column.justify == "right"
    kept, shown = len(table.columns), table
    while kept > 1 and _width(shown, console) > console.width:
        kept -= 1
        shown = copy.copy(table)
        marks = Column(header=mark, no_wrap=True, _cells=[mark] * table.row_count)
        shown.columns = [*table.columns[:kept], replace(marks, _index=kept)]
    return shown


def _width(table: Table, console: Console) -> int:
    """Return how many columns of a terminal a table needs, its texts folded and no number cut."""
    whole = Measurement.get(console, console.options.update(width=10_000), table).maximum
    for column in table.columns:
        if not column.no_wrap and not column.min_width:
            texts = [str(column.header), *map(str, column.cells)]
            widest = max(cell_len(line) for text in texts for line in text.split("\n"))
            whole -= max(0, widest - _FOLDED)
    return whole


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
    for heading in ("store", "dataset"):
        shown.add_column(heading, overflow="fold")
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
    shown.add_column("abandoned", overflow="fold")
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
        return {"targets": ", ".join(spec.targets)}
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


def size(number: float) -> str:
    """Write a number of bytes for a person.

    >>> size(900), size(19_700_000)
    ('900 B', '18.8 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:,.3g} GiB"
