"""`featstore ls`, `info` and `verify`: what lies on disk, and whether it is whole."""

import click

from terminal import tables
from terminal.failures import Command, line
from terminal.progress import Progress, notice
from terminal.values import STORE

# The exit status of `verify` where nothing is damaged, and blocks are missing.
INCOMPLETE = 3


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
    found, unusable = featstore.survey(root)
    for each in unusable:
        click.echo(line(f"Warning: {each.path.name} cannot be used: {each.why}"), err=True)
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
    """Hold every byte of a store against its checksum, and its metadata.

    Names each damage, and exits with status 1 where there is one; with 3 where
    all that is there is whole, and blocks are missing.

    \b
    Example:
      featstore verify mine.zarr
    """
    import featstore

    opened = featstore.open(store)
    with Progress() as progress:
        damages = opened.verify(progress=progress)
    for damage in damages:
        click.echo(line(damage))
    if damages:
        raise click.ClickException(
            f"{len(damages)} parts of {opened.path} are damaged; "
            "run the command that made it again: it makes those anew"
        )
    if not opened.complete:
        raise _incomplete(opened)
    notice(f"{opened.path}: complete, and every committed block has its checksum")


def _incomplete(store) -> click.ClickException:
    """Say how much of a store is missing, with an exit status that says that and no more."""
    splits = [split.name for split in store.spec.splits]
    total = sum(store.n_blocks(split) for split in splits)
    missing = {split: len(store.missing(split)) for split in splits}
    there = total - sum(missing.values())
    of = ", ".join(f"{count} of {split}" for split, count in missing.items() if count)
    failure = click.ClickException(
        f"{store.path} is not complete: {there} of {total} blocks are committed and whole, and"
        f" missing are {of}; run the command that made it again, it goes on where it stopped"
    )
    failure.exit_code = INCOMPLETE
    return failure
