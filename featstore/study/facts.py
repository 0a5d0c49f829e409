"""Facts of a study by name, and the sheets that lay them out."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.errors import BadStudy
from featstore.probe.errors import nearest
from featstore.probe.results import is_score, penalty, percent, score_of
from featstore.probe.results.features import ANALYSES, OF_PAIRS
from featstore.probe.results.files import read_table, unescaped
from featstore.probe.results.views import NOTHING, Column, View, as_markdown
from featstore.probe.statuses import FAILED, has
from featstore.study.feature_tables import joined


@dataclass(frozen=True)
class Number:
    """A measured number, its spread over seeds and its interval; NaN for what is not known.

    `bound` is "at least" or "at most" of a number that is one.
    """

    mean: float
    std: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    scale: float = 1.0
    unit: str = ""
    digits: int = 2
    sign: bool = False
    bound: str = ""

    def text(self, part: str = "") -> str:
        """Write it: with its interval, else with its spread, else alone; or one part of it.

        >>> Number(0.9312, 0.01, 0.92, 0.945, 100, " %", 1).text()
        '93.1 % (92.0 to 94.5)'
        >>> Number(0.9312, 0.01, scale=100, unit=" %", digits=1).text()
        '93.1 ± 1.0 %'
        >>> Number(0.9, low=0.9, high=1, digits=1, bound="at least").text()
        'at least 0.9 (0.9 to 1.0)'
        >>> Number(-0.0002, scale=100, unit=" points", digits=1, sign=True).text()
        '+0.0 points'
        """
        if part == "pm" or (not part and np.isnan(self.low + self.high)):
            spread = "" if np.isnan(self.std) else f" ± {self._write(self.std, False)}"
            bound = f"{self.bound} " if self.bound else ""
            return f"{bound}{self._write(self.mean, self.sign)}{spread}{self.unit}"
        if part:
            return f"{self._write(getattr(self, part), self.sign and part != 'std')}{self.unit}"
        low, high = (self._write(end, self.sign) for end in (self.low, self.high))
        mean = f"{self._write(self.mean, self.sign)}{self.unit}"
        if self.bound:
            least = f"{self.bound} {mean}"
            return f"{least} ({low} to {high})" if self.low < self.high else least
        return f"{mean} ({low} to {high})"

    def _write(self, value: float, sign: bool) -> str:
        return f"{value * self.scale:{'+' if sign else ''}z.{self.digits}f}"


PARTS = ("mean", "std", "low", "high", "pm")


@dataclass(frozen=True)
class Facts:
    """Numbers of a study's folder. `sources` are the names of its features, in order."""

    folder: Path
    sources: list[str]

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {}

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the study by its name, empty if there is none."""
        if name not in self._tables:
            path = self.folder / "tables" / f"{name}.csv"
            kind = name.removeprefix("features/")
            if name.startswith("features/"):
                self._tables[name] = joined(self.folder, self.sources, kind)
            else:
                text = dict.fromkeys(("class", "worst_class", "store", "mode", "probe"), str)
                found = pd.read_csv(path, dtype=text) if path.exists() else _NOTHING
                self._tables[name] = unescaped(found)
        return self._tables[name]

    def of_features(self, name: str) -> pd.DataFrame:
        """Return the table of an analysis of `OF_FEATURES`, with a column `name` of features."""
        if name in OF_PAIRS:
            return self.table(name)
        return self.table(f"features/{name}").rename(columns={"store": "name"})

    def row(self, table: str, **keys: str | float) -> pd.Series:
        """Return the one row that has these values; numbers are compared as numbers.

        Raises:
            BadStudy: there is none; the message names the nearest value that there is.
        """
        rows = self.table(table)
        for key, value in keys.items():
            if key not in rows:
                raise BadStudy(f"the table {table} is empty: nothing in this study makes it")
            known = list(dict.fromkeys(rows[key]))
            same = _same(rows[key], value)
            if not same.any():
                names = [str(each) for each in known]
                if pd.api.types.is_numeric_dtype(rows[key]):
                    meant = f"there are {', '.join(names)}"
                else:
                    meant = nearest(str(value), names)
                raise BadStudy(f"no {key} {value} in {table}; {meant}")
            rows = rows[same]
        return rows.iloc[0]

    def fact(self, name: str, /, *arguments: Any, part: str = "", **named: Any) -> str:
        """Return a fact as text, or one part of a number: "mean", "std", "low", "high" or "pm".

        Arguments:
            name: a key of `FACTS`.
            arguments: those of that function, after the first.
            part: which part of a number; empty for the number with its interval or spread.
            named: the same arguments by name.

        Raises:
            BadStudy: there is no such fact, or the study does not know it.
        """
        if name not in FACTS:
            raise BadStudy(f"there is no fact {name!r}; {nearest(name, list(FACTS))}")
        if part and part not in PARTS:
            raise BadStudy(f"a fact has no part {part!r}; {nearest(part, PARTS)}")
        found = _called(FACTS[name], self, arguments, named)
        return found.text(part) if isinstance(found, Number) else found


def _called(function: Callable, facts: Facts, arguments: Sequence, named: Mapping) -> Any:
    """Call a fact or a sheet; arguments that do not fit, or are no numbers, are a BadStudy."""
    try:
        bound = inspect.signature(function).bind(facts, *arguments, **named)
        return function(*bound.args, **bound.kwargs)
    except (TypeError, ValueError) as error:
        raise BadStudy(str(error)) from None


_NOTHING = pd.DataFrame()


def _same(column: pd.Series, value: str | float) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        return np.isclose(column.to_numpy(float), float(value))
    return (column == str(value)).to_numpy()


def _of_curve(name: str) -> Callable[..., Number]:
    def fact(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> Number:
        row = facts.row("accuracy", store=feature, mode=mode, probe=probe, fraction=fraction)
        score = score_in(row.to_frame().T) if name == "accuracy" else name
        values = [row.get(f"{score}{end}", np.nan) for end in ("", "_std", "_low", "_high")]
        return Number(*values, 100, " %", 1) if in_per_cent(score) else Number(*values, digits=3)

    return fact


def score_in(table: pd.DataFrame) -> str:
    """Return the score that rows of the table `accuracy` have: that, R^2, or the study's own.

    >>> score_in(pd.DataFrame({"accuracy": [np.nan], "r2": [0.5], "ratio": [0.9]}))
    'r2'
    """
    known = table.dropna(axis=1, how="all")
    return score_of(known if any(map(is_score, known)) else table)


def in_per_cent(score: str) -> bool:
    """Return whether a score, or the ratio, is written in per cent: what can be below 0 is not."""
    return score not in ("r2", "kappa")


def _k(facts: Facts, feature: str, fraction: float) -> str:
    return f"{facts.row('accuracy', store=feature, fraction=fraction)['k']:,}"


def _features(facts: Facts, feature: str) -> str:
    return _k(facts, feature, 1)


def _redundancy(
    facts: Facts, feature: str, mode: str, probe: str, delta: float, rule: str = "interpolated"
) -> Number:
    row = facts.row("redundancy", store=feature, mode=mode, probe=probe, delta=delta, rule=rule)
    return Number(row["redundancy"], np.nan, row["low"], row["high"], digits=3, bound=bound_of(row))


def _share(
    facts: Facts, feature: str, mode: str, probe: str, delta: float, rule: str = "interpolated"
) -> Number:
    dr = _redundancy(facts, feature, mode, probe, delta, rule)
    bound = "at most" if dr.bound else ""
    return Number(1 - dr.mean, np.nan, 1 - dr.high, 1 - dr.low, 100, " %", 1, bound=bound)


def bound_of(row: pd.Series) -> str:
    """Return whether the DR of a row is a bound: "at least", or nothing."""
    return "" if pd.isna(row.get("bound")) else str(row["bound"])


def _cka(table: str):
    def fact(facts: Facts, feature: str, fraction: float) -> Number:
        facts.row(table, store=feature, fraction=fraction)
        rows = facts.table(table)
        rows = rows[_same(rows["store"], feature) & _same(rows["fraction"], fraction)]
        return Number(rows["cka"].mean(), rows["cka"].std(), digits=2)

    return fact


def _cka_mode(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> Number:
    row = facts.row("cka", store=feature, mode=mode, probe=probe, fraction=fraction)
    return Number(row["cka"], row["cka_std"], digits=2)


def _gini(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> Number:
    row = facts.row("inequality", store=feature, mode=mode, probe=probe, fraction=fraction)
    return Number(row["gini"], row["gini_std"], digits=3)


def _gini_rise(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> Number:
    row = facts.row("inequality", store=feature, mode=mode, probe=probe, fraction=fraction)
    ends = row["gini_rise_low"], row["gini_rise_high"]
    return Number(row["gini_rise"], np.nan, *ends, digits=3, sign=True)


def _losers(
    facts: Facts, feature: str, mode: str, probe: str, fraction: float, count: int = 3
) -> str:
    facts.row("classes", store=feature, mode=mode, probe=probe, fraction=fraction)
    table = facts.table("classes")
    keys = {"store": feature, "mode": mode, "probe": probe, "fraction": fraction}
    for key, value in keys.items():
        table = table[_same(table[key], value)]
    first = table.sort_values("loss", ascending=False, kind="stable").head(int(count))
    return ", ".join(f"{row['class']} ({100 * row.loss:.1f} points)" for _, row in first.iterrows())


def _p(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> str:
    row = facts.row("affected", store=feature, mode=mode, probe=probe, fraction=fraction)
    return f"{row['p_value']:.2g}"


def _spectrum(facts: Facts, feature: str, column: str) -> str:
    row = facts.row("features/spectrum", store=feature)
    _check_column("a spectrum", column, row)
    value = float(row[column])
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3g}" if value < 10 else f"{value:,.1f}"


def _solver(
    facts: Facts, feature: str, mode: str, probe: str, other: str, fraction: float
) -> Number:
    table, turned = facts.table("differences"), 1
    if len(table) and not (_same(table["probe"], probe) & _same(table["other"], other)).any():
        probe, other, turned = other, probe, -1
    keys = {"store": feature, "mode": mode, "probe": probe, "other": other, "fraction": fraction}
    return _gap(facts.row("differences", what="solver", **keys), turned)


def _mode(facts: Facts, feature: str, mode: str, probe: str, fraction: float) -> Number:
    keys = {"store": feature, "mode": mode, "probe": probe, "fraction": fraction}
    return _gap(facts.row("differences", what="mode", **keys), 1)


def _gap(row: pd.Series, turned: int) -> Number:
    ends = sorted((turned * row["low"], turned * row["high"]))
    return Number(turned * row["difference"], np.nan, *ends, 100, " points", 1, True)


def _span(facts: Facts, name: str, pattern: str, mode: str, probe: str, fraction: float) -> str:
    """From the smallest to the largest mean over the features that a pattern matches."""
    table = facts.table("accuracy")
    facts.row("accuracy", mode=mode, probe=probe, fraction=fraction)
    if name not in ("accuracy", "ratio"):
        raise BadStudy(f"a span is of accuracy or ratio, not of {name}")
    for key, value in {"mode": mode, "probe": probe, "fraction": fraction}.items():
        table = table[_same(table[key], value)]
    chosen = table[[fnmatchcase(store, pattern) for store in table["store"]]]
    if chosen.empty:
        raise BadStudy(f"no feature matches {pattern}; {nearest(pattern, facts.sources)}")
    values = chosen[score_in(chosen) if name == "accuracy" else name]
    return f"{100 * values.min():.1f} to {100 * values.max():.1f} %"


def _retrieval(
    facts: Facts, feature: str, mode: str, fraction: float, column: str = "ratio"
) -> Number:
    row = facts.row("features/retrieval", store=feature, mode=mode, fraction=fraction)
    _check_column("retrieval", column, row)
    ends = [row.get(f"{column}{end}", np.nan) for end in ("_low", "_high")]
    kept = column == "ratio"
    return Number(row[column], np.nan, *ends, *((100, " %", 1) if kept else (1, "", 3)))


def _geometry(facts: Facts, feature: str, column: str, fraction: float = 1) -> Number:
    facts.row("features/geometry", store=feature, fraction=fraction)
    table = facts.table("features/geometry")
    rows = table[_same(table["store"], feature) & _same(table["fraction"], fraction)]
    _check_column("geometry", column, rows.iloc[0])
    return Number(rows[column].mean(), rows[column].std(), digits=1 + (rows[column].mean() < 1))


def _worth(facts: Facts, feature: str, what: str) -> str:
    """Return how many features are degrading, or harmful to leave out, or how many there are."""
    facts.row("features/attribution", store=feature)
    table = facts.table("features/attribution")
    table = table[_same(table["store"], feature)]
    counts = {
        "degrading": table["degrading"].astype(bool).sum(),
        "needed": (table["high"] < 0).sum(),
        "features": len(table),
    }
    if what not in counts:
        raise BadStudy(f"an attribution does not count {what}; {nearest(what, list(counts))}")
    return f"{counts[what]:,}"


def _agreement(facts: Facts, feature: str, other: str) -> Number:
    row = facts.row("agreement", name=feature, other=other)
    return Number(row["rho"], np.nan, row["low"], row["high"])


def _probes(facts: Facts, which: str = "solved", feature: str = "*", probe: str = "*") -> str:
    """Return how many probes there are, chose an end of the penalties, or are not at the optimum.

    The full layer is counted once for each seed and mode, as in the results files.
    """
    tables = [
        read_table(path)
        for source in facts.sources
        for path in sorted((facts.folder / "results").glob(f"{escape(source)}.*.csv"))
        if fnmatchcase(source, feature) and fnmatchcase(path.stem.rpartition(".")[2], probe)
    ]
    if not tables:
        raise BadStudy(f"no results of {feature}.{probe}; {nearest(feature, facts.sources)}")
    table = pd.concat(tables, ignore_index=True)
    places = table.get("l2_place", pd.Series("", table.index))
    counts = {
        "solved": len(table),
        "at an end": places.isin(["lowest", "highest"]).sum(),
        "unsolved": has(table["status"], FAILED).sum(),
    }
    if which not in counts:
        raise BadStudy(f"probes are not counted by {which!r}; {nearest(which, list(counts))}")
    return f"{counts[which]:,}"


def _likeness(facts: Facts, feature: str, other: str, column: str = "calibrated") -> str:
    row = facts.row("likeness", name=feature, other=other)
    _check_column("likeness", column, row)
    return f"{row[column]:.2g}" if column == "p" else f"{row[column]:.3f}"


def _check_column(table: str, column: str, row: pd.Series) -> None:
    known = [name for name, value in row.items() if not isinstance(value, str)]
    if column not in known:
        raise BadStudy(f"{table} has no {column}; {nearest(column, known)}")


FACTS: dict[str, Callable[..., Number | str]] = {
    "accuracy": _of_curve("accuracy"),
    "ratio": _of_curve("ratio"),
    "corrected": _of_curve("corrected"),
    "k": _k,
    "features": _features,
    "dr": _redundancy,
    "share": _share,
    "cka": _cka("features/cka"),
    "cka_pairs": _cka("features/cka_pairs"),
    "cka_mode": _cka_mode,
    "gini": _gini,
    "gini_rise": _gini_rise,
    "losers": _losers,
    "p": _p,
    "spectrum": _spectrum,
    "solver": _solver,
    "mode": _mode,
    "span": _span,
    "retrieval": _retrieval,
    "geometry": _geometry,
    "worth": _worth,
    "agreement": _agreement,
    "likeness": _likeness,
    "probes": _probes,
}
"""Facts by name: their arguments are those of the functions, after the first."""


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return texts as a table of markdown, the first `left` columns aligned to the left."""
    columns = list(zip(*rows, strict=True)) or [()] * len(headings)
    named = enumerate(zip(headings, columns, strict=True))
    return as_markdown(
        View([Column(name, "text", texts, right=n >= left) for n, (name, texts) in named])
    )


