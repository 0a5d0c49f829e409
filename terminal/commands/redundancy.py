"""`featstore redundancy`: the share of the features that a task can do without."""

import math

import click
from rich.table import Table

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import FILE, PICTURE, TABLE, Names, NumberList


@click.command(cls=Command)
@click.argument("results", type=FILE, nargs=-1, required=True)
@click.option(
    "--delta", type=NumberList(float, "0.9,0.95"), default="0.9", metavar="LIST",
    help="Shares of the full layer's accuracy to keep, in (0, 1].",
)  # fmt: skip
@click.option(
    "--rule", type=Names(), default="interpolated", metavar="LIST",
    help="How the fraction is read off a curve: interpolated, threshold, nearest.",
)  # fmt: skip
@click.option(
    "--predictions", type=FILE, metavar="FILE",
    help="What --save-predictions of the same run wrote, for test rows of results that lack the "
    "file .rows.npz beside them.",
)  # fmt: skip
@click.option("--level", type=float, default=0.95, help="Coverage of the intervals.")
@click.option("--curve", is_flag=True, help="Show every delta from 0.50 to 1.00.")
@click.option("--out", type=TABLE, metavar="FILE", help="Save the table: .csv, .json or .parquet.")
@click.option(
    "--plot", type=PICTURE, metavar="FILE",
    help="Draw DR against delta, by the first rule: .png, .svg or .pdf.",
)  # fmt: skip
def redundancy(results, delta, rule, predictions, curve, out, plot, level) -> None:
    """Show the diffused redundancy DR(delta) of every curve of results files.

    DR(delta) = 1 - f, where a fraction f of the features keeps delta of the full layer's
    accuracy: interpolated, where the curve first reaches delta between two fractions that were
    probed. By --rule threshold f is the smallest one that was probed and keeps delta, as in the
    paper's text; by nearest, the one whose share is nearest delta, as in its code. Intervals are
    over seeds and, where the file beside the results says which are right, over test rows; none
    holds what other train rows would change.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.01,0.05,0.1,0.5 --seeds 5 \\
        --out results.csv
      featstore redundancy results.csv --delta 0.9,0.95 --plot redundancy.pdf
    """
    from probe.answers import of_redundancy
    from probe.reading import judged, read_correct, read_results
    from probe.redundancy import DELTAS, diffused_redundancy
    from probe.summaries import NAMES, score_of
    from probe.tables import save_table

    if predictions and len(results) > 1:
        raise click.UsageError(
            f"predictions belong to one results file, and {len(results)} are given: name one"
        )
    probes = read_results(*results)
    correct = judged(probes, predictions).correct if predictions else read_correct(*results)
    asked = list(dict.fromkeys(DELTAS if curve else delta))
    deltas = asked + [one for one in DELTAS if plot and one not in asked]
    with Progress() as progress:
        every = diffused_redundancy(probes, deltas, rule, correct, level=level, progress=progress)
    table = every[every["delta"].isin(asked)]
    tables.show(
        *tables.of_curves(table, _curve), of_redundancy(table, level, NAMES[score_of(probes)])
    )
    if (table["low"].isna() & table["redundancy"].notna()).any():
        notice(
            "one seed, or a mode without seeds, has no interval where it is not known which test "
            "rows its probes have right"
        )
    if out:
        save_table(table, out)
    if plot:
        from probe.figures import redundancy_curve

        redundancy_curve(every[every["rule"] == rule[0]], plot)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")


def _curve(curve, title: str) -> Table:
    """Lay out DR of one curve: a row a delta, a column a rule."""
    from probe.summaries import percent

    shown = Table(title=title, **tables.PLAIN)
    shown.add_column("keeping", justify="right", no_wrap=True)
    for rule in curve["rule"].unique():
        heading = f"DR {'' if rule == 'interpolated' else 'by '}{rule}"
        shown.add_column(heading, justify="right", no_wrap=True)
    for delta, readings in curve.groupby("delta", sort=False):
        shown.add_row(percent(delta), *(_reading(row) for row in readings.itertuples()))
    return shown


def _reading(row) -> str:
    from probe.answers import redundant

    if math.isnan(row.redundancy):
        return "-"
    return redundant(row)
