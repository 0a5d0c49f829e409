"""Tables that a study computes from its results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.classes import affected_classes, class_losses, inequality_table
from featstore.probe.memory import Progress, silent
from featstore.probe.redundancy import DELTAS, diffused_redundancy
from featstore.probe.results import as_curves
from featstore.probe.results.curves import Curve, curve_table, curves, difference
from featstore.probe.results.files import save_table
from featstore.probe.results.reading import read_per_class
from featstore.study.records import VERSION, Part, Records, content, digest
from featstore.study.spec import SWITCHED, Analyses, Study, several
from featstore.study.sweeps import SweepResults


def differences(sweeps: Sequence[SweepResults], level: float) -> pd.DataFrame:
    """Return differences between probes on the same features, and between modes and random.

    `what` is "solver" (`probe` minus `other`, of one mode) or "mode" (`mode` minus `other`, of one
    probe), in the score that they are summed up by. Test rows are paired, and seeds where both have
    the same. `error` is the standard error, `low` and `high` are of coverage `level`, and `over`
    says of what.
    """
    rows: list[dict] = []
    held = [_Curves.of(each) for each in sweeps]
    for one, other in combinations(held, 2):
        if one.store != other.store:
            continue
        for mode in one.by_mode:
            if mode in other.by_mode:
                pair = one.by_mode[mode], other.by_mode[mode]
                rows += one.compared(*pair, "solver", other.probe, level)
    for each in held:
        random = each.by_mode.get("random")
        for mode, curve in each.by_mode.items():
            if random is not None and mode != "random":
                rows += each.compared(curve, random, "mode", "random", level)
    return pd.DataFrame(rows)


class _Curves:
    """The curves of a sweep by mode; of several penalties none, since it is not said which counts.

    Attributes:
        store: the sweep's store.
        probe: its probe's name.
        by_mode: its curves.
    """

    def __init__(self, store: str, probe: str, found: Sequence[Curve]):
        self.store, self.probe = store, probe
        modes = [curve.names["mode"] for curve in found]
        self.by_mode: dict[str, Curve] = {
            str(mode): curve
            for mode, curve in zip(modes, found, strict=True)
            if modes.count(mode) == 1
        }

    @classmethod
    def of(cls, each: SweepResults) -> "_Curves":
        table, rows = each.grid()
        known = each.evidence()
        found = curves(table, None if known is None else known[rows])
        return cls(table["store"].iloc[0], each.probe, found)

    def compared(
        self, one: Curve, other: Curve, what: str, against: str, level: float
    ) -> Iterator[dict]:
        """Yield a row for each fraction that both curves have; of two modes for parts alone."""
        places = {float(fraction): place for place, fraction in enumerate(other.fractions)}
        if one.score != other.score:
            return
        for place, fraction in enumerate(one.fractions.tolist()):
            if fraction not in places or (what == "mode" and fraction == 1):
                continue
            found = difference(one, other, place, places[fraction])
            low, high = found.interval(level)
            names = {"store": self.store, "tap": one.names["tap"], "what": what}
            names |= {"probe": self.probe, "mode": one.names["mode"], "fraction": fraction}
            names |= {"k": int(one.sizes[place]), "other": against}
            means = {"mean": one.mean()[place], "other_mean": other.mean()[places[fraction]]}
            gap = {"difference": found.value, "error": found.error, "low": low, "high": high}
            yield names | means | gap | {"paired": found.paired, "over": found.variance.over[0]}


def accuracy(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return mean, spread and interval of score and ratio, a row per curve and fraction."""
    table, rows = held.grid()
    known = held.evidence()
    correct = None if known is None else known[rows]
    return curve_table(table, correct, asked.level)