def _curves(table: pd.DataFrame, keys: Sequence[str], level: str) -> dict[tuple, pd.DataFrame]:
    """Return the rows of each curve of a table, by what names it; a level is the index."""
    groups = table.groupby(list(keys), sort=False, dropna=False)
    return {key: curve.drop_duplicates(level).set_index(level) for key, curve in groups}


def _across(
    names: Sequence[str],
    curves: Mapping[tuple, pd.DataFrame],
    kind: str,
    value: str,
    title: Callable[[float], str] = percent,
    missing: str = "",
) -> str:
    """Return a table with a row a curve, under `names` its key, and a column a level.

    The spread of a value is VALUE_std of its row, its interval `low` and `high`, where these are.
    """
    texts = zip(names, zip(*curves, strict=True), strict=False)
    columns = [Column(name, "text", keys) for name, keys in texts]
    for level in sorted({level for curve in curves.values() for level in curve.index}):
        of_level = (
            [curve[name].get(level) if name in curve else None for curve in curves.values()]
            for name in (value, f"{value}_std", "low", "high", "bound")
        )
        values, spread, low, high, bounds = of_level
        columns.append(Column(title(level), kind, values, spread, (low, high), bounds, missing))
    return as_markdown(View(columns))


def _against_fraction(name: str) -> Callable[..., str]:
    def sheet(facts: Facts, probe: str, pattern: str = "*") -> str:
        table = _chosen(facts, "accuracy", probe, pattern)
        score = score_in(table) if name == "accuracy" else name
        std = table[f"{score}_std"].where(table["fraction"] != 1)
        curves = _curves(table.assign(**{f"{score}_std": std}), ["store", "mode", "l2"], "fraction")
        solver = str(table["solver"].iloc[0]) if len(table) else ""
        curves = {
            (
                store if math.isnan(l2) else f"{store} ({penalty('given', l2, solver)})",
                mode,
                l2,
            ): curve
            for (store, mode, l2), curve in curves.items()
        }
        kind = "per cent" if in_per_cent(score) else "score"
        return _across(["features", "mode"], curves, kind, score)

    return sheet


