"""Results: the names of curves and scores, and numbers as a person reads them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd

from featstore.probe.errors import UsageError
from featstore.probe.statuses import Status

Evidence: TypeAlias = np.ndarray | list[np.ndarray | None] | None
"""What is known of single test rows: see `featstore.probe.results.curves.curves`."""


class _Result(Protocol):
    """Scored probes, as `featstore.probe.result.ProbeResult` holds them."""

    @property
    def correct(self) -> np.ndarray | None:
        """Return whether the probe of each row has each test row right; None if not known."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row a probe."""


Probes: TypeAlias = pd.DataFrame | _Result
"""One row a probe: a table, or the result that holds it."""


def table_of(probes: Probes, correct: Evidence = None) -> tuple[pd.DataFrame, Evidence]:
    """Return one row a probe, and what is known of test rows, by default the result's own."""
    if isinstance(probes, pd.DataFrame):
        return probes, correct
    return probes.to_pandas(), probes.correct if correct is None else correct


CURVE = ["store", "tap", "mode", "solver", "l2_choice", "l2"]
"""Columns that stay the same along one accuracy-against-fraction curve, after `as_curves`."""

CHOICES = {"validation": "validation", "loo": "leave-one-out"}


def as_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were run, with one l2 along each curve.

    Where each probe chose its own penalty, the penalty no longer tells curves apart: l2 is NaN
    there. A table without the column `l2_choice` has penalties that were given.
    """
    run = table[table["status"] != Status.NOT_RUN] if "status" in table else table
    run = run.assign(l2_choice=run.get("l2_choice", "given"))
    run = run.assign(l2_choice=_choice_of_parts(run))
    return run.assign(l2=run["l2"].where(run["l2_choice"] == "given"))


def _choice_of_parts(table: pd.DataFrame) -> pd.Series:
    """Return how the penalties along each curve were chosen, for its full layer too.

    The parts of an order that labels made, and they alone, are chosen for by other rows.
    """
    choice, whole = table["l2_choice"], table["fraction"] == 1
    keys = [name for name in CURVE if name in table and not name.startswith("l2")]
    parts = table.loc[~whole & (choice != "given"), [*keys, "l2_choice"]].drop_duplicates()
    alone = parts.drop_duplicates(keys, keep=False)
    joined = table[keys].merge(alone, on=keys, how="left")["l2_choice"].set_axis(table.index)
    return choice.where(~whole | (choice == "given") | joined.isna(), joined)


SCORES = {
    "accuracy": "accuracy",
    "r2": "R²",
    "balanced_accuracy": "balanced accuracy",
    "mean_per_class": "mean accuracy of classes",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "kappa": "Cohen's kappa",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "micro_f1": "micro F1",
    "label_accuracy": "accuracy of labels",
    "subset_accuracy": "subset accuracy",
}
"""Scores that a table can be summed up by, larger ones being better, as a person calls them."""

FIRST_FEW = re.compile(r"top([2-9]|[1-9]\d+)")
"""Names of the metrics top<k>, k > 1."""


def is_score(name: str) -> bool:
    """Return whether a table can be summed up by a column: one of `SCORES`, or top<k>."""
    return name in SCORES or bool(FIRST_FEW.fullmatch(name))


def score_name(name: str) -> str:
    """Write a score as a person calls it.

    >>> score_name("macro_f1"), score_name("top3")
    ('macro F1', 'top-3 accuracy')
    """
    return SCORES.get(name) or f"top-{name.removeprefix('top')} accuracy"


def score_of(table: pd.DataFrame) -> str:
    """Return the column that a table is summed up by.

    It is accuracy, or r2 where numbers are predicted, or else the first score that is there.

    >>> score_of(pd.DataFrame({"r2": [0.5]})), score_of(pd.DataFrame({"k": [1], "auroc": [0.5]}))
    ('r2', 'auroc')
    """
    scores = [name for name in table.columns if is_score(str(name))]
    first = [name for name in ("accuracy", "r2") if name in scores]
    return next(iter(first + scores), "accuracy")


def scored_by(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return a table that is summed up by a score of its own: without the other scores.

    Arguments:
        table: one row a probe.
        score: a column that is one of `SCORES`, or top<k>.

    Raises:
        UsageError: the table has no such score.

    Example:
        >>> table = pd.DataFrame({"accuracy": [0.9], "auroc": [0.7], "nll": [1.0]})
        >>> scored_by(table, "auroc").columns.tolist()
        ['auroc', 'nll']
    """
    scores = [name for name in table.columns if is_score(str(name))]
    if score not in scores:
        raise UsageError(
            f"these results have no score {score!r} but {', '.join(scores) or 'none'}: name one of "
            "those, or probe with --metrics"
        )
    return table.drop(columns=[name for name in scores if name != score])


