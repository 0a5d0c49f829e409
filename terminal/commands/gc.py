"""`featstore gc`: what was abandoned under the store root, deleted after a question."""

import click

from terminal import tables
from terminal.failures import Command, line
from terminal.progress import notice
from terminal.values import STORE


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

    _, unusable = featstore.survey(root)
    for each in unusable:
        click.echo(line(f"Warning: {each.path.name} cannot be used: {each.why}"), err=True)
    found = featstore.abandoned(root, days=days)
    if not found:
        notice(f"nothing was abandoned under {root or featstore.store_root()}")
        return
    tables.show(tables.of_abandoned(found))
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
    notice(f"deleted {len(deleted)}, {tables.size(sum(item.n_bytes for item in deleted))}")