def _redundancy_sheet(facts: Facts, rule: str = "") -> str:
    """Lay out DR by a rule, by default the study's first."""
    table = facts.table("redundancy")
    if table.empty:
        return NOTHING
    table = table[table["rule"] == (rule or table["rule"].iloc[0])]
    curves = _curves(table, ["store", "probe", "mode"], "delta")
    names = ["features", "probe", "mode"]
    return _across(names, curves, "hundredths", "redundancy", "DR({:g})".format, "not reached")


def _similarity(name: str) -> Callable[..., str]:
    def sheet(facts: Facts) -> str:
        table = facts.table(f"features/{name}")
        if table.empty:
            return NOTHING
        means = table.groupby(["store", "fraction"], sort=False)["cka"].agg(["mean", "std"])
        means = means.rename(columns={"mean": "cka", "std": "cka_std"}).reset_index()
        return _across(["features"], _curves(means, ["store"], "fraction"), "hundredths", "cka")

    return sheet


def _classes(facts: Facts, count: int = 5) -> str:
    table, rows = facts.table("classes"), []
    if table.empty:
        return NOTHING
    for key, part in table.groupby(["store", "probe", "mode", "fraction"], sort=False):
        part = part.sort_values("loss", ascending=False, kind="stable")
        named = [
            f"{row['class']} {100 * row['full']:.0f} to {100 * row['part']:.0f}"
            for _, row in part.head(int(count)).iterrows()
        ]
        rows.append([*key[:3], percent(key[3]), ", ".join(named), _p_value(facts, key)])
    headings = ["features", "probe", "mode", "kept", "lose most (accuracy, %)", "p"]
    return markdown(headings, rows, 5)


