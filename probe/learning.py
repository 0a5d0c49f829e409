"""Learning curves: probes of several shares of the train rows, or of k rows of each class.

Every draw d orders the rows of each class, and the features, by itself. Of one draw the amounts are
nested, as fractions are: the rows of 1 shot are among those of 5. So draws are what seeds are
elsewhere, and intervals over them hold what other train rows and other features would change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featstore.probe.arrays import Backend, backend as backend_of
from featstore.probe.errors import DataError, UsageError, several, visible
from featstore.probe.memory import Progress, shows, silent
from featstore.probe.modes import Mode
from featstore.probe.plans import Shape, Wanted, forecast
from featstore.probe.redundancy import diffused_redundancy
from featstore.probe.results import score_of
from featstore.probe.results.curves import Curve, curve_table, curves, difference
from featstore.probe.results.evidence import RowScores, joined
from featstore.probe.results.files import as_computed, read_table
from featstore.probe.results.reading import load_rows, save_with_rows, unpacked
from featstore.probe.rows import (
    LabelledRows,
    RowBlocks,
    Rows,
    as_blocks,
    as_pair,
    has_targets,
    views_of,
)
from featstore.probe.solvers import L2, Options
from featstore.probe.solvers.registry import Chosen, chosen as chosen_solver
from featstore.probe.splits import every_view
from featstore.probe.sweeps import grouped_pair, sweep


@dataclass(frozen=True)
class LearningCurve:
    """Probes of several amounts of train rows.

    Attributes:
        table: one row a probe, as of `featstore.probe.sweep`, and before it `shots` (rows of each
            class) or `share` (of all rows), and `draw`, which is its `seed` too.
        correct: of each row, whether it has each test row right, or None.
        by_row: the same as a file beside the table keeps it; None where it is not known.
    """

    table: pd.DataFrame
    correct: list[np.ndarray | None]
    by_row: RowScores | None = None

    @classmethod
    def read(cls, path: str | Path) -> "LearningCurve":
        """Return what `save`, or `featstore learn --out`, wrote, with what lies beside it.

        Raises:
            UsageError: the file is no table of a learning curve.
        """
        path = Path(path)
        table = as_computed(read_table(path))
        absent = {"draw", "n_train", "fraction", "seed"} - set(table)
        if absent or not {"shots", "share"} & set(table):
            raise UsageError(
                f"{path} has no {' and no '.join(sorted(absent)) or 'shots or share'}: name what "
                "`featstore learn --out` wrote"
            )
        found = load_rows(path, table, score_of(table))
        if found is None:
            return cls(table, [None] * len(table))
        return cls(table, unpacked(*found, score_of(table)), found[0].at(found[1]))

    @property
    def amount(self) -> str:
        """The column that says how many rows: "shots" or "share"."""
        return "shots" if "shots" in self.table else "share"

    def by_amount(self, delta: float = 0.9, level: float = 0.95) -> pd.DataFrame:
        """Return score, ratio and redundancy of each amount, a row for each amount and fraction.

        Arguments:
            delta: share of the full score at which redundancy is read off.
            level: coverage of the intervals, over draws and, where they are known, test rows.

        Returns:
            `shots` or `share`, `n_train`, then the columns of
            `featstore.probe.results.curves.curve_table`, and `redundancy`, DR(delta) of the curve
            of that amount, with `redundancy_low` and `redundancy_high`.
        """
        keys = ["mode", "solver"]
        parts = []
        for amount, rows in self.table.groupby(self.amount, sort=True):
            correct = [self.correct[place] for place in rows.index]
            rows = rows.reset_index(drop=True)
            found = curve_table(rows, correct, level)
            read = diffused_redundancy(rows, delta, correct=correct, level=level)
            read = read.rename(columns={"low": "redundancy_low", "high": "redundancy_high"})
            named = ["redundancy", "redundancy_low", "redundancy_high"]
            found = found.merge(read[[*keys, *named]].drop_duplicates(keys), on=keys, how="left")
            found.insert(0, self.amount, amount)
            found.insert(1, "n_train", int(rows["n_train"].iloc[0]))
            parts.append(found)
        return pd.concat(parts, ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write the table to a .csv, .json or .parquet file, whole or not at all.

        Which test rows each probe has right is written beside it, as `featstore.probe.sweep` does.
        """
        save_with_rows(self.table, Path(path), self.by_row, np.arange(len(self.table)))

    def _repr_html_(self) -> str:
        score, columns = score_of(self.table), ["n_train", "mode", "fraction", "k"]
        shown = self.by_amount()[[self.amount, *columns, score, "ratio", "redundancy"]]
        return visible(shown.to_html(index=False, border=0, max_rows=40))


