"""`featstore quickstart`: extract, probe and plot, with nothing to download."""

from pathlib import Path

import click

from terminal.commands.extract import run_extract
from terminal.commands.probe import run_probe
from terminal.failures import Command
from terminal.progress import first_notice

QUICKSTART_FOLDER = Path("featstore-quickstart")


@click.command(cls=Command)
def quickstart() -> None:
    """Extract, probe and plot, on real weights and images.

    Needs no download: EfficientNet-Lite0 with its ImageNet weights (a package that the extra
    `quickstart` installs) on scikit-learn's 1,797 handwritten digits. Writes
    ./featstore-quickstart/.

    \b
    Example:
      featstore quickstart
    """
    first_notice("extracting 1,797 digits under EfficientNet-Lite0")
    from featstore.quickstart import extraction

    store = run_extract(**extraction())
    QUICKSTART_FOLDER.mkdir(exist_ok=True)
    run_probe(
        store,
        QUICKSTART_FOLDER / "results.csv",
        QUICKSTART_FOLDER / "accuracy.png",
        fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        seeds=(1, 2, 3, 4, 5),
        solver="ridge",
    )
