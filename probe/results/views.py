"""Views of a result: lists of columns, and their writers for terminal, notebook and page."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.errors import line, visible
from featstore.probe.results import (
    CURVE,
    Evidence,
    Probes,
    as_curves,
    curves_of,
    percent,
    score_name,
    score_of,
    shared_and_own,
)
from featstore.probe.results.curves import curve_table, curves, has_groups
from featstore.probe.results.intervals import over_of
from featstore.probe.results.sentences import LEAST, warnings


def with_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column `ratio`: each probe's accuracy over its own seed's full layer.

    Where numbers are predicted, R^2 stands for accuracy, here and below; and so does the score
    that a table is summed up by (`featstore.probe.results.scored_by`).

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it, with the columns `CURVE`,
            `seed`, `fraction`, `k`, `accuracy` (in [0, 1]).

    Returns:
        A copy of the probes that were run with `ratio` float64; NaN where that seed has no row of
        fraction 1, or where the full layer is within noise of what takes no feature.
    """
    table = as_curves(table).reset_index(drop=True)
    ratio = np.full(len(table), np.nan)
    for curve in curves(table):
        known = curve.places >= 0
        ratio[curve.places[known]] = curve.ratios()[known]
    return table.assign(ratio=ratio)


def summary(table: Probes, correct: Evidence = None, level: float = 0.95) -> pd.DataFrame:
    """Condense one row a probe into one row a fraction: mean, spread over seeds, interval.

    Args:
        table: a `ProbeResult`, or one row a probe, as `to_pandas` gives it.
        correct: which test rows each probe has right, by default the result's own: intervals are
            then over test rows too.
        level: coverage of each interval.

    Returns:
        The columns of `featstore.probe.results.curves.curve_table`: `CURVE`, `fraction`, `k`,
        `probes` (how many stand
        behind the row: the full layer, which no seed changes, is one), and of accuracy (or R^2) and
        of the ratio the mean, `_std` (sample, over seeds), `_low` and `_high`; `corrected`, the
        ratio of what both have over chance, with its ends; curves in the order in which the table
        first has them, fractions rising.

    >>> row = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}
    >>> probes = [(1, 0.1, 2, 0.6), (2, 0.1, 2, 0.7), (1, 1.0, 20, 0.8), (2, 1.0, 20, 0.8)]
    >>> keys = ["seed", "fraction", "k", "accuracy"]
    >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
    >>> summary(table)[["fraction", "probes", "accuracy", "accuracy_std", "ratio"]].round(4)
       fraction  probes  accuracy  accuracy_std   ratio
    0       0.1       2      0.65        0.0707  0.8125
    1       1.0       1      0.80           NaN  1.0000
    """
    return curve_table(table, correct, level)


MOST_ROWS = 30
"""Fractions of a curve up to which all are shown."""

_MOST_NAMED = 8
"""Curves, and fractions of each, of which a note says what is kept over chance."""

_ROUND = [m * 10.0**e for e in range(-7, 0) for m in (1, 2, 5)] + [1.0]


@dataclass(frozen=True)
class _Kind:
    """Format of a number: it is multiplied by `scale` and gets a unit."""

    form: str
    scale: float = 1
    unit: str = ""

    def text(self, value: Any, unit: bool = True) -> str:
        """Write one number."""
        written = format(value * self.scale if self.scale != 1 else value, self.form)
        return written + (self.unit if unit else "")


KINDS = {
    "count": _Kind(",.0f"),
    "share": _Kind(".4g", 100, " %"),
    "score": _Kind(".3f"),
    "change": _Kind("+.3f"),
    "kept": _Kind(".1f", 100, " %"),
    "per cent": _Kind(".1f", 100),
    "points": _Kind("+z.1f", 100),
    "hundredths": _Kind(".2f"),
    "tenths": _Kind(",.1f"),
    "loss": _Kind(".4f"),
    "gain": _Kind(".2f", 100),
}
"""Kinds of numbers by name; a column of the kind "text" holds texts."""


