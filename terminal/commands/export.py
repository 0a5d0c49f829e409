"""`featstore export`: the compact representation, a random subset of features with its indices."""

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import STORE


@click.command(cls=Command)
@click.argument("store", type=STORE)
@click.option("--fraction", type=float, required=True, help="Share of the features, in (0, 1].")
@click.option("--seed", type=int, required=True, help="Of the draw.")
@click.option("--tap", help="Which tap of the store.  [default: its first]")
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
    from probe.chains import random_chain

    spec = featstore.open(store).spec
    chosen = spec.tap(tap or spec.taps[0].name)
    chain = random_chain(chosen.dim, [fraction], seed)
    with Progress() as progress:
        featstore.export(
            store, out, chain.features(0), tap=chosen.name, overwrite=overwrite,
            provenance={"fraction": fraction, "seed": seed, "mode": chain.mode}, progress=progress,
        )  # fmt: skip
    notice(f"wrote {chain.length:,} of {chosen.dim:,} features of {chosen.name}: {out}")
