"""`featstore cka`: how alike subsets of a layer are to the whole, and layers to each other."""

import click
from rich.table import Table

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice, tested_on
from terminal.values import (
    DEVICE,
    PICTURE,
    STORE,
    TABLE,
    TABLE_OR_PICTURE,
    Names,
    NumberList,
    Seeds,
)

MOST_LAYERS = 10  # columns of a printed matrix


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@click.option("--tap", type=Names(), default=(), metavar="LIST|all",
              help="Which taps of stores without #TAP.  [default: the first]")  # fmt: skip
@click.option(
    "--fractions", type=NumberList(float, "0.01,0.1"), metavar="LIST",
    help="Shares of the features, in (0, 1].  [default: 0.01,0.02,0.05,0.1,0.2,0.5]",
)  # fmt: skip
@click.option("--seeds", type=Seeds(int, "3,7"), default="5", metavar="N|LIST",
              help="5 for seeds 1 to 5, or a list such as 3,7.")  # fmt: skip
@click.option("--split", help="On which rows to compare.  [default: test, or validation]")
@click.option("--rows", type=int, help="How many of them, drawn at random.  [default: all]")
@click.option("--row-seed", type=int, default=0, help="Of that draw.")
@click.option("--debiased", is_flag=True, help="The unbiased estimate of HSIC; one more pass.")
@click.option("--standardize", is_flag=True, help="Scale features to unit std first.")
@click.option("--memory", default="auto", help="What arrays may take, as 4GiB.")
@click.option("--device", type=DEVICE, default="auto")
@click.option(
    "--out", type=TABLE, metavar="FILE",
    help="Save one row a subset, and one a pair of them: .csv, .json or .parquet.",
)  # fmt: skip
@click.option("--matrix", type=TABLE_OR_PICTURE, metavar="FILE",
              help="Save or draw the similarity of layers to each other.")  # fmt: skip
@click.option("--plot", type=PICTURE, metavar="FILE",
              help="Draw CKA with the whole layer against fraction.")  # fmt: skip
def cka(stores, tap, split, rows, out, matrix, plot, **options) -> None:
    """Compare random subsets of a layer with all of it, and with each other, by linear CKA.

    Several layers, of one store or of stores of the same rows (by their ids; labels may differ),
    are compared with each other too. As published, CKA is the biased estimate on features that are
    centred and not scaled; the paper takes 1,000 test images.

    \b
    Example:
      featstore cka mine.zarr --fractions 0.05,0.1,0.5 --seeds 5 --rows 1000
      featstore cka resnet.zarr#layer4 vit.zarr --matrix cka.pdf
    """
    import pandas as pd

    from probe.answers import of_layers, of_similarity
    from probe.layer_cka import layer_similarity
    from probe.tables import save_table
    from studies.layers import check_same_rows, layers_of

    layers = layers_of(stores, tap)
    if matrix and len(layers) < 2:
        raise click.UsageError("a matrix needs two layers: name several stores, or --tap all")
    split = tested_on(layers[0].store, split)
    check_same_rows(layers, split)
    with Progress() as progress:
        found = layer_similarity(
            {layer.name: layer.rows(split) for layer in layers}, n_rows=rows,
            moments_cache=layers[0].store.moments_folder, progress=progress, **options,
        )  # fmt: skip
    how = f"{'debiased' if options['debiased'] else 'biased'}, {found.n_rows:,} {split} rows"
    tables.show(
        *(_subsets(layer.name, found, how) for layer in layers),
        *_matrix(found.layers, how),
        of_similarity(found.to_full, found.pairs),
        *([of_layers(found.layers)] if len(layers) > 1 else []),
    )
    if out:
        save_table(pd.concat([found.to_full, found.pairs], ignore_index=True), out)
    if matrix:
        _save_matrix(found.layers, matrix)
    if plot:
        from probe.figures import cka_against_fraction

        cka_against_fraction(found.to_full, plot)
    for path in filter(None, (out, matrix, plot)):
        notice(f"wrote {path}")


def _subsets(name: str, found, how: str) -> Table:
    """Lay out CKA of subsets with their layer and with each other, a row a fraction."""
    from probe.summaries import percent, plus_minus

    shown = Table(title=f"{name}: linear CKA ({how})", **tables.PLAIN)
    for heading in ("fraction", "features", "with the whole", "seeds", "with each other", "pairs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    pairs = found.pairs[found.pairs["name"] == name]
    mine = found.to_full[found.to_full["name"] == name]
    for (fraction, k), rows in mine.groupby(["fraction", "k"]):
        other = pairs.loc[pairs["fraction"] == fraction, "cka"]
        shown.add_row(
            percent(fraction), f"{k:,}", plus_minus(rows["cka"].mean(), rows["cka"].std(), 3),
            str(len(rows)),
            plus_minus(other.mean(), other.std(), 3) if len(other) else "-", str(len(other)),
        )  # fmt: skip
    return shown


def _matrix(table, how: str) -> list[Table]:
    """Lay out the similarity of layers, where there are several and they fit."""
    if len(table) < 2:
        return []
    if len(table) > MOST_LAYERS:
        notice(f"{len(table)} layers are too many to print: --matrix saves or draws them")
        return []
    shown = Table(title=f"linear CKA of whole layers ({how})", **tables.PLAIN)
    shown.add_column("layer", overflow="fold")
    for number in range(len(table)):
        shown.add_column(str(number + 1), justify="right", no_wrap=True)
    for number, (name, row) in enumerate(table.iterrows(), 1):
        shown.add_row(f"{number} {name}", *(f"{value:.2f}" for value in row))
    return [shown]


def _save_matrix(table, path) -> None:
    if path.suffix.lower() in PICTURE.suffixes:
        from probe.figures import cka_matrix

        cka_matrix(table, path)
        return
    from probe.tables import save_table

    save_table(table.rename_axis("name").reset_index(), path)
