"""`featstore study`: what a study file asks for, extracted, solved, analysed and written up."""

import sys
from pathlib import Path

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.tables import PLAIN, show, size
from terminal.values import FILE


@click.command(cls=Command)
@click.argument("file", type=FILE, required=False)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Where everything goes.  [default: the file's own path without .toml]",
)  # fmt: skip
@click.option("--only", metavar="PATTERNS", help="Features, probes, FEATURE.PROBE, or analyses.")
@click.option("--dry-run", is_flag=True, help="Say what it will cost, and stop.")
def study(file, out, only, dry_run) -> None:
    """Run what a study file describes, and only what of it is missing.

    Says first what it will cost. Then extracts features, solves probes, analyses them, draws
    figures and writes a page: each part once, and again only if what it is of has changed. Killed
    at any instant, the same command goes on. What cannot be had is named, and the rest goes on;
    the exit status is then 1.

    \b
    Example:
      featstore study mine.toml --dry-run
      featstore study mine.toml --only "lite0-*,ridge"
    """
    from studies import outcomes, plan, running, spec

    if file is None:
        raise click.UsageError("name a study file")
    read = spec.read(file)
    folder = out or running.default_folder(file)
    planned = plan.plan(read, folder, only)
    tell_cost(planned)
    if dry_run:
        return
    with Progress() as progress:
        done = running.run(planned, only=only, progress=progress, told=notice, command=sys.argv)
    counts = {status: sum(each.status == status for each in done) for status in _STATES}
    notice(", ".join(f"{count} {_STATES[status]}" for status, count in counts.items() if count))
    outcomes.require(done)


_STATES = {"made": "parts made", "there": "were there", "missing": "missing"}


def tell_cost(planned) -> None:
    """Print what a plan will cost, a line a feature, and what the numbers rest on."""
    from rich.table import Table

    from studies.cost import cost_of

    if planned.complete:
        notice("every store and every probe of this study is there")
        return
    cost = cost_of(planned)
    shown = Table(title=planned.study.title, **PLAIN)
    shown.add_column("features", overflow="fold")
    for heading in ("passes to do", "published way", "probes", "about", "disk"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for line in cost.lines:
        shown.add_row(*_cells(line))
    if len(cost.lines) > 1:
        shown.add_row("in all", *_numbers(*(cost.total(name) for name in _COLUMNS)))
    show(shown)
    for line in cost.lines:
        if line.reason:
            notice(f"{line.name} cannot be had: {line.reason}")
    for note in cost.notes:
        notice(note)


_COLUMNS = ("rows", "published", "probes", "extracting", "probing", "disk")


def _cells(line) -> list[str]:
    if line.reason:
        return [line.name, "-", "-", "-", "-", "-"]
    return [line.name, *_numbers(*(getattr(line, name) for name in _COLUMNS))]


def _numbers(rows, published, probes, extracting, probing, disk) -> list[str]:
    seconds = None if extracting is None else extracting + probing
    return [
        "?" if rows is None else f"{rows:,.0f}",
        "?" if published is None else _large(published),
        f"{probes:,.0f}",
        "?" if seconds is None else duration(seconds),
        "?" if disk is None else size(disk),
    ]


def duration(seconds: float) -> str:
    """Write a time as a person would say it.

    >>> duration(0), duration(42), duration(600), duration(9000), duration(400_000)
    ('0 s', '42 s', '10 min', '2.5 h', '4.6 days')
    """
    for unit, length in (("days", 86_400), ("h", 3_600)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def _large(count: float) -> str:
    return f"{count:,.0f}" if count < 1e8 else f"{count:.2e}"