def _p_value(facts: Facts, key: tuple) -> str:
    keys = dict(zip(("store", "probe", "mode", "fraction"), key, strict=True))
    try:
        return f"{facts.row('affected', **keys)['p_value']:.2g}"
    except BadStudy:
        return ""


def _inequality(facts: Facts) -> str:
    table = facts.table("inequality")
    if table.empty:
        return NOTHING
    worst = zip(table["worst_accuracy"], table["worst_class"], strict=True)
    columns = [
        Column("features", "text", table["store"]),
        Column("probe", "text", table["probe"]),
        Column("mode", "text", table["mode"]),
        Column("kept", "text", map(percent, table["fraction"])),
        Column("Gini", "score", table["gini"], table["gini_std"]),
        Column("of the mean", "score", table["gini_of_mean"]),
        Column("cv", "score", table["cv"]),
        Column(
            "worst class, %", "text", [f"{100 * a:.1f} ({name})" for a, name in worst], right=True
        ),
    ]
    return as_markdown(View(columns))


SPECTRUM = {
    "features": ("D", "count"),
    "effective_rank": ("effective rank", "count"),
    "participation_ratio": ("participation ratio", "tenths"),
    "components_90": ("components for 90 %", "count"),
    "components_99": ("for 99 %", "count"),
    "mean_abs_correlation": ("mean abs. correlation", "score"),
    "dead": ("dead", "count"),
    "duplicates": ("duplicates", "count"),
}
"""Columns of the sheet of spectra: title and kind."""


