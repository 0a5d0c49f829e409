"""`featstore ls`, `info`, `verify`, `convert`, `export`, `merge`, `rm` and `gc`."""

import shutil
from pathlib import Path

import click

from featstore.cli import screen
from featstore.cli.common import (
    COMPRESSION,
    DTYPE,
    FORMAT,
    MEMORY,
    OVERWRITE,
    STORE,
    Command,
    Names,
    size,
)
from featstore.cli.screen import Progress, notice
from featstore.probe.errors import line

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
    from featstore.places import place
    from featstore.store import catalog

    root = root or featstore.store_root()
    found, unusable = catalog.survey(root)
    for each in unusable:
        click.echo(line(f"Warning: {each.path.name} cannot be used: {each.why}"), err=True)
    if not found:
        notice(f"no store under {root}; `featstore extract` makes one")
        return
    if [store.path for store in found] != [place(root)]:
        notice(f"under {root}")
    screen.show(screen.of_stores(found))


@click.command(cls=Command)
@click.argument("store", type=STORE)
def info(store) -> None:
    """Show what a store holds and how it was made.

    \b
    Example:
      featstore info mine.zarr
    """
    import featstore

    screen.show(screen.of_store(featstore.open(store)))


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


@click.command(cls=Command)
@click.argument("source", type=STORE)
@click.argument("place", type=STORE, required=False, metavar="")
@click.option("--out", type=STORE, help="The store to make.  [required]")
@click.option("--format", type=FORMAT, help="Format of the store.  [default: by its suffix]")
@click.option("--dtype", type=DTYPE, help="Type of the stored features.  [default: the same]")
@COMPRESSION
@OVERWRITE
def convert(source, place, out, format, dtype, codec, overwrite) -> None:
    """Copy a store into another format, codec, dtype or place.

    Every checksum is checked on the way. Killed and run again, it goes on where it stopped.

    \b
    Example:
      featstore convert mine.zarr --out mine.h5
      featstore convert mine.h5 --out s3://bucket/mine.zarr --codec zstd
    """
    if (place is None) == (out is None):
        raise click.UsageError("name the store to make, once: --out PATH")
    import featstore

    out = out or place

    with Progress() as progress:
        store = featstore.convert(
            source, out, format, dtype=dtype, codec=codec, overwrite=overwrite, progress=progress
        )
    notice(f"stored {sum(split.n_rows for split in store.spec.splits):,} rows: {store.path}")


