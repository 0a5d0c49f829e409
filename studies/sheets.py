"""Tables of a study as markdown, for pages."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pandas as pd

from probe.summaries import percent, plus_minus
from studies.errors import UsageError
from studies.facts import Facts, Number, bound_of
from studies.spec import nearest

NAN = float("nan")
NOTHING = "*Nothing of this has been made yet.*"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    r"""Return a table of markdown, its first `left` columns aligned to the left.

    >>> print(markdown(["a", "b"], [["x|y", "1"]]))
    | a | b |
    |:--|--:|
    | x\|y | 1 |
    """
    lines = [headings, *rows]
    shown = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |"
             for line in lines]  # fmt: skip
    if len(shown) == 1:
        return NOTHING
    rule = "|" + "|".join([":--"] * left + ["--:"] * (len(headings) - left)) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


def _against_fraction(name: str) -> Callable[..., str]:
    def sheet(facts: Facts, probe: str, pattern: str = "*") -> str:
        table = _chosen(facts, "accuracy", probe, pattern)
        numbers = "r2" in table and table["r2"].notna().any()
        score = "r2" if name == "accuracy" and numbers else name
        scale, digits = (1, 3) if score == "r2" else (100, 1)
        fractions = sorted(table["fraction"].unique())
        rows = []
        for (store, mode, l2), curve in table.groupby(["store", "mode", "l2"], sort=False,
                                                      dropna=False):  # fmt: skip
            at = curve.set_index("fraction")
            cells = [_spread(at, f, score, scale, digits) for f in fractions]
            given = "" if math.isnan(l2) else f" (l2 = {l2:g})"
            rows.append([f"{store}{given}", mode, *cells])
        return markdown(["features", "mode", *map(percent, fractions)], rows, 2)

    return sheet


def _spread(at: pd.DataFrame, fraction: float, name: str, scale: float, digits: int) -> str:
    if fraction not in at.index:
        return ""
    row = at.loc[fraction]
    std = float("nan") if fraction == 1 else scale * row[f"{name}_std"]
    return plus_minus(scale * row[name], std, digits)


def _redundancy(facts: Facts, rule: str = "") -> str:
    """Lay out DR by a rule, by default the study's first."""
    table = facts.table("redundancy")
    if table.empty:
        return NOTHING
    table = table[table["rule"] == (rule or table["rule"].iloc[0])]
    deltas = sorted(table["delta"].unique())
    rows = []
    for key, curve in table.groupby(["store", "probe", "mode"], sort=False):
        at = curve.drop_duplicates("delta").set_index("delta")
        rows.append([*key, *(_interval(at.loc[d], "redundancy", 1, 2) for d in deltas)])
    return markdown(["features", "probe", "mode", *(f"DR({d:g})" for d in deltas)], rows, 3)


def _interval(row: pd.Series, name: str, scale: float, digits: int, sign: bool = False) -> str:
    low, high = ("low", "high") if "low" in row else (f"{name}_low", f"{name}_high")
    if pd.isna(row[name]):
        return "not reached"
    bound = bound_of(row)
    return Number(row[name], NAN, row[low], row[high], scale, "", digits, sign, bound).text()


def _similarity(name: str) -> Callable[..., str]:
    def sheet(facts: Facts) -> str:
        table = facts.table(f"features/{name}")
        if table.empty:
            return NOTHING
        rows, fractions = [], sorted(table["fraction"].unique())
        for store, part in table.groupby("store", sort=False):
            by = part.groupby("fraction")["cka"].agg(["mean", "std"])
            cells = [plus_minus(*by.loc[f], 2) if f in by.index else "" for f in fractions]
            rows.append([store, *cells])
        return markdown(["features", *map(percent, fractions)], rows)

    return sheet


def _classes(facts: Facts, count: str = "5") -> str:
    table, rows = facts.table("classes"), []
    if table.empty:
        return NOTHING
    for key, part in table.groupby(["store", "probe", "mode", "fraction"], sort=False):
        part = part.sort_values("loss", ascending=False, kind="stable")
        named = [f"{row['class']} {100 * row['full']:.0f} to {100 * row['part']:.0f}"
                 for _, row in part.head(int(count)).iterrows()]  # fmt: skip
        p = _p_value(facts, key)
        rows.append([*key[:3], percent(key[3]), ", ".join(named), p])
    headings = ["features", "probe", "mode", "kept", "lose most (accuracy, %)", "p"]
    return markdown(headings, rows, 5)


def _p_value(facts: Facts, key: tuple) -> str:
    keys = dict(zip(("store", "probe", "mode", "fraction"), key, strict=True))
    try:
        return f"{facts.row('affected', **keys)['p_value']:.2g}"
    except UsageError:
        return ""


def _inequality(facts: Facts) -> str:
    table, rows = facts.table("inequality"), []
    if table.empty:
        return NOTHING
    for _, row in table.iterrows():
        rows.append([
            row["store"], row["probe"], row["mode"], percent(row["fraction"]),
            plus_minus(row["gini"], row["gini_std"], 3), f"{row['gini_of_mean']:.3f}",
            f"{row['cv']:.3f}", f"{100 * row['worst_accuracy']:.1f} ({row['worst_class']})",
        ])  # fmt: skip
    headings = ["features", "probe", "mode", "kept", "Gini", "of the mean", "cv", "worst class, %"]
    return markdown(headings, rows, 4)