def _spectrum_sheet(facts: Facts) -> str:
    table = facts.table("features/spectrum")
    if table.empty:
        return NOTHING
    columns = [Column(title, kind, table[name]) for name, (title, kind) in SPECTRUM.items()]
    return as_markdown(View([Column("features", "text", table["store"]), *columns]))


OF_FEATURES = tuple(name for name in ANALYSES if name != "spectrum")
"""Analyses of features that are shown as everywhere."""


def _of_features(name: str) -> Callable[..., str]:
    def sheet(facts: Facts) -> str:
        table = facts.of_features(name)
        return as_markdown(ANALYSES[name].view(table)) if len(table) else NOTHING

    return sheet


def _differences(what: str) -> Callable[..., str]:
    def sheet(facts: Facts, probe: str = "*", pattern: str = "*") -> str:
        table = facts.table("differences")
        if table.empty:
            return NOTHING
        table = table[table["what"] == what]
        one, also = ("mode", "probe") if what == "mode" else ("probe", "mode")
        chosen = [
            fnmatchcase(row.probe, probe) and fnmatchcase(row.store, pattern)
            for row in table.itertuples()
        ]
        table = table[np.array(chosen, bool)]
        if table.empty:
            return NOTHING
        table = table.assign(gap=table[one].str.cat(table["other"], " - "))
        curves = _curves(table, ["store", also, "gap"], "fraction")
        return _across(["features", also, "difference"], curves, "points", "difference")

    return sheet


