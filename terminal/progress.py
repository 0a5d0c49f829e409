"""Done, rate and time left, on stderr."""

import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars


class Progress:
    """A callback that shows done, rate and time left on stderr.

    A bar on a terminal, elsewhere a line every ten seconds; nothing for what takes under two.
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bars:
            self.bars.stop()

    def __call__(self, stage: str, done: int, total: int, **facts) -> None:
        """Take how far a stage has come; the first call of a stage says what was there before."""
        now = time.monotonic()
        if stage not in self.began or done < self.last[stage]:
            self.began[stage] = (done, now)
        self.last[stage] = done
        before, start = self.began[stage]
        if self.quiet or now - start < self.PATIENCE:
            return
        pace = _pace(stage, done - before, total - done, now - start)
        told = [name if fact is True else f"{name} {fact}" for name, fact in facts.items() if fact]
        what = ", ".join([stage, *told])
        if self.console.is_terminal:
            self._draw(stage, what, done, total, pace)
        elif now - self.printed >= self.EVERY:
            self.printed = now
            click.echo(f"{what}: {done:,} of {total:,}, {pace}", err=True)

    def _draw(self, stage: str, what: str, done: int, total: int, pace: str) -> None:
        if not self.bars:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
            )
            self.bars = Bars(*columns, console=self.console, transient=True, expand=True)
            self.bars.start()
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, pace="")
        task = self.tasks[stage]
        self.bars.update(task, description=what, completed=done, total=total, pace=pace)


def _pace(unit: str, done: int, left: int, seconds: float) -> str:
    """Write rate and time left, as in `312 images/s, 0:02:10 left`."""
    rate = done / seconds
    if not rate:
        return "waiting for the first"
    minutes, seconds = divmod(round(left / rate), 60)
    hours, minutes = divmod(minutes, 60)
    digits = 0 if rate >= 10 else 1
    return f"{rate:,.{digits}f} {unit}/s, {hours}:{minutes:02}:{seconds:02} left"


def notice(text: str) -> None:
    """Say something on stderr, unless --quiet."""
    if not click.get_current_context().meta["quiet"]:
        click.echo(text, err=True)
