"""`featstore predict`: saved probes, applied to the rows of a store."""

import click

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice, tested_on
from terminal.values import FILE, STORE, OutFile


@click.command(cls=Command)
@click.argument("store", type=STORE)
@click.option("--weights", type=FILE, required=True, help="What `probe --save-weights` wrote.")
@click.option(
    "--split", "--test-split", help="Which rows of the store.  [default: test, or validation]"
)
@click.option("--memory", default="4GiB", help="How much memory arrays may take.")
@click.option(
    "--out", type=OutFile(".csv", ".parquet", ".npz"), metavar="FILE",
    help="Save the class that each probe predicts for each row: .csv, .parquet or .npz.",
)  # fmt: skip
def predict(store, weights, split, memory, out) -> None:
    """Apply saved probes to the rows of a store.

    The store must hold the features that the probes were fitted on: the same backbone, weights,
    transform and tap. Accuracy is shown where the classes are the same too.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.1 --seeds 1 \\
        --save-weights probes.safetensors
      featstore predict mine.zarr --weights probes.safetensors --split test \\
        --out predictions.csv
    """
    import featstore
    from probe import load_weights, predict

    opened, saved = featstore.open(store), load_weights(weights)
    split = tested_on(opened, split)
    tap = saved.source.get("tap", opened.spec.taps[0].name)
    with Progress() as progress:
        predicted = predict(
            saved, opened.tap(split, tap), source=opened.spec.of_tap(tap),
            classes=opened.spec.classes, memory=memory, progress=progress,
        )  # fmt: skip
    if out:
        predicted.save(out)
    tables.show(*tables.of_sweep(predicted.table, predicted.correct))
    if predicted.table["accuracy"].isna().all():
        notice("no accuracy: the classes of this store are not those of the probes")
    if out:
        notice(f"wrote {out}")
