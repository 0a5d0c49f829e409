"""What a report is about: tables of results from files or a study's folder, and their notes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.by_row import load_rows, unpacked
from probe.curve_names import CURVE, NOT_RUN, as_curves
from probe.errors import ProbeError, RowsWarning, UsageError
from probe.reading import Judged, judged, read_per_class
from probe.tables import SUFFIXES, as_computed, read_table
from studies.report import provenance

NEEDED = ("store", "tap", "mode", "solver", "l2", "seed", "fraction", "k", "status")
"""Columns without which a table is none of probes."""

SCORES = ("accuracy", "r2")


@dataclass(frozen=True)
class Source:
    """One file of results.

    Attributes:
        path: where it lies.
        rows: how many probes it has.
        options: what else was asked for, as its column of that name says; each once.
        note: how it was made, as `provenance.read` gives it; None if that is not known.
        changed: whether the file is another than the note was written for.
    """

    path: Path
    rows: int
    options: tuple[str, ...]
    note: dict[str, Any] | None
    changed: bool = False


@dataclass(frozen=True)
class Material:
    """All that a report shows.

    Attributes:
        table: one row a probe, all files together; `seed` is Int64.
        per_class: one row a probe and class, or None.
        sources: the files, in order.
        correct: of each row of the table, which test rows its probe has right, None where that is
            not known; None if it is known of none.
        labels: of each row of the table, the classes (or targets) of those test rows, or None;
            None where `correct` is.
    """

    table: pd.DataFrame
    per_class: pd.DataFrame | None
    sources: tuple[Source, ...]
    correct: list[np.ndarray | None] | None = None
    labels: list[np.ndarray | None] | None = None


def read(
    results: Sequence[str | Path],
    per_class: Sequence[str | Path] = (),
    predictions: Sequence[str | Path] = (),
) -> Material:
    """Return the tables of files of results, and of folders of studies.

    Arguments:
        results: files that `featstore probe --out` wrote, or folders of studies: of those,
            `results/*` are taken, and `per_class/*`.
        per_class: files that `featstore probe --per-class` wrote.
        predictions: files that `featstore probe --save-predictions` wrote, none or one for each
            file of results. Without them what lies beside the results says which test rows their
            probes have right.

    Raises:
        UsageError: a file is not there, is no such table, holds other scores than the first, or
            nothing was named; predictions are not one a file.
        DataError: predictions are of other probes or rows.
    """
    files, beside = _files(results)
    if not files:
        raise UsageError("there are no results to report on: name a file that `probe --out` wrote")
    tables = [_results(path) for path in files]
    scores = {path: _score(table, path) for path, table in zip(files, tables, strict=True)}
    for path, score in scores.items():
        if score != scores[files[0]]:
            raise UsageError(
                f"{path} has the score {score} and {files[0]} has {scores[files[0]]}: make a "
                "report of each kind"
            )
    sources = [_source(path, table) for path, table in zip(files, tables, strict=True)]
    classes = [_per_class(Path(path)) for path in [*beside, *per_class]]
    return Material(
        _joined(files, tables), pd.concat(classes, ignore_index=True) if classes else None,
        tuple(sources), *_test_rows(files, tables, predictions),
    )  # fmt: skip


def _files(results: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of results, each once, and the files per class of the folders."""
    files, beside = [], []
    for path in map(Path, results):
        if path.is_dir():
            found = _tables_in(path / "results")
            if not found:
                raise UsageError(
                    f"{path} has no results: a study's folder has them in {path / 'results'}; name "
                    "one, or files"
                )
            files += found
            beside += _tables_in(path / "per_class")
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"there is no {path}: name a file of results, or a study's folder")
    return list(dict.fromkeys(files)), list(dict.fromkeys(beside))


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if not path.name.startswith(".")]
    tables = [path for path in names if path.suffix.lower() in SUFFIXES]
    return sorted(path for path in tables if not path.name.endswith(".provenance.json"))


