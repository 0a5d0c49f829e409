"""`featstore report`: a page with curves, tables and how they were made, from files of results."""

from pathlib import Path

import click

from terminal.failures import Command
from terminal.progress import notice
from terminal.values import FILE, OutFile


@click.command(cls=Command)
@click.argument("results", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option(
    "--out", type=OutFile(".html"), default="report.html", metavar="FILE",
    help="The page to write: .html.",
)  # fmt: skip
@click.option("--title", help="Of the page.  [default: the store's name]")
@click.option(
    "--per-class", type=FILE, multiple=True, metavar="FILE",
    help="Accuracies by class, as `probe --per-class` writes them; again for more files.",
)  # fmt: skip
@click.option(
    "--predictions", type=FILE, multiple=True, metavar="FILE",
    help="What `probe --save-predictions` wrote, one for each file of RESULTS: intervals are then "
    "over test rows too, not over seeds alone.",
)  # fmt: skip
def report(results, out, title, per_class, predictions) -> None:
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
    """
    from studies.report.page import write

    notice(f"wrote {write(results, out, title, per_class, predictions)}")
