"""Measured numbers by name, for the sentences of a page: no number of a page is typed by hand.

A fact is `name:argument,argument`, in a template between double braces. Arguments are names of the
study: a feature, a mode, a probe; a fraction or delta as the study file writes it. `.mean`, `.low`,
`.high`, `.std` or `.pm` after the name takes one part of a number that has several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from probe.tables import unescaped
from studies.alone import joined
from studies.errors import UsageError
from studies.spec import nearest


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
    """What a study's folder knows. `sources` are the names of its features, in order."""

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

    def row(self, table: str, **keys: str | float) -> pd.Series:
        """Return the one row that has these values; numbers are compared as numbers.

        Raises:
            UsageError: there is none; the message names the nearest value that there is.
        """
        rows = self.table(table)
        for key, value in keys.items():
            if key not in rows:
                raise UsageError(f"the table {table} is empty: nothing in this study makes it")
            known = list(dict.fromkeys(rows[key]))
            same = _same(rows[key], value)
            if not same.any():
                names = [str(each) for each in known]
                if pd.api.types.is_numeric_dtype(rows[key]):
                    meant = f"there are {', '.join(names)}"
                else:
                    meant = nearest(str(value), names)
                raise UsageError(f"no {key} {value} in {table}; {meant}")
            rows = rows[same]
        return rows.iloc[0]

    def fact(self, text: str) -> str:
        """Return what a fact is, as text.

        Raises:
            UsageError: there is no such fact, or the study does not know it.
        """
        name, _, rest = text.partition(":")
        name, _, part = name.strip().partition(".")
        if name not in FACTS:
            raise UsageError(f"there is no fact {name!r}; {nearest(name, list(FACTS))}")
        if part and part not in PARTS:
            raise UsageError(f"a fact has no part {part!r}; {nearest(part, PARTS)}")
        arguments = [word.strip() for word in rest.split(",")] if rest else []
        try:
            found = FACTS[name](self, *arguments)
        except TypeError as error:
            raise UsageError(f"fact {text!r}: {str(error).partition(' ')[2]}") from None
        except (UsageError, ValueError) as error:
            raise UsageError(f"fact {text!r}: {error}") from None
        return found.text(part) if isinstance(found, Number) else found


_NOTHING = pd.DataFrame()


def _same(column: pd.Series, value: str | float) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        return np.isclose(column.to_numpy(float), float(value))
    return (column == str(value)).to_numpy()