@click.command(cls=Command)
@click.argument("store", type=STORE)
@click.option("--fraction", type=float, required=True, help="Share of the features, in (0, 1].")
@click.option("--seed", type=int, required=True, help="Seed of the draw.")
@click.option("--tap", help="Layer of the store.  [default: its first]")
@click.option(
    "--out", type=STORE, required=True, help="A store (.zarr, .h5), or a file: .npz, .parquet."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(store, fraction, seed, tap, out, overwrite) -> None:
    """Write some features of a tap, drawn as `probe` draws them, with their indices.

    \b
    Example:
      featstore export mine.zarr --fraction 0.1 --seed 1 --out compact.npz
    """
    import featstore
    from featstore.probe.subsets import random_chain

    spec = featstore.open(store).spec
    chosen = spec.tap(tap or spec.taps[0].name)
    chain = random_chain(chosen.dim, [fraction], seed)
    with Progress() as progress:
        featstore.export(
            store,
            out,
            chain.features(0),
            tap=chosen.name,
            overwrite=overwrite,
            provenance={"fraction": fraction, "seed": seed, "mode": chain.mode},
            progress=progress,
        )
    notice(f"wrote {chain.length:,} of {chosen.dim:,} features of {chosen.name}: {out}")


@click.command(cls=Command)
@click.argument("a", type=STORE)
@click.argument("b", type=STORE)
@click.option("--out", type=STORE, required=True, help="The store of both.")
@click.option(
    "--names",
    type=Names(),
    default=(),
    metavar="A,B",
    help="Before the name of every tap.  [default: the backbones, for taps that are in both]",
)
@click.option("--format", type=FORMAT, help="Format of the store.  [default: by its suffix]")
@COMPRESSION
@OVERWRITE
@MEMORY
def merge(a, b, out, names, format, codec, overwrite, memory) -> None:
    """Make one store of the taps of two that hold the same rows.

    Rows are matched by their ids, and labels by their values; the first difference is named.

    \b
    Example:
      featstore merge resnet.zarr vit.zarr --out both.zarr
    """
    import featstore
    from featstore.probe.memory import parse

    with Progress() as progress:
        store = featstore.merge(
            a,
            b,
            out,
            format,
            names=names,
            codec=codec,
            overwrite=overwrite,
            memory=parse(memory),
            progress=progress,
        )
    notice(f"stored {', '.join(tap.name for tap in store.spec.taps)}: {store.path}")


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
    what = f"{opened.path} ({rows:,} rows, {size(opened.bytes_on_disk())})"
    if not yes:
        click.confirm(f"Delete {what}?", abort=True, err=True)
    featstore.remove(opened.path)
    shutil.rmtree(opened.moments_folder, ignore_errors=True)
    notice(f"deleted {what}")


@click.command(cls=Command)
@click.argument("root", type=STORE, required=False)
@click.option("--days", type=float, default=7.0, help="Untouched for so long.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def gc(root, days, yes) -> None:
    """Delete partial stores that no one goes on with, and what dead writers left.

    Lists them first, and asks. What a living process writes to stays.

    ROOT is a folder or URL; without it, the store root is taken.

    \b
    Example:
      featstore gc
      featstore gc s3://bucket/stores --days 30
    """
    import featstore
    from featstore.store import catalog

    _, unusable = catalog.survey(root)
    for each in unusable:
        click.echo(line(f"Warning: {each.path.name} cannot be used: {each.why}"), err=True)
    found = featstore.abandoned(root, days=days)
    if not found:
        notice(f"nothing was abandoned under {root or featstore.store_root()}")
        return
    screen.show(screen.of_abandoned(found))
    if not yes:
        click.confirm(f"Delete these {len(found)}?", abort=True, err=True)
    deleted = []
    for item in found:
        try:
            featstore.collect(item)
        except (featstore.errors.FeatstoreError, OSError) as error:
            click.echo(line(f"Warning: {item.path.name} is kept: {error}"), err=True)
        else:
            deleted.append(item)
    notice(f"deleted {len(deleted)}, {size(sum(item.n_bytes for item in deleted))}")


@click.command(cls=Command)
@click.argument("things", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--to", "repository", required=True, metavar="OWNER/NAME", help="The repository.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--message", help="Of the commit.  [default: what is sent]")
@click.option("--revision", help="The branch.  [default: main]")
def push(things, repository, private, message, revision) -> None:
    """Send stores, results and pages to a data-set repository of Hugging Face.

    All goes in one commit, with a card that says what is there. What was sent before, also by a
    push that was killed, is not sent again.

    \b
    Example:
      featstore push mine.zarr results.csv report.html --to me/features
    """
    import featstore

    done = featstore.push(things, repository, private=private, message=message, revision=revision)
    notice(f"sent {', '.join(done.names)} ({done.n_files:,} files): {done.url}")


@click.command(cls=Command)
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--out", type=click.Path(path_type=Path), default=".", help="The folder.")
@click.option("--only", type=Names(), default=(), help="Some of it, by name.  [default: all]")
@click.option("--revision", help="The branch, tag or commit.  [default: main]")
def pull(repository, out, only, revision) -> None:
    """Fetch what `push` sent, and hold its stores against their checksums.

    \b
    Example:
      featstore pull me/features --out shared
    """
    import featstore

    for path in featstore.pull(repository, out, names=only, revision=revision):
        notice(f"fetched {path}")
