"""The tables of a study: what its probes and its features say, in files that pages quote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from probe.affected import affected_classes
from probe.inequality import class_losses, inequality_table
from probe.reading import read_per_class, read_predictions, read_results
from probe.redundancy import DELTAS, diffused_redundancy
from probe.summaries import as_curves, score_of
from probe.tables import save_table
from studies.intervals import Resampling, curve_table, student
from studies.made import VERSION, Made, content, digest
from studies.spec import Study, several
from studies.sweeping import Sweep

KEY = ["store", "tap", "probe", "mode"]
"""Columns that name a curve of a study: `store` is the feature, `probe` the study's probe."""


@dataclass(frozen=True)
class Held:
    """The results of one sweep, read back."""

    sweep: Sweep
    folder: Path

    @property
    def probe(self) -> str:
        """The name of its probe."""
        return self.sweep.name.rpartition(".")[2]

    @property
    def files(self) -> list[Path]:
        """What it was read from."""
        return self.sweep.files(self.folder)

    def results(self) -> pd.DataFrame:
        """Return one row a probe."""
        return read_results(self.files[0])

    def grid(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the probes at the fractions that were asked for, and which rows those are.

        A sweep of every k has k = int(fraction * D) among them, under another fraction.
        """
        table = self.results()
        if not self.sweep.arguments.get("every_k"):
            return table, np.arange(len(table))
        dim = int(table["k"].max())
        asked = {int(f * dim): f for f in self.sweep.arguments["fractions"]} | {dim: 1.0}
        rows = np.flatnonzero(table["k"].isin(list(asked)))
        table = table.iloc[rows].reset_index(drop=True)
        return table.assign(fraction=table["k"].map(asked)), rows

    def correct(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return labels (n,) and bool (R, n), which rows each probe has right; None if not kept."""
        if not self.sweep.per_class:
            return None
        labels, classes = read_predictions(self.files[1])
        return labels, np.ascontiguousarray((classes == labels[:, None]).T)


@dataclass(frozen=True)
class Context:
    """What tables are made of."""

    study: Study
    sweeps: Sequence[Held]
    folder: Path

    @property
    def how(self) -> Resampling:
        """How intervals come about."""
        asked = self.study.analyses
        return Resampling(asked.resamples, asked.level)


def accuracy(context: Context) -> pd.DataFrame:
    """Mean, spread and interval of accuracy and ratio: a row for each curve and fraction."""
    found = []
    for each in context.sweeps:
        table, rows = each.grid()
        known = each.correct()
        correct = None if known is None else known[1][rows]
        found.append(_named(curve_table(table, correct, context.how), each))
    return _joined(found)


def redundancy(context: Context, deltas: Sequence[float] | None = None) -> pd.DataFrame:
    """Diffused redundancy of each curve, by each rule, with its interval."""
    asked, found = context.study.analyses, []
    for each in context.sweeps:
        known = each.correct()
        table = diffused_redundancy(
            each.results(),
            deltas or asked.deltas,
            several(asked.rules) if deltas is None else several(asked.rules)[:1],
            None if known is None else known[1],
            asked.resamples,
            asked.level,
        )
        found.append(_named(table, each))
    return _joined(found)


def redundancy_curve(context: Context) -> pd.DataFrame:
    """DR against delta, by the first of the study's rules."""
    return redundancy(context, DELTAS)


def differences(context: Context) -> pd.DataFrame:
    """Differences between probes on the same features, and between modes and random.

    `what` is "solver" (`probe` minus `other`, of one mode) or "mode" (`mode` minus `other`, of one
    probe), in accuracy. Seeds are paired where both have the same; otherwise the standard error is
    of two independent means. `low` and `high` are Student's, over seeds alone.
    """
    rows: list[dict] = []
    level = context.study.analyses.level
    grids = [each.grid()[0].assign(probe=each.probe) for each in context.sweeps]
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


def classes(context: Context) -> pd.DataFrame:
    """What each class loses at the study's `classes_at`, the largest losses first."""
    asked, found = context.study.analyses, []
    for each in context.sweeps:
        if each.sweep.per_class:
            table = class_losses(_of_classes(each, asked.classes_at), asked.resamples, asked.level)
            found.append(_named(table, each))
    return _joined(found)


def inequality(context: Context) -> pd.DataFrame:
    """The inequality of accuracies over classes at each fraction."""
    asked, found = context.study.analyses, []
    for each in context.sweeps:
        if each.sweep.per_class:
            table = read_per_class(each.files[2])
            found.append(_named(inequality_table(table, asked.resamples, asked.level), each))
    return _joined(found)


def affected(context: Context) -> pd.DataFrame:
    """What each class loses beyond the mean of all, tested on test rows: a p-value a fraction."""
    asked, found = context.study.analyses, []
    for each in context.sweeps:
        known = each.correct()
        if known is None:
            continue
        table, rows = each.grid()
        labels, correct = known[0], known[1][rows]
        for mode, curve in as_curves(table).groupby("mode", sort=False):
            for fraction in asked.classes_at:
                part = curve[np.isclose(curve["fraction"], fraction)].sort_values("seed")
                full = curve[curve["fraction"] == 1].sort_values("seed")
                if len(part) == 0 or len(part) != len(full):
                    continue
                names = each.sweep.source.store.spec.classes
                at = affected_classes(
                    correct[part.index], correct[full.index], labels, names,
                    asked.resamples, asked.level,
                )  # fmt: skip
                facts = {"store": each.sweep.source.name, "tap": each.sweep.source.tap}
                facts |= {"probe": each.probe, "mode": mode, "fraction": fraction}
                found.append(at.table.assign(**facts, p_value=at.p_value))
    return _joined(found)


def cka(context: Context) -> pd.DataFrame:
    """CKA with the whole layer, of sweeps that were asked for it: mean and spread over seeds."""
    found = []
    for each in context.sweeps:
        table = each.grid()[0]
        if "cka" in table:
            groups = table.groupby(["store", "tap", "mode", "fraction", "k"], sort=False)
            summed = groups["cka"].agg(seeds="count", cka="mean", cka_std="std").reset_index()
            found.append(_named(summed, each))
    return _joined(found)


TABLES: dict[str, Callable[[Context], pd.DataFrame]] = {
    "accuracy": accuracy,
    "redundancy": redundancy,
    "redundancy_curve": redundancy_curve,
    "differences": differences,
    "classes": classes,
    "inequality": inequality,
    "affected": affected,
    "cka": cka,
}
"""What is made of the results of all sweeps."""


def make(context: Context, name: str, made: Made) -> bool:
    """Write a table if it is not there, or something that it is of has changed; say whether."""
    inputs = [content(path) for each in context.sweeps for path in each.files]
    names = [each.sweep.name for each in context.sweeps]
    fingerprint = digest([VERSION, name, names, inputs, context.study.analyses.model_dump()])
    part, path = f"tables/{name}", context.folder / "tables" / f"{name}.csv"
    if made.fresh(part, fingerprint):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    table = TABLES[name](context)
    save_table(table if len(table.columns) else pd.DataFrame(columns=KEY), path)
    made.write(part, fingerprint, [path])
    return True


def _of_classes(each: Held, fractions: Sequence[float]) -> pd.DataFrame:
    table = read_per_class(each.files[2])
    wanted = np.isclose(table["fraction"].to_numpy()[:, None], [*fractions, 1.0]).any(1)
    return table[wanted]


def _named(table: pd.DataFrame, each: Held) -> pd.DataFrame:
    return table if table.empty else table.assign(probe=each.probe)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    tables = [table for table in tables if not table.empty]
    if not tables:
        return pd.DataFrame()
    joined = pd.concat(tables, ignore_index=True)
    first = [name for name in KEY if name in joined]
    return joined[[*first, *(name for name in joined if name not in first)]]
