"""The part that each test row has in a probe's score: a bit a row, in memory and in a file.

With it an interval is over test rows too. Of classes it is whether the row is right; of numbers it
is the row's part of R^2, which has one float32 a row.
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from probe.archives import load_arrays, save_arrays
from probe.blocks import RowBlocks, has_targets
from probe.budget import HOST_DEFAULT, text
from probe.errors import DataError, FileError, RowsWarning
from probe.ranks import all_sum, world
from probe.tables import save_table

MOST = HOST_DEFAULT // 8
"""Bytes that rows may take unless one says otherwise."""

SHARE = 8
"""Rows are kept where they take at most one part in so many of the memory that is granted."""

IDENTITY = ["store", "tap", "mode", "solver", "l2_choice", "l2", "seed", "fraction", "k",
            "n_train", "n_test", "options"]  # fmt: skip
"""The columns that say which probes of which data a table of results is of."""

VERSION = 1


@dataclass(frozen=True)
class RowScores:
    """The part of each of n test rows in the scores of P probes.

    Attributes:
        labels: int64 (n,), or targets, float64 (n,) or (n, T).
        kept: of classes uint8 (P, ceil(n / 8)), a bit a row, which says whether it is right; of
            numbers float32 (P, n), values whose mean is R^2 (see `Regression.values`).
        known: bool (P,), which probes have been scored.
    """

    labels: np.ndarray
    kept: np.ndarray
    known: np.ndarray

    @classmethod
    def empty(cls, labels: np.ndarray, n_probes: int) -> "RowScores":
        """Return room for P probes, of which nothing is known."""
        of_classes = labels.dtype.kind != "f"
        width, dtype = (-(-len(labels) // 8), np.uint8) if of_classes else (
            len(labels), np.float32)  # fmt: skip
        return cls(labels, np.zeros((n_probes, width), dtype), np.zeros(n_probes, bool))

    def of(self, probes: np.ndarray) -> np.ndarray | None:
        """Return bool or float32 (p, n) of some probes; None if one of them is not known."""
        if not self.known[probes].all():
            return None
        if self.kept.dtype == np.float32:
            return self.kept[probes]
        return np.unpackbits(self.kept[probes], axis=1, count=len(self.labels)).view(bool)

    def put(self, probes: np.ndarray, others: "RowScores") -> None:
        """Take in what is known of other probes, under these numbers, in place."""
        self.kept[probes], self.known[probes] = others.kept, others.known


class RowSink:
    """Takes test rows piece by piece, those of each probe in order.

    Arguments:
        rows: room for them.
        start: the number of the first row that comes, of several processes.
    """

    def __init__(self, rows: RowScores, start: int = 0):
        self.rows = rows
        self._next = np.full(len(rows.known), start, np.int64)

    def add(self, probes: np.ndarray, values: np.ndarray) -> None:
        """Take bool or float (p, r), the r rows of each of these probes behind those before."""
        for start in np.unique(self._next[probes]):
            those = self._next[probes] == start
            self._add(probes[those], values[those], int(start))
        self._next[probes] += values.shape[1]

    def _add(self, probes: np.ndarray, values: np.ndarray, start: int) -> None:
        kept = self.rows.kept
        if kept.dtype == np.float32:
            kept[probes, start : start + values.shape[1]] = values
            return
        before = start % 8
        if before:
            values = np.concatenate([np.zeros((len(values), before), bool), values], axis=1)
        packed = np.packbits(values, axis=1)
        kept[probes, start // 8 : start // 8 + packed.shape[1]] |= packed

    def gather(self) -> None:
        """Put together what the processes have, each of its own rows."""
        self.rows.known[:] = True
        if world() > 1:
            all_sum(self.rows.kept)  # no row, and so no bit, is in two processes


def room(blocks: RowBlocks, n_probes: int, most: int) -> RowScores | None:
    """Return room for the rows of P probes; None, with a warning, if it takes more than `most`."""
    needed = n_probes * (4 * blocks.n_rows if has_targets(blocks) else -(-blocks.n_rows // 8))
    if needed > most:
        warnings.warn(
            f"which of the {blocks.n_rows:,} test rows each of {n_probes:,} probes has right is "
            f"not kept, since it takes {text(needed)}, more than an eighth of the memory: "
            f"intervals are over seeds alone; allow {text(SHARE * needed)} to have them over test "
            "rows too",
            RowsWarning,
            stacklevel=2,
        )
        return None
    return RowScores.empty(blocks.labels(), n_probes)


def rows_path(results: str | Path) -> Path:
    """Return the file beside a results file that says which test rows its probes have right."""
    path = Path(results)
    return path.with_name(f"{path.name}.rows.npz")


def digest_of(table: pd.DataFrame) -> str:
    """Return a digest of what says which probes of which data a table is of, and in which rows.

    A penalty that was chosen, and so is known once its probe is solved, does not count.
    """
    found = hashlib.sha256()
    given = table.get("l2_choice", pd.Series("given", table.index)) == "given"
    for name in IDENTITY:
        values = table[name] if name in table else pd.Series("", table.index)
        if name == "l2":
            values = values.where(given)
        known = values.astype(object).where(values.notna(), "").tolist()
        # 3 and 3.0 are one number, whatever a file made of it
        texts = [each if isinstance(each, str) else repr(float(each)) for each in known]
        found.update("\n".join([name, *texts, ""]).encode())
    return found.hexdigest()


def save_with_rows(
    table: pd.DataFrame, results: Path, rows: RowScores | None, probes: np.ndarray
) -> None:
    """Write a results file and the file beside it, or remove that one, whole or not at all.

    Whatever happens in between, the file beside knows all probes that the table has.

    Arguments:
        table: R rows, one a probe.
        results: the results file.
        rows: of P probes; None if they are not known.
        probes: int64 (R,), the probe of each row of the table.

    Raises:
        UsageError: as `probe.tables.save_table`.
    """

    def beside() -> None:
        if rows is None:
            rows_path(results).unlink(missing_ok=True)
        else:
            _save(results, table, rows, probes)

    save_table(table, results, beside, digest=True)


def _save(results: Path, table: pd.DataFrame, rows: RowScores, probes: np.ndarray) -> None:
    arrays = {"labels": rows.labels, "kept": rows.kept, "known": rows.known, "probes": probes}
    save_arrays(rows_path(results), {"version": VERSION, "digest": digest_of(table), **arrays})


def load_rows(
    results: Path, table: pd.DataFrame, score: str
) -> tuple[RowScores, np.ndarray] | None:
    """Return what lies beside a results file, and the probe of each row; None if nothing does.

    What does not belong to the table is refused, with a warning that says why.

    Arguments:
        results: the results file.
        table: R rows, all that stands in it.
        score: the column that summarises it, "accuracy" or "r2".
    """
    path = rows_path(results)
    if not path.exists():
        return None
    try:
        held = load_arrays(path)
        if int(held["version"]) != VERSION:
            raise DataError(f"it is of version {held['version']}, and this reads {VERSION}")
        if str(held["digest"]) != digest_of(table):
            raise DataError("it is of another sweep or other rows than the table")
        rows = RowScores(held["labels"], held["kept"], held["known"])
        probes = held["probes"]
        _check(rows, probes, table, score)
    except (ValueError, TypeError, LookupError, FileError, DataError) as error:
        first = str(error).partition("\n")[0]
        warnings.warn(
            f"{path} is not used ({first}): intervals are over seeds alone; probe again to have "
            "them over test rows too, or remove it",
            RowsWarning,
            stacklevel=2,
        )
        return None
    return rows, probes


def read_rows(results: Path, table: pd.DataFrame, score: str) -> list[np.ndarray | None] | None:
    """Return what `load_rows` finds as bool or float32 (n,) of each row of the table.

    A probe that is not known, as one that was not run, has None; so has all of it if no file is
    there.
    """
    found = load_rows(results, table, score)
    return None if found is None else unpacked(*found)


def unpacked(rows: RowScores, probes: np.ndarray) -> list[np.ndarray | None]:
    """Return what is known of the probe of each row of a table, as `read_rows` does.

    Arguments:
        rows: of P probes.
        probes: int64 (R,), the probe of each row of the table.
    """
    every: list[np.ndarray | None] = [None] * len(probes)
    known = np.flatnonzero(rows.known[probes])
    for place, own in zip(known, rows.of(probes[known]), strict=True):
        every[place] = own
    return every


def _check(rows: RowScores, probes: np.ndarray, table: pd.DataFrame, score: str) -> None:
    """Raise DataError unless the rows have the scores that the table says."""
    if not (rows.labels.ndim and rows.known.ndim == 1 == probes.ndim and len(rows.labels)):
        raise DataError(f"it holds labels {rows.labels.shape} and probes {probes.shape}")
    n_rows, n_probes = len(rows.labels), len(rows.known)
    wanted = RowScores.empty(rows.labels, n_probes).kept
    fits = rows.kept.shape == wanted.shape and rows.kept.dtype == wanted.dtype
    if not fits or len(probes) != len(table) or not np.isin(probes, np.arange(n_probes)).all():
        raise DataError(f"it holds {rows.kept.shape} for {len(table)} rows of the table")
    said = table[score].astype(float).to_numpy()
    told = np.flatnonzero(np.isfinite(said) & rows.known[probes])
    found, slack = np.full(n_probes, np.nan), np.zeros(n_probes)
    for probe in np.unique(probes[told]):
        values = rows.of(np.array([probe]))[0]
        found[probe] = values.mean(dtype=np.float64)
        # a row that is right is a whole number; parts of R^2 were rounded to float32
        slack[probe] = (
            1e-5 * max(1.0, float(np.abs(values).max())) if values.dtype == np.float32 else
            0.5 / n_rows
        )  # fmt: skip
    off = np.abs(found[probes[told]] - said[told]) > slack[probes[told]]
    if off.any():
        row = told[int(off.argmax())]
        raise DataError(
            f"its {score} of row {row} is {found[probes[row]]:.4f}, and the table's {said[row]:.4f}"
        )