def redundancy(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return the DR of each curve by each rule, at the study's deltas and along `DELTAS`."""
    return diffused_redundancy(
        held.results(),
        sorted({*asked.deltas, *DELTAS}),
        several(asked.rules),
        held.evidence(),
        asked.level,
    )


def classes(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return the loss of each class at the study's `classes_at`, the largest first."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    table = read_per_class(held.files[2])
    wanted = [*asked.classes_at, 1.0]
    near = np.isclose(table["fraction"].to_numpy()[:, None], wanted).any(1)
    labels, correct = held.correct()
    n_classes = table["class"].nunique()
    return class_losses(table[near], correct[near[::n_classes]], labels, asked.level)


def inequality(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return the inequality of accuracies over classes at each fraction."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    labels, correct = held.correct()
    return inequality_table(read_per_class(held.files[2]), correct, labels, asked.level)


def affected(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return each class's loss beyond the mean class, with a p-value per fraction."""
    if not held.sweep.per_class:
        return pd.DataFrame()
    (labels, correct), found = held.correct(), []
    table, rows = held.grid()
    correct = correct[rows]
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


def cka(held: SweepResults, asked: Analyses) -> pd.DataFrame:
    """Return mean and spread over seeds of CKA with the whole layer, if it was asked for."""
    table = held.grid()[0]
    if "cka" not in table:
        return pd.DataFrame()
    groups = table.groupby(["mode", "fraction", "k"], sort=False)
    return groups["cka"].agg(seeds="count", cka="mean", cka_std="std").reset_index()


READINGS: dict[str, Callable[[SweepResults, Analyses], pd.DataFrame]] = {
    "accuracy": accuracy,
    "redundancy": redundancy,
    "classes": classes,
    "inequality": inequality,
    "affected": affected,
    "cka": cka,
}
"""Readings by name."""


READ = 2
"""Version of the tables' readings; a higher one makes tables anew, and no result."""

KEY = ["store", "tap", "probe", "mode"]
"""Columns that name a curve of a study: `store` is the feature, `probe` the study's probe."""


@dataclass(frozen=True)
class Context:
    """Study, results and folder that tables are computed from."""

    study: Study
    sweeps: Sequence[SweepResults]
    folder: Path


def _at_deltas(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    return table[_among(table["delta"], asked.deltas)]


def _along_deltas(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    first = table["rule"] == several(asked.rules)[0]
    return table[first & _among(table["delta"], DELTAS)]


def _all(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    return table


Rows = Callable[[pd.DataFrame, Analyses], pd.DataFrame]
OF_SWEEPS: dict[str, tuple[str, Rows]] = {
    "accuracy": ("accuracy", _all),
    "redundancy": ("redundancy", _at_deltas),
    "redundancy_curve": ("redundancy", _along_deltas),
    "classes": ("classes", _all),
    "inequality": ("inequality", _all),
    "affected": ("affected", _all),
    "cka": ("cka", _all),
}
"""Tables that join a reading of every sweep, and which of its rows."""

TABLES = (*OF_SWEEPS, "differences")


def table_part(context: Context, name: str, made: Records, progress: Progress = silent) -> Part:
    """Return a table of `TABLES`, of all results of a study."""
    asked = context.study.analyses
    inputs = [content(path) for each in context.sweeps for path in each.files]
    names = [each.sweep.name for each in context.sweeps]
    fingerprint = digest([VERSION, READ, name, names, inputs, _read_by(asked)])
    path = context.folder / "tables" / f"{name}.csv"

    def make() -> None:
        if name == "differences":
            _save(differences(context.sweeps, asked.level), path)
        else:
            _save(_joined(context, name, made, progress), path)

    return Part(f"tables/{name}", fingerprint, [path], make)


def _save(table: pd.DataFrame, path: Path) -> None:
    save_table(table if len(table.columns) else pd.DataFrame(columns=KEY), path)


def _joined(context: Context, name: str, made: Records, progress: Progress) -> pd.DataFrame:
    reading, part_of = OF_SWEEPS[name]
    tables = []
    for number, each in enumerate(context.sweeps):
        progress(name, number, len(context.sweeps), of=each.sweep.name)
        table = _reading(each, reading, context.study.analyses, made)
        if not table.empty:
            tables.append(part_of(table, context.study.analyses))
    if not tables:
        return pd.DataFrame()
    joined = pd.concat(tables, ignore_index=True)
    return joined[[*KEY, *(column for column in joined if column not in KEY)]]


def _reading(each: SweepResults, name: str, asked: Analyses, made: Records) -> pd.DataFrame:
    """Return a reading of one sweep, from the file that it was kept in if it is still true."""
    part = f"readings/{each.sweep.name}.{name}"
    path = made.folder / ".made" / f"{part}.parquet"
    inputs = [content(file) for file in each.files]

    def make() -> None:
        table, source = READINGS[name](each, asked), each.sweep.source
        if not table.empty:
            table = table.assign(store=source.name, tap=source.tap, probe=each.probe)
        _save(table, path)

    made.bring(Part(part, digest([VERSION, READ, inputs, _read_by(asked)]), [path], make))
    return pd.read_parquet(path)


def _read_by(asked: Analyses) -> dict[str, Any]:
    """Return the options that decide about readings; those of features alone do not."""
    # tables of before there was a choice of scores stay made
    default = {"score"} if asked.score is None else set()
    return asked.model_dump(exclude=set(SWITCHED) | default)


def _among(values: pd.Series, known: Sequence[float]) -> np.ndarray:
    return np.isclose(values.to_numpy(float)[:, None], list(known)).any(1)
