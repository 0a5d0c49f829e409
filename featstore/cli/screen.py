"""Progress and tables that fit the terminal."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

import click

from featstore.cli.common import spoken
from featstore.probe.errors import line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars, TaskID

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


# Stages that say how far a whole part has come, and not a step of it.
_EXTRACTED = ("images", "texts")


@dataclass
class Sweep:
    """Progress of a sweep: its group and phase, and how long these were expected to take.

    Attributes:
        total: probes of all groups.
        of: what is swept, in words; "" where nothing else is.
        began: when the sweep did.
        phases: expected seconds of each phase of this group.
        later: of the groups after it.
        phase: the place of the one that is going on.
        since: when it began.
        spoken: how far the bar has come, in [0, 1].
    """

    total: int
    of: str = ""
    began: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    later: float = 0.0
    phase: int = 0
    since: float = 0.0
    spoken: float = 0.0

    @property
    def text(self) -> str:
        """The layer that is swept, and the phase that is going on, in words."""
        return f"{self.of}{TEXTS[list(self.phases)[self.phase]]}"

    def enter(self, stage: str, now: float) -> None:
        """Go on to the phase of a stage, if it is a later one."""
        names = list(self.phases)
        place = names.index(PHASES[stage]) if PHASES.get(stage) in names else self.phase
        if place > self.phase:
            self.phase, self.since = place, now

    def left(self, now: float) -> tuple[float, bool]:
        """Return the seconds that are left, and whether it is more: this phase is late."""
        expected = list(self.phases.values())
        here = expected[self.phase] - (now - self.since)
        return max(here, 0.0) + sum(expected[self.phase + 1 :]) + self.later, here < 0

    def share(self, now: float) -> float:
        """Return the share of the sweep's time that is over: it never falls, and waits if late."""
        over = now - self.began
        part = over / max(over + self.left(now)[0], 1e-9)
        self.spoken = max(self.spoken, min(part, 0.99))
        return self.spoken


@dataclass
class Series:
    """Parts of one work, such as several sweeps, which have one bar and one time left together.

    Attributes:
        unit: what its parts are, in the plural.
        total: how many there are.
        expected: about how many seconds each takes; empty where nobody knows.
        began: when the first part did.
        done: parts that are over.
        since: when the part that goes on began.
        text: what goes on, in words.
        end: when the part that goes on will be over; None if it does not say.
        took: seconds of the parts that are over, but for those that were there already.
        weighed: the seconds that were expected of these.
        spoken: how far the bar has come, in [0, 1].
    """

    THERE = 0.1  # seconds: a part that took less was there already

    unit: str
    total: int
    expected: Sequence[float]
    began: float
    done: int = 0
    since: float = 0.0
    text: str = ""
    end: float | None = None
    took: float = 0.0
    weighed: float = 0.0
    spoken: float = 0.0

    def go_on(self, done: int, total: int, expected: Sequence[float], now: float) -> None:
        """Take that so many parts are over, and what is expected of all by now."""
        passed = now - self.since
        if done > self.done and passed > self.THERE:
            self.took += passed
            self.weighed += sum(self.expected[self.done : done])
        self.done, self.total, self.expected = done, total, expected
        self.since, self.end = now, None

    @property
    def pace(self) -> float:
        """Seconds that a second of what was expected took."""
        return self.took / self.weighed if self.weighed else 1.0

    def left(self, now: float, here: tuple[float, bool] | None) -> tuple[float, bool] | None:
        """Return the seconds that are left of all, and whether it is more; None if nobody knows.

        `here` is the same of the sweep that goes on, None of another part.
        """
        if not self.expected:
            return None
        if here is None and self.end is not None:
            here = max(self.end - now, 0.0), False
        elif here is None:
            rest = self.pace * self.expected[self.done] - (now - self.since)
            here = max(rest, 0.0), rest < 0
        return here[0] + self.pace * sum(self.expected[self.done + 1 :]), here[1]

    def share(self, now: float, left: float | None) -> float:
        """Return the share of the time of all that is over, or of the parts: it never falls."""
        over, total = (self.done, self.total) if left is None else (now - self.began, left)
        part = over / max(total if left is None else over + left, 1e-9)
        self.spoken = max(self.spoken, min(part, 0.99))
        return self.spoken


