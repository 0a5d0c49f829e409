"""`featstore study`, `report` and `bench`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featstore.cli.common import (
    BACKEND,
    FILE,
    MEMORY,
    ON,
    SCORE,
    Command,
    Names,
    OutFile,
    size,
)
from featstore.cli.screen import Progress, notice

if TYPE_CHECKING:
    from featstore.study.plan import Cost


@click.command(cls=Command)
@click.argument("stage", default="solvers")
@click.option(
    "--sizes",
    default="medium",
    metavar="SIZES",
    help="small, medium, full, or numbers such as rows=50000,features=2048,classes=100.",
)
@MEMORY
@ON
@BACKEND
@click.option(
    "--json", type=OutFile(".json"), metavar="FILE", help="Save everything measured: .json."
)
def bench(stage, json, **options) -> None:
    """Measure this machine: time and memory of probes, stores and extraction.

    STAGE is solvers (every solver on one sweep), growth (their time and memory along every size),
    store (writing and reading, in every format) or extract (JPEG files to a committed store). Every
    stage checks the answers that it times, and gives the machine's own rates of matrix products and
    of copies.

    \b
    Example:
      featstore bench
      featstore bench growth --sizes rows=50000,classes=100 --json growth.json
    """
    from featstore.bench import run

    with Progress() as progress:
        report = run(stage, progress=progress, **options)
    click.echo(report.text())
    if json:
        report.save(json)
        notice(f"wrote {json}")


@click.command(cls=Command)
@click.argument("results", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option(
    "--out",
    type=OutFile(".html"),
    default="report.html",
    metavar="FILE",
    help="The page to write: .html.",
)
@click.option("--title", help="Title of the page.  [default: the store's name]")
@click.option(
    "--per-class",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Accuracies by class, as `probe --save-per-class` writes them; again for more files.",
)
@click.option(
    "--predictions",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="What `probe --save-predictions` wrote, one for each file of RESULTS: intervals are then "
    "over test rows too, not over seeds alone.",
)
@SCORE
def report(results, out, title, per_class, predictions, score) -> None:
    """Make one page of results that opens without a network.

    RESULTS are files of `featstore probe --out`, or folders of studies. The page has the answer in
    a sentence, curves to point at, tables to sort, and how the results were made. It holds all
    that it needs: nothing is loaded from elsewhere, today or in ten years.

    \b
    Example:
      featstore report results.csv --out report.html
      featstore report ridge.csv logistic.csv --title "Two solvers"
      featstore report results.csv --per-class classes.csv \\
        --predictions predictions.npz
      featstore report results.csv --score auroc
    """
    from featstore.report.page import write

    notice(f"wrote {write(results, out, title, per_class, predictions, score)}")


@click.command(cls=Command)
@click.argument("file", type=FILE, required=False)
@click.option("--paper", is_flag=True, help="The paper's own study, in place of a file.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where everything goes.  [default: the file's own path without .toml]",
)
@click.option(
    "--allow-paths",
    is_flag=True,
    help="Let the file's template and page lie outside of its folder.",
)
@click.option(
    "--only",
    metavar="PATTERNS",
    help="Some of it: features, probes, FEATURE.PROBE, or analyses.  [default: all]",
)
@click.option("--dry-run", is_flag=True, help="Say what it will cost, and stop.")
@click.option(
    "--limit", type=click.IntRange(1), help="Rows of each split, for a trial; evenly spaced."
)
@click.option(
    "--solver",
    type=Names(),
    metavar="LIST",
    help="Which probe for --paper: sgd, its own protocol, or logistic, the optimum, or both.  "
    "[default: logistic]",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="NAME=FILE",
    help="A local file of a model of --paper, which no hub has.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where the data sets' files of --paper lie."
)
def study(file, paper, out, only, dry_run, limit, allow_paths, **of_paper) -> None:
    """Run what a study file describes, and only what of it is missing.

    Says first what it will cost. Then extracts features, solves probes, analyses them, draws
    figures and writes a page: each part once, and again only if what it is of has changed. Killed
    at any instant, the same command goes on. What cannot be had is named, and the rest goes on;
    the exit status is then 1.

    \b
    Example:
      featstore study mine.toml --dry-run
      featstore study mine.toml --only "lite0-*,ridge"
      featstore study --paper --solver sgd,logistic --data-dir data --dry-run
    """
    from featstore.study import plan, records, run

    read, folder = _chosen(file, paper, allow_paths, **of_paper)
    if limit:
        from featstore.study.spec import limited

        read, folder = limited(read, limit), folder.with_name(f"{folder.name}-{limit}")
    planned = plan.plan(read, out or folder, only)
    cost = tell_cost(planned)
    if dry_run:
        return
    with Progress() as progress:
        done = run.run(
            planned, only=only, progress=progress, told=notice, command=sys.argv, cost=cost
        )
    counts = {status: sum(each.status == status for each in done) for status in _STATES}
    notice(", ".join(f"{count} {_STATES[status]}" for status, count in counts.items() if count))
    records.require(done)


def _chosen(file: Path | None, paper: bool, allow_paths: bool, solver, weights, data_dir):
    """Return the study, and the folder that it is for by default."""
    from featstore.study import run, spec
    from featstore.study.spec import study as of_paper

    if paper == (file is not None):
        raise click.UsageError("name a study file, or --paper, and not both")
    if not paper:
        if solver or weights or data_dir:
            raise click.UsageError(
                "--solver, --weights and --data-dir are of --paper; a study file says them itself"
            )
        return spec.read(file, allow_paths), run.default_folder(file)
    pairs = [word.partition("=") for word in weights]
    for name, _, path in pairs:
        if not path:
            raise click.UsageError(f"--weights {name} names no file; give NAME=FILE")
    files = {name: path for name, _, path in pairs}
    _tell_published()
    return of_paper(solver or ("logistic",), files, data_dir), Path("featstore-paper")


def _tell_published() -> None:
    from featstore.study.spec import published

    cost = published()["cost"]
    notice(
        f"as published, all of it was {cost['trainings']:,} trainings and "
        f"{cost['image_passes']:.1e} image passes; one figure (ResNet-50 on CIFAR-10) "
        f"{cost['figure_trainings']} and {cost['figure_image_passes']:.2e}"
    )


_STATES = {"made": "parts made", "there": "were there", "missing": "missing"}


def tell_cost(planned) -> "Cost | None":
    """Print what a plan will cost, a line a feature, and what the numbers rest on; return it."""
    from rich.table import Table

    from featstore.cli.tables import PLAIN, show
    from featstore.study.plan import cost_of

    if planned.complete:
        notice("every store and every probe of this study is there")
        return None
    cost = cost_of(planned)
    shown = Table(title=planned.study.title, **PLAIN)
    shown.add_column("features", no_wrap=True)
    for heading in ("passes to do", "published way", "probes", "about", "disk"):
        shown.add_column(heading, justify="right", no_wrap=True)
    known = [line for line in cost.lines if not line.reason]
    for line in known:
        shown.add_row(line.name, *_numbers(*(getattr(line, name) for name in _COLUMNS)))
    if len(known) > 1:
        shown.add_row("in all", *_numbers(*(cost.total(name) for name in _COLUMNS)))
    show(shown)
    lost = {}
    for line in cost.lines:
        if line.reason:
            lost.setdefault(line.reason, []).append(line.name)
    for reason, names in lost.items():
        named = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        notice(f"{named} cannot be had: {reason}")
    for note in cost.notes:
        notice(note)
    return cost


_COLUMNS = ("rows", "published", "probes", "extracting", "probing", "disk")


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
