"""`featstore convert`: a store in another format, codec, dtype or place."""

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import CODEC, DTYPE, FORMAT, STORE


@click.command(cls=Command)
@click.argument("source", type=STORE)
@click.argument("out", type=STORE)
@click.option("--format", type=FORMAT, help="Of the copy.  [default: by its suffix, .h5 or other]")
@click.option("--dtype", type=DTYPE, help="Of the copy's features.  [default: the same]")
@click.option("--codec", type=CODEC, help="Of a Zarr copy's chunks.  [default: none]")
@click.option("--overwrite", is_flag=True, help="Replace a store that holds something else.")
def convert(source, out, format, dtype, codec, overwrite) -> None:
    """Copy a store into another format, codec, dtype or place.

    Every checksum is checked on the way. Killed and run again, it goes on where it stopped.

    \b
    Example:
      featstore convert mine.zarr mine.h5
      featstore convert mine.h5 s3://bucket/mine.zarr --codec zstd
    """
    import featstore

    with Progress() as progress:
        store = featstore.convert(
            source, out, format, dtype=dtype, codec=codec, overwrite=overwrite, progress=progress
        )
    notice(f"stored {sum(split.n_rows for split in store.spec.splits):,} rows: {store.path}")
