"""`featstore spectrum`: in how many directions a layer varies, and what it repeats."""

import click
from rich.table import Table

from terminal import tables
from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import DEVICE, PICTURE, STORE, TABLE, Names


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@click.option("--tap", type=Names(), default=(), metavar="LIST|all",
              help="Which taps of stores without #TAP.  [default: the first]")  # fmt: skip
@click.option("--split", default="train", help="Which rows.")
@click.option("--standardize/--no-standardize", default=True,
              help="Of the features at unit std, as probes see them, or as they are.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="Number the dead and repeated features.")
@click.option("--memory", default="auto", help="What arrays may take, as 4GiB.")
@click.option("--device", type=DEVICE, default="auto")
@click.option("--out", type=TABLE, metavar="FILE", help="Save the table: .csv, .json or .parquet.")
@click.option("--eigenvalues", type=TABLE, metavar="FILE", help="Save every eigenvalue, likewise.")
@click.option("--plot", type=PICTURE, metavar="FILE", help="Draw the spectra.")
def spectrum(stores, tap, split, listed, out, eigenvalues, plot, **options) -> None:
    """Show what explains a layer's redundancy: its spectrum, correlations and repeated features.

    Effective rank is exp of the entropy of the singular values; participation ratio is
    (sum lambda)^2 / sum lambda^2 of the eigenvalues of the correlation matrix. A dead feature never
    changes; a duplicate is an affine function of an earlier feature.

    \b
    Example:
      featstore spectrum mine.zarr --tap all --plot spectrum.pdf
      featstore spectrum resnet.zarr#layer4 vit.zarr --list
    """
    import pandas as pd

    from probe.answers import of_spectrum
    from probe.spectrum import layer_spectrum
    from probe.tables import save_table
    from studies.layers import layers_of

    found = {}
    with Progress() as progress:
        for layer in layers_of(stores, tap):
            found[layer.name] = layer_spectrum(
                layer.rows(split), moments_cache=layer.store.moments_folder, progress=progress,
                **options,
            )  # fmt: skip
    table = pd.DataFrame([{"name": name, **each.numbers} for name, each in found.items()])
    values = pd.concat([
        pd.DataFrame({"name": name, "index": range(1, len(each.eigenvalues) + 1),
                      "eigenvalue": each.eigenvalues})
        for name, each in found.items()
    ])  # fmt: skip
    lists = [line for each in found.items() for line in _listed(*each)] if listed else []
    tables.show(_table(table), of_spectrum(table), *lists)
    for path, saved in ((out, table), (eigenvalues, values)):
        if path:
            save_table(saved, path)
    if plot:
        from probe.figures import spectra

        spectra(values, plot)
    for path in filter(None, (out, eigenvalues, plot)):
        notice(f"wrote {path}")


def _table(table) -> Table:
    shown = Table(**tables.PLAIN)
    shown.add_column("layer", overflow="fold")
    for heading in ("features", "eff.\nrank", "part.\nratio", "for\n90 %", "for\n99 %",
                    "mean\n|corr.|", "dead", "dupl."):  # fmt: skip
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.itertuples():
        shown.add_row(
            row.name, f"{row.features:,}", f"{row.effective_rank:.1f}",
            f"{row.participation_ratio:.1f}", f"{row.components_90:,}", f"{row.components_99:,}",
            f"{row.mean_abs_correlation:.3f}", f"{row.dead:,}", f"{row.duplicates:,}",
        )  # fmt: skip
    return shown


def _listed(name: str, found) -> list[str]:
    """Number the dead features, and the duplicates with what they repeat."""
    dead = ", ".join(map(str, found.dead)) or "none"
    copies = ", ".join(f"{copy} (as {original})" for copy, original in found.duplicates) or "none"
    return [f"{name}, dead: {dead}", f"{name}, duplicates: {copies}"]
