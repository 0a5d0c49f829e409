"""What the page's script is given: curves to draw and tables to show."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from probe.curve import Evidence
from probe.curve_names import NOT_RUN, score_of
from probe.redundancy import DELTAS, diffused_redundancy
from probe.summaries import NAMES
from studies.report.curves import Curve, by_curve, thinned
from studies.report.embedded import Column, intervals, number, numbers, table

SHOWN_DELTAS = (0.8, 0.9, 0.95, 0.99)
"""Shares of the full accuracy that the table of diffused redundancy has a row for."""

HIDDEN = ("options", "l2_choice")
"""Columns of results that the table of all probes leaves to other parts of the page."""

ALWAYS = ("mode", "seed", "fraction", "k", "accuracy", "r2")
"""Columns that the table of all probes has even where all are the same."""

KINDS = {
    "fraction": "share", "accuracy": "score", "r2": "score", "mean_per_class": "score",
    "chance": "score", "majority": "score",
    "top5": "score", "ece": "score", "cka": "score", "k": "count", "seed": "id",
    "n_train": "count", "n_test": "count", "iterations": "count",
}  # fmt: skip


def drawn(curve: Curve, redundancy: pd.DataFrame | None) -> dict[str, Any]:
    """Return one curve as the figures take it."""
    points, full = thinned(curve.points), curve.full
    score = score_of(points)
    whole = None if full is None else {"k": int(full["k"]), "mean": number(full[score])}
    return {
        "label": curve.label,
        "full": whole,
        "points": {
            "fraction": numbers(points["fraction"]),
            "k": numbers(points["k"]),
            "probes": numbers(points["probes"]),
            "mean": numbers(points[score]),
            "low": numbers(points[f"{score}_low"]),
            "high": numbers(points[f"{score}_high"]),
            "ratio": numbers(points["ratio"]),
            "ratio_low": numbers(points["ratio_low"]),
            "ratio_high": numbers(points["ratio_high"]),
        },
        "redundancy": None if redundancy is None else _redundancy(redundancy),
        "cka": _cka(curve.probes),
    }


def _redundancy(rows: pd.DataFrame) -> dict[str, Any]:
    names = {"delta": "delta", "mean": "redundancy", "low": "low", "high": "high"}
    found = {name: numbers(rows[column]) for name, column in names.items()}
    return found | {"seeds": int(rows["seeds"].iloc[0])}


def _cka(probes: pd.DataFrame) -> dict[str, Any] | None:
    if "cka" not in probes or not probes["cka"].notna().any():
        return None
    by_size = probes.dropna(subset="cka").groupby("k")["cka"]
    rows = thinned(by_size.agg(["mean", "std", "count"]).reset_index())
    return {
        "k": numbers(rows["k"]), "mean": numbers(rows["mean"]), "std": numbers(rows["std"]),
        "probes": numbers(rows["count"]),
    }  # fmt: skip


def redundancies(rows: pd.DataFrame, correct: Evidence = None) -> dict[tuple, pd.DataFrame]:
    """Return DR against delta of each curve that has a full layer, interpolated; see `probe`."""
    run, correct = _run(rows, correct)
    found = diffused_redundancy(run, DELTAS, correct=correct)
    curves = dict(by_curve(found))
    return {key: each for key, each in curves.items() if each["redundancy"].notna().any()}


def _run(rows: pd.DataFrame, correct: Evidence) -> tuple[pd.DataFrame, Evidence]:
    """Return the probes that were run, and on which rows they are right."""
    run = (rows["status"] != NOT_RUN).to_numpy()
    if correct is None:
        return rows[run], None
    return rows[run], [own for own, ran in zip(correct, run, strict=True) if ran]


def tables(curves: Sequence[Curve], rows: pd.DataFrame, correct: Evidence = None) -> dict[str, Any]:
    """Return the tables of curves, of diffused redundancy, and of all probes."""
    return {
        "summary": _summary(curves),
        "redundancy": _thresholds(curves, rows, correct),
        "probes": all_probes(rows),
    }


def _summary(curves: Sequence[Curve]) -> dict[str, Any]:
    points = pd.concat([each.points.assign(curve=each.label) for each in curves])
    score = score_of(points)
    columns = [
        Column("features", "share", points["fraction"]),
        Column("k", "count", points["k"]),
        Column(f"test {NAMES[score]}", "score", points[score]),
        *intervals("score", points[score], points[f"{score}_low"], points[f"{score}_high"]),
        Column("of the full layer", "kept", points["ratio"]),
        *intervals("kept", points["ratio"], points["ratio_low"], points["ratio_high"]),
        Column("probes", "count", points["probes"]),
    ]
    return table([*_names(curves, points["curve"]), *columns])


def _names(curves: Sequence[Curve], of_rows: pd.Series) -> list[Column]:
    return [Column("curve", "text", of_rows)] if len(curves) > 1 else []


def _thresholds(
    curves: Sequence[Curve], rows: pd.DataFrame, correct: Evidence
) -> dict[str, Any] | None:
    """Return the table of DR at some deltas, by threshold on the grid and interpolated."""
    run, correct = _run(rows, correct)
    found = diffused_redundancy(run, SHOWN_DELTAS, ("threshold", "interpolated"), correct)
    of_curve = dict(by_curve(found))
    parts = []
    for curve in (curve for curve in curves if curve.full is not None):
        by_rule = dict(list(of_curve[curve.key].groupby("rule")))
        between = by_rule["interpolated"].reset_index(drop=True)
        grid = by_rule["threshold"].reset_index(drop=True)
        parts.append(between.assign(curve=curve.label, grid=grid["redundancy"]))
    if not parts:
        return None
    read = pd.concat(parts, ignore_index=True)
    columns = [
        Column("accuracy kept, δ", "share", read["delta"]),
        Column("features needed", "kept", read["fraction"]),
        Column("DR(δ)", "score", read["redundancy"]),
        *intervals("score", read["redundancy"], read["low"], read["high"]),
        Column("DR(δ) on the grid", "score", read["grid"]),
        Column("seeds", "count", read["seeds"]),
    ]
    return table([*_names(curves, read["curve"]), *columns])


def all_probes(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the table of all probes; a column in which all are the same is said once, beside."""
    columns, same = [], {}
    for name in rows.columns.drop([name for name in HIDDEN if name in rows]):
        values = rows[name]
        if values.isna().all():
            continue
        if name not in ALWAYS and len(rows) > 1 and values.nunique(dropna=False) == 1:
            same[name] = f"{values.iloc[0]:g}" if _is_number(values) else str(values.iloc[0])
        else:
            columns.append(Column(name, _kind(name, values), values))
    return table(columns) | {"same": same}


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _kind(name: str, values: pd.Series) -> str:
    return KINDS.get(name, "number") if _is_number(values) else "text"
