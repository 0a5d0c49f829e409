"""`featstore ls`, `info` and `verify`: what lies on disk, and whether it is whole."""

import click

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import STORE


@click.command(cls=Command)
@click.argument("root", type=STORE, required=False)
def ls(root) -> None:
    """List the stores under the store root, or under ROOT.

    The store root is $FEATSTORE_HOME, or else the platform's folder for data. ROOT is a folder or
    a URL.

    \b
    Example:
      featstore ls
      featstore ls s3://bucket/stores
    """
    import featstore

    root = root or featstore.store_root()
    found = featstore.stores(root)
    if not found:
        notice(f"no store under {root}; `featstore extract` makes one")
        return
    notice(f"under {root}")
    tables.show(tables.of_stores(found))


@click.command(cls=Command)
@click.argument("store", type=STORE)
def info(store) -> None:
    """Show what a store holds and how it was made.

    \b
    Example:
      featstore info mine.zarr
    """
    import featstore

    tables.show(tables.of_store(featstore.open(store)))


@click.command(cls=Command)
@click.argument("store", type=STORE)
def verify(store) -> None:
    """Hold every block of a store against its checksum.

    Names each bad block, and exits with status 1 where there is one.

    \b
    Example:
      featstore verify mine.zarr
    """
    import featstore

    opened = featstore.open(store)
    with Progress() as progress:
        damages = opened.verify(progress=progress)
    for damage in damages:
        click.echo(f"{damage.split} block {damage.block}, {damage.array}: {damage.why}")
    if damages:
        raise click.ClickException(
            f"{len(damages)} arrays of {opened.path} are damaged; "
            "run the command that made it again: it computes those blocks anew"
        )
    notice(f"{opened.path}: every committed block has its checksum")
