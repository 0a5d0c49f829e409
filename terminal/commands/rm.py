"""`featstore rm`: a store deleted, after a question."""

import shutil

import click

from terminal import tables
from terminal.failures import Command
from terminal.progress import notice
from terminal.values import STORE


@click.command(cls=Command)
@click.argument("store", type=STORE)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(store, yes) -> None:
    """Delete a store, and nothing that is not certainly one.

    What was worked out from it and kept goes too.

    \b
    Example:
      featstore rm mine.zarr
    """
    import featstore

    opened = featstore.open(store)
    rows = sum(split.n_rows for split in opened.spec.splits)
    what = f"{opened.path} ({rows:,} rows, {tables.size(opened.bytes_on_disk())})"
    if not yes:
        click.confirm(f"Delete {what}?", abort=True, err=True)
    featstore.remove(opened.path)
    shutil.rmtree(opened.moments_folder, ignore_errors=True)
    notice(f"deleted {what}")
