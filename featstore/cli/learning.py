"""`featstore learn`: how many train rows a probe needs, with all features and with some."""

from pathlib import Path

import click

from featstore.cli import screen
from featstore.cli.common import (
    DELTA,
    FILE,
    GROUPS,
    LABEL,
    MEMORY,
    MODE,
    ON,
    PICTURE,
    SCALED,
    STORE,
    TABLE,
    TEST_SPLIT,
    Command,
    NumberList,
    renamed,
    solver_of,
    takes_solver,
    to_file,
)
from featstore.cli.probe import rows_of
from featstore.cli.screen import Progress, first_notice, notice, tested_on


@click.command(cls=Command)
@click.argument("store", type=STORE, metavar="STORE[#TAP]")
@click.option(
    "--shots",
    type=NumberList(int, "1,5,10"),
    metavar="LIST",
    help="Rows of each class to train on.",
)
@renamed(
    "--train-shares",
    "rows",
    old="--rows",
    type=NumberList(float, "0.01,0.1,1"),
    metavar="LIST",
    help="Or shares of all train rows, in (0, 1].",
)
@click.option("--draws", type=click.IntRange(1), default=5, help="Draws of rows and features.")
@click.option(
    "--fractions",
    type=NumberList(float, "0.1,0.5"),
    default="1",
    metavar="LIST",
    help="Shares of the features, in (0, 1]; the full layer comes by itself.",
)
@MODE
@takes_solver
@TEST_SPLIT
@LABEL
@GROUPS
@DELTA
@SCALED
@MEMORY
@ON
@click.option(
    "--compare",
    "others",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Set what --out of another layer wrote beside this one: scores and differences. Again for "
    "more.",
)
@to_file("--out", TABLE, "Save one row a probe: .csv, .json or .parquet.")
@to_file("--plot", PICTURE, "Draw accuracy against the number of train rows.")
def learn(
    store,
    shots,
    rows,
    draws,
    mode,
    test_split,
    label,
    groups,
    delta,
    others,
    out,
    plot,
    solver,
    **options,
) -> None:
    """Show how accuracy, its share of the full layer's and DR grow with the train rows.

    Rows are drawn of each class, a few of them (--shots) or a share of them (--train-shares), and
    drawn again for each draw together with the features; of one draw, few rows are among the many.
    Intervals are over draws and test rows. In place of a store, a table that --out wrote is shown
    and drawn again.

    \b
    Example:
      featstore learn mine.zarr --shots 1,5,10 --fractions 0.1 --solver ridge
      featstore learn mine.zarr#layer4 --train-shares 0.01,0.1,1 \\
        --plot learning.pdf
      featstore learn layer4.csv --compare layer3.csv --plot both.pdf
    """
    first_notice(f"reading {store}")
    from featstore.probe.learning import LearningCurve, learning_curve
    from featstore.study.layers import layers_of

    if Path(store).suffix.lower() in TABLE.suffixes and Path(store).is_file():
        if shots or rows or out:
            raise click.UsageError(f"{store} is a table of results: leave --shots and --out out")
        found = LearningCurve.read(store)
        if others:
            _compare(found, others, plot)
        else:
            _show(found, found.table["tap"].iloc[0], delta, plot)
        return
    (layer,) = layers_of([store])
    split = tested_on(layer.store, test_split)
    with Progress() as progress:
        found = learning_curve(
            rows_of(layer.store, "train", layer.tap, label, groups),
            rows_of(layer.store, split, layer.tap, label, groups),
            shots=shots,
            rows=rows,
            draws=draws,
            mode=list(mode),
            solver=solver_of(solver),
            store=str(layer.store.path),
            tap=layer.tap,
            progress=progress,
            **options,
        )
    if others:
        _compare(found, others, plot)
    else:
        _show(found, layer.tap, delta, plot)
    if out:
        found.save(out)
        notice(f"wrote {out}")


def _compare(found, others, plot) -> None:
    """Show learning curves beside each other, the first one's first, and draw them."""
    from featstore.probe.learning import LearningCurve, compared
    from featstore.probe.results import score_name, score_of, shared_and_own
    from featstore.probe.results.intervals import over_of
    from featstore.probe.results.views import Column, View

    every = [found, *map(LearningCurve.read, others)]
    shared, names = shared_and_own([each.table for each in every], ("store", "tap", "solver"))
    names = [name or "this one" for name in names]
    if len(set(names)) < len(names):
        stems = ["this one", *(path.stem for path in others)]
        names = [f"{name} ({stem})" for name, stem in zip(names, stems, strict=True)]
    table = compared(dict(zip(names, every, strict=True)))
    table = table.sort_values(["n_train", "fraction"], kind="stable", ignore_index=True)
    score = score_of(found.table)
    ends, apart = ((table[f"{name}_low"], table[f"{name}_high"]) for name in (score, "difference"))
    columns = [
        Column("train rows", "count", table["n_train"]),
        Column("of", "text", table["name"]),
        Column("mode", "text", table["mode"]),
        Column("fraction", "share", table["fraction"]),
        Column(f"test {score_name(score)}", "score", table[score], ends=ends),
        Column(f"less {names[0]}", "change", table["difference"], ends=apart, missing=""),
    ]
    if table["mode"].nunique() == 1:
        columns.pop(2)
    over = over_of(table).replace("seeds", "draws")
    note = "draws are paired, and so are test rows where they are known"
    note = f"[low, high]: 95 % intervals over {over}; {note}" if over else "one draw: no intervals"
    screen.show(View(columns, ", ".join(shared) or "learning curves"), note)
    if plot:
        from featstore.probe.figures import accuracy_against_rows

        accuracy_against_rows(table, plot)
        notice(f"wrote {plot}")


def _show(found, tap, delta, plot) -> None:
    """Show a learning curve as a table, and draw it."""
    from featstore.probe.results import score_name, score_of
    from featstore.probe.results.intervals import over_of
    from featstore.probe.results.views import Column, View

    table, score = found.by_amount(delta), score_of(found.table)
    ends = table[f"{score}_low"], table[f"{score}_high"]
    columns = [
        Column("train rows", "count", table["n_train"]),
        Column("mode", "text", table["mode"]),
        Column("fraction", "share", table["fraction"]),
        Column(f"test {score_name(score)}", "score", table[score], ends=ends),
        Column("of the full layer", "kept", table["ratio"]),
        Column(f"DR({delta:g})", "score", table["redundancy"]),
    ]
    if table["mode"].nunique() == 1:
        columns.pop(1)
    over = over_of(table).replace("seeds", "draws")
    note = f"[low, high]: 95 % intervals over {over}" if over else "one draw: no intervals"
    draws = found.table["draw"].nunique()
    screen.show(View(columns, f"{tap}, {draws} draws of {found.amount}"), note)
    if plot:
        from featstore.probe.figures import accuracy_against_rows

        accuracy_against_rows(table, plot)
        notice(f"wrote {plot}")
