"""`featstore merge`: two stores of the same rows as one."""

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import CODEC, FORMAT, STORE, Names


@click.command(cls=Command)
@click.argument("a", type=STORE)
@click.argument("b", type=STORE)
@click.option("--out", type=STORE, required=True, help="The store of both.")
@click.option(
    "--names", type=Names(), default=(), metavar="A,B",
    help="Before the name of a tap that is in both.  [default: the backbones]",
)  # fmt: skip
@click.option("--format", type=FORMAT, help="Of the store.  [default: by its suffix]")
@click.option("--codec", type=CODEC, help="Of a Zarr store's chunks.  [default: none]")
@click.option("--overwrite", is_flag=True, help="Replace a store that holds something else.")
@click.option("--memory", default="auto", help="What blocks may take, as 500MB.")
def merge(a, b, out, names, format, codec, overwrite, memory) -> None:
    """Make one store of the taps of two that hold the same rows.

    Rows are matched by their ids, and labels by their values; the first difference is named.

    \b
    Example:
      featstore merge resnet.zarr vit.zarr --out both.zarr
    """
    import featstore
    from probe.budget import parse

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
