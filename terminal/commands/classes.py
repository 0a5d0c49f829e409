"""`featstore classes`: who pays for fewer features."""

import click
from rich.table import Table

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import FILE, PICTURE, TABLE


@click.command(cls=Command)
@click.argument("per_class", type=FILE)
@click.option("--fraction", type=float, default=0.1, help="Where losses are told; the nearest.")
@click.option(
    "--predictions", type=FILE, metavar="FILE",
    help="What --save-predictions of the same run wrote: tests whether some classes are affected "
    "more than others.",
)  # fmt: skip
@click.option("--most", type=click.IntRange(1), default=10, help="How many classes to show.")
@click.option("--level", type=float, default=0.95, help="Coverage of the intervals.")
@click.option("--resamples", type=int, default=2000, help="Draws behind the test of classes.")
@click.option("--seed", type=int, default=0, help="Of these draws.")
@click.option(
    "--out", type=TABLE, metavar="FILE",
    help="Save what each class loses at each fraction: .csv, .json or .parquet.",
)  # fmt: skip
@click.option(
    "--inequality", type=TABLE, metavar="FILE",
    help="Save the inequality over classes at each fraction, likewise.",
)  # fmt: skip
@click.option(
    "--plot", type=PICTURE, metavar="FILE",
    help="Draw the accuracy on each class against the fraction: .png, .svg or .pdf.",
)  # fmt: skip
def classes(
    per_class, fraction, predictions, most, out, inequality, plot, level, resamples, seed
) -> None:
    """Show which classes pay for fewer features, and how unequal classes become.

    PER_CLASS is what `featstore probe --per-class` wrote. The Gini coefficient is of each seed's
    accuracies on classes and, as published, of their means over seeds. What classes lose is paired
    by seed, with intervals over seeds and, with predictions, over test rows too: for all classes at
    once then, as an excess over the mean of the classes.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.01,0.05,0.1,0.5 --seeds 5 \\
        --per-class per_class.csv --save-predictions predictions.npz
      featstore classes per_class.csv --predictions predictions.npz \\
        --fraction 0.1 --plot classes.pdf
    """
    from probe.affected import affected_of_curves
    from probe.answers import of_affected, of_classes
    from probe.inequality import class_losses, inequality_table, near
    from probe.reading import judged_by_class, read_per_class
    from probe.tables import save_table

    table = read_per_class(per_class)
    judged = judged_by_class(table, predictions) if predictions else None
    known = (judged.correct, judged.labels) if judged else (None, None)
    unequal, losses = (read(table, *known, level) for read in (inequality_table, class_losses))
    affected = None
    if judged:
        with Progress() as progress:
            affected = affected_of_curves(
                judged.probes, judged.correct, judged.labels, list(table["class"].unique()),
                fraction, resamples, level, seed, progress,
            )  # fmt: skip
    here, lost = near(unequal, fraction), near(losses, fraction)
    tables.show(
        *tables.of_curves(unequal, _unequal),
        *(_affected(affected, lost, most) if judged else _lost(lost, most)),
        of_classes(here, lost, level),
        *([of_affected(affected, resamples)] if judged else []),
    )
    for path, saved in ((out, losses), (inequality, unequal)):
        if path:
            save_table(saved, path)
    if plot:
        from probe.figures import class_lines

        class_lines(table, plot, fraction=fraction)
    for path in filter(None, (out, inequality, plot)):
        notice(f"wrote {path}")


def _unequal(curve, title: str) -> Table:
    """Lay out the inequality of one curve against fraction."""
    from probe.printed import some_fractions
    from probe.summaries import percent, plus_minus

    shown = Table(title=title, **tables.PLAIN)
    for heading in ("fraction", "mean", "Gini", "of means", "CV", "max-min"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("worst class", overflow="fold")
    for row in some_fractions(curve).itertuples():
        shown.add_row(
            percent(row.fraction), f"{row.mean_per_class:.3f}",
            plus_minus(row.gini, row.gini_std, 3), f"{row.gini_of_mean:.3f}", f"{row.cv:.3f}",
            f"{row.range:.3f}", f"{row.worst_accuracy:.3f} {row.worst_class}",
        )  # fmt: skip
    return shown


def _lost(losses, most: int) -> list[Table]:
    """Lay out the classes that lose most, a table a curve."""
    return [_losers(name, curve.head(most), "loss") for name, curve in _curves(losses)]


def _affected(affected, losses, most: int) -> list[Table]:
    """Lay out the classes that lose most, with what they lose beyond the mean of classes."""
    from probe.summaries import CURVE

    beyond = affected[[*CURVE, "fraction", "class", "excess", "low", "high"]]
    joined = losses.drop(columns=["low", "high"]).merge(beyond, on=[*CURVE, "fraction", "class"])
    return [_losers(name, curve.head(most), "excess") for name, curve in _curves(joined)]


def _curves(losses) -> list:
    from probe.answers import named

    known = losses[losses["loss"].notna()] if len(losses) else losses
    return list(named(known)) if len(known) else []


def _losers(name: str, curve, measure: str) -> Table:
    from probe.summaries import percent

    part = percent(curve["fraction"].iloc[0])
    shown = Table(title=f"{name}who loses most at {part}", **tables.PLAIN)
    shown.add_column("class", overflow="fold")
    told = "beyond the mean class" if measure == "excess" else "loss"
    for heading in ("all", part, *(["loss"] if measure == "excess" else []), told):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in curve.itertuples():
        value = getattr(row, measure)
        interval = "" if row.low != row.low else f" [{row.low:+.3f}, {row.high:+.3f}]"
        shown.add_row(
            row[curve.columns.get_loc("class") + 1], f"{row.full:.3f}", f"{row.part:.3f}",
            *([f"{row.loss:.3f}"] if measure == "excess" else []), f"{value:+.3f}{interval}",
        )  # fmt: skip
    return shown
