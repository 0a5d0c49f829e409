"""Our number beside the published one, and how many standard errors lie between them.

The published numbers are means over seeds; how they spread is known for few of them. The standard
error of a difference takes what is known of both sides, and the column `spread` says what that is:

    error = sqrt(s_ours^2 / n_ours + s_theirs^2 / n_theirs)

Both sides scored the same test images, so that these do not enter. Deviations are of samples, with
divisor n - 1; published ones with divisor n are made so.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from studies.errors import UsageError
from studies.facts import Facts
from studies.sheets import NOTHING, markdown

HEADINGS = ("features", "probe", "", "ours", "published", "difference", "standard errors", "of")


def standard_errors(
    ours: float, std: float, seeds: int, theirs: float, their_std: float, their_seeds: int
) -> tuple[float, float, str]:
    """Return the difference, its standard error, and whose spread that holds.

    A spread of NaN, or of a single seed, is not known.

    >>> standard_errors(78.0, 3.0, 9, 77.0, 4.0, 4)[1:]
    (2.23606797749979, 'both')
    >>> standard_errors(78.0, 3.0, 9, 77.0, float("nan"), 5)
    (1.0, 1.0, 'ours')
    >>> standard_errors(78.0, float("nan"), 1, 77.0, float("nan"), 5)[2]
    'none'
    """
    parts = [
        std**2 / seeds if seeds > 1 and not math.isnan(std) else None,
        their_std**2 / their_seeds if not math.isnan(their_std) else None,
    ]
    known = [part for part in parts if part is not None]
    whose = ("both" if all(part is not None for part in parts) else
             "ours" if parts[0] is not None else "theirs" if known else "none")  # fmt: skip
    error = math.sqrt(sum(known)) if known else float("nan")
    return ours - theirs, error, whose


def accuracies(facts: Facts, published: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each published accuracy and each probe of random features at its fraction.

    `k` is the number of features; accuracies are in per cent, differences in points.
    """
    table, rows = facts.table("accuracy"), []
    for model, data, fraction, theirs in of_accuracies(published):
        name = f"{published['models'][model]}-{data}"
        their_std = published["seed_std_percent"].get(model, {}).get(data, {})
        for _, row in _at(table, name, fraction).iterrows():
            # the whole layer is the same for every seed unless each starts elsewhere
            drawn = fraction < 1 or row["accuracy_std"] > 0
            std = 100 * row["accuracy_std"] if drawn else float("nan")
            ours, seeds = 100 * row["accuracy"], int(row["probes"])
            their_seeds = seeds_behind(published, model, data, fraction)
            spread = float(their_std.get(f"{fraction:g}", "nan"))
            if published.get("seed_std_divisor") == "n" and their_seeds > 1:
                spread *= math.sqrt(their_seeds / (their_seeds - 1))
            facts_of = {"store": name, "probe": row["probe"], "fraction": fraction, "k": row["k"]}
            facts_of |= {"ours": ours, "std": std, "seeds": seeds}
            facts_of |= {"published": theirs, "published_std": spread}
            facts_of |= {"published_seeds": their_seeds}
            rows.append(facts_of | _gap(ours, std, seeds, theirs, spread, their_seeds))
    return pd.DataFrame(rows)


def seeds_behind(published: Mapping[str, Any], model: str, data: str, fraction: float) -> int:
    """Return the number of seeds that a published mean is over.

    `published["seeds"]` is a number, or a table by model, data set and fraction in this order, of
    which any may end in a number; "else" stands for all that are not named.

    >>> known = {"seeds": {"vit": {"cifar10": {"0.9": 8, "1": 1, "else": 9}, "else": 10}}}
    >>> seeds_behind(known, "vit", "cifar10", 0.9), seeds_behind(known, "vit", "cifar10", 0.5)
    (8, 9)
    >>> seeds_behind(known, "vit", "pets", 0.5), seeds_behind({"seeds": 5}, "vit", "pets", 0.5)
    (10, 5)
    """
    found = published["seeds"]
    for key in (model, data, f"{fraction:g}"):
        if isinstance(found, Mapping):
            found = found[key] if key in found else found["else"]
    return int(found)


