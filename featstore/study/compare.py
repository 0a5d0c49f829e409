"""One call over several stores and results: each swept or read, then held against the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

import featstore
from featstore import probe
from featstore.errors import BadStudy, FeatstoreError
from featstore.places import Url
from featstore.probe.arrays import backend as backend_of
from featstore.probe.errors import DataError, nearest
from featstore.probe.memory import Progress, shows, silent
from featstore.probe.modes import Mode
from featstore.probe.plans import Shape, Wanted
from featstore.probe.redundancy import diffused_redundancy
from featstore.probe.results import curves_of, score_of, scored_by, shared_and_own
from featstore.probe.results.curves import Curve, curves as curves_in, difference
from featstore.probe.results.files import SUFFIXES, save_table
from featstore.probe.results.reading import check_distinct, read_correct, read_results
from featstore.probe.results.views import summary
from featstore.probe.solvers import L2, Options
from featstore.probe.solvers.registry import chosen
from featstore.report import provenance
from featstore.store.catalog import safe_name
from featstore.study.feature_tables import Asked, tables_of
from featstore.study.layers import Layer, layers_of
from featstore.study.outside import each_mode, forecasts, resolved
from featstore.study.records import digest
from featstore.study.spec import SWITCHED, Analyses
from featstore.study.sweeps import departures_of, validation_rows

# how far a fraction that was probed may lie from the one that is meant
NEAR = 0.02


@dataclass(frozen=True)
class Comparison:
    """Curves of several layers, models, data sets or modes.

    Attributes:
        probes: every probe, one row each.
        table: a row a curve: `name` (what sets it apart), `CURVE`, `task`, `features` (D),
            `seeds`, `full` (mean score of the whole layer), `fraction`, `k`, `accuracy` (or `r2`)
            and `ratio`, each with `_std`, `_low` and `_high`, `over` (what these intervals are
            over), `full_low` and `full_high`, `redundancy`, `low`, `high`, `bound`; `above_chance`,
            whether the full layer does better than what takes no feature by more than noise; and
            its ranks, 1 the best, of equals the first, none where it does not: by `full` and score
            among the curves of its task, by ratio and redundancy among all.
        agreement: a row for each task of two curves or more: `task`, `curves`, `best_full` and
            `best_part` (names), `full_ties` and `part_ties` (lists of the curves that cannot be
            told apart from these, by the interval of the difference), `tau`, Kendall's, between
            their orders with all features and at the fraction.
        shared: what all curves have in common.
        score: "accuracy", or "r2", or what was asked for.
        correct: of each probe which test rows it has right, None where that is not known.
        features: what else was asked of the stores' layers: by analysis a table with a column
            `name` of layers, as `featstore.probe.results.features.ANALYSES` lays it out.
    """

    probes: pd.DataFrame
    table: pd.DataFrame
    agreement: pd.DataFrame
    shared: list[str]
    score: str
    correct: list[np.ndarray | None]
    features: dict[str, pd.DataFrame]


@shows
def compare(
    places: Sequence[str | Path | Url],
    fractions: Sequence[float] | None = None,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    taps: Sequence[str] = (),
    fraction: float | None = None,
    delta: float = 0.9,
    rule: str = "interpolated",
    level: float = 0.95,
    score: str | None = None,
    also: Sequence[str] = (),
    out_dir: str | Path | None = None,
    test_split: str | None = None,
    solver: str | Options = "logistic",
    l2: L2 = None,
    mode: Mode | Sequence[Mode] = "random",
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> Comparison:
    """Sweep each store, read each results file, and return their curves side by side.

    Arguments:
        places: stores, each with #TAP at its end or without, and results files.
        fractions: to probe stores at.
        seeds: likewise.
        taps: of stores without #TAP, as `layers_of` takes them.
        fraction: where scores and ratios are compared; by default the one nearest 0.1 that every
            curve has.
        delta: share of the full score at which redundancy is read off.
        rule: how, a key of `featstore.probe.redundancy.RULES`.
        level: coverage of the intervals, which are over test rows too where these are known.
        score: what is compared, a metric of classes or a column of the results; by default
            accuracy, or R^2.
        also: analyses of the stores' layers themselves: "spectrum", "geometry", "universality",
            "attribution", "retrieval", with the options that a study has by default.
        out_dir: folder of a results file for each store; what it has is not solved again. What
            was asked for beside goes to `features/NAME.csv` there.
        test_split: which split of the stores is tested on; by default as `Store.test_split`.
        solver: as of `probe.sweep`.
        l2: as of `probe.sweep`.
        mode: as of `probe.sweep`.
        standardize: as of `probe.sweep`.
        memory: as of `probe.sweep`.
        device: as of `probe.sweep`.
        backend: as of `probe.sweep`.
        progress: callback, whose facts name the layer, and which is told ("layers", done, total,
            seconds=...) before each; or whether to show it, by default where somebody looks.

    Raises:
        UsageError: nothing is named, stores come without fractions, or no fraction is common.
        DataError: a probe stands twice, or some predict classes and others numbers.
        ProbeError, FeatstoreError: as `probe.sweep`, `probe.read_results` and `featstore.open`.
    """
    files = [Path(place) for place in places if _is_results(place)]
    stores = [place for place in places if not _is_results(place)]
    layers = layers_of(stores, taps) if stores or not files else []
    if layers and fractions is None:
        raise BadStudy("fractions are needed to probe stores: give them, as 0.01,0.1,0.5")
    asked = _asked(also, fractions, seeds, level, layers, progress)
    parts = [_read(files, score)] if files else []
    sweep = partial(
        probe.sweep,
        fractions=fractions,
        seeds=seeds,
        mode=mode,
        standardize=standardize,
        memory=memory,
        device=device,
        backend=backend,
        solver=chosen(solver, {"l2": l2}).options,
        metrics=None if score is None else list(dict.fromkeys(["accuracy", score])),
    )
    expected = [] if progress is silent else _forecasts(layers, sweep, test_split)
    for number, layer in enumerate(layers):
        progress("layers", number, len(layers), seconds=expected)
        swept, rows = _swept(layer, sweep, out_dir, progress, test_split, score)
        parts.append((swept if score is None else scored_by(swept, score), rows))
    if layers:
        progress("layers", len(layers), len(layers), seconds=expected)
    probes = _joined([table for table, _ in parts])
    correct = [row for table, rows in parts for row in rows or [None] * len(table)]
    found, curves = curves_in(probes, correct), curves_of(summary(probes, correct, level))
    shared, names = shared_and_own(curves)
    table = _table(probes, curves, names, fraction)
    table["above_chance"] = [curve.above_floor for curve in found]
    read_off = diffused_redundancy(probes, [delta], [rule], correct, level)
    for column in ("redundancy", "low", "high", "bound"):
        table[column] = read_off[column].to_numpy()
    score = score or score_of(probes)
    table = _ranked(table, score)
    features = tables_of(layers, asked) if also else {}
    for name, rows in features.items() if out_dir is not None else ():
        (Path(out_dir) / "features").mkdir(parents=True, exist_ok=True)
        save_table(rows, Path(out_dir) / "features" / f"{name}.csv")
    agreement = _agreement(table, score, found, level)
    return Comparison(probes, table, agreement, shared, score, correct, features)


def _forecasts(
    layers: Sequence[Layer], sweep: partial[probe.ProbeResult], test_split: str | None
) -> list[float]:
    """Return about how many seconds a sweep of each layer takes."""
    given = sweep.keywords
    shapes = (
        Shape.of(layer.rows("train"), layer.rows(layer.store.test_split(test_split)))
        for layer in layers
    )
    wanted = Wanted(given["fractions"], given["seeds"], given["mode"])
    where = backend_of(given["backend"], given["device"])
    return forecasts(shapes, wanted, chosen(given["solver"]), where)


def _read(
    files: Sequence[Path], score: str | None
) -> tuple[pd.DataFrame, list[np.ndarray | None] | None]:
    """Return the probes of results files, and what test rows say of each."""
    return read_results(*files, score=score), read_correct(*files, score=score)


def _asked(
    also: Sequence[str],
    fractions: Sequence[float] | None,
    seeds: Sequence[int],
    level: float,
    layers: Sequence[Layer],
    progress: Progress,
) -> Asked:
    """Return what is asked of layers themselves.

    Raises:
        UsageError: there is no such analysis, or only results are compared.
    """
    known = ("spectrum", *SWITCHED)
    for name in also:
        if name not in known:
            raise BadStudy(f"no analysis of layers is called {name!r}; {nearest(name, known)}")
    if also and not layers:
        raise BadStudy(f"{also[0]} is of stores, and only results are given: name the stores")
    analyses = Analyses(**{name: name in also for name in ("cka", *known)}, level=level)
    return Asked(analyses, fractions or (), list(seeds), progress)


def departures(
    places: Sequence[str | Path | Url],
    solver: Options,
    taps: Sequence[str] = (),
    test_split: str | None = None,
) -> list[str]:
    """Return in which respects SGD on these stores departs from the released code, each once.

    Arguments: as of `compare`.
    """
    stores = [place for place in places if not _is_results(place)]
    found = [
        departures_of(layer.store, layer.tap, layer.store.test_split(test_split), solver)
        for layer in (layers_of(stores, taps) if stores else [])
    ]
    return list(dict.fromkeys(line for lines in found for line in lines))


def _is_results(place: str | Path | Url) -> bool:
    return not isinstance(place, Url) and Path(place).suffix.lower() in SUFFIXES


def _swept(
    layer: Layer,
    sweep: partial[probe.ProbeResult],
    out_dir: str | Path | None,
    progress: Progress,
    test_split: str | None = None,
    score: str | None = None,
) -> tuple[pd.DataFrame, list[np.ndarray] | None]:
    """Return the probes of one layer, and what test rows say of each.

    Those that its file in `out_dir` has are not solved again.
    """
    out, store = None, layer.store
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        # a copy in another folder or format holds the same rows, and is probed on its own
        mark = digest([store.spec.digest(), str(store.path)])[:8]
        out = Path(out_dir) / f"{safe_name(store.path.name)}.{layer.tap}.{mark}.csv"
    tested = store.test_split(test_split)
    own = validation_rows(sweep.keywords["solver"].solver, store, layer.tap, tested)
    wanted, standardize = sweep.keywords["mode"], sweep.keywords.get("standardize", True)
    modes = resolved(each_mode(wanted), store, layer.tap, standardize)
    result = sweep(
        layer.rows("train"),
        layer.rows(tested),
        store=str(store.path),
        tap=layer.tap,
        moments_cache=store.moments_folder,
        out=out,
        resume=out is not None and out.exists(),
        progress=progress if progress is silent else partial(progress, layer=layer.name),
        validation=own,
        mode=modes,
        # of several labels every score is counted by itself
        **({"metrics": None} if store.spec.binary else {}),
    )
    if out is not None:
        provenance.write(out, [store])
    correct = result.evidence(score)
    return result.to_pandas(), None if correct is None else list(correct)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    scores = {score_of(table) for table in tables}
    if len(scores) > 1:
        raise DataError("some probes predict classes and others numbers: compare them apart")
    joined = pd.concat(tables, ignore_index=True)
    stores = [[", ".join(map(str, table["store"].unique()))] * len(table) for table in tables]
    check_distinct(joined, [name for names in stores for name in names])
    return joined


def _table(
    probes: pd.DataFrame,
    curves: Sequence[pd.DataFrame],
    names: Sequence[str],
    fraction: float | None,
) -> pd.DataFrame:
    """Return what is known of each curve at one fraction and in full."""
    wanted = _common(curves, names) if fraction is None else fraction
    score, tasks, rows = score_of(probes), _tasks(probes, curves), []
    for curve, name, task in zip(curves, names, tasks, strict=True):
        part = curve.iloc[_place(curve, wanted, name)]
        full = curve[curve["fraction"] == 1]
        facts = {"name": name or Path(str(part["store"])).stem}
        facts |= part.drop(["probes"]).to_dict() | {"task": task, "seeds": part["probes"]}
        facts["features"] = full["k"].iloc[0] if len(full) else pd.NA
        for end in ("", "_low", "_high"):
            facts[f"full{end}"] = full[f"{score}{end}"].iloc[0] if len(full) else np.nan
        rows.append(facts)
    return pd.DataFrame(rows).astype({"features": "Int64"})


def _common(curves: Sequence[pd.DataFrame], names: Sequence[str]) -> float:
    """Return the fraction below 1 nearest 0.1, in log, that every curve has."""
    first = curves[0]["fraction"]
    known = [
        one
        for one in first[first < 1]
        if all(_distance(curve, one) <= _allowed(curve, one) for curve in curves)
    ]
    if not known:
        each = "; ".join(f"{n}: {_told(curve)}" for n, curve in zip(names, curves, strict=True))
        lack = f"no fraction below 1 was probed of every curve ({each})"
        raise BadStudy(f"{lack}: name curves that have one in common")
    return min(known, key=lambda one: abs(np.log(one / 0.1)))


def _place(curve: pd.DataFrame, fraction: float, name: str) -> int:
    if not _distance(curve, fraction) <= _allowed(curve, fraction):
        raise BadStudy(
            f"fraction {fraction:g} was not probed of {name or 'the curve'}, which has "
            f"{_told(curve)}: name one that every curve has"
        )
    return int((curve["fraction"] - fraction).abs().to_numpy().argmin())


def _distance(curve: pd.DataFrame, fraction: float) -> float:
    return float((curve["fraction"] - fraction).abs().min())


def _allowed(curve: pd.DataFrame, fraction: float) -> float:
    """Return how far a curve's fraction may be off: 2 %, or one feature of its layer's."""
    return max(NEAR * fraction, 1 / curve["k"].max() if len(curve) > 100 else 0)


def _told(curve: pd.DataFrame, most: int = 8) -> str:
    fractions = [f"{one:g}" for one in curve["fraction"]]
    return ", ".join(fractions[:most]) + (", ..." if len(fractions) > most else "")


def _tasks(probes: pd.DataFrame, curves: Sequence[pd.DataFrame]) -> list[str]:
    """Name what each curve is tested on: its store's data set, where that is known, and rows."""
    rows = probes.groupby("store", sort=False)["n_test"].max() if "n_test" in probes else {}
    datasets = {store: _dataset(store) for store in probes["store"].unique()}
    if not all(datasets.values()):
        datasets = dict.fromkeys(datasets, "")
    named = {
        store: ", ".join(filter(None, [datasets[store], f"{rows[store]:,} test rows"]))
        if len(rows)
        else datasets[store]
        for store in datasets
    }
    return [named[curve["store"].iloc[0]] for curve in curves]


