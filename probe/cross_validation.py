"""Cross-validation: probes of rows without a test split, each row tested by probes that lack it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import ArrayLike

from featstore.probe import statuses
from featstore.probe.arrays import Backend, backend as backend_of
from featstore.probe.errors import UsageError
from featstore.probe.memory import Progress, parse, shows, silent
from featstore.probe.modes import Mode
from featstore.probe.plans import Shape, Wanted, forecast
from featstore.probe.predicted import Predictions, room_of_classes, scores_of_labels
from featstore.probe.result import ProbeResult, unscored, with_columns
from featstore.probe.results import score_of
from featstore.probe.results.evidence import RowScores
from featstore.probe.results.reading import save_with_rows
from featstore.probe.results.sentences import sentence
from featstore.probe.results.views import sweep_as_html
from featstore.probe.rows import Grouped, LabelledRows, Rows, as_blocks
from featstore.probe.solvers import L2, Choice, Options
from featstore.probe.solvers.registry import Chosen, chosen
from featstore.probe.solvers.weights import n_outputs
from featstore.probe.splits import every_view, folds as folds_of
from featstore.probe.sweeps import sweep

_SAME = ("store", "tap", "mode", "solver", "l2_choice", "seed", "fraction", "k")


@dataclass(frozen=True)
class CrossValidated:
    """Scores of probes on rows that each of them was fitted without.

    Attributes:
        table: one row a probe, as of `featstore.probe.sweep`, with the column `folds`, K. Scores
            are means over folds, weighted by their rows: accuracies, top<k>, mse and mae are thus
            those of all rows together. `n_test` counts all rows, `n_train` those of the smallest
            part that was fitted on; `l2` is the median of the K that were chosen.
        by_row: the part of each row in the scores; None where it was not kept.
        probes: int64 (rows of the table,), which of them each row of the table is.
        labels: (N,), or (N, L) of several, of all rows.
        fold: int64 (N,), which fold each row is tested in.
        results: of each fold, its probes scored on that fold's rows.
    """

    table: pd.DataFrame
    by_row: RowScores | None
    probes: np.ndarray
    labels: np.ndarray
    fold: np.ndarray
    results: tuple[ProbeResult, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def by_class(self) -> Collection[str]:
        """Names of the scores that classes have each."""
        return self.results[0].by_class

    @property
    def correct(self) -> np.ndarray | None:
        """Rows that the probe of each row of the table has right, as of a `ProbeResult`."""
        return self.evidence()

    def evidence(self, score: str | None = None) -> np.ndarray | None:
        """Return the parts of rows in a score, as of a `ProbeResult`."""
        if self.by_row is None:
            return None
        return self.by_row.of(self.probes, score or score_of(self.table))

    def to_pandas(self) -> pd.DataFrame:
        """Return a copy of the table."""
        return self.table.copy()

    def per_class(self, name: str = "accuracy") -> np.ndarray:
        """Return what was reached on each class, float64 (rows of the table, C).

        It is the mean over folds, weighted by the rows that each fold has of a class, or of several
        labels by its rows: an accuracy is thus that of all rows of the class. NaN for a class
        without a row.

        Raises:
            UsageError: as of `ProbeResult.per_class`.
        """
        sums, weights = 0.0, 0.0
        for number, found in enumerate(self.results):
            values = found.per_class(name)
            own = self.labels[self.fold == number]
            rows = np.bincount(own, minlength=values.shape[1]) if own.ndim == 1 else len(own)
            known = np.isfinite(values) * rows
            sums, weights = sums + known * np.nan_to_num(values), weights + known
        return np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)

    def predict(self, rows: Rows, memory: str | int = "4GiB") -> Predictions:
        """Return the class, or the labels, of each row by the probes that were fitted without it.

        Arguments:
            rows: those that were given to `cross_validate`.
            memory: what predictions may take, as "4GiB" or bytes.

        Raises:
            UsageError: they are others; or as of `ProbeResult.predict`.
            MemoryBudgetError: the predictions take more than `memory`.
        """
        blocks = as_blocks(rows)
        if blocks.n_rows != len(self.fold) or not np.array_equal(blocks.labels(), self.labels):
            raise UsageError(
                "these are not the rows that the folds are of: give the same rows, in their order"
            )
        classes, images = None, blocks.n_rows // blocks.n_views
        for number, found in enumerate(self.results):
            own = every_view(blocks, np.flatnonzero(self.fold[:images] == number))
            predicted = found.predict(own, memory).by_probe
            if classes is None:
                shape = blocks.n_rows, predicted.shape[1], n_outputs(found.fitted)
                classes = room_of_classes(*shape, parse(memory), predicted.ndim > 2)
            classes[self.fold == number] = predicted
        names, table = tuple(blocks.classes), self.table
        if classes.ndim > 2:  # given labels do not tell AUROC
            known = scores_of_labels(classes, self.labels)
            known = {name: values[self.probes] for name, values in known.items()}
            table = with_columns(unscored(table), known)
        return Predictions(table, self.labels, classes, self.probes, names, names)

    def save(self, path: str | Path) -> None:
        """Write the table to a .csv, .json or .parquet file, and beside it what rows say."""
        save_with_rows(self.table, Path(path), self.by_row, self.probes)

    def __repr__(self) -> str:
        count = int(self.table["folds"].iloc[0])
        return f"<CrossValidated, {count} folds, of {len(self.table):,} probes: {sentence(self)}>"

    def _repr_html_(self) -> str:
        return sweep_as_html(self.table, self.correct)


@shows
def cross_validate(
    rows: Rows,
    *,
    folds: int = 5,
    fold_seed: int = 0,
    groups: ArrayLike | None = None,
    fractions: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] = (1,),
    solver: str | Options = "logistic",
    l2: L2 = None,
    select: Choice | None = None,
    held_out: float | None = None,
    held_out_seed: int | None = None,
    mode: Mode | Sequence[Mode] = "random",
    every_k: bool = False,
    metrics: str | Sequence[str] | None = None,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> CrossValidated:
    """Return probes scored by K folds: each fold is tested by probes of all the others.

    Arguments:
        rows: row blocks, or (features (N, D), labels (N,)), all in one.
        folds: K; each class has the same share in every fold, as `featstore.probe.splits.folds`
            says, and all views of an image are in one.
        fold_seed: of the draw of the folds.
        groups: (N,) numbers or texts; rows of one group are in one fold, and intervals over groups.
        fractions: as of `featstore.probe.sweep`, and so are the arguments that follow.
        seeds: as of `sweep`.
        solver: as of `sweep`.
        l2: as of `sweep`; where it is chosen, each fold's probes choose theirs without that fold.
        select: as of `sweep`.
        held_out: as of `sweep`.
        held_out_seed: as of `sweep`.
        mode: as of `sweep`.
        every_k: as of `sweep`.
        metrics: as of `sweep`.
        standardize: as of `sweep`.
        memory: as of `sweep`.
        device: as of `sweep`.
        backend: as of `sweep`.
        store: as of `sweep`.
        tap: as of `sweep`.
        folder: where to keep the results of each fold, as `sweep` keeps them in its `out`.
        resume: solve only the probes that `folder` does not have.
        progress: callback, as of `learning_curve`, or whether to show it; as of `sweep`.

    Raises:
        UsageError: K is less than 2 or more than there are rows or groups, or an argument cannot
            be used.
        DataError: as `sweep`; also where a class has rows in one fold alone.

    Reference:
        Stone, "Cross-validatory choice and assessment of statistical predictions", 1974.

    Example:
        >>> x, y = np.eye(12, 3, dtype=np.float32), np.arange(12) % 3
        >>> found = cross_validate((x, y), folds=3, fractions=1.0, solver="ridge", l2=0.1)
        >>> found.table[["folds", "n_train", "n_test"]].values.tolist()
        [[3, 8, 12]]
    """
    blocks = as_blocks(rows) if groups is None else Grouped(as_blocks(rows), groups)
    images, own = blocks.n_rows // blocks.n_views, blocks.groups
    by_image = blocks.labels()[:images]
    fold = folds_of(by_image, folds, fold_seed, None if own is None else own[:images])
    expected: list[float] = []
    if progress is not silent:
        how = chosen(solver, {"l2": l2, "select": select, "held_out": held_out})
        wanted = Wanted(fractions, seeds, mode, every_k)
        expected = _forecasts(blocks, folds, wanted, how, backend_of(backend, device))
    solve = partial(
        sweep,
        fractions=fractions,
        seeds=seeds,
        solver=solver,
        l2=l2,
        select=select,
        held_out=held_out,
        held_out_seed=held_out_seed,
        mode=mode,
        every_k=every_k,
        metrics=metrics,
        standardize=standardize,
        memory=memory,
        device=device,
        backend=backend,
        store=store,
        tap=tap,
        resume=resume,
        progress=progress,
    )
    results = _of_folds(solve, blocks, fold, folder, progress, expected)
    return _cross_validated(results, blocks, fold, f"folds={folds} fold_seed={fold_seed}")


def _cross_validated(
    results: list[ProbeResult], blocks: LabelledRows, fold: np.ndarray, kept: str
) -> CrossValidated:
    """Return the sweeps of all folds as one result; `kept` is what its options say of them."""
    fold = np.tile(fold, blocks.n_views)
    table = _joined([found.table for found in results])
    table["options"] = [f"{text.rpartition(' data=')[0]} {kept}" for text in table["options"]]
    joined = _rows(results, blocks, fold)
    return CrossValidated(table, joined, results[0].probes, blocks.labels(), fold, tuple(results))


def _of_folds(
    solve: Callable[..., ProbeResult],
    blocks: LabelledRows,
    fold: np.ndarray,
    folder: str | Path | None,
    progress: Progress,
    expected: list[float],
) -> list[ProbeResult]:
    """Return the scored probes of each fold, int64 (images,), kept in a folder where one is named.

    Without a folder there is nothing to be resumed, which `solve` says. `expected` is how many
    seconds each takes.
    """
    results, folds = [], int(fold.max()) + 1
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(folds):
        progress("folds", number, folds, seconds=expected)
        sides = fold != number, fold == number
        train, test = (every_view(blocks, np.flatnonzero(own)) for own in sides)
        out = None if folder is None else Path(folder, f"{number + 1}-of-{folds}.csv")
        results.append(solve(train, test, out=out))
    progress("folds", folds, folds, seconds=expected)
    return results


def _forecasts(
    rows: LabelledRows, folds: int, wanted: Wanted, how: Chosen, where: Backend
) -> list[float]:
    """Return about how many seconds the sweep of each fold takes."""
    held = rows.n_rows // folds
    shape = replace(Shape.of(rows, rows), train=rows.n_rows - held, test=held)
    return [forecast(wanted, how, shape, where)] * folds


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of K folds as one: scores weighted by test rows, and what they share."""
    rows = np.stack([table["n_test"].to_numpy(float) for table in tables])
    found = tables[0].copy()
    for name in found.columns:
        columns = [table[name] for table in tables]
        if name in _SAME or name == "options":
            continue
        if name == "status":
            together = zip(*columns, strict=True)
            found[name] = [_worst(list(each)) for each in together]
        elif name in ("n_test", "n_groups"):
            found[name] = sum(column.astype(int) for column in columns)
        elif name == "n_train":
            found[name] = np.min(columns, axis=0)
        elif name == "l2":
            found[name] = np.median(np.stack(columns), axis=0)
        elif pd.api.types.is_numeric_dtype(found[name]):
            values = np.stack([column.to_numpy(float) for column in columns])
            found[name] = (values * rows).sum(0) / rows.sum(0)
        elif name == "l2_place":
            alike = np.all([column == columns[0] for column in columns], axis=0)
            found[name] = np.where(alike, columns[0], "inside")
    found.insert(found.columns.get_loc("n_test") + 1, "folds", len(tables))
    return found