def of_accuracies(published: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Yield (model, data set, fraction, per cent) of every published accuracy."""
    for model, known in published["accuracy_percent"].items():
        for data, values in known.items():
            if data not in ("D", "fractions", "k"):
                for fraction, value in zip(known["fractions"], values, strict=True):
                    yield model, data, fraction, value


def redundancies(facts: Facts, published: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each published DR, by its rule, and each probe of random features."""
    known, rows = published["diffused_redundancy"], []
    table = facts.table("redundancy")
    for rule in ("nearest", "threshold"):
        for model, by_data in known[rule].items():
            for data, theirs in by_data.items():
                name = f"{published['models'][model]}-{data}"
                if table.empty:
                    continue
                chosen = table[(table["store"] == name) & (table["mode"] == "random")]
                chosen = chosen[
                    (chosen["rule"] == rule) & np.isclose(chosen["delta"], known["delta"])
                ]
                for _, row in chosen.iterrows():
                    rows.append({
                        "store": name, "probe": row["probe"], "rule": rule, "delta": row["delta"],
                        "ours": row["redundancy"], "low": row["low"], "high": row["high"],
                        "published": theirs, "difference": row["redundancy"] - theirs,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def similarities(facts: Facts, published: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each published CKA: of subsets of two seeds, and of a subset and the layer.

    Ours are means over pairs of seeds, or over seeds; pairs share seeds, so that the error of their
    mean takes the number of seeds and not of pairs.
    """
    known, rows = published["cka"], []
    for kind, table, key in (("pairs", "cka_pairs", "fraction"), ("full", "cka", "k")):
        for model, places, theirs in _similar(known[kind]):
            name = f"{published['models'][model]}-{known['dataset']}"
            found = facts.table(f"features/{table}")
            for place, value in zip(places, theirs, strict=True):
                if found.empty:
                    continue
                chosen = found[(found["store"] == name) & np.isclose(found[key], place)]
                if len(chosen):
                    seeds = chosen["seed"].nunique() + (kind == "pairs")
                    ours, std = chosen["cka"].mean(), chosen["cka"].std()
                    facts_of = {"store": name, "what": kind, key: place, "ours": ours, "std": std}
                    gap = _gap(ours, std, seeds, value, float("nan"), 1)
                    rows.append(facts_of | {"seeds": seeds, "published": value} | gap)
    return pd.DataFrame(rows)


def _similar(known: Mapping[str, Any]) -> Iterator[tuple[str, list, list]]:
    places = known.get("fractions") or known["k"]
    for model, values in known.items():
        if model not in ("fractions", "k"):
            yield model, places, values


def _gap(
    ours: float, std: float, seeds: int, theirs: float, their_std: float, their_seeds: int
) -> dict[str, Any]:
    gap, error, whose = standard_errors(ours, std, seeds, theirs, their_std, their_seeds)
    in_errors = gap / error if error > 0 else float("nan")
    return {"difference": gap, "error": error, "errors": in_errors, "spread": whose}


def _at(table: pd.DataFrame, name: str, fraction: float) -> pd.DataFrame:
    if table.empty:
        return table
    chosen = (table["store"] == name) & (table["mode"] == "random")
    return table[chosen & np.isclose(table["fraction"], fraction)]


TABLES = {
    "beside": accuracies,
    "beside_redundancy": redundancies,
    "beside_cka": similarities,
}
"""Tables of published numbers by name."""


def sheet(facts: Facts, published: Mapping[str, Any], name: str) -> str:
    """Return a table of `TABLES` as markdown."""
    table = TABLES[name](facts, published)
    if table.empty:
        return NOTHING
    digits = 1 if name == "beside" else 2
    rows = [_cells(row, digits) for _, row in table.iterrows()]
    return markdown(HEADINGS, rows, 3)


def _cells(row: pd.Series, digits: int) -> list[str]:
    place = (
        f"{row['rule']}, DR({row['delta']:g})" if "rule" in row
        else f"{row['what']}, " + (f"k = {row['k']:g}" if pd.notna(row.get("k")) else
                                   f"{100 * row['fraction']:g} %") if "what" in row
        else f"{100 * row['fraction']:g} %, k = {row['k']:,}"
    )  # fmt: skip

    def spread(value: str, std: str) -> str:
        known = f" ± {row[std]:.{digits}f}" if std in row and pd.notna(row[std]) else ""
        return f"{row[value]:.{digits}f}{known}"

    errors = f"{row['errors']:+.1f}" if pd.notna(row.get("errors")) else ""
    return [
        row["store"], row.get("probe", ""), place, spread("ours", "std"),
        spread("published", "published_std"), f"{row['difference']:+.{digits}f}", errors,
        row.get("spread", ""),
    ]  # fmt: skip


def check(published: Mapping[str, Any]) -> None:
    """Raise UsageError unless a file of published numbers has the parts that are read here."""
    for key in ("seeds", "models", "accuracy_percent", "seed_std_percent", "diffused_redundancy",
                "cka"):  # fmt: skip
        if key not in published:
            raise UsageError(f"the published numbers have no {key!r}: see studies/published.json")