class Progress:
    """A callback that shows done, rate and time left on stderr.

    A bar on a terminal, elsewhere a line every ten seconds; nothing for what takes under two. A
    sweep of probes has one bar for all that it does, and says before it starts how long it will
    take; several sweeps that belong together have one as well.
    """

    PATIENCE, EVERY = 2.0, 10.0  # seconds

    def __init__(self):
        self.quiet = click.get_current_context().meta["quiet"]
        self.began: dict[str, tuple[int, float]] = {}  # stage: units done and time, at its start
        self.last: dict[str, int] = {}  # stage: units done
        self.printed = time.monotonic()
        self.bars: Bars | None = None
        self.tasks: dict[str, TaskID] = {}
        self.sweep: Sweep | None = None
        self.series: Series | None = None

    @cached_property
    def console(self) -> "Console":
        """Console of the bars."""
        from rich.console import Console

        return Console(stderr=True, markup=False, highlight=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._clear()

    def __call__(
        self, stage: str, done: int, total: int, seconds: Sequence[float] | None = None, **facts
    ) -> None:
        """Take how far a stage has come; the first call of a stage says what was there before.

        With `seconds`, about how many each of `total` parts takes, what follows is of the part
        after those that are done.
        """
        now = time.monotonic()
        if seconds is not None:
            named = line(", ".join(str(fact) for fact in facts.values()))
            self._go_on(stage, done, total, seconds, now, named)
            return
        if stage == SWEEP:
            self._swept(done, total, now, **facts)
            return
        if self.sweep:
            self.sweep.enter(stage, now)
            self._show(now)
            return
        if stage not in self.began or done < self.last[stage]:
            self.began[stage] = (done, now)
        self.last[stage] = done
        before, start = self.began[stage]
        what = ", ".join([stage, *_told(facts)])
        if self.series:
            self.series.text = what
            if stage in _EXTRACTED and done > before:
                self.series.end = now + (total - done) * (now - start) / (done - before)
            self._show(now)
            return
        if self.quiet or now - start < self.PATIENCE:
            return
        pace = _pace(stage, done - before, total - done, now - start)
        if self.console.is_terminal:
            self._draw(stage, what, done, total, pace)
        elif now - self.printed >= self.EVERY:
            self.printed = now
            click.echo(f"{what}: {done:,} of {total:,}, {pace}", err=True)

    def _go_on(
        self,
        unit: str,
        done: int,
        total: int,
        expected: Sequence[float],
        now: float,
        text: str,
    ) -> None:
        """Take that a part of several begins, or that all are done."""
        if done == total or total < 2:
            self.series = None
            self._clear()
            return
        if self.series is None:
            self._clear()
            self.series = Series(unit, total, expected, now, done, now)
            self.printed = now
            ahead = sum(expected[done:])
            if expected and not self.quiet:
                click.echo(f"{total - done:,} {unit} to do, {about(ahead)}", err=True)
        else:
            self.series.go_on(done, total, expected, now)
        self.series.text = text
        self._show(now)

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
            if not self.series:
                self._clear()
            return
        pace = self.series.pace if self.series else 1.0
        phases, later = {name: pace * each for name, each in phases.items()}, pace * later
        expected = sum(phases.values()) + later
        if self.sweep is None or self.sweep.total != total:
            if not self.series:
                self._clear()  # a bar that counts something else
            of = "".join(f"{each}: " for each in _told(facts))
            self.sweep = Sweep(total, of, began=now)
            if not self.series:
                self.printed = now
                if not self.quiet:
                    click.echo(f"{of}{total - done:,} probes to solve, {about(expected)}", err=True)
        self.sweep.phases, self.sweep.later = phases, later
        self.sweep.phase, self.sweep.since = 0, now
        if self.series or expected > self.PATIENCE or self.bars:
            self._show(now)

    def _show(self, now: float) -> None:
        """Show how far a sweep has come, or several of them."""
        if self.quiet or (self.series and now - self.series.began < self.PATIENCE):
            return
        text, share, pace = self._reached(now)
        if self.console.is_terminal:
            self._draw(SWEEP, text, share, 1000, pace, counted=False)
        elif now - self.printed >= self.EVERY:
            self.printed = now
            click.echo(f"{text}: {pace}", err=True)

    def _reached(self, now: float) -> tuple[str, int, str]:
        """Return what is being done, the thousandths of the time that are over, what is left."""
        sweep, series = self.sweep, self.series
        if series is None:
            share = sweep.share(now)
            pace = f"{100 * share:.0f} %, {_left(sweep.left(now))}"
            return sweep.text, round(1000 * share), pace
        left = series.left(now, sweep.left(now) if sweep else None)
        count = f"{series.done}/{series.total} {series.unit}"
        text = (sweep.text if sweep else series.text) or series.unit
        share = series.share(now, left and left[0])
        return text, round(1000 * share), f"{count}, {_left(left)}" if left else count

    def _tick(self) -> None:
        """Move the bar of a sweep by the clock."""
        if (self.sweep or self.series) and SWEEP in self.tasks:
            text, share, pace = self._reached(time.monotonic())
            self.bars.update(self.tasks[SWEEP], description=text, completed=share, pace=pace)

    def _draw(
        self, stage: str, what: str, done: int, total: int, pace: str, counted: bool = True
    ) -> None:
        if not self.bars:
            from featstore.cli.tables import bars

            self.bars = bars(self.console, self._tick, counted)
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


def about(seconds: float, how: str = "about") -> str:
    """Write a time that is not known exactly.

    >>> about(0.4), about(7.2), about(47), about(200), about(9000), about(400_000)
    ('about 1 s', 'about 7 s', 'about 50 s', 'about 3 min', 'about 2.5 h', 'about 4.6 days')
    """
    for unit, length in (("days", 86_400), ("h", 3_600)):
        if seconds >= 1.5 * length:
            return f"{how} {seconds / length:.1f} {unit}"
    if seconds >= 100:
        return f"{how} {seconds / 60:.0f} min"
    return f"{how} {max(round(seconds, -1 if seconds >= 20 else None), 1):.0f} s"


def _left(left: tuple[float, bool]) -> str:
    """Write how many seconds are left, and whether it is more.

    >>> _left((47, False)), _left((47, True)), _left((0, True))
    ('about 50 s left', 'over 50 s left', 'longer than expected')
    """
    seconds, more = left
    if more and seconds < 1:
        return "longer than expected"
    return f"{about(seconds, 'over' if more else 'about')} left"


def _pace(unit: str, done: int, left: int, seconds: float) -> str:
    """Write rate and time left, as in `312 images/s, 0:02:10 left`."""
    rate = done / seconds
    digits = 0 if rate >= 10 else 1
    if not rate:
        return "waiting for the first"
    if not left:
        return f"{rate:,.{digits}f} {unit}/s, finishing"
    minutes, seconds = divmod(max(round(left / rate), 1), 60)
    hours, minutes = divmod(minutes, 60)
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
    spoken()
    if not click.get_current_context().meta["quiet"]:
        click.echo(line(text), err=True)


def __getattr__(name: str):
    """Return a name of `featstore.cli.tables`: rich, which that brings, is no part of `--help`."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("featstore.cli.tables"), name)