@dataclass(frozen=True)
class Column:
    """One column of a view.

    Attributes:
        title: what stands above it.
        kind: "text", one of `KINDS`, or of a page's script "number" or "id".
        values: a value a row.
        spread: ± of each value, or None.
        ends: low and high of each value, written in place of the spread, or None.
        bounds: "at least", or nothing, of each value, or None. A bound has no interval on a screen.
        missing: what stands for a value that is not known.
        right: whether texts are aligned to the right, as numbers are.
    """

    title: str
    kind: str
    values: Iterable[Any]
    spread: Iterable[Any] | None = None
    ends: tuple[Iterable[Any], Iterable[Any]] | None = None
    bounds: Iterable[Any] | None = None
    missing: str = "-"
    right: bool = False

    @property
    def numeric(self) -> bool:
        """True for a column that is aligned to the right."""
        return self.right or self.kind != "text"

    def cells(self, brackets: str = " [{}, {}]") -> list[str]:
        """Write each value, with its interval in such brackets, else with its spread.

        >>> Column("a", "kept", [0.861, 0.5], ends=([0.85, math.nan], [0.87, 1])).cells()
        ['86.1 % [85.0, 87.0]', '50.0 %']
        >>> Column("a", "score", [0.5, None], spread=[0.01, 0.02], missing="").cells()
        ['0.500 ± 0.010', '']
        """
        if self.kind == "text":
            return ["" if pd.isna(value) else line(value) for value in self.values]
        kind, values = KINDS[self.kind], list(self.values)
        none = [math.nan] * len(values)
        lows, highs = map(list, self.ends or (none, none))
        spreads = none if self.spread is None else list(self.spread)
        bounds = none if self.bounds is None else list(self.bounds)
        written = []
        for value, low, high, std, bound in zip(values, lows, highs, spreads, bounds, strict=True):
            if pd.isna(value):
                written.append(self.missing)
                continue
            bound = bound if isinstance(bound, str) else ""
            interval = not (pd.isna(low) or pd.isna(high) or (bound and low >= high))
            text = kind.text(value, interval or pd.isna(std))
            if interval:
                text += brackets.format(kind.text(low, False), kind.text(high, False))
            elif not pd.isna(std):
                text += f" ± {abs(std * kind.scale):{kind.form.lstrip('+z,')}}{kind.unit}"
            written.append(f"{bound} {text}" if bound else text)
        return written


@dataclass(frozen=True)
class View:
    """A table that is laid out, for any of the writers.

    Attributes:
        columns: from left to right; where a screen is narrow the last are left out.
        title: what stands above it; empty for nothing.
    """

    columns: Sequence[Column]
    title: str = ""

    def rows(self, brackets: str = " [{}, {}]") -> list[tuple[str, ...]]:
        """Return a cell a column, for each row."""
        return list(zip(*(column.cells(brackets) for column in self.columns), strict=True))


NOTHING = "*Nothing of this has been made yet.*"


def as_markdown(view: View) -> str:
    r"""Return a table of markdown, names to the left and numbers to the right.

    >>> print(as_markdown(View([Column("a", "text", ["x|y"]), Column("b", "count", [1])])))
    | a | b |
    |:--|--:|
    | x\|y | 1 |
    """
    rows = view.rows(" ({} to {})")
    if not rows:
        return NOTHING
    lines = [[line(column.title) for column in view.columns], *rows]
    shown = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    rule = "|".join("--:" if column.numeric else ":--" for column in view.columns)
    return "\n".join([shown[0], f"|{rule}|", *shown[1:]])


DIGITS = 7


def as_json(view: View) -> dict[str, Any]:
    """Return a table for a script; texts as their distinct values and places in them."""
    return {"columns": [_json_column(column) for column in view.columns]}


def _json_column(column: Column) -> dict[str, Any]:
    held: dict[str, Any] = {"title": column.title, "kind": column.kind}
    if column.kind == "text":
        codes, levels = pd.factorize(pd.Series(column.values, dtype=object).fillna("").astype(str))
        return held | {"levels": levels.tolist(), "codes": codes.tolist()}
    held["values"] = numbers(column.values)
    if column.spread is not None:
        held["spread"] = numbers(column.spread)
    if column.ends is not None:
        held["low"], held["high"] = map(numbers, column.ends)
    return held


def numbers(values: Iterable[Any]) -> list[float | int | None]:
    """Return numbers for JSON: seven digits, None for what is not known or not finite.

    >>> numbers([1 / 3, float("nan"), 3, float("inf"), pd.NA])
    [0.3333333, None, 3, None, None]
    """
    return [number(value) for value in values]


def number(value: Any) -> float | int | None:
    """Return one number as `numbers` does."""
    if value is None or value is pd.NA or not math.isfinite(value):
        return None
    if float(value).is_integer() and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True)
