"""Views of features themselves: spectra, similarity, geometry, universality, worth, retrieval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

import pandas as pd

from featstore.probe.results.views import Column, View


def spectrum(table: pd.DataFrame) -> View:
    """Lay out spectra, a row a layer; `table` has the numbers of `layer_spectrum` and `name`."""
    columns = {
        "features": ("features", "count"),
        "effective_rank": ("eff.\nrank", "tenths"),
        "participation_ratio": ("part.\nratio", "tenths"),
        "components_90": ("for\n90 %", "count"),
        "components_99": ("for\n99 %", "count"),
        "mean_abs_correlation": ("mean\n|corr.|", "score"),
        "dead": ("dead", "count"),
        "duplicates": ("dupl.", "count"),
        "isoscore": ("iso\nscore", "hundredths"),
        "outliers": ("outliers", "count"),
    }
    # tables of before have fewer
    columns = {name: each for name, each in columns.items() if name in table}
    of_layers = [Column(title, kind, table[name]) for name, (title, kind) in columns.items()]
    return View([Column("layer", "text", table["name"]), *of_layers])


def geometry(table: pd.DataFrame, title: str) -> View:
    """Lay out dimensions of the subsets of one layer, a row a fraction.

    Arguments:
        table: rows of one layer, as `featstore.probe.geometry.geometry_table` gives them.
        title: of the view.
    """
    rows = table.groupby(["fraction", "k"]).mean(numeric_only=True).reset_index()
    spread = table.groupby(["fraction", "k"])[["two_nn", "likelihood"]].std().reset_index()
    columns = [
        Column("fraction", "share", rows["fraction"]),
        Column("features", "count", rows["k"]),
        Column("TwoNN", "tenths", rows["two_nn"], spread["two_nn"]),
        Column("likelihood", "tenths", rows["likelihood"], spread["likelihood"]),
        Column("eff. rank", "tenths", rows["effective_rank"]),
        Column("IsoScore", "hundredths", rows["isoscore"]),
        Column("mutual", "score", rows["mutual"]),
    ]
    return View(columns, title)


def likeness(table: pd.DataFrame) -> View:
    """Lay out pairs of layers: CKA with its null, and the neighbours that they share."""
    columns = [
        Column("layers", "text", table["name"] + " and " + table["other"]),
        Column("CKA", "score", table["cka"]),
        Column("by chance", "score", table["expected"]),
        Column("calibrated", "score", table["calibrated"]),
        Column("p", "score", table["p"]),
        Column("mutual", "score", table["mutual"]),
        Column("by chance", "score", table["chance"]),
    ]
    if "procrustes" in table:  # which tables of before it was there have not
        columns.insert(5, Column("Procrustes", "score", table["procrustes"]))
    return View(columns, "pairs of layers")


def similarity(to_full: pd.DataFrame, pairs: pd.DataFrame, title: str) -> View:
    """Lay out CKA of the subsets of one layer, with it and with each other, a row a fraction."""
    whole = to_full.groupby(["fraction", "k"])["cka"].agg(["mean", "std", "count"]).reset_index()
    other = pairs.groupby("fraction")["cka"].agg(["mean", "std", "count"])
    other = other.reindex(whole["fraction"])
    columns = [
        Column("fraction", "share", whole["fraction"]),
        Column("features", "count", whole["k"]),
        Column("with the whole", "score", whole["mean"], whole["std"]),
        Column("seeds", "count", whole["count"]),
        Column("with each other", "score", other["mean"], other["std"]),
        Column("pairs", "count", other["count"].fillna(0)),
    ]
    return View(columns, title)


def similarity_of_layers(table: pd.DataFrame, title: str) -> View:
    """Lay out the CKA of each layer with each other one, both numbered."""
    names = [f"{place} {name}" for place, name in enumerate(table.index, 1)]
    values = table.to_numpy().T
    columns = [Column(str(n), "hundredths", each) for n, each in enumerate(values, 1)]
    return View([Column("layer", "text", names), *columns], title)


def of_layers(matrix: pd.DataFrame) -> str:
    """Say which two of several layers are most alike, and which two least.

    >>> matrix = pd.DataFrame([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]], [*"abc"], [*"abc"])
    >>> of_layers(matrix)
    'Of 3 layers, a and b are most alike (CKA 0.900), a and c least (0.200).'
    """
    cells = [
        (matrix.iat[i, j], matrix.index[i], matrix.columns[j])
        for i, j in combinations(range(len(matrix)), 2)
        if not math.isnan(matrix.iat[i, j])
    ]
    if not cells:
        return "No two of the layers that were compared change at all."
    (most, a, b), (least, c, d) = max(cells), min(cells)
    if len(cells) == 1:
        return f"{a} and {b} have a CKA of {most:.3f}."
    return (
        f"Of {len(matrix)} layers, {a} and {b} are most alike (CKA {most:.3f}), {c} and {d} least "
        f"({least:.3f})."
    )


def attribution(table: pd.DataFrame, title: str, most: int) -> View:
    """Lay out the features that are worth most, by Shapley value or by the loss without them."""
    values = "shapley" in table
    top = table.sort_values("shapley" if values else "loss_change", ascending=False).head(most)
    columns = [
        Column("feature", "text", top["feature"], right=True),
        Column("change without it, points", "gain", top["change"], ends=(top["low"], top["high"])),
        Column("alone", "score", top["solo"]),
    ]
    if values:
        error = top["shapley_standard_error"]
        columns.insert(1, Column("Shapley", "loss", top["shapley"], error))
    return View(columns, title)


def retrieval(curve: pd.DataFrame, title: str) -> View:
    """Lay out a measure of retrieval of one mode, and the agreement with all features' ranking.

    Arguments:
        curve: rows of `featstore.probe.retrieval.Retrieved.curves`.
        title: of the view.
    """
    measure, cutoff = measure_of(curve), int(curve["cutoff"].iloc[0])
    part = curve["fraction"] < 1  # all features are all of themselves
    ratios = curve["ratio_low"].where(part), curve["ratio_high"]
    ends = curve[f"{measure}_low"], curve[f"{measure}_high"]
    columns = [
        Column("fraction", "share", curve["fraction"]),
        Column("dim.", "count", curve["k"]),
        Column(measure_name(measure, cutoff), "score", curve[measure], ends=ends),
        Column("of all", "kept", curve["ratio"], ends=ratios),
        Column(measure_name("overlap", cutoff), "score", curve["overlap"]),
        Column("Spearman", "score", curve["spearman"]),
    ]
    return View(columns, title)


def measure_of(curve: pd.DataFrame) -> str:
    """Return the measure that a table of retrieval has intervals of."""
    ends = [name.removesuffix("_low") for name in curve if name.endswith("_low")]
    (measure,) = (name for name in ends if name != "ratio")
    return measure


def measure_name(measure: str, cutoff: int) -> str:
    """Return what a measure of retrieval is called.

    >>> measure_name("ndcg", 10), measure_name("map", 10), measure_name("overlap", 5)
    ('nDCG@10', 'mAP', 'overlap@5')
    """
    names = {"map": "mAP", "ndcg": "nDCG", "mrr": "MRR", "spearman": "Spearman"}
    at = f"@{cutoff}" if measure in ("recall", "precision", "ndcg", "overlap") else ""
    return names.get(measure, measure) + at


def universality(table: pd.DataFrame, title: str, most: int) -> View:
    """Lay out the features of a layer that another layer predicts best.

    Arguments:
        table: of one pair, as `featstore.probe.geometry.universality` gives it.
        title: of the view.
        most: how many features to show.
    """
    top = table.sort_values("rank", kind="stable").head(most)
    columns = [
        Column("feature", "text", top["feature"], right=True),
        Column("R²", "score", top["r2"]),
    ]
    return View(columns, title)


def predicted(table: pd.DataFrame, title: str) -> View:
    """Lay out how well layers predict the features of another one, a row a pair of layers.

    Arguments:
        table: as `featstore.probe.geometry.universality` gives it, with the columns `name` and
            `other`.
        title: of the view.
    """
    rows = table.groupby(["name", "other"], sort=False)["r2"]
    pairs = [" from ".join(pair) for pair, _ in rows]
    columns = [
        Column("layers", "text", pairs),
        Column("features", "count", rows.size()),
        Column("median R²", "score", rows.median()),
        Column("with R² > 0.5", "count", rows.agg(lambda r2: (r2 > 0.5).sum())),
        Column("best", "score", rows.max()),
    ]
    return View(columns, title)


def agreement(table: pd.DataFrame, title: str) -> View:
    """Lay out how far the same features are worth the same to two tasks.

    Arguments:
        table: as `featstore.probe.attribution.agreement` gives it.
        title: of the view.
    """
    columns = [
        Column("tasks", "text", table["name"] + " and " + table["other"]),
        Column("features", "count", table["features"]),
        Column("Spearman's rho", "hundredths", table["rho"], ends=(table["low"], table["high"])),
    ]
    return View(columns, title)


def stacked(views: Sequence[View], heading: str = "layer") -> View:
    """Return views of the same columns as one, their titles in a column before the others.

    >>> one = View([Column("a", "count", [1, 2], spread=[0, 1])], "x")
    >>> other = View([Column("a", "count", [3], spread=[None])], "y")
    >>> stacked([one, other]).rows()
    [('x', '1 ± 0'), ('x', '2 ± 1'), ('y', '3')]
    """

    def joined(parts: Sequence) -> list | None:
        return None if None in map(type, parts) or parts[0] is None else list(chain(*parts))

    names = [view.title for view in views for _ in view.rows()]
    columns = [Column(heading, "text", names)]
    for same in zip(*(view.columns for view in views), strict=True):
        ends = [column.ends for column in same]
        columns.append(
            replace(
                same[0],
                values=list(chain(*(column.values for column in same))),
                spread=joined([column.spread for column in same]),
                ends=None
                if ends[0] is None
                else tuple(joined(end) for end in zip(*ends, strict=True)),
                bounds=joined([column.bounds for column in same]),
            )
        )
    return View(columns)


MOST_FEATURES = 5
"""Features of each layer in a table of several layers."""


@dataclass(frozen=True)
class Analysis:
    """An analysis of layers, wherever its table is shown.

    Attributes:
        title: what stands above it.
        view: lays out a table with a column `name` of layers.
        note: what the numbers are.
    """

    title: str
    view: Callable[[pd.DataFrame], View]
    note: str


def _of_layers(lay_out: Callable[[pd.DataFrame, str], View], *keys: str):
    """Return what lays out a table of several layers, or of each of these keys, as one view."""

    def view(table: pd.DataFrame) -> View:
        groups = table.groupby(["name", *keys], sort=False)
        return stacked([lay_out(rows, ", ".join(map(str, name))) for name, rows in groups])

    return view


ANALYSES = {
    "spectrum": Analysis(
        "Why: spectra",
        spectrum,
        "Eigenvalues of the correlations of train rows, as probes see them.",
    ),
    "geometry": Analysis(
        "In how many dimensions rows lie",
        _of_layers(geometry),
        "Intrinsic dimension by TwoNN and by maximum likelihood, of random features and of all: "
        "mean ± one standard deviation over seeds; mutual: the share of nearest rows that a part "
        "has in common with its layer.",
    ),
    "likeness": Analysis(
        "What layers have in common",
        likeness,
        "Linear CKA with what it is of shuffled rows, the calibrated value and its p; Procrustes: "
        "how near a rotation brings them, 1 for all the way; mutual: the share of nearest rows "
        "that both layers have in common.",
    ),
    "universality": Analysis(
        "Which features another layer predicts",
        lambda table: predicted(table, ""),
        "R² on test rows of ridge regression of each feature on all features of the other layer.",
    ),
    "attribution": Analysis(
        "What features are worth",
        _of_layers(lambda rows, name: attribution(rows, name, MOST_FEATURES)),
        f"The {MOST_FEATURES} features of each layer that are worth most to a probe of all, with "
        "simultaneous intervals of what accuracy loses without one.",
    ),
    "agreement": Analysis(
        "Are the same features good for several tasks",
        lambda table: agreement(table, ""),
        "Rank correlation, over features, of what they are worth; intervals are over features.",
    ),
    "retrieval": Analysis(
        "What fewer dimensions find",
        _of_layers(retrieval, "mode"),
        "Rows of the corpus ranked by similarity for each query; intervals are over seeds and "
        "queries. Overlap and Spearman: agreement with the ranking by all features.",
    ),
}
"""Analyses of layers by name, in the order in which pages have them."""

OF_PAIRS = ("likeness", "agreement")
"""Those of pairs of layers, whose tables have the columns `name` and `other`."""
