"""What the page shows of classes: a line each, what each loses, and how unequal they are."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from probe.inequality import class_losses, inequality_table
from probe.summaries import CURVE, as_curves
from studies.report.curves import Curve, by_curve, curve_labels, thinned
from studies.report.embedded import Column, intervals, numbers, table

MOST_FRACTIONS = 24
"""Fractions of one curve whose classes are drawn and listed at most."""


def of_classes(per_class: pd.DataFrame, curves: Sequence[Curve]) -> dict[str, Any] | None:
    """Return the lines of classes of each curve, and the tables of losses and inequality.

    Arguments:
        per_class: one row a probe and class, as `probe.per_class_table` gives it.
        curves: those of the report; a curve keeps the name that it has there.
    """
    kept = _thinned(as_curves(per_class))
    kept = kept[kept.groupby([*CURVE, "seed", "fraction"], dropna=False)["class_accuracy"]
                .transform("count") > 0]  # fmt: skip
    if kept.empty:
        return None
    labels = curve_labels(kept, curves)
    losses = dict(by_curve(class_losses(kept)))
    unequal = dict(by_curve(inequality_table(kept)))
    parts = [
        {"label": labels[key], "mode": key[2], **_lines(rows, losses.get(key))}
        for key, rows in by_curve(kept)
    ]
    return {"curves": parts, "inequality": _inequality(unequal, labels)}


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of few enough fractions of each curve."""
    kept = []
    for _, rows in by_curve(table):
        sizes = rows[["fraction", "k"]].drop_duplicates().sort_values("k")
        kept.append(rows[rows["fraction"].isin(thinned(sizes, MOST_FRACTIONS)["fraction"])])
    return pd.concat(kept, ignore_index=True)


def _lines(rows: pd.DataFrame, losses: pd.DataFrame | None) -> dict[str, Any]:
    """Return accuracies by class and fraction, and what each class loses at each fraction."""
    mean = rows.pivot_table(
        index="class", columns="fraction", values="class_accuracy", sort=False
    ).sort_index(axis=1)
    sizes = rows.drop_duplicates("fraction").set_index("fraction")["k"].reindex(mean.columns)
    found = {
        "classes": [str(name) for name in mean.index],
        "fraction": numbers(mean.columns),
        "k": numbers(sizes),
        "seeds": int(rows["seed"].nunique(dropna=False)),
        "mean": [numbers(values) for values in mean.to_numpy()],
        "losses": [],
    }
    if losses is None or losses.empty:
        return found
    for fraction, each in losses.groupby("fraction"):
        found["losses"].append({"fraction": float(fraction), "table": _losses(each)})
    return found


def _losses(each: pd.DataFrame) -> dict[str, Any]:
    columns = [
        Column("class", "text", each["class"]),
        Column("all features", "score", each["full"]),
        Column("part", "score", each["part"]),
        Column("lost", "score", each["loss"]),
        *intervals("score", each["loss"], each["low"], each["high"]),
        Column("kept", "kept", each["kept"]),
    ]
    return table(columns)


def _inequality(unequal: dict[tuple, pd.DataFrame], labels: dict[tuple, str]) -> dict[str, Any]:
    rows = pd.concat([each.assign(curve=labels[key]) for key, each in unequal.items()])
    columns = [Column("curve", "text", rows["curve"])] if len(unequal) > 1 else []
    columns += [
        Column("features", "share", rows["fraction"]),
        Column("Gini", "score", rows["gini"], spread=rows["gini_std"]),
        Column("rise", "score", rows["gini_rise"]),
        *intervals("score", rows["gini_rise"], rows["gini_rise_low"], rows["gini_rise_high"]),
        Column("Gini of mean", "score", rows["gini_of_mean"]),
        Column("CV", "score", rows["cv"]),
        Column("range", "score", rows["range"]),
        Column("worst class", "text", rows["worst_class"]),
        Column("its accuracy", "score", rows["worst_accuracy"]),
    ]
    return table(columns)