def _spectrum(facts: Facts) -> str:
    table, rows = facts.table("features/spectrum"), []
    for _, row in table.iterrows():
        rows.append([
            row["store"], f"{row['features']:,.0f}", f"{row['effective_rank']:,.0f}",
            f"{row['participation_ratio']:,.1f}", f"{row['components_90']:,.0f}",
            f"{row['components_99']:,.0f}", f"{row['mean_abs_correlation']:.3f}",
            f"{row['dead']:,.0f}", f"{row['duplicates']:,.0f}",
        ])  # fmt: skip
    headings = [
        "features", "D", "effective rank", "participation ratio", "components for 90 %",
        "for 99 %", "mean abs. correlation", "dead", "duplicates",
    ]  # fmt: skip
    return markdown(headings, rows)


def _differences(what: str) -> Callable[..., str]:
    def sheet(facts: Facts, probe: str = "*", pattern: str = "*") -> str:
        table, rows = facts.table("differences"), []
        if table.empty:
            return NOTHING
        table = table[table["what"] == what]
        fractions = sorted(table["fraction"].unique())
        named = "mode" if what == "mode" else "probe"
        for key, part in table.groupby(["store", "probe", "mode", "other"], sort=False):
            if not (fnmatchcase(key[1], probe) and fnmatchcase(key[0], pattern)):
                continue
            at = part.drop_duplicates("fraction").set_index("fraction")
            cells = [_interval(at.loc[f], "difference", 100, 1, True) if f in at.index else ""
                     for f in fractions]  # fmt: skip
            which = f"{key[1] if named == 'probe' else key[2]} - {key[3]}"
            also = key[2] if named == "probe" else key[1]
            rows.append([key[0], also, which, *cells])
        also = "mode" if named == "probe" else "probe"
        return markdown(["features", also, "difference", *map(percent, fractions)], rows, 3)

    return sheet


def _chosen(facts: Facts, name: str, probe: str, pattern: str) -> pd.DataFrame:
    table = facts.table(name)
    if table.empty:
        raise UsageError("no probe of this study has been solved yet")
    known = list(dict.fromkeys(table["probe"]))
    if probe not in known:
        raise UsageError(f"no results of a probe {probe}; {nearest(probe, known)}")
    table = table[table["probe"] == probe]
    return table[[fnmatchcase(store, pattern) for store in table["store"]]]


SHEETS: dict[str, Callable[..., str]] = {
    "accuracy": _against_fraction("accuracy"),
    "ratio": _against_fraction("ratio"),
    "redundancy": _redundancy,
    "cka": _similarity("cka"),
    "cka_pairs": _similarity("cka_pairs"),
    "classes": _classes,
    "inequality": _inequality,
    "spectrum": _spectrum,
    "solvers": _differences("solver"),
    "modes": _differences("mode"),
}
"""Tables by name; their arguments are those of the functions, after the first."""


FILTERS = {
    "features": "store", "probe": "probe", "mode": "mode", "fraction": "fraction",
    "delta": "delta", "other": "other",
}  # fmt: skip
"""Columns by which the rows of a table can be chosen."""


@dataclass(frozen=True)
class Chosen(Facts):
    """Facts whose tables have the rows that patterns choose."""

    filters: Mapping[str, str]

    def table(self, name: str) -> pd.DataFrame:
        """Return the rows of a table for which every filter, if it has that column, holds."""
        rows = super().table(name)
        for key, patterns in self.filters.items():
            if FILTERS[key] in rows:
                words = [word.strip() for word in patterns.split("|")]
                rows = rows[[_matches(value, words) for value in rows[FILTERS[key]]]]
        return rows


def _matches(value: str | float, words: Sequence[str]) -> bool:
    if isinstance(value, str):
        return any(fnmatchcase(value, word) for word in words)
    return any(math.isclose(value, float(word)) for word in words)


def sheet(facts: Facts, name: str, *arguments: str) -> str:
    """Return a table of a study as markdown.

    Arguments:
        facts: the study's numbers.
        name: a key of `SHEETS`.
        arguments: those of that sheet; and filters such as "mode=random|pca", "probe=logistic",
            "features=lite0-*", "fraction=0.1": patterns of the rows to show, `|` between several.

    Raises:
        UsageError: there is no such table, or it does not know what is asked of it.
    """
    if name not in SHEETS:
        raise UsageError(f"there is no table {name!r}; {nearest(name, list(SHEETS))}")
    filters = dict(word.split("=", 1) for word in arguments if "=" in word)
    for key in filters:
        if key not in FILTERS:
            raise UsageError(f"a table has no filter {key!r}; {nearest(key, list(FILTERS))}")
    chosen = Chosen(facts.folder, facts.sources, filters)
    try:
        return SHEETS[name](chosen, *(word for word in arguments if "=" not in word))
    except TypeError as error:
        raise UsageError(f"table {name}: {str(error).partition(' ')[2]}") from None