def _results(path: Path) -> pd.DataFrame:
    table = _checked(path, NEEDED)
    return as_computed(table)


def _score(table: pd.DataFrame, path: Path) -> str:
    found = [score for score in SCORES if score in table]
    if not found:
        raise UsageError(f"{path} has neither a column accuracy nor r2: its probes were not scored")
    return found[0]


def _per_class(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"there is no {path}: name a file that `probe --per-class` wrote")
    table = read_per_class(path)
    return table.assign(store=table["store"].map(provenance.public))


Known = list[np.ndarray | None] | None


def _test_rows(
    files: Sequence[Path], tables: Sequence[pd.DataFrame], predictions: Sequence[str | Path]
) -> tuple[Known, Known]:
    """Return which test rows each probe has right, and their labels; None if no probe's are known.

    Raises:
        UsageError, DataError: as `read`.
    """
    if predictions and len(predictions) != len(files):
        raise UsageError(
            f"{len(predictions)} files of predictions for {len(files)} of results: give one for "
            "each, in the same order"
        )
    correct, labels = [], []
    for number, (path, table) in enumerate(zip(files, tables, strict=True)):
        found = (
            _of_judged(judged(table, predictions[number])) if predictions else
            _kept(path, table) or _of_study(path, table)
        )  # fmt: skip
        every, classes = found or ([None] * len(table), None)
        correct += every
        labels += [None if own is None else classes for own in every]
    known = any(own is not None for own in correct)
    return (correct, labels) if known else (None, None)


def _kept(path: Path, table: pd.DataFrame) -> tuple[list[np.ndarray | None], np.ndarray] | None:
    """Return what lies beside a file of results says of its probes; None if nothing does."""
    found = load_rows(path, table, _score(table, path))
    return None if found is None else (unpacked(*found), found[0].labels)


def _of_judged(found: Judged) -> tuple[list[np.ndarray], np.ndarray]:
    return list(found.correct), found.labels


def _of_study(path: Path, table: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return what a study's own predictions say of a file of its results; None if there is none."""
    predictions = path.parent.parent / "predictions" / f"{path.stem}.npz"
    if path.parent.name != "results" or not predictions.is_file():
        return None
    try:
        return _of_judged(judged(table, predictions))
    except ProbeError as error:
        warnings.warn(f"{predictions} is not used: {error}", RowsWarning, stacklevel=2)
        return None


def _checked(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    table = read_table(path)
    missing = [name for name in needed if name not in table]
    if missing:
        raise UsageError(
            f"{path} has no column {missing[0]!r}, which every table of probes has: name a file "
            "that `featstore probe` wrote"
        )
    if table.empty:
        raise UsageError(f"{path} has no rows: solve some probes first")
    return table


def _source(path: Path, table: pd.DataFrame) -> Source:
    options = tuple(table["options"].unique()) if "options" in table else ()
    note = provenance.read(path)
    changed = note is not None and not provenance.is_of(note, path)
    return Source(path, len(table), options, note, changed)


def _joined(files: Sequence[Path], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return all rows; where a probe is in two files, its store is named with the file.

    Sweeps of one store that differ in what no column of a curve says (standardised or not, say)
    are different curves all the same.
    """
    parts = [
        table.assign(store=table["store"].map(provenance.public), file=path.stem)
        for path, table in zip(files, tables, strict=True)
    ]
    whole = pd.concat(parts, ignore_index=True)
    curves = as_curves(whole)
    same = curves.duplicated([*CURVE, "seed", "fraction", "k"], keep=False)
    clashing = set(curves.loc[same, "file"])
    if len(clashing) > 1 and not curves.duplicated(["file", *CURVE, "seed", "fraction"]).any():
        named = whole["file"].isin(clashing)
        whole["store"] = whole["store"].where(~named, whole["store"] + " (" + whole["file"] + ")")
    return whole.drop(columns="file")


def not_run(table: pd.DataFrame) -> int:
    """Return how many probes an interrupted sweep did not reach."""
    return int((table["status"] == NOT_RUN).sum())
