"""`featstore import`: a store of features that were computed elsewhere."""

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import FILE, FORMAT, STORE, Names


@click.command("import", cls=Command)
@click.option("--train-features", type=FILE, required=True, help=".npy of shape (rows, features).")
@click.option("--train-labels", type=FILE, required=True, help=".npy of integers from 0.")
@click.option("--test-features", type=FILE, required=True, help=".npy, as many features.")
@click.option("--test-labels", type=FILE, required=True, help=".npy of integers from 0.")
@click.option("--out", type=STORE, required=True, help="The store.")
@click.option("--format", type=FORMAT, default="zarr")
@click.option("--targets", type=Names(), help="Labels are numbers to regress on, called so.")
def import_(train_features, train_labels, test_features, test_labels, out, format, targets) -> None:
    """Make a store of features that were computed elsewhere.

    The files are memory-mapped and never loaded whole.

    \b
    Example:
      featstore import --train-features X.npy --train-labels y.npy \\
        --test-features Xt.npy --test-labels yt.npy --out mine.zarr
    """
    import featstore

    with Progress() as progress:
        store = featstore.import_arrays(
            train=(train_features, train_labels),
            test=(test_features, test_labels),
            out=out,
            format=format,
            targets=targets or (),
            progress=progress,
        )
    notice(f"stored {sum(split.n_rows for split in store.spec.splits):,} rows: {store.path}")
