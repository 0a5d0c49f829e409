"""`featstore bench`: how fast this machine solves, stores and extracts, and why."""

from pathlib import Path

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import DEVICE, STORE, Names, OutFile


@click.command(cls=Command)
@click.argument("stage", default="probe")
@click.option(
    "--sizes", default="medium", metavar="SIZES",
    help="small, medium, full, or numbers such as rows=50000,features=2048,classes=100.",
)  # fmt: skip
@click.option(
    "--against", type=Names(), metavar="LIST",
    help="Loops to run beside, among sklearn, torch-loop, cuml.  [default: those installed]",
)  # fmt: skip
@click.option("--store", type=STORE, help="logistic: probe this store's train rows.")
@click.option("--memory", default="4GiB", help="How much memory arrays may take.")
@click.option("--device", type=DEVICE, default="auto")
@click.option("--backend", type=click.Choice(["torch", "cupy", "numpy"]), default="torch")
@click.option(
    "--json", type=OutFile(".json"), metavar="FILE", help="Save everything measured: .json."
)
@click.option(
    "--figures", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Draw time and memory against each size that was varied: .svg.",
)  # fmt: skip
def bench(stage, json, figures, **options) -> None:
    """Measure this machine: probes, memory, growth, and the loops replaced.

    STAGE is probe (every solver on one sweep), ridge, modes, logistic, optimum, sgd, kernels,
    store, remote, extract, memory, report or large. Everything timed is held against the machine's
    own rates of matrix products and of copies, and its answers against those of what it is compared
    with.

    \b
    Example:
      featstore bench
      featstore bench ridge --sizes rows=50000,features=2048,classes=100 \\
        --against sklearn --json ridge.json --figures figures
    """
    import benchmarks

    with Progress() as progress:
        report = benchmarks.run(stage, progress=progress, **options)
    click.echo(report.text())
    if json:
        report.save(json)
        notice(f"wrote {json}")
    if figures:
        from benchmarks.figures import growth_figures

        for path in growth_figures(report, figures):
            notice(f"wrote {path}")