def chance_of(score: str, rows: pd.DataFrame) -> float:
    """Return what a score is of guesses that look at no feature; NaN where it is not known.

    With C classes as frequent as each other that is 1/C, of top<k> k/C, of AUROC 1/2, and of kappa
    and R^2 0. Of several labels it is the mean share of rows that have one for average precision
    and F1, 1/2 for the accuracy of labels, and not known for that of all of them.

    Arguments:
        score: its name.
        rows: of one curve, with the column `chance`, 1/C.
    """
    if score in ("r2", "kappa"):
        return 0.0
    if score in ("auroc", "label_accuracy"):
        return 0.5
    if score == "subset_accuracy":
        return float("nan")
    chance = _largest(rows, "chance")
    few = FIRST_FEW.fullmatch(score)
    return min(1.0, int(few[1]) * chance) if few else chance


def floor_of(score: str, rows: pd.DataFrame) -> float:
    """Return the most that is reached without any feature: by chance, or by one class for all.

    Arguments:
        score: its name.
        rows: of one curve, with the columns `chance` and `majority`.
    """
    chance, majority = chance_of(score, rows), _largest(rows, "majority")
    if score == "weighted_f1":
        # of the commonest class precision is its share m, and recall is 1
        majority = 2 * majority**2 / (1 + majority)
    elif score not in ("accuracy", "label_accuracy") and not FIRST_FEW.fullmatch(score):
        return chance
    return float(np.fmax(chance, majority))


def _largest(rows: pd.DataFrame, name: str) -> float:
    """Return the largest number of a column; NaN if there is none."""
    known = name in rows and rows[name].notna().any()
    return float(rows[name].max()) if known else float("nan")


def called(solver: str, l2: float = float("nan")) -> str:
    """Return what the column l2 has of a solver: its penalty, or what stands in its place.

    >>> called("ridge", 0.1), called("knn", 20.0), called("knn", 0.07)
    ('l2', 'k', 'temperature')
    """
    if solver != "knn":
        return "l2"
    return "temperature" if 0 < l2 < 1 else "k"


def penalty(choice: str, l2: float, solver: str = "") -> str:
    """Say what penalty a curve has.

    >>> penalty("given", 0.001), penalty("loo", float("nan")), penalty("given", 20.0, "knn")
    ('l2 = 0.001', 'l2 by leave-one-out', 'k = 20')
    """
    name = called(solver, l2)
    return f"{name} = {l2:g}" if choice == "given" else f"{name} by {CHOICES.get(choice, choice)}"


def curves_of(table: pd.DataFrame, keys: Sequence[str] = tuple(CURVE)) -> list[pd.DataFrame]:
    """Return the rows of each curve, curves in the order in which the table first has them.

    Arguments:
        table: any table in long form.
        keys: the columns that stay the same along a curve; those that it lacks do not count.
    """
    known = [key for key in keys if key in table]
    if not known:
        return [table]
    return [rows for _, rows in table.groupby(known, dropna=False, sort=False)]


def shared_and_own(
    curves: Sequence[pd.DataFrame], keys: Sequence[str] = tuple(CURVE)
) -> tuple[list[str], list[str]]:
    """Return the words that all curves share, and for each the words that set it apart.

    Arguments:
        curves: the rows of each curve, at least one curve.
        keys: the columns that stay the same along a curve.

    Example:
        >>> row = {"store": "a/resnet.zarr", "tap": "last", "solver": "ridge", "l2": 0.01}
        >>> curves = [pd.DataFrame([row | {"mode": mode}]) for mode in ("random", "pca")]
        >>> shared_and_own(curves)
        (['resnet', 'last', 'ridge', 'l2 = 0.01'], ['random', 'pca'])
    """
    firsts = [curve.iloc[0] for curve in curves]
    columns = [key for key in keys if key != "l2_choice" and key in curves[0]]
    words = {key: _words(firsts, key) for key in columns}
    differing = [key for key in columns if len(set(words[key])) > 1]
    shared = [words[key][0] for key in columns if key not in differing]
    own = [", ".join(words[key][n] for key in differing) for n in range(len(curves))]
    return [word for word in shared if word], own


def _words(firsts: list[pd.Series], key: str) -> list[str]:
    """Return what each curve says of one column."""
    if key == "l2":
        return [
            penalty(first.get("l2_choice", "given"), first["l2"], first.get("solver", ""))
            for first in firsts
        ]
    values = ["" if pd.isna(first[key]) else str(first[key]) for first in firsts]
    if key != "store":
        return values
    stems = [Path(value).stem for value in values]
    # two stores of one name in different folders keep their paths
    return stems if len(set(stems)) == len(set(values)) else values


def percent(fraction: float) -> str:
    """Write a fraction the way a person reads it: `0.05` as `5 %`, `0.0005` as `0.05 %`.

    >>> [percent(f) for f in (0.0005, 0.025, 0.1, 1.0)]
    ['0.05 %', '2.5 %', '10 %', '100 %']
    """
    return f"{100 * fraction:.4g} %"


def plus_minus(mean: float, std: float, digits: int) -> str:
    """Write mean ± std; the mean alone where one seed gives no spread.

    >>> plus_minus(0.8612, 0.0041, 3), plus_minus(90.42, float("nan"), 1)
    ('0.861 ± 0.004', '90.4')
    """
    spread = "" if math.isnan(std) else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"