def _of_curve(name: str, scale: float = 100, unit: str = " %", digits: int = 1):
    def fact(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> Number:
        row = facts.row("accuracy", store=feature, mode=mode, probe=probe, fraction=fraction)
        score = "r2" if name == "accuracy" and "r2" in row and pd.isna(row.get(name)) else name
        values = [row[f"{score}{end}"] for end in ("", "_std", "_low", "_high")]
        return Number(*values, scale, unit, digits) if score != "r2" else Number(*values, digits=3)

    return fact


def _k(facts: Facts, feature: str, fraction: str) -> str:
    return f"{facts.row('accuracy', store=feature, fraction=fraction)['k']:,}"


def _features(facts: Facts, feature: str) -> str:
    return _k(facts, feature, "1")


def _redundancy(
    facts: Facts, feature: str, mode: str, probe: str, delta: str, rule: str = "interpolated"
) -> Number:
    row = facts.row("redundancy", store=feature, mode=mode, probe=probe, delta=delta, rule=rule)
    return Number(row["redundancy"], np.nan, row["low"], row["high"], digits=3, bound=bound_of(row))


def _share(
    facts: Facts, feature: str, mode: str, probe: str, delta: str, rule: str = "interpolated"
) -> Number:
    dr = _redundancy(facts, feature, mode, probe, delta, rule)
    bound = "at most" if dr.bound else ""
    return Number(1 - dr.mean, np.nan, 1 - dr.high, 1 - dr.low, 100, " %", 1, bound=bound)


def bound_of(row: pd.Series) -> str:
    """Return whether the DR of a row is a bound: "at least", or nothing."""
    return "" if pd.isna(row.get("bound")) else str(row["bound"])


def _cka(table: str):
    def fact(facts: Facts, feature: str, fraction: str) -> Number:
        facts.row(table, store=feature, fraction=fraction)
        rows = facts.table(table)
        rows = rows[_same(rows["store"], feature) & _same(rows["fraction"], fraction)]
        return Number(rows["cka"].mean(), rows["cka"].std(), digits=2)

    return fact


def _cka_mode(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> Number:
    row = facts.row("cka", store=feature, mode=mode, probe=probe, fraction=fraction)
    return Number(row["cka"], row["cka_std"], digits=2)


def _gini(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> Number:
    row = facts.row("inequality", store=feature, mode=mode, probe=probe, fraction=fraction)
    return Number(row["gini"], row["gini_std"], digits=3)


def _gini_rise(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> Number:
    row = facts.row("inequality", store=feature, mode=mode, probe=probe, fraction=fraction)
    ends = row["gini_rise_low"], row["gini_rise_high"]
    return Number(row["gini_rise"], np.nan, *ends, digits=3, sign=True)


def _losers(
    facts: Facts, feature: str, mode: str, probe: str, fraction: str, count: str = "3"
) -> str:
    facts.row("classes", store=feature, mode=mode, probe=probe, fraction=fraction)
    table = facts.table("classes")
    for key, value in {
        "store": feature,
        "mode": mode,
        "probe": probe,
        "fraction": fraction,
    }.items():
        table = table[_same(table[key], value)]
    first = table.sort_values("loss", ascending=False, kind="stable").head(int(count))
    return ", ".join(f"{row['class']} ({100 * row.loss:.1f} points)" for _, row in first.iterrows())


def _p(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> str:
    row = facts.row("affected", store=feature, mode=mode, probe=probe, fraction=fraction)
    return f"{row['p_value']:.2g}"


def _spectrum(facts: Facts, feature: str, column: str) -> str:
    row = facts.row("features/spectrum", store=feature)
    if column not in row or column in ("store", "tap"):
        raise UsageError(f"a spectrum has no {column}; {nearest(column, list(row.index))}")
    value = float(row[column])
    return (
        f"{value:,.0f}"
        if value == int(value)
        else f"{value:,.3g}"
        if value < 10
        else f"{value:,.1f}"
    )


def _solver(facts: Facts, feature: str, mode: str, probe: str, other: str, fraction: str) -> Number:
    table, turned = facts.table("differences"), 1
    if len(table) and not (_same(table["probe"], probe) & _same(table["other"], other)).any():
        probe, other, turned = other, probe, -1
    keys = {"store": feature, "mode": mode, "probe": probe, "other": other, "fraction": fraction}
    return _gap(facts.row("differences", what="solver", **keys), turned)


def _mode(facts: Facts, feature: str, mode: str, probe: str, fraction: str) -> Number:
    keys = {"store": feature, "mode": mode, "probe": probe, "fraction": fraction}
    return _gap(facts.row("differences", what="mode", **keys), 1)


def _gap(row: pd.Series, turned: int) -> Number:
    ends = sorted((turned * row["low"], turned * row["high"]))
    return Number(turned * row["difference"], np.nan, *ends, 100, " points", 1, True)


def _span(facts: Facts, name: str, pattern: str, mode: str, probe: str, fraction: str) -> str:
    """From the smallest to the largest mean over the features that a pattern matches."""
    table = facts.table("accuracy")
    facts.row("accuracy", mode=mode, probe=probe, fraction=fraction)
    if name not in ("accuracy", "ratio"):
        raise UsageError(f"a span is of accuracy or ratio, not of {name}")
    for key, value in {"mode": mode, "probe": probe, "fraction": fraction}.items():
        table = table[_same(table[key], value)]
    chosen = table[[fnmatchcase(store, pattern) for store in table["store"]]]
    if chosen.empty:
        raise UsageError(f"no feature matches {pattern}; {nearest(pattern, facts.sources)}")
    return f"{100 * chosen[name].min():.1f} to {100 * chosen[name].max():.1f} %"


FACTS: dict[str, Callable[..., Number | str]] = {
    "accuracy": _of_curve("accuracy"),
    "ratio": _of_curve("ratio"),
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
}
"""Facts by name: their arguments are those of the functions, after the first."""
