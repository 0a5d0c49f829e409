"""What the page shows of classes: a line each, what each loses, and how unequal they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.curve import over_of
from probe.inequality import class_losses, inequality_table
from probe.summaries import CURVE, as_curves
from studies.report.curves import Curve, by_curve, curve_labels, thinned
from studies.report.embedded import Column, intervals, numbers, table
from studies.report.reading import Material

MOST_FRACTIONS = 24
"""Fractions of one curve whose classes are drawn and listed at most."""


def of_classes(material: Material, curves: Sequence[Curve]) -> dict[str, Any] | None:
    """Return the lines of classes of each curve, and the tables of losses and inequality.

    Intervals are over test rows too where it is known of all probes of a curve which rows they
    have right, and as many are right of each class as its table says; what they are over is said.

    Arguments:
        material: what the report is about; its `per_class` has one row a probe and class, as
            `probe.per_class_table` gives it, or is None.
        curves: those of the report; a curve keeps the name that it has there.
    """
    if material.per_class is None:
        return None
    kept = _thinned(as_curves(material.per_class))
    kept = kept[kept.groupby([*CURVE, "seed", "fraction"], dropna=False)["class_accuracy"]
                .transform("count") > 0]  # fmt: skip
    if kept.empty:
        return None
    labels = curve_labels(kept, curves)
    known, parts, unequal, over = _test_rows(material), [], {}, []
    for key, rows in by_curve(kept):
        judged = _judged(rows, key, known)
        losses, unequal[key] = class_losses(rows, *judged), inequality_table(rows, *judged)
        parts.append({"label": labels[key], "mode": key[2], **_lines(rows, losses)})
        over += [each for each in (losses, unequal[key]) if not each.empty]
    told = over_of(pd.concat(over))
    return {"curves": parts, "inequality": _inequality(unequal, labels), "over": told}


def _test_rows(material: Material) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """Return which test rows each probe has right, and their classes, by curve, seed and size."""
    if material.correct is None:
        return {}
    table = material.table
    rows = as_curves(table.assign(place=np.arange(len(table))))
    found = {}
    for key, own in by_curve(rows):
        for seed, k, place in zip(_seeds(own), own["k"], own["place"], strict=True):
            if material.correct[place] is not None:
                found[*key, seed, int(k)] = material.correct[place], material.labels[place]
    return found


def _judged(
    rows: pd.DataFrame, key: tuple, known: Mapping[tuple, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return bool (R, n), which test rows the probes of a curve have right, and labels (n,).

    Neither if they are not known of all of them, or are not those of the accuracies by class.
    """
    classes = list(dict.fromkeys(rows["class"]))
    first = rows.iloc[:: len(classes)]
    found = [
        known.get((*key, seed, int(k))) for seed, k in zip(_seeds(first), first["k"], strict=True)
    ]
    if None in found or len(rows) != len(classes) * len(first):
        return None, None
    correct, (labels, *others) = [own for own, _ in found], [labels for _, labels in found]
    whole = labels.dtype.kind in "iu" and labels.max() < len(classes)
    if not whole or not all(np.array_equal(labels, other) for other in others):
        return None, None
    counts = np.bincount(labels, minlength=len(classes))
    hits = np.stack([np.bincount(labels, own, len(classes)) for own in correct])
    said = rows["class_accuracy"].to_numpy(np.float64).reshape(hits.shape)
    off = np.abs(hits - said * counts)[:, counts > 0]
    return (np.stack(correct), labels) if (off <= 0.5).all() else (None, None)


def _seeds(rows: pd.DataFrame) -> list[int]:
    return rows["seed"].astype("Int64").fillna(-1).astype(int).tolist()


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of few enough fractions of each curve."""
    kept = []
    for _, rows in by_curve(table):
        sizes = rows[["fraction", "k"]].drop_duplicates().sort_values("k")
        kept.append(rows[rows["fraction"].isin(thinned(sizes, MOST_FRACTIONS)["fraction"])])
    return pd.concat(kept, ignore_index=True)


def _lines(rows: pd.DataFrame, losses: pd.DataFrame) -> dict[str, Any]:
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
    if losses.empty:
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
