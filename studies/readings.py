"""What is read off the results of one sweep: a table each, kept as long as the results are."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from probe.affected import affected_classes
from probe.curve import curve_table
from probe.inequality import class_losses, inequality_table
from probe.reading import read_per_class
from probe.redundancy import DELTAS, diffused_redundancy
from probe.summaries import as_curves
from studies.held import Held
from studies.spec import Analyses, several


def accuracy(held: Held, asked: Analyses) -> pd.DataFrame:
    """Mean, spread and interval of accuracy and ratio: a row for each curve and fraction."""
    table, rows = held.grid()
    known = held.correct()
    correct = None if known is None else known[1][rows]
    return curve_table(table, correct, asked.level)


def redundancy(held: Held, asked: Analyses) -> pd.DataFrame:
    """Diffused redundancy of each curve by each rule: at the study's deltas and along `DELTAS`."""
    known = held.correct()
    return diffused_redundancy(
        held.results(),
        sorted({*asked.deltas, *DELTAS}),
        several(asked.rules),
        None if known is None else known[1],
        asked.level,
    )


def classes(held: Held, asked: Analyses) -> pd.DataFrame:
    """What each class loses at the study's `classes_at`, the largest losses first."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    table = read_per_class(held.files[2])
    wanted = [*asked.classes_at, 1.0]
    near = np.isclose(table["fraction"].to_numpy()[:, None], wanted).any(1)
    labels, correct = held.correct()
    n_classes = table["class"].nunique()
    return class_losses(table[near], correct[near[::n_classes]], labels, asked.level)


def inequality(held: Held, asked: Analyses) -> pd.DataFrame:
    """The inequality of accuracies over classes at each fraction."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    labels, correct = held.correct()
    return inequality_table(read_per_class(held.files[2]), correct, labels, asked.level)


def affected(held: Held, asked: Analyses) -> pd.DataFrame:
    """What each class loses beyond the mean of all, tested on test rows: a p-value a fraction."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    known, found = held.correct(), []
    table, rows = held.grid()
    labels, correct = known[0], known[1][rows]
    names = held.sweep.source.store.spec.classes
    for mode, curve in as_curves(table).groupby("mode", sort=False):
        full = curve[curve["fraction"] == 1].sort_values("seed")
        for fraction in asked.classes_at:
            part = curve[np.isclose(curve["fraction"], fraction)].sort_values("seed")
            if len(part) and len(part) == len(full):
                of_part, of_full = correct[part.index], correct[full.index]
                at = affected_classes(of_part, of_full, labels, names, asked.resamples, asked.level)
                facts = {"mode": mode, "fraction": fraction, "p_value": at.p_value}
                found.append(at.table.assign(**facts))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def cka(held: Held, asked: Analyses) -> pd.DataFrame:
    """CKA with the whole layer, where it was asked for: mean and spread over seeds."""
    table = held.grid()[0]
    if "cka" not in table:
        return pd.DataFrame()
    groups = table.groupby(["mode", "fraction", "k"], sort=False)
    return groups["cka"].agg(seeds="count", cka="mean", cka_std="std").reset_index()


READINGS: dict[str, Callable[[Held, Analyses], pd.DataFrame]] = {
    "accuracy": accuracy,
    "redundancy": redundancy,
    "classes": classes,
    "inequality": inequality,
    "affected": affected,
    "cka": cka,
}
"""Readings by name."""
