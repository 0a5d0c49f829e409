"""`featstore geometry` and `universality`: what layers are, and what they have in common."""

import click

from featstore.cli import screen
from featstore.cli.common import (
    MEMORY,
    ON,
    PICTURE,
    SCALED,
    SEEDS,
    STORE,
    TABLE,
    TAP,
    TEST_SPLIT,
    Command,
    NumberList,
    to_file,
)
from featstore.cli.screen import Progress, first_notice, notice, tested_on


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@TAP
@click.option("--split", help="Split whose rows are taken.  [default: test, or validation]")
@click.option("--rows", type=click.IntRange(10), default=2000, help="How many rows, spaced.")
@click.option(
    "--fractions",
    type=NumberList(float, "0.1,0.5"),
    default="0.1,0.2,0.5",
    metavar="LIST",
    help="Shares of the features, in (0, 1].",
)
@SEEDS
@click.option("--neighbours", type=int, default=10, help="Neighbours of each row.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    help="Which are nearest.",
)
@click.option("--permutations", type=int, default=199, help="Permutations of rows behind p.")
@SCALED
@MEMORY
@ON
@to_file("--out", TABLE, "Save one row a subset: .csv, .json or .parquet.")
@to_file("--pairs", TABLE, "Save one row a pair of layers, likewise.")
def geometry(stores, tap, split, rows, fractions, seeds, neighbours, out, pairs, **options) -> None:
    """Show in how many dimensions layers and random subsets of them lie, and what they share.

    Intrinsic dimension by TwoNN and by maximum likelihood, effective rank, IsoScore, and the share
    of nearest rows that a subset has in common with its layer. Of several layers of the same rows:
    CKA beside what it is with shuffled rows, and the nearest rows that both share.

    \b
    Example:
      featstore geometry mine.zarr --fractions 0.1,0.5 --seeds 5
      featstore geometry resnet.zarr vit.zarr --pairs pairs.csv
    """
    first_notice(f"reading {', '.join(map(str, stores))}")
    from featstore.probe.geometry import geometry_table
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.study.layers import check_same_rows, layers_of

    layers = layers_of(stores, tap)
    split = tested_on(layers[0].store, split)
    check_same_rows(layers, split)
    given = {layer.name: layer.some(split, rows) for layer in layers}
    with Progress() as progress:
        table, found = geometry_table(
            given, fractions, seeds, k=neighbours, progress=progress, **options
        )
    count = next(iter(given.values())).n_rows
    shown = [
        features.geometry(each, f"{name}: {count:,} {split} rows, {neighbours} neighbours")
        for name, each in table.groupby("name", sort=False)
    ]
    screen.show(*shown, *([features.likeness(found)] if len(found) else []))
    for path, saved in ((out, table), (pairs, found)):
        if path:
            save_table(saved, path)
            notice(f"wrote {path}")


@click.command(cls=Command)
@click.argument("layer", type=STORE, metavar="STORE[#TAP]")
@click.argument("other", type=STORE, metavar="OTHER[#TAP]")
@TEST_SPLIT
@click.option(
    "--l2",
    type=float,
    help="The penalty of mean loss + (l2/2) ||W||^2.  [default: by cross-validation]",
)
@click.option("--most", type=click.IntRange(1), default=10, help="How many features to show.")
@MEMORY
@ON
@to_file("--out", TABLE, "Save a row a feature: .csv, .json or .parquet.")
@to_file("--plot", PICTURE, "Draw R² of all features, sorted.")
def universality(layer, other, test_split, most, out, plot, **options) -> None:
    """Show how well each feature of a layer is predicted from another layer's.

    By ridge regression of all features at once on the train rows, with R² on test rows. The order
    of features is a mode of `probe`, made on train rows alone: --mode universality:OTHER#TAP.

    \b
    Example:
      featstore universality resnet.zarr#layer4 vit.zarr --plot universal.pdf
    """
    first_notice(f"reading {layer} and {other}")
    from featstore.probe.geometry import universality
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.study.layers import check_same_rows, layers_of

    both = layers_of([layer, other])
    split = tested_on(both[0].store, test_split)
    for each in ("train", split):
        check_same_rows(both, each)
    train, test = ([each.rows(name) for each in both] for name in ("train", split))
    with Progress() as progress:
        table = universality(train, test, progress=progress, **options)
    known = table["r2"].dropna()
    title = f"{both[0].name} from {both[1].name}, l2 {table['l2'].iloc[0]:g}"
    screen.show(
        features.universality(table, f"{title}: predicted best", most),
        f"Of {len(table):,} features, {int((known > 0.5).sum()):,} are predicted with R² above 0.5 "
        f"on {test[0].n_rows:,} {split} rows; the median is {known.median():.3f}.",
    )
    if out:
        save_table(table, out)
    if plot:
        from featstore.probe.figures import attributions

        attributions(table, plot)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")