def _chosen(facts: Facts, name: str, probe: str, pattern: str) -> pd.DataFrame:
    table = facts.table(name)
    if table.empty:
        raise BadStudy("no probe of this study has been solved yet")
    known = list(dict.fromkeys(table["probe"]))
    if probe not in known:
        raise BadStudy(f"no results of a probe {probe}; {nearest(probe, known)}")
    table = table[table["probe"] == probe]
    return table[[fnmatchcase(store, pattern) for store in table["store"]]]


SHEETS: dict[str, Callable[..., str]] = {
    "accuracy": _against_fraction("accuracy"),
    "ratio": _against_fraction("ratio"),
    "redundancy": _redundancy_sheet,
    "cka": _similarity("cka"),
    "cka_pairs": _similarity("cka_pairs"),
    "classes": _classes,
    "inequality": _inequality,
    "spectrum": _spectrum_sheet,
    "solvers": _differences("solver"),
    "modes": _differences("mode"),
    **{name: _of_features(name) for name in OF_FEATURES},
}
"""Tables by name; their arguments are those of the functions, after the first."""


FILTERS = {"features": "store"} | {
    name: name for name in ("probe", "mode", "fraction", "delta", "other")
}
"""Columns by which the rows of a table can be chosen."""


@dataclass(frozen=True)
class Chosen(Facts):
    """Facts whose tables have the rows that patterns choose."""

    filters: Mapping[str, Any]

    def table(self, name: str) -> pd.DataFrame:
        """Return the rows of a table for which every filter, if it has that column, holds."""
        rows = super().table(name)
        for key, wanted in self.filters.items():
            if FILTERS[key] in rows:
                words = wanted if isinstance(wanted, list | tuple) else str(wanted).split("|")
                rows = rows[[_matches(value, words) for value in rows[FILTERS[key]]]]
        return rows


def _matches(value: str | float, words: Sequence) -> bool:
    if isinstance(value, str):
        return any(fnmatchcase(value, str(word).strip()) for word in words)
    return any(math.isclose(value, float(word)) for word in words)


def sheet(facts: Facts, name: str, /, *arguments: Any, **named: Any) -> str:
    """Return a table of a study as markdown.

    Arguments:
        facts: the study's numbers.
        name: a key of `SHEETS`.
        arguments: those of that sheet.
        named: the same by name; and filters such as mode="random|pca", probe="logistic",
            features="lite0-*", fraction=0.1: patterns or numbers of the rows to show, several as a
            list or with `|` between them.

    Raises:
        BadStudy: there is no such table, or it does not know what is asked of it.
    """
    if name not in SHEETS:
        raise BadStudy(f"there is no table {name!r}; {nearest(name, list(SHEETS))}")
    parameters = inspect.signature(SHEETS[name]).parameters
    own, filters = {}, {}
    for key, value in named.items():
        required = key in parameters and parameters[key].default is inspect.Parameter.empty
        if key not in parameters and key not in FILTERS:
            raise BadStudy(f"a table has no filter {key!r}; {nearest(key, list(FILTERS))}")
        (filters if key in FILTERS and not required else own)[key] = value
    return _called(SHEETS[name], Chosen(facts.folder, facts.sources, filters), arguments, own)