class _Printed:
    """A sweep as text.

    Attributes:
        store: what was probed, where all curves have one store, else empty.
        shared: what else all curves have in common.
        views: a curve each, under what sets it apart from the others. Where modes alone differ,
            all end in the same whole layer, which then comes once, without a title.
        notes: lines to stand below.
    """

    store: str
    shared: str
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()


def printed(table: pd.DataFrame, correct: Evidence = None, level: float = 0.95) -> _Printed:
    """Return the mean accuracy with its interval, and its share of the full layer's, as text.

    Of a curve of more than `MOST_ROWS` fractions those nearest to 1, 2, 5, 10 ... per cent are
    shown.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
        level: coverage of each interval.

    Example:
        >>> row = {"store": "s", "tap": "t", "solver": "ridge", "l2": 1e-3, "seed": 1}
        >>> row |= {"n_test": 90, "chance": 0.1, "majority": 0.12}
        >>> probes = [("pca", 0.1, 2, 0.6), ("pca", 1.0, 20, 0.8), ("random", 0.1, 2, 0.4),
        ...           ("random", 1.0, 20, 0.8)]
        >>> keys = ["mode", "fraction", "k", "accuracy"]
        >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
        >>> shown = printed(table)
        >>> shown.shared, [view.title for view in shown.views]
        ('t, ridge, l2 = 0.001', ['pca', 'random', ''])
        >>> shown.views[0].rows()
        [('10 %', '2', '0.600', '75.0 %', '1')]
        >>> for note in shown.notes:
        ...     print(note)
        without features: chance 0.100, commonest class 0.120 of 90 test rows
        pca: of what the full layer has over chance: 71.4 % at 10 %
        random: of what the full layer has over chance: 42.9 % at 10 %
    """
    every = curve_table(table, correct, level)
    curves = curves_of(every)
    keys = [key for key in CURVE if key != "store" or curves[0]["store"].iloc[0]]
    shared, own = shared_and_own(curves, keys)
    one_store = len({curve["store"].iloc[0] for curve in curves}) == 1 and "store" in keys
    store = shared.pop(0) if one_store else ""
    score = score_of(table)
    curves = [_some_fractions(curve) for curve in curves]
    if _same_whole(curves, score):
        curves, own = [*(curve.iloc[:-1] for curve in curves), curves[0].tail(1)], [*own, ""]
    views = (_of_curve(curve, name, score) for name, curve in zip(own, curves, strict=True))
    notes = tuple(_notes(table, every, level))
    return _Printed(store, ", ".join(shared), tuple(view for view in views if view.rows()), notes)


def _of_curve(rows: pd.DataFrame, name: str, score: str) -> View:
    part = (rows["fraction"] != 1) | (rows["ratio"] != 1)  # the full layer is all of itself
    ratios = rows["ratio_low"].where(part), rows["ratio_high"]
    scores = rows[f"{score}_low"], rows[f"{score}_high"]
    columns = [
        Column("fraction", "share", rows["fraction"]),
        Column("features", "count", rows["k"]),
        Column(f"test {score_name(score)}", "score", rows[score], ends=scores),
        Column("of the full layer", "kept", rows["ratio"], ends=ratios),
        Column("probes", "count", rows["probes"]),
    ]
    return View(columns, name)


def _notes(table: pd.DataFrame, rows: pd.DataFrame, level: float) -> Iterator[str]:
    """Yield what is to be known of the numbers: what intervals are over, what needs no feature."""
    over = over_of(rows)
    if over:
        yield f"[low, high]: {percent(level)} intervals over {over}"
    yield from without_features(table)
    yield from over_chance(rows)


def over_chance(rows: pd.DataFrame) -> Iterator[str]:
    """Yield for each curve what its parts keep of what the full layer has over chance.

    Where chance is nothing, as of R^2, that is what they keep. Of many curves nothing is said,
    since their tables have it.

    Arguments:
        rows: as `curve_table` gives them.
    """
    curves = [_some_fractions(curve) for curve in curves_of(rows)]
    if len(curves) > _MOST_NAMED:
        return
    for name, curve in zip(shared_and_own(curves)[1], curves, strict=True):
        other = curve["corrected"].notna() & (curve["corrected"] != curve["ratio"])
        known = curve[other & (curve["fraction"] < 1)].tail(_MOST_NAMED)
        kept = zip(known["fraction"], known["corrected"], strict=True)
        each = ", ".join(f"{100 * share:.1f} % at {percent(part)}" for part, share in kept)
        if each:
            yield f"{f'{name}: ' if name else ''}of what the full layer has over chance: {each}"


