"""What a fit or a sweep returns: a table in long form, and the probes behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from probe.axes import Axes
from probe.blocks import Rows, as_blocks
from probe.checks import check_test
from probe.errors import ProbeFailed, UsageError
from probe.files import written_whole
from probe.metrics import Scores
from probe.solvers import SOLVERS, Fitted
from probe.weights import Weights

SUFFIXES = (".csv", ".json", ".parquet")


@dataclass(frozen=True)
class ProbeResult:
    """Solved probes and what is known of them, one row a probe.

    Attributes:
        table: columns store, tap, mode, solver, l2, seed, fraction, k, n_train, then n_test and
            a column for each metric once scored, then what the solver knows (status, ...).
        fitted: the solver's probes.
        probes: int64 (rows,), the probe of each row. Rows share a probe where they mean the
            same one, as the whole layer of every seed does.
        solver: name of the solver.
        scores: what was counted when the probes were last scored; None before.
    """

    table: pd.DataFrame
    fitted: Fitted
    probes: np.ndarray
    solver: str
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.table)

    def to_pandas(self) -> pd.DataFrame:
        """Return a copy of the table."""
        return self.table.copy()

    def weights(self, row: int) -> Weights:
        """Return the affine map of the probe in one row of the table."""
        return self.fitted.weights(int(self.probes[row]))

    def score(self, test: Rows, metrics: Sequence[str] = ("accuracy",)) -> "ProbeResult":
        """Return the result with n_test and the metrics on these rows.

        Raises:
            DataError: the rows do not fit the probes.
            UsageError: there is no metric of some name.
        """
        counts = self.fitted.class_counts
        blocks = as_blocks(test)
        check_test(blocks, self.fitted.n_features, counts)
        probabilities = SOLVERS[self.solver].probabilities
        scores = Scores(len(self.fitted.axes), len(counts), metrics, probabilities)
        self.fitted.score(blocks, scores)
        columns = {"n_test": np.full(len(self), blocks.n_rows)}
        columns |= {name: values[self.probes] for name, values in scores.columns().items()}
        failed = self._failed()
        for name in scores.columns():
            columns[name] = np.where(failed, np.nan, columns[name])
        return replace(self, table=_with_columns(self.table, columns), scores=scores)

    def per_class(self) -> np.ndarray:
        """Return the accuracy on each class, float64 (rows, C); NaN for classes not in test.

        Raises:
            UsageError: the probes have not been scored by accuracy.
        """
        by_class = self.scores.per_class() if self.scores else None
        if by_class is None:
            raise UsageError("no accuracy has been counted: call score(test) first")
        return by_class[self.probes]

    def raise_if_failed(self) -> "ProbeResult":
        """Return the result itself if every probe was solved.

        Raises:
            ProbeFailed: some were not; the message names the first, the cause and the remedy.
        """
        failed = np.flatnonzero(self._failed())
        if failed.size:
            first = self.table.iloc[failed[0]]
            raise ProbeFailed(
                f"{failed.size} of {len(self)} probes failed; the first (fraction "
                f"{first.fraction:g}, seed {first.seed}, l2 {first.l2:g}) is {first.status}: "
                + SOLVERS[self.solver].remedies[first.status]
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the table to a .csv, .json or .parquet file, whole or not at all.

        Raises:
            UsageError: the name ends in something else.
        """
        save_table(self.table, path)

    def _failed(self) -> np.ndarray:
        return self.table["status"].isin(list(SOLVERS[self.solver].remedies)).to_numpy()

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _with_columns(table: pd.DataFrame, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return the table with these columns, new ones standing before "status"."""
    table = table.drop(columns=[name for name in columns if name in table])
    place = table.columns.get_loc("status")
    return pd.concat(
        [table.iloc[:, :place], pd.DataFrame(columns, index=table.index), table.iloc[:, place:]],
        axis=1,
    )


def probe_table(
    fitted: Fitted, solver: str, probes: np.ndarray, names: dict[str, str]
) -> pd.DataFrame:
    """Return one row for each of `probes`, with what is known before any test row is seen."""
    axes: Axes = fitted.axes
    chains = [axes.chains[c] for c in axes.chain[probes]]
    columns = dict(names)
    columns |= {
        "mode": [chain.mode for chain in chains],
        "solver": solver,
        "l2": np.asarray(axes.penalties)[axes.penalty[probes]],
        "seed": pd.array([chain.seed for chain in chains], dtype="Int64"),
        "fraction": [c.fractions[p] for c, p in zip(chains, axes.prefix[probes], strict=True)],
        "k": axes.size[probes],
        "n_train": int(fitted.class_counts.sum()),
    }
    columns |= {name: values[probes] for name, values in fitted.facts.items()}
    return pd.DataFrame(columns, index=range(len(probes)))


def check_suffix(path: str | Path) -> Path:
    """Return the path if a table can be written under its name.

    Raises:
        UsageError: it ends in none of .csv, .json and .parquet, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path.name!r} ends in none of {', '.join(SUFFIXES)}: name it so")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    return path


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table in the format of the file's suffix, aside first and renamed when complete.

    Raises:
        UsageError: as `check_suffix`.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with written_whole(path) as aside:
        if suffix == ".csv":
            table.to_csv(aside, index=False)
        elif suffix == ".json":
            table.to_json(aside, orient="records", indent=1)
        else:
            table.to_parquet(aside, index=False)