def compared(found: Mapping[str, LearningCurve], level: float = 0.95) -> pd.DataFrame:
    """Return learning curves of several layers side by side, and their differences from the first.

    Draws are paired, and test rows where they are known: draw d of an amount has the same train
    rows of every layer of one store.

    Arguments:
        found: learning curves by name, of the same test rows.
        level: coverage of the intervals.

    Returns:
        a row for each amount that all have, curve and fraction: `name`, `shots` or `share`,
        `n_train`, `mode`, `fraction`, the score with `_low` and `_high`, `over`, and
        `difference`, the score less that of the first curve of this mode, fraction and amount,
        with `difference_low` and `difference_high`; NaN for the first.

    Raises:
        UsageError: amounts are shots of one and shares of another, none is common, or there are
            less than two curves.
        DataError: scores or test rows are not the same.
    """
    first, *others = found
    if not others:
        raise UsageError("one learning curve has nothing to be compared with: name two or more")
    amount, score = found[first].amount, score_of(found[first].table)
    for name in others:
        _check_alike(found, first, name)
    shared = sorted(set.intersection(*(set(each.table[amount]) for each in found.values())))
    if not shared:
        raise UsageError(f"no amount of {amount} is common to {', '.join(found)}: draw the same")
    rows = []
    for each in shared:
        known: dict[tuple[str, float], tuple[Curve, int]] = {}
        for name, learned in found.items():
            chosen = learned.table[learned.table[amount] == each]
            correct = [learned.correct[place] for place in chosen.index]
            for curve in curves(chosen.reset_index(drop=True), correct):
                facts = {"name": name, amount: each, "n_train": int(chosen["n_train"].iloc[0])}
                low, high, variance = curve.mean_interval(level)
                ends = (curve.mean(), low, high)
                for place, fraction in enumerate(curve.fractions.tolist()):
                    key = str(curve.names["mode"]), fraction
                    own = {"mode": key[0], "fraction": fraction}
                    own |= {f"{score}{end}": v[place] for end, v in zip(_ENDS, ends, strict=True)}
                    gap = np.full(3, np.nan)
                    if key in known:
                        between = difference(curve, known[key][0], place, known[key][1])
                        gap = np.array([between.value, *between.interval(level)])
                    elif name == first:
                        known[key] = curve, place
                    own |= {f"difference{end}": v for end, v in zip(_ENDS, gap, strict=True)}
                    rows.append(facts | own | {"over": variance.over[place]})
    return pd.DataFrame(rows)


_ENDS = ("", "_low", "_high")


def _check_alike(found: Mapping[str, LearningCurve], first: str, other: str) -> None:
    """Raise unless two learning curves can be compared."""
    one, two = found[first], found[other]
    if one.amount != two.amount:
        raise UsageError(
            f"{first} has {one.amount} and {other} has {two.amount}: draw rows of both alike"
        )
    scores = score_of(one.table), score_of(two.table)
    if scores[0] != scores[1]:
        raise DataError(f"{first} is of {scores[0]} and {other} of {scores[1]}: compare them apart")
    counts = (int(each.table["n_test"].max()) for each in (one, two))
    known = one.by_row is not None and two.by_row is not None
    if len(set(counts)) > 1 or (known and not np.array_equal(one.by_row.labels, two.by_row.labels)):
        raise DataError(f"{first} and {other} are of different test rows: compare them apart")


