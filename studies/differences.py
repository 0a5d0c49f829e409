"""Probes beside each other: solver against solver, and every mode against random features."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from probe.summaries import score_of
from studies.held import Held
from studies.intervals import student


def differences(sweeps: Sequence[Held], level: float) -> pd.DataFrame:
    """Return differences between probes on the same features, and between modes and random.

    `what` is "solver" (`probe` minus `other`, of one mode) or "mode" (`mode` minus `other`, of one
    probe), in accuracy. Seeds are paired where both have the same; otherwise the standard error is
    of two independent means. `low` and `high` are Student's, over seeds alone.
    """
    rows: list[dict] = []
    grids = [each.grid()[0].assign(probe=each.probe) for each in sweeps]
    for one, other in combinations(grids, 2):
        if one["store"].iloc[0] == other["store"].iloc[0]:
            rows += _compared(one, other, "solver", level)
    for table in grids:
        random = table[table["mode"] == "random"]
        for mode, part in table.groupby("mode", sort=False):
            if mode != "random" and len(random):
                rows += _compared(part[part["fraction"] < 1], random, "mode", level)
    return pd.DataFrame(rows)


def _compared(one: pd.DataFrame, other: pd.DataFrame, what: str, level: float) -> list[dict]:
    score, rows = score_of(one), []
    keys = ["fraction", "mode"] if what == "solver" else ["fraction"]
    other_parts = dict(list(other.groupby(keys, sort=True)))
    for key, part in one.groupby(keys, sort=True):
        if key not in other_parts or score not in other_parts[key]:
            continue
        theirs, first = other_parts[key], part.iloc[0]
        mine = part.set_index(part["seed"].astype("Int64").fillna(-1))[score].astype(float)
        yours = theirs.set_index(theirs["seed"].astype("Int64").fillna(-1))[score].astype(float)
        if mine.index.has_duplicates or yours.index.has_duplicates:
            continue  # several penalties: which of them to compare is not said
        error, low, high, paired = _error(mine, yours, level)
        names = {"store": first.store, "tap": first.tap, "what": what, "probe": first.probe}
        names |= {"mode": first["mode"], "fraction": first.fraction, "k": first.k}
        names |= {"other": theirs.iloc[0].probe if what == "solver" else theirs.iloc[0]["mode"]}
        means = {"mean": mine.mean(), "other_mean": yours.mean()}
        gap = {"difference": mine.mean() - yours.mean(), "error": error, "low": low, "high": high}
        rows.append(names | means | gap | {"paired": paired})
    return rows


def _error(mine: pd.Series, yours: pd.Series, level: float) -> tuple[float, float, float, bool]:
    """Return error and interval of the difference of means, and whether seeds are paired.

    What is the same for every seed, as the whole layer is, was not drawn, and counts as one value.
    """
    mine, yours = (values.head(1) if values.nunique() == 1 else values for values in (mine, yours))
    if mine.index.sort_values().equals(yours.index.sort_values()):
        return *student((mine - yours.reindex(mine.index)).to_numpy(), level), True
    parts = [student(values.to_numpy(), level) for values in (mine, yours) if len(values) > 1]
    if not parts:
        return (float("nan"),) * 3 + (False,)
    error = float(np.sqrt(sum(part[0] ** 2 for part in parts)))
    few = min(len(values) for values in (mine, yours) if len(values) > 1)
    # the fewer seeds decide about the quantile: the interval errs to the wide side
    unit = student(np.linspace(-1, 1, few), level)
    reach, gap = unit[2] / unit[0] * error, mine.mean() - yours.mean()
    return error, float(gap - reach), float(gap + reach), False
