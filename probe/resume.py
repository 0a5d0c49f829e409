"""The results file of a sweep that goes on: what it holds, what is missing, whose it is."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from probe.by_row import RowScores, load_rows, rows_path, save_with_rows
from probe.errors import RowsWarning, UsageError
from probe.metrics import METRICS
from probe.statuses import NOT_RUN
from probe.tables import as_computed, check_suffix, read_table


@dataclass(frozen=True)
class Layout:
    """Which probe stands in which row of the table of a sweep.

    Attributes:
        probes: int64 (rows,); the whole layer, solved once, stands in the rows of every mode and
            seed.
        seeds: (rows,) the seed of each row, None where nothing was drawn.
        modes: (rows,) the mode of each row.
    """

    probes: np.ndarray
    seeds: list[int | None]
    modes: list[str]

    def arranged(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table with one row a probe, in order of probes, as laid out."""
        rows = table.iloc[self.probes].reset_index(drop=True)
        rows["seed"] = pd.array(self.seeds, dtype="Int64")
        rows["mode"] = self.modes
        return rows


@dataclass(frozen=True)
class ResultsFile:
    """The file in which a sweep keeps the probes that it has finished.

    Attributes:
        path: .csv, .json or .parquet.
        identity: one row a probe: what is known of it before it is solved. A penalty that is
            still to be chosen is NaN.
        layout: the rows.
        metrics: the columns that scoring adds.
    """

    path: Path
    identity: pd.DataFrame
    layout: Layout
    metrics: tuple[str, ...]

    def __post_init__(self):
        check_suffix(self.path)

    def write(self, finished: pd.DataFrame, rows: RowScores | None = None) -> None:
        """Write every row, those of unfinished probes with the status "not run".

        Arguments:
            finished: the finished probes, indexed by their numbers.
            rows: the part of each test row in their scores, for the file beside; None for none.
        """
        every = self.identity.index
        table = finished.reindex(every)
        if len(finished) < len(every):
            solved = every.isin(finished.index)
            fill = self.identity.assign(status=NOT_RUN)
            for name, column in finished.items():
                if pd.api.types.is_integer_dtype(column):
                    table[name] = column.astype("Int64").reindex(every)
                if name in fill:
                    table[name] = table[name].where(solved, fill[name])
        save_with_rows(self.layout.arranged(table), self.path, rows, self.layout.probes)

    def read_rows(self, room: RowScores | None) -> RowScores | None:
        """Return the room with what the file beside knows of the finished probes.

        Without that file it is None, with a warning: what is finished stays as it is.
        """
        table = read_table(self.path)
        score = "r2" if "r2" in self.metrics else "accuracy"
        if room is None:
            return None
        if not rows_path(self.path).exists():
            warnings.warn(
                f"{self.path} has finished probes, and no {rows_path(self.path).name} beside it "
                "says which test rows they have right: intervals are over seeds alone; leave out "
                "resume to have them over test rows too",
                RowsWarning,
                stacklevel=2,
            )
            return None
        found = load_rows(self.path, table, score)
        if found is None:
            return None
        done = np.unique(self.layout.probes[(table["status"] != NOT_RUN).to_numpy(bool)])
        kept, probes = found
        same = np.array_equal(probes, self.layout.probes) and kept.kept.shape == room.kept.shape
        if not (same and kept.known[done].all()):
            return None
        room.kept[done], room.known[done] = kept.kept[done], True
        return room

    def read(self) -> pd.DataFrame:
        """Return the finished probes, indexed by their numbers, as `write` was given them.

        Raises:
            UsageError: the file is no table of results, was changed since it was written, or is
                of another sweep; the message names what differs.
            DataError: a value is none that a probe can have.
        """
        table = read_table(self.path, unchanged=True)
        self._check(table)
        solved = (table["status"] != NOT_RUN).to_numpy(bool)
        finished = as_computed(table[solved]).set_axis(self.layout.probes[solved])
        return finished[~finished.index.duplicated()].sort_index()

    def _check(self, table: pd.DataFrame) -> None:
        mine = self.layout.arranged(self.identity)
        for name in [*mine, *self.metrics, "status"]:
            if name not in table:
                raise self._other(f"it has no column {name!r}")
        for name in METRICS:
            if name in table and name not in self.metrics:
                raise self._other(f"it has the metric {name!r}, which is not asked for now")
        theirs = as_computed(table)
        for name in mine:
            if name == "l2" and mine["l2"].isna().all():
                continue  # to be chosen
            difference = _difference(mine[name], theirs[name])
            if difference:
                raise self._other(f"its {name} is {difference[1]}, and here it is {difference[0]}")
        if len(mine) != len(theirs):
            raise self._other(f"it has {len(theirs)} rows, and here there are {len(mine)}")

    def _other(self, what: str) -> UsageError:
        return UsageError(
            f"{self.path} holds another sweep: {what}; resume with the arguments of that sweep, "
            "or name another file"
        )


def _difference(mine: pd.Series, theirs: pd.Series) -> tuple[str, str] | None:
    """Return what the columns hold, where they differ: only the words that do, if of text."""
    ours, others = mine.tolist(), theirs.tolist()
    if len(ours) == len(others) and all(map(_same, ours, others)):
        return None
    if set(map(str, ours)) == set(map(str, others)):
        return None if len(ours) != len(others) else ("in one order", "in another order")
    values = [_distinct(column) for column in (ours, others)]
    words = [value.split() for value in values]
    if mine.name == "options":
        words = [
            [word for word in these if word not in those]
            for these, those in (words, reversed(words))
        ]
    return " ".join(words[0]) or "without", " ".join(words[1]) or "without"


def _same(mine: object, theirs: object) -> bool:
    return (
        mine == theirs if pd.notna(mine) and pd.notna(theirs) else pd.isna(mine) == pd.isna(theirs)
    )


def _distinct(values: list[object], most: int = 8) -> str:
    distinct = list(dict.fromkeys(map(str, values)))
    return ", ".join(distinct[:most]) + (", ..." if len(distinct) > most else "")