@shows
def learning_curve(
    train: Rows,
    test: Rows,
    *,
    shots: int | Sequence[int] | None = None,
    rows: float | Sequence[float] | None = None,
    draws: int | Sequence[int] = 5,
    fractions: float | Sequence[float] = 1.0,
    solver: str | Options = "ridge",
    l2: L2 = None,
    mode: Mode | Sequence[Mode] = "random",
    metrics: str | Sequence[str] | None = None,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    progress: Progress | bool | None = None,
) -> LearningCurve:
    """Return probes of several amounts of train rows, each amount drawn several times.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)).
        test: row blocks, or (features, labels), to score on.
        shots: numbers of rows of each class.
        rows: shares of the rows, in (0, 1]; of each class that share, and one row at least.
        draws: of rows and features alike; 5 stands for draws 1 to 5.
        fractions: as of `featstore.probe.sweep`, and so are the arguments that follow; the whole
            layer comes by itself.
        solver: by default "ridge", whose penalty leave-one-out chooses from one row a class, too.
        l2: as of `sweep`.
        mode: as of `sweep`.
        metrics: as of `sweep`.
        groups: as of `sweep`; shares are of whole groups then, shots of different ones first.
        standardize: as of `sweep`.
        memory: as of `sweep`.
        device: as of `sweep`.
        backend: as of `sweep`.
        store: as of `sweep`.
        tap: as of `sweep`.
        progress: callback, which is told ("draws", done, total, seconds=...) before each; or
            whether to show it, by default where somebody looks.

    Raises:
        UsageError: neither or both of `shots` and `rows` are given, a class has fewer rows than
            shots, shots are asked of numbers, or an argument cannot be used.
        DataError, MemoryBudgetError: as `sweep`.

    Example:
        >>> x, y = np.eye(12, 3, dtype=np.float32), np.arange(12) % 3
        >>> found = learning_curve((x, y), (x, y), shots=[1, 2], draws=2, l2=0.1)
        >>> found.table[["shots", "draw", "n_train"]].values.tolist()
        [[1, 1, 3], [1, 2, 3], [2, 1, 6], [2, 2, 6]]
    """
    if (shots is None) == (rows is None):
        raise UsageError(
            "give shots (rows of each class) or rows (shares of all rows), one of both"
        )
    train_blocks, test_blocks = as_pair(train, test)
    if groups is not None:
        train_blocks, test_blocks = grouped_pair(train_blocks, test_blocks, groups)
    amounts = _amounts(rows, "rows") if shots is None else _amounts(shots, "shots")
    draws = list(range(1, draws + 1)) if isinstance(draws, int) else list(draws)
    if not draws or len(set(draws)) < len(draws):
        raise UsageError(f"draws are {draws}: give a number above 0, or different ones")
    expected: list[float] = []
    if progress is not silent:
        how, wanted = chosen_solver(solver, {"l2": l2}), Wanted(fractions, draws, mode)
        shapes = _shapes(train_blocks, test_blocks, amounts, shots is not None)
        expected = _forecasts(shapes, wanted, how, backend_of(backend, device))
    done, tables, known = 0, [], []
    for amount in amounts:
        for draw in draws:
            progress("draws", done, len(amounts) * len(draws), seconds=expected)
            chosen = _drawn(as_blocks(train_blocks), draw, amount, shots is not None)
            found = sweep(
                every_view(train_blocks, chosen),
                test_blocks,
                fractions=fractions,
                seeds=[draw],
                solver=solver,
                l2=l2,
                mode=mode,
                metrics=metrics,
                standardize=standardize,
                memory=memory,
                device=device,
                backend=backend,
                store=store,
                tap=tap,
                progress=progress,
            )
            unit = "share" if shots is None else "shots"
            tables.append(_of_draw(found.to_pandas(), unit, amount, draw))
            known.append((found.by_row, found.probes))
            done += 1
    progress("draws", done, done, seconds=expected)
    return _joined(pd.concat(tables, ignore_index=True), known)


def _of_draw(table: pd.DataFrame, unit: str, amount: float, draw: int) -> pd.DataFrame:
    """Return the table of a sweep with the amount and draw of its rows."""
    # what draws nothing is drawn by its rows all the same
    table["seed"] = pd.array([draw] * len(table), dtype="Int64")
    table.insert(0, unit, amount)
    table.insert(1, "draw", draw)
    return table


