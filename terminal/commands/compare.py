"""`featstore compare`: models, layers, losses and data sets side by side."""

from pathlib import Path

import click
from rich.table import Table

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, first_notice, notice
from terminal.values import DEVICE, PICTURE, STORE, TABLE, Names, NumberList, Penalties, Seeds


@click.command(cls=Command)
@click.argument("places", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]|RESULTS...")
@click.option("--tap", type=Names(), default=(), metavar="LIST|all",
              help="Which taps of stores without #TAP.  [default: the first]")  # fmt: skip
@click.option("--fractions", type=NumberList(float, "0.01,0.1"), metavar="LIST",
              help="Shares of the features to probe stores at.")  # fmt: skip
@click.option("--seeds", type=Seeds(int, "3,7"), default="5", metavar="N|LIST",
              help="5 for seeds 1 to 5, or a list such as 3,7.")  # fmt: skip
@click.option("--mode", type=Names(), default="random", metavar="LIST", help="As of `probe`.")
@click.option("--solver", default="logistic", help="logistic, ridge, lda or sgd.")
@click.option("--l2", type=Penalties(float, "0.001,0.01"), metavar="LIST|auto",
              help="As of `probe`.  [default: auto]")  # fmt: skip
@click.option("--standardize/--no-standardize", default=True, help="Scale features to unit std.")
@click.option("--memory", default="auto", help="What arrays may take, as 4GiB.")
@click.option("--device", type=DEVICE, default="auto")
@click.option("--test-split", help="On which split to test.  [default: test, or validation]")
@click.option("--fraction", type=float,
              help="Where to compare.  [default: the nearest to 0.1 that all have]")  # fmt: skip
@click.option("--delta", type=float, default=0.9, help="Of DR(delta).")
@click.option("--rule", default="interpolated", help="How DR is read off, as of `redundancy`.")
@click.option("--level", type=float, default=0.95, help="Coverage of the intervals.")
@click.option("--out-dir", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Keep a results file for each store, and go on with those there.")  # fmt: skip
@click.option("--out", type=TABLE, metavar="FILE", help="Save the table: .csv, .json or .parquet.")
@click.option("--plot", type=PICTURE, metavar="FILE",
              help="Draw a line a curve: accuracy, or its ratio of several data sets.")  # fmt: skip
def compare(
    places, tap, fractions, seeds, mode, fraction, delta, rule, level, out_dir,
    out, plot, **options,
) -> None:  # fmt: skip
    """Probe several stores, or read results, and set them side by side.

    Shows accuracy with all features and at one fraction, its share of the full layer's, DR(delta)
    and the ranks by each, with intervals over seeds and test rows. Accuracies are ranked among
    what is tested on the same data set; ratios and redundancies among all. A layer within noise of
    what is reached without any feature has no rank, and what cannot be told apart is said to be so.

    \b
    Example:
      featstore compare resnet.zarr vit.zarr --fractions 0.01,0.05,0.1,0.5 \\
        --seeds 5 --out-dir compared --plot compared.pdf
      featstore compare mine.zarr --tap all --fractions 0.1 --solver ridge
      featstore compare results.csv vit.zarr#last --fractions 0.1 --delta 0.8
    """
    first_notice(f"reading {', '.join(map(str, places))}")
    from probe.answers import of_comparison
    from probe.tables import save_table
    from studies.comparing import compare, departures

    if options["solver"] == "sgd":
        for line in departures(places, tap, options["test_split"]):
            notice(line)
    with Progress() as progress:
        found = compare(
            places, fractions, seeds, taps=tap, fraction=fraction, delta=delta, rule=rule,
            level=level, out_dir=out_dir,
            progress=progress, mode=list(mode), **options,
        )  # fmt: skip
    tables.show(
        _numbers(found, delta), _ranks(found, delta),
        of_comparison(found.table, found.agreement, delta, level),
    )  # fmt: skip
    if out:
        save_table(found.table, out)
    if plot:
        from probe import figures

        one_task = found.table["task"].nunique() == 1
        draw = figures.accuracy_against_fraction if one_task else figures.ratio_against_fraction
        draw(found.probes, plot, found.correct)
    for path in filter(None, (out_dir, out, plot)):
        notice(f"wrote {path}")


def _numbers(found, delta: float) -> Table:
    """Lay out scores, ratios and redundancies, a row a curve."""
    from probe.printed import between
    from probe.summaries import NAMES, percent

    part, score = percent(found.table["fraction"].iloc[0]), found.score
    shown = Table(title=", ".join([*found.shared, f"test {NAMES[score]}"]), **tables.PLAIN)
    shown.add_column("curve", overflow="fold")
    for heading in ("all", f"at {part}", "of full", f"DR({delta:g})"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in found.table.itertuples():
        # intervals of the scores are in the saved table: 80 columns hold two of them
        bound = f"{row.bound} {row.redundancy:.3f}" if row.bound else None
        shown.add_row(
            row.name, _number(row.full, ".3f"), _number(getattr(row, score), ".3f"),
            between(100 * row.ratio, 100 * row.ratio_low, 100 * row.ratio_high, 1, " %"),
            bound or between(row.redundancy, row.low, row.high, 3),
        )  # fmt: skip
    return shown


def _ranks(found, delta: float) -> Table:
    """Lay out the ranks by each of these, within a data set where they are of accuracies."""
    from probe.summaries import percent

    part = percent(found.table["fraction"].iloc[0])
    tasks = found.table["task"].nunique() > 1
    shown = Table(title="ranks", **tables.PLAIN)
    shown.add_column("curve", overflow="fold")
    if tasks:
        shown.add_column("tested on", overflow="fold")
    for heading in ("features", "all", f"at {part}", "of full", f"DR({delta:g})"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in found.table.to_dict("records"):
        ranks = (row[f"{name}_rank"] for name in ("full", found.score, "ratio", "redundancy"))
        shown.add_row(
            row["name"], *([row["task"]] if tasks else []), _number(row["features"], ","),
            *(_number(rank, "d") for rank in ranks),
        )  # fmt: skip
    return shown


def _number(value, how: str) -> str:
    """Write a number, or a dash where there is none."""
    import pandas as pd

    return "-" if pd.isna(value) else format(value, how)
