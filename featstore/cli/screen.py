"""Progress and tables that fit the terminal."""

import os
import time
from collections.abc import Mapping
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


class Progress:
    """A callback that shows done, rate and time left on stderr.

    A bar on a terminal, elsewhere a line every ten seconds; nothing for what takes under two. A
    sweep of probes has one bar for all that it does, and says before it starts how long it will
    take.
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

    @cached_property
    def console(self) -> "Console":
        """Console of the bars."""
        from rich.console import Console

        return Console(stderr=True, markup=False, highlight=False)

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