def _worst(texts: list[str]) -> str:
    """Return the status of K probes together."""
    found = texts[0]
    for text in texts[1:]:
        found = found if text == found else statuses.combined(found, text)
    return found


def _rows(
    results: Sequence[ProbeResult], blocks: LabelledRows, fold: np.ndarray
) -> RowScores | None:
    """Return the part of each row in the scores, put together from the folds; None if unknown."""
    known = [found.by_row for found in results if found.by_row is not None]
    if len(known) < len(results):
        return None
    probes = len(known[0].known)
    joined = RowScores.empty(
        blocks.labels(), probes, blocks.groups, tuple(known[0].kept), blocks.n_classes
    )
    joined.known[:] = np.all([one.known for one in known], axis=0)
    shape = joined.labels.shape
    for fact, array in joined.kept.items():
        for probe in range(probes):
            values = np.zeros(shape if fact == "given" else shape[:1], array.dtype)
            for number, one in enumerate(known):
                values[fold == number] = one.told(fact, probe)
            joined.write(fact, probe, values)
    return replace(joined, folds=fold)


def rows_by_hash(ids: Sequence[str], share: float, groups: ArrayLike | None = None) -> np.ndarray:
    """Return which rows are for testing, bool (N,): a share of all, drawn by a hash of their ids.

    A row is for testing if its 64-bit XXH3, over 2^64, is below the share. So it stays where it is
    whatever rows are added or taken away; classes have that share in expectation, and not exactly.

    Arguments:
        ids: of the rows, each a text.
        share: in (0, 1).
        groups: (N,) numbers or texts, which are hashed in place of ids, so that a group is whole.

    Raises:
        UsageError: the share is outside (0, 1), or leaves no row for one of the two.

    Example:
        >>> few = rows_by_hash(["a", "b", "c", "d"], 0.5)
        >>> more = rows_by_hash(["a", "b", "c", "d", "e"], 0.5)
        >>> bool((few == more[:4]).all())
        True
    """
    if not 0 < share < 1:
        raise UsageError(f"test_share is {share:g}: give a share of the rows in (0, 1)")
    names = ids if groups is None else np.asarray(groups).tolist()
    hashes = np.array([xxhash.xxh3_64_intdigest(str(one).encode()) for one in names], np.uint64)
    found = hashes / 2.0**64 < share
    if found.all() or not found.any():
        what = "rows" if groups is None else "rows of these groups"
        raise UsageError(
            f"a test share of {share:g} leaves {int(found.sum()):,} of {len(found):,} {what} for "
            "testing: take another share"
        )
    return found