def _dataset(store: str) -> str:
    try:
        return featstore.open(store).spec.dataset if store else ""
    except (FeatstoreError, OSError):
        return ""


def _ranked(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return the table with ranks, 1 the best, of curves whose full layer is above chance."""
    known = table[["task", "full", score]].where(table["above_chance"])
    by_task = known.assign(task=table["task"]).groupby("task", sort=False)
    ranks = {
        "full_rank": by_task["full"].rank(ascending=False, method="min"),
        f"{score}_rank": by_task[score].rank(ascending=False, method="min"),
        "ratio_rank": table["ratio"].rank(ascending=False, method="min"),
        "redundancy_rank": table["redundancy"].rank(ascending=False, method="min"),
    }
    return table.assign(**{name: rank.astype("Int64") for name, rank in ranks.items()})


def _agreement(
    table: pd.DataFrame, score: str, found: Sequence[Curve], level: float
) -> pd.DataFrame:
    rows = []
    for task, curves in table.groupby("task", sort=False):
        known = curves[curves["full"].notna() & curves[score].notna() & curves["above_chance"]]
        # modes of one layer have one full layer, which says nothing about their order
        if len(known) < 2 or known["full"].nunique() < 2:
            continue
        facts: dict[str, Any] = {"task": task, "curves": len(known)}
        for what, column in (("full", "full"), ("part", score)):
            best = known[column].idxmax()
            facts[f"best_{what}"] = known.loc[best, "name"]
            facts[f"{what}_ties"] = _ties(known, best, what == "full", found, level)
        rows.append(facts | {"tau": float(kendalltau(known["full"], known[score]).statistic)})
    columns = ["task", "curves", "best_full", "full_ties", "best_part", "part_ties", "tau"]
    return pd.DataFrame(rows, columns=columns)


def _ties(
    known: pd.DataFrame, best: int, full: bool, found: Sequence[Curve], level: float
) -> list[str]:
    """Return the names of the curves whose difference from the best may be noise."""

    def place(row: int) -> int:
        wanted = 1.0 if full else known.loc[row, "fraction"]
        return int(np.abs(found[row].fractions - wanted).argmin())

    ties = []
    for row in known.index.drop(best):
        gap = difference(found[best], found[row], place(best), place(row))
        if not gap.interval(level)[0] > 0:
            ties.append(known.loc[row, "name"])
    return ties
