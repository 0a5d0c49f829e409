"""The results of one sweep of a study, read back."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from probe.by_row import load_rows
from probe.curve_names import score_of
from probe.reading import read_predictions, read_results
from probe.tables import read_table
from studies.sweeping import Sweep


@dataclass(frozen=True)
class Held:
    """The results of one sweep, read back."""

    sweep: Sweep
    folder: Path

    @property
    def probe(self) -> str:
        """The name of its probe."""
        return self.sweep.name.rpartition(".")[2]

    @property
    def files(self) -> list[Path]:
        """What it was read from."""
        return self.sweep.files(self.folder)

    def results(self) -> pd.DataFrame:
        """Return one row a probe."""
        return read_results(self.files[0])

    def grid(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the probes at the fractions that were asked for, and which rows those are.

        A sweep of every k has k = int(fraction * D) among them, under another fraction.
        """
        table = self.results()
        if not self.sweep.arguments.get("every_k"):
            return table, np.arange(len(table))
        dim = int(table["k"].max())
        asked = {int(f * dim): f for f in self.sweep.arguments["fractions"]} | {dim: 1.0}
        rows = np.flatnonzero(table["k"].isin(list(asked)))
        table = table.iloc[rows].reset_index(drop=True)
        return table.assign(fraction=table["k"].map(asked)), rows

    def correct(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return labels (n,) and which rows each probe has right, (R, n); None if not known.

        It comes of the predictions, or else of what lies beside the results.
        """
        if not self.sweep.per_class:
            table = read_table(self.files[0])
            found = load_rows(self.files[0], table, score_of(table))
            rows = None if found is None else found[0].of(found[1])
            return None if rows is None else (found[0].labels, rows)
        labels, classes = read_predictions(self.files[1])
        return labels, np.ascontiguousarray((classes == labels[:, None]).T)