def _shapes(
    train: RowBlocks, test: RowBlocks, amounts: Sequence[float], of_shots: bool
) -> Iterator[Shape]:
    """Yield the shape of the layer for each amount of its rows."""
    whole = Shape.of(train, test)
    for amount in amounts:
        few = round(amount * (train.n_classes if of_shots else whole.train))
        yield replace(whole, train=max(1, min(few, whole.train)))


def _forecasts(shapes: Iterator[Shape], wanted: Wanted, how: Chosen, where: Backend) -> list[float]:
    """Return about how many seconds the sweep of each shape and draw (seed) takes."""
    draws = several(wanted.seeds)
    of_one = replace(wanted, seeds=draws[:1])
    return [forecast(of_one, how, shape, where) for shape in shapes for _ in draws]


def _joined(
    table: pd.DataFrame, known: Sequence[tuple[RowScores | None, np.ndarray]]
) -> LearningCurve:
    """Return the curve of a table, with what each sweep knows of test rows if all of them do."""
    if any(rows is None for rows, _ in known):
        return LearningCurve(table, [None] * len(table))
    by_row = joined([rows.at(probes) for rows, probes in known])
    own = unpacked(by_row, np.arange(len(table)), score_of(table))
    return LearningCurve(table, own, by_row)


def _amounts(given: float | Sequence[float], name: str) -> list[float]:
    """Return amounts, rising."""
    amounts = sorted(several(given))
    for amount in amounts:
        usable = 0 < amount <= 1 if name == "rows" else amount >= 1 and amount == int(amount)
        if not usable:
            wanted = "shares in (0, 1]" if name == "rows" else "whole numbers from 1"
            raise UsageError(f"{name} holds {amount:g}: give {wanted}")
    if len(set(amounts)) < len(amounts):
        raise UsageError(f"{name} holds one amount twice: name each once")
    return [int(amount) for amount in amounts] if name == "shots" else amounts


def _drawn(train: LabelledRows, draw: int, amount: float, of_shots: bool) -> np.ndarray:
    """Return the numbers of the rows of an amount, rising; smaller amounts of a draw are in it."""
    n = train.n_rows // views_of(train)
    labels = train.labels()[:n]
    if has_targets(train):
        if of_shots:
            raise UsageError("shots are rows of each class, and the labels are numbers: take rows")
        labels = np.zeros(n, np.int64)
    random = np.random.default_rng([draw, 0x5EED])
    groups = train.groups
    groups = None if groups is None else np.unique(groups[:n], return_inverse=True)[1]
    if groups is not None and not of_shots:
        return _whole_groups(labels, groups, amount, random)
    chosen = []
    for number in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == number))
        if groups is not None:
            # a row of each group before the second of any
            first = np.argsort(groups[own], kind="stable")
            place = np.empty(len(own), np.int64)
            starts = np.flatnonzero(np.diff(groups[own][first], prepend=-1))
            lengths = np.diff(np.append(starts, len(own)))
            place[first] = np.arange(len(own)) - np.repeat(starts, lengths)
            own = own[np.argsort(place, kind="stable")]
        if of_shots and len(own) < amount:
            raise UsageError(
                f"class {number} has {len(own)} train rows, and {amount} shots are asked: take "
                "fewer shots, or rows=, which takes a share of each class"
            )
        count = int(amount) if of_shots else max(1, round(amount * len(own)))
        chosen.append(own[:count])
    return np.sort(np.concatenate(chosen))


def _whole_groups(
    labels: np.ndarray, groups: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """Return the rows of drawn groups, rising: as many as a share of all, of each class one."""
    sizes, reached = np.bincount(groups), 0
    missing = set(np.unique(labels).tolist())
    taken = np.zeros(len(sizes), bool)
    for one in random.permutation(len(sizes)).tolist():
        if reached >= share * len(labels) - 0.5 and not missing:
            break
        taken[one] = True
        reached += sizes[one]
        missing -= set(labels[groups == one].tolist())
    return np.flatnonzero(taken[groups])