def without_features(table: pd.DataFrame) -> Iterator[str]:
    """Yield what is reached without any feature, where it is the same for all probes."""
    without = table[[n for n in ("chance", "majority", "n_test") if n in table]].drop_duplicates()
    without = without.dropna()
    if len(without) == 1 and without.shape[1] == 3:
        one = without.iloc[0]
        yield (
            f"without features: chance {one.chance:.3f}, commonest class {one.majority:.3f} of "
            f"{int(one.n_test):,} test rows"
            + (f" of {int(table['n_groups'].max()):,} groups" if has_groups(table) else "")
            + (f" in {int(table['folds'].max())} folds" if "folds" in table else "")
        )


def _some_fractions(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the rows to show: all, or those nearest to round fractions."""
    if len(curve) <= MOST_ROWS:
        return curve
    logs = np.log(curve["fraction"].to_numpy(np.float64))
    wanted = [np.log(f) for f in _ROUND if np.log(f) >= logs[0]]
    return curve.iloc[sorted({int(np.abs(logs - f).argmin()) for f in wanted})]


def _same_whole(curves: list[pd.DataFrame], score: str) -> bool:
    """Return whether curves differ in their modes alone and end in one whole layer."""
    others = [key for key in CURVE if key != "mode"]
    firsts = pd.concat([curve[others].head(1) for curve in curves])
    ends = pd.concat([curve.tail(1) for curve in curves])
    # means of one number by how many seeds may differ in their last bit
    whole = ends[["fraction", "k", score]].round({score: 12}).drop_duplicates()
    alike = len(curves) > 1 and len(firsts.drop_duplicates()) == len(whole) == 1
    return bool(alike and whole["fraction"].iloc[0] == 1)


def inequality(curve: pd.DataFrame, title: str) -> View:
    """Lay out the inequality over classes of one curve against fraction."""
    rows = _some_fractions(curve)
    worst = zip(rows["worst_accuracy"], rows["worst_class"], strict=True)
    columns = [
        Column("fraction", "share", rows["fraction"]),
        Column("mean", "score", rows["mean_per_class"]),
        Column("Gini", "score", rows["gini"], rows["gini_std"]),
        Column("of means", "score", rows["gini_of_mean"]),
        Column("CV", "score", rows["cv"]),
        Column("max-min", "score", rows["range"]),
        Column("worst class", "text", [f"{accuracy:.3f} {name}" for accuracy, name in worst]),
    ]
    return View(columns, title)


def losses(curve: pd.DataFrame, name: str = "") -> View:
    """Lay out what classes lose, beyond the mean class where the rows have an `excess`."""
    beyond, part = "excess" in curve, percent(curve["fraction"].iloc[0])
    told, measure = ("beyond the mean class", "excess") if beyond else ("loss", "loss")
    columns = [
        Column("class", "text", curve["class"]),
        Column("all", "score", curve["full"]),
        Column(part, "score", curve["part"]),
        *([Column("loss", "score", curve["loss"])] if beyond else []),
        Column(told, "change", curve[measure], ends=(curve["low"], curve["high"])),
    ]
    return View(columns, f"{name}who loses most at {part}")


def redundancy(curve: pd.DataFrame, title: str) -> View:
    """Lay out the DR of one curve: a row a delta, a column a rule."""
    deltas = curve["delta"].unique()
    columns = [Column("keeping", "share", deltas)]
    for rule, rows in curve.groupby("rule", sort=False):
        at = rows.drop_duplicates("delta").set_index("delta").reindex(deltas)
        # a bound has no interval on a screen
        low = at["low"].where(at["bound"] != LEAST)
        heading = f"DR {'' if rule == 'interpolated' else 'by '}{rule}"
        dr = Column(heading, "score", at["redundancy"], ends=(low, at["high"]), bounds=at["bound"])
        columns.append(dr)
    return View(columns, title)


def layers(table: pd.DataFrame, title: str = "") -> View:
    """Lay out accuracy by layer, a row a layer and a column a fraction, the whole layer first.

    `table` has the rows of one store, mode and solver, as
    `featstore.probe.layers.accuracy_by_layer` gives them.
    """
    score = score_of(table)
    every = table.drop_duplicates("layer").sort_values("layer")
    columns = [Column("layer", "text", every["tap"]), Column("features", "count", _widest(table))]
    for fraction in sorted(table["fraction"].unique(), reverse=True):
        rows = table[table["fraction"] == fraction].set_index("layer").reindex(every["layer"])
        name = f"all, test {score_name(score)}" if fraction == 1 else percent(fraction)
        ends = rows[f"{score}_low"], rows[f"{score}_high"]
        columns.append(Column(name, "score", rows[score], ends=ends))
    return View(columns, title)


def _widest(table: pd.DataFrame) -> pd.Series:
    """Return the features of each whole layer, in the order of layers."""
    whole = table[table["fraction"] == 1].drop_duplicates("layer").set_index("layer")["k"]
    return whole.reindex(sorted(table["layer"].unique()))


def comparison(table: pd.DataFrame, score: str, delta: float, title: str) -> View:
    """Lay out scores, ratios and redundancies of curves that are compared, a row a curve.

    Intervals of the scores are in the saved table: 80 columns hold two of them.
    """
    part, low = percent(table["fraction"].iloc[0]), table["low"].where(table["bound"] != LEAST)
    dr, ends = table["redundancy"], (low, table["high"])
    ratios = table["ratio_low"], table["ratio_high"]
    columns = [
        Column("curve", "text", table["name"]),
        Column("all", "score", table["full"]),
        Column(f"at {part}", "score", table[score]),
        Column("of full", "kept", table["ratio"], ends=ratios),
        Column(f"DR({delta:g})", "score", dr, ends=ends, bounds=table["bound"]),
    ]
    return View(columns, title)


def ranks(table: pd.DataFrame, score: str, delta: float) -> View:
    """Lay out the ranks of curves by each of these, within a data set where they are of scores."""
    part = percent(table["fraction"].iloc[0])
    columns = [
        Column("curve", "text", table["name"]),
        Column("tested on", "text", table["task"]),
        Column("features", "count", table["features"]),
        Column("all", "count", table["full_rank"]),
        Column(f"at {part}", "count", table[f"{score}_rank"]),
        Column("of full", "count", table["ratio_rank"]),
        Column(f"DR({delta:g})", "count", table["redundancy_rank"]),
    ]
    if table["task"].nunique() == 1:
        columns.pop(1)
    return View(columns, "ranks")


RIGHT, LEFT = ' style="text-align: right"', ' style="text-align: left"'


def as_html(views: Sequence[View], caption: str = "") -> str:
    """Return views of the same columns as one table of HTML, each view under its title.

    Every text is escaped, and all but titles stand at the right.

    Example:
        >>> as_html([View([Column("a", "text", ["1"])], "x < y")], "b")[:59]
        '<table><caption style="text-align: left">b</caption><thead>'
    """
    above = f"<caption{LEFT}>{escape(caption)}</caption>" if caption else ""
    titles = [column.title for column in views[0].columns]
    head = "".join(f'<th scope="col"{RIGHT}>{escape(text)}</th>' for text in titles)
    made = f"<table>{above}<thead><tr>{head}</tr></thead>{''.join(map(_body, views))}</table>"
    return visible(made)


def _body(view: View) -> str:
    name = f'<tr><th colspan="{len(view.columns)}"{LEFT}>{escape(view.title)}</th></tr>'
    rows = (
        "<tr>" + "".join(f"<td{RIGHT}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in view.rows()
    )
    return f"<tbody>{name if view.title else ''}{''.join(rows)}</tbody>"


def sweep_as_html(table: pd.DataFrame, correct: Evidence = None) -> str:
    """Return a sweep as HTML: a row for each fraction of each curve, and what did not go as usual.

    Arguments:
        table: one row a probe. Without scores, as `probe.fit` gives it, it is shown as it is.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
    """
    if score_of(table) not in table or not len(table):
        return visible(table.to_html(max_rows=20, border=0))
    shown = printed(table, correct)
    facts = [shown.store, shown.shared, *_rows_of(table)]
    lines = "".join(f"<p>{escape(note)}</p>" for note in shown.notes)
    lines += "".join(f"<p>Warning: {escape(line)}</p>" for line in warnings(table))
    return as_html(shown.views, ", ".join(filter(None, facts))) + visible(lines)


def _rows_of(table: pd.DataFrame) -> list[str]:
    """Say how many rows the probes were solved and scored on, where it is the same for all."""
    found = []
    for split in ("train", "test"):
        known = table[f"n_{split}"].dropna().unique() if f"n_{split}" in table else []
        if len(known) == 1:
            found.append(f"{int(known[0]):,} {split} rows")
    return found
