"""Contents of a page of results: tables, curves, answers, classes."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.classes import class_losses, inequality_table
from featstore.probe.errors import ProbeError, RowsWarning, UsageError, visible
from featstore.probe.results import (
    CURVE,
    Evidence,
    as_curves,
    is_score,
    percent,
    score_name,
    score_of,
    scored_by,
    shared_and_own,
)
from featstore.probe.results.features import ANALYSES, OF_PAIRS
from featstore.probe.results.files import SUFFIXES, as_computed, read_table
from featstore.probe.results.intervals import over_of
from featstore.probe.results.reading import Judged, judged, load_rows, read_per_class, unpacked
from featstore.probe.results.sentences import Answer, answers
from featstore.probe.results.views import Column, View, as_json, numbers, summary, with_ratio
from featstore.probe.statuses import Status
from featstore.report import provenance


def intervals(kind: str, of: pd.Series, low: pd.Series, high: pd.Series) -> list[Column]:
    """Return the column of 95 % intervals of some values, or nothing where none is known."""
    return [Column("95 % interval", kind, of, ends=(low, high))] if low.notna().any() else []


def script_json(value: Any) -> str:
    r"""Return JSON that may stand inside a `<script>` element, whatever its texts say.

    Control characters of names are shown as escapes there too.

    >>> print(script_json(["</script>", "&", "\x1b"]))
    ["\u003c/script\u003e","\u0026","\\x1b"]
    """
    text = json.dumps(_shown(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _shown(value: Any) -> Any:
    """Return plain values with every text as a person is to see it."""
    if isinstance(value, Mapping):
        return {key: _shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return visible(value) if isinstance(value, str) else value


NEEDED = ("store", "tap", "mode", "solver", "l2", "seed", "fraction", "k", "status")
"""Columns without which a table is none of probes."""


@dataclass(frozen=True)
class Source:
    """One file of results.

    Attributes:
        path: where it lies.
        rows: how many probes it has.
        options: what else was asked for, as its column of that name says; each once.
        note: how it was made, as `provenance.read` gives it; None if that is not known.
        changed: whether the file is another than the note was written for.
    """

    path: Path
    rows: int
    options: tuple[str, ...]
    note: dict[str, Any] | None
    changed: bool = False


@dataclass(frozen=True)
class Material:
    """All that a report shows.

    Attributes:
        table: one row a probe, all files together; `seed` is Int64.
        per_class: one row a probe and class, or None.
        sources: the files, in order.
        correct: of each row of the table, which test rows its probe has right, None where that is
            not known; None if it is known of none.
        labels: of each row of the table, the classes (or targets) of those test rows, or None;
            None where `correct` is.
        features: what the studies say of features themselves: by analysis a table with a column
            `name`, as `featstore.probe.results.features.ANALYSES` lays it out.
    """

    table: pd.DataFrame
    per_class: pd.DataFrame | None
    sources: tuple[Source, ...]
    correct: list[np.ndarray | None] | None = None
    labels: list[np.ndarray | None] | None = None
    features: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def read(
    results: Sequence[str | Path],
    per_class: Sequence[str | Path] = (),
    predictions: Sequence[str | Path] = (),
    score: str | None = None,
) -> Material:
    """Return the tables of files of results, and of folders of studies.

    Arguments:
        results: files that `featstore probe --out` wrote, or folders of studies: of those,
            `results/*` are taken, `per_class/*`, and the tables of features themselves.
        per_class: files that `featstore probe --save-per-class` wrote.
        predictions: files that `featstore probe --save-predictions` wrote, none or one for each
            file of results. Without them what lies beside the results says which test rows their
            probes have right.
        score: a column of all files, that the report is of; by default accuracy, or R^2, or the
            first score that there is.

    Raises:
        UsageError: a file is not there, is no such table, holds other scores than the first, or
            nothing was named; predictions are not one a file.
        DataError: predictions are of other probes or rows.
    """
    files, beside = _files(results)
    if not files:
        raise UsageError("there are no results to report on: name a file that `probe --out` wrote")
    tables = [_results(path) for path in files]
    if score is not None:
        tables = [scored_by(table, score) for table in tables]
    scores = {path: _score(table, path) for path, table in zip(files, tables, strict=True)}
    for path, score in scores.items():
        if score != scores[files[0]]:
            raise UsageError(
                f"{path} has the score {score} and {files[0]} has {scores[files[0]]}: make a "
                "report of each kind"
            )
    sources = [_source(path, table) for path, table in zip(files, tables, strict=True)]
    classes = [_per_class(Path(path)) for path in [*beside, *per_class]]
    per_class = pd.concat(classes, ignore_index=True) if classes else None
    rows = _known_rows(files, tables, predictions)
    about = _of_features([path for path in map(Path, results) if path.is_dir()])
    return Material(_joined(files, tables), per_class, tuple(sources), *rows, about)


def _of_features(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return the tables of features of studies, by analysis; of several, named with the folder."""
    found: dict[str, list[pd.DataFrame]] = {}
    for folder in folders:
        files = [*sorted((folder / "features").glob("*.csv")), *(folder / "tables").glob("*.csv")]
        for path in files:
            kind = path.stem.rpartition(".")[2]
            if kind in ANALYSES and (path.parent.name == "features" or kind in OF_PAIRS):
                table = _of_analysis(path, kind)
                if len(folders) > 1:
                    table["name"] = table["name"].astype(str) + f" ({folder.name})"
                found.setdefault(kind, []).append(table)
    return {kind: pd.concat(found[kind], ignore_index=True) for kind in ANALYSES if kind in found}


def _of_analysis(path: Path, kind: str) -> pd.DataFrame:
    """Return a table of features that a study wrote, if it can be laid out."""
    try:
        table = pd.read_csv(path, dtype={"store": str}).rename(columns={"store": "name"})
        ANALYSES[kind].view(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no table of {kind} as a study writes it ({error}): remove it, and run the "
            "study again"
        ) from None
    return table


def _files(results: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of results, each once, and the files per class of the folders."""
    files, beside = [], []
    for path in map(Path, results):
        if path.is_dir():
            found = _tables_in(path / "results")
            if not found:
                raise UsageError(
                    f"{path} has no results: a study's folder has them in {path / 'results'}; name "
                    "one, or files"
                )
            files += found
            beside += _tables_in(path / "per_class")
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"there is no {path}: name a file of results, or a study's folder")
    return list(dict.fromkeys(files)), list(dict.fromkeys(beside))


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if not path.name.startswith(".")]
    tables = [path for path in names if path.suffix.lower() in SUFFIXES]
    return sorted(path for path in tables if not path.name.endswith(".provenance.json"))


def _results(path: Path) -> pd.DataFrame:
    table = _checked(path, NEEDED)
    return as_computed(table)


def _score(table: pd.DataFrame, path: Path) -> str:
    if not any(map(is_score, table)):
        raise UsageError(f"{path} has neither a column accuracy nor r2: its probes were not scored")
    return score_of(table)


def _per_class(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"there is no {path}: name a file that `probe --save-per-class` wrote")
    table = read_per_class(path)
    return table.assign(store=table["store"].map(provenance.public))


Known = list[np.ndarray | None] | None


def _known_rows(
    files: Sequence[Path], tables: Sequence[pd.DataFrame], predictions: Sequence[str | Path]
) -> tuple[Known, Known]:
    """Return which test rows each probe has right, and their labels; None if no probe's are known.

    Raises:
        UsageError, DataError: as `read`.
    """
    if predictions and len(predictions) != len(files):
        raise UsageError(
            f"{len(predictions)} files of predictions for {len(files)} of results: give one for "
            "each, in the same order"
        )
    correct, labels = [], []
    for number, (path, table) in enumerate(zip(files, tables, strict=True)):
        found = (
            _of_judged(judged(table, predictions[number]))
            if predictions
            else _beside(path, table) or _of_study(path, table)
        )
        every, classes = found or ([None] * len(table), None)
        correct += every
        labels += [None if own is None else classes for own in every]
    known = any(own is not None for own in correct)
    return (correct, labels) if known else (None, None)


def _beside(path: Path, table: pd.DataFrame) -> tuple[list[np.ndarray | None], np.ndarray] | None:
    """Return what lies beside a file of results says of its probes; None if nothing does."""
    score = _score(table, path)
    found = load_rows(path, table, score)
    return None if found is None else (unpacked(*found, score), found[0].labels)


def _of_judged(found: Judged) -> tuple[list[np.ndarray], np.ndarray]:
    return list(found.correct), found.labels


def _of_study(path: Path, table: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return what a study's own predictions say of a file of its results; None if there is none."""
    predictions = path.parent.parent / "predictions" / f"{path.stem}.npz"
    if path.parent.name != "results" or not predictions.is_file():
        return None
    try:
        return _of_judged(judged(table, predictions))
    except ProbeError as error:
        warnings.warn(f"{predictions} is not used: {error}", RowsWarning, stacklevel=2)
        return None


def _checked(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    table = read_table(path)
    missing = [name for name in needed if name not in table]
    if missing:
        raise UsageError(
            f"{path} has no column {missing[0]!r}, which every table of probes has: name a file "
            "that `featstore probe` wrote"
        )
    if table.empty:
        raise UsageError(f"{path} has no rows: solve some probes first")
    return table


def _source(path: Path, table: pd.DataFrame) -> Source:
    options = tuple(table["options"].unique()) if "options" in table else ()
    note = provenance.read(path)
    changed = note is not None and not provenance.is_of(note, path)
    return Source(path, len(table), options, note, changed)


def _joined(files: Sequence[Path], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return all rows; where a probe is in two files, its store is named with the file.

    Sweeps of one store that differ in what no column of a curve says (standardised or not, say)
    are different curves all the same.
    """
    parts = [
        table.assign(store=table["store"].map(provenance.public), file=path.stem)
        for path, table in zip(files, tables, strict=True)
    ]
    whole = pd.concat(parts, ignore_index=True)
    curves = as_curves(whole)
    same = curves.duplicated([*CURVE, "seed", "fraction", "k"], keep=False)
    clashing = set(curves.loc[same, "file"])
    if len(clashing) > 1 and not curves.duplicated(["file", *CURVE, "seed", "fraction"]).any():
        named = whole["file"].isin(clashing)
        whole["store"] = whole["store"].where(~named, whole["store"] + " (" + whole["file"] + ")")
    return whole.drop(columns="file")


def not_run(table: pd.DataFrame) -> int:
    """Return how many probes an interrupted sweep did not reach."""
    return int((table["status"] == Status.NOT_RUN).sum())


DRAWN = 240
"""Points of one curve that are drawn at most; a sweep of every k has thousands."""

LEVEL = 0.95

ASKED = 0.1
"""The fraction that is spoken of; the nearest that was probed is taken."""


@dataclass(frozen=True)
class Curve:
    """One line of accuracy against fraction.

    Attributes:
        key: the values of `CURVE`, NaN as None.
        label: the words that tell it apart from the others of the report.
        probes: its rows of `with_ratio`, one a probe.
        points: its rows of `summary`, one a fraction; intervals are over seeds and, where it is
            known who is right on which, test rows, and NaN where a long curve is not drawn.
        answer: what it says.
    """

    key: tuple
    label: str
    probes: pd.DataFrame
    points: pd.DataFrame
    answer: Answer

    @property
    def mode(self) -> str:
        """Return the mode, by which features are taken."""
        return str(self.points["mode"].iloc[0])

    @property
    def full(self) -> pd.Series | None:
        """The point of the whole layer; None if it was not probed."""
        whole = self.points[self.points["fraction"] == 1]
        return None if whole.empty else whole.iloc[0]


def curves_of(
    table: pd.DataFrame, correct: Evidence = None, fraction: float = ASKED
) -> list[Curve]:
    """Return the curves of a table of probes, in the order in which the table has them.

    Arguments:
        table: of probes.
        correct: which test rows each has right, as `featstore.probe.results.curves.curves` takes
        it.
        fraction: the one that answers are about.
    """
    probes = with_ratio(table)
    points = summary(table)
    shown, of_shown = _drawn(table, points, correct)
    of_key = dict(by_curve(_with_intervals(points, summary(shown, of_shown, LEVEL))))
    keys = [key for key, _ in by_curve(probes, sort=False)]
    labels = _labels([of_key[key] for key in keys])
    of_curve = dict(by_curve(probes))
    said = answers(shown, fraction, of_shown, LEVEL)
    return [
        Curve(key, label, of_curve[key], of_key[key], answer)
        for key, label, answer in zip(keys, labels, said, strict=True)
    ]


def curve_labels(table: pd.DataFrame, curves: Sequence[Curve]) -> dict[tuple, str]:
    """Return what each curve of another table is called: as in `curves` where it is there."""
    parts = dict(by_curve(table))
    known = {curve.key: curve.label for curve in curves}
    own = dict(zip(parts, _labels(list(parts.values())), strict=True))
    return own | {key: label for key, label in known.items() if key in parts}


def by_curve(table: pd.DataFrame, sort: bool = True) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Yield the key of each curve of a table that has the columns `CURVE`, and its rows."""
    for names, rows in table.groupby(CURVE, dropna=False, sort=sort):
        yield _key(names), rows


def thinned(rows: pd.DataFrame, most: int = DRAWN) -> pd.DataFrame:
    """Return at most so many rows, evenly spaced in log k, the first and the last among them.

    >>> thinned(pd.DataFrame({"k": range(1, 1001)}), 4)["k"].tolist()
    [1, 10, 100, 1000]
    """
    if len(rows) <= most:
        return rows
    k = rows["k"].to_numpy(np.float64)
    wanted = np.geomspace(k[0], k[-1], most)
    places = np.searchsorted(k, wanted * (1 - 1e-9)).clip(0, len(k) - 1)
    return rows.iloc[np.unique([*places, len(k) - 1])]


def _key(names: tuple) -> tuple:
    return tuple(None if pd.isna(name) else name for name in names)


def _drawn(
    table: pd.DataFrame, points: pd.DataFrame, correct: Evidence
) -> tuple[pd.DataFrame, Evidence]:
    """Return the probes at the points that are drawn, and which test rows these have right."""
    chosen = pd.concat([thinned(rows) for _, rows in by_curve(points)])[[*CURVE, "fraction"]]
    curves = as_curves(table.assign(place=np.arange(len(table))))
    places = curves.merge(chosen, on=[*CURVE, "fraction"])["place"].sort_values()
    known = None if correct is None else [correct[place] for place in places]
    return table.iloc[places].reset_index(drop=True), known


def _with_intervals(points: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Return all points with the intervals of those that are drawn."""
    ends = [name for name in drawn if name.endswith(("_low", "_high"))] + ["over"]
    drawn = drawn[[*CURVE, "fraction", *ends]]
    # the full layer is all of itself, whatever is drawn
    drawn.loc[drawn["fraction"] == 1, ["ratio_low", "ratio_high"]] = np.nan
    kept = points.drop(columns=ends)
    return kept.merge(drawn, on=[*CURVE, "fraction"], how="left", validate="one_to_one")


def _labels(curves: Sequence[pd.DataFrame]) -> list[str]:
    """Return of each curve the words in which not all are the same; its mode if it is alone."""
    _, own = shared_and_own(curves)
    return [words or str(curve["mode"].iloc[0]) for words, curve in zip(own, curves, strict=True)]


def over_of_curves(curves: Sequence[Curve]) -> str:
    """Say what the intervals of curves are over, as "seeds and test rows"; empty for none."""
    return over_of(pd.concat([curve.points for curve in curves]))


def title_of(curves: Sequence[Curve]) -> str:
    """Name the store that all curves share, or say how many there are."""
    stores = dict.fromkeys(curve.key[0] for curve in curves)
    if len(stores) > 1:
        return f"{len(stores)} stores"
    return shared_and_own([curves[0].points])[0][0]


def answer(curves: Sequence[Curve]) -> list[str]:
    """Return the answer, a sentence a paragraph, as plain text.

    One curve is spoken of by itself, with what stands against its number. Of several, those of
    random features count, or else those of the first mode: the lowest and the highest are named.
    """
    if len(curves) == 1:
        return [" ".join((curves[0].answer.text, *curves[0].answer.remarks))]
    spoken = [curve for curve in curves if _near(curve) is not None]
    if not spoken:
        return list(dict.fromkeys(curve.answer.text for curve in curves[:3]))
    modes = [curve.mode for curve in spoken]
    mode = "random" if "random" in modes else modes[0]
    chosen = [curve for curve in spoken if curve.mode == mode]
    return [chosen[0].answer.text if len(chosen) == 1 else _of_several(chosen, mode)]


def remarks(curves: Sequence[Curve]) -> list[str]:
    """Return what stands against the numbers of several curves, a line each.

    So does that a curve has no share, since its full layer is within noise of no feature at all.
    """
    if len(curves) == 1:
        return []
    found: dict[str, list[tuple[str, str]]] = {}
    for curve in curves:
        said = list(curve.answer.remarks)
        if curve.full is not None and _near(curve) is None and len(curve.points) > 1:
            said.insert(0, curve.answer.text)
        for text in said:
            # what differs in its numbers alone is said once
            found.setdefault(re.sub(r"[\d.,]+", "#", text), []).append((curve.answer.name, text))
    lines = []
    for said in found.values():
        if len(said) <= _MOST_REMARKS:
            lines += [name + text for name, text in said]
            continue
        names = [name.removesuffix(": ") for name, _ in said]
        of = f"{len(said)} of {len(curves)} curves ({'; '.join(names[:_MOST_REMARKS])}"
        lines.append(f"{of}; and {len(said) - _MOST_REMARKS} others). Of the first: {said[0][1]}")
    return lines


_MOST_REMARKS = 3
"""Curves up to which the same remark is written of each."""


def _of_several(curves: Sequence[Curve], mode: str) -> str:
    points = [_near(curve) for curve in curves]
    _, names = shared_and_own([curve.points for curve in curves])
    in_order = sorted(range(len(curves)), key=lambda place: points[place]["ratio"])
    (low, least), (high, most) = (
        (names[place], points[place]) for place in (in_order[0], in_order[-1])
    )
    fractions = {point["fraction"] for point in points}
    share = percent(fractions.pop()) if len(fractions) == 1 else f"about {percent(ASKED)}"
    drawn = ", drawn at random," if mode == "random" else f" by mode {mode}"
    over = over_of_curves(curves)
    told = f"; {percent(LEVEL)} intervals over {over}" if over else ""
    score = score_name(score_of(curves[0].points))
    return (
        f"{share} of the features{drawn} keep between {_kept_share(least)} ({low}) and "
        f"{_kept_share(most)} ({high}) of the full layer's {score}, in {len(curves)} curves{told}."
    )


def _kept_share(near: pd.Series) -> str:
    kept = f"{100 * near['ratio']:.1f} %"
    if pd.isna(near["ratio_low"]):
        return kept
    return f"{kept} ({100 * near['ratio_low']:.1f} to {100 * near['ratio_high']:.1f})"


def _near(curve: Curve) -> pd.Series | None:
    """Return the point nearest `ASKED` with a share of the full layer; None if there is none."""
    parts = curve.points[(curve.points["fraction"] < 1) & curve.points["ratio"].notna()]
    return None if parts.empty else parts.loc[(parts["fraction"] - ASKED).abs().idxmin()]


MOST_FRACTIONS = 24
"""Fractions of one curve whose classes are drawn and listed at most."""


def of_classes(material: Material, curves: Sequence[Curve]) -> dict[str, Any] | None:
    """Return the lines of classes of each curve, and the tables of losses and inequality.

    Intervals are over test rows too where it is known of all probes of a curve which rows they
    have right, and as many are right of each class as its table says; what they are over is said.

    Arguments:
        material: what the report is about; its `per_class` has one row a probe and class, as
            `probe.per_class_table` gives it, or is None.
        curves: those of the report; a curve keeps the name that it has there.
    """
    if material.per_class is None:
        return None
    kept = _thinned(as_curves(material.per_class))
    sizes = kept.groupby([*CURVE, "seed", "fraction"], dropna=False)["class_accuracy"]
    kept = kept[sizes.transform("count") > 0]
    if kept.empty:
        return None
    labels = curve_labels(kept, curves)
    known, parts, unequal, over = _rows_by_size(material), [], {}, []
    for key, rows in by_curve(kept):
        judged = _judged(rows, key, known)
        losses, unequal[key] = class_losses(rows, *judged), inequality_table(rows, *judged)
        parts.append({"label": labels[key], "mode": key[2], **_lines(rows, losses)})
        over += [each for each in (losses, unequal[key]) if not each.empty]
    told = over_of(pd.concat(over))
    return {"curves": parts, "inequality": _inequality(unequal, labels), "over": told}


def _rows_by_size(material: Material) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """Return which test rows each probe has right, and their classes, by curve, seed and size."""
    if material.correct is None:
        return {}
    table = material.table
    rows = as_curves(table.assign(place=np.arange(len(table))))
    found = {}
    for key, own in by_curve(rows):
        for seed, k, place in zip(_seeds(own), own["k"], own["place"], strict=True):
            if material.correct[place] is not None:
                found[*key, seed, int(k)] = material.correct[place], material.labels[place]
    return found


def _judged(
    rows: pd.DataFrame, key: tuple, known: Mapping[tuple, tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return bool (R, n), which test rows the probes of a curve have right, and labels (n,).

    Neither if they are not known of all of them, or are not those of the accuracies by class.
    """
    classes = list(dict.fromkeys(rows["class"]))
    first = rows.iloc[:: len(classes)]
    found = [
        known.get((*key, seed, int(k))) for seed, k in zip(_seeds(first), first["k"], strict=True)
    ]
    if None in found or len(rows) != len(classes) * len(first):
        return None, None
    correct, (labels, *others) = [own for own, _ in found], [labels for _, labels in found]
    # of groups there is a value each, and not one of each row
    whole = labels.dtype.kind in "iu" and all(own.shape == labels.shape for own in correct)
    whole = whole and labels.max() < len(classes)
    if not whole or not all(np.array_equal(labels, other) for other in others):
        return None, None
    counts = np.bincount(labels, minlength=len(classes))
    hits = np.stack([np.bincount(labels, own, len(classes)) for own in correct])
    said = rows["class_accuracy"].to_numpy(np.float64).reshape(hits.shape)
    off = np.abs(hits - said * counts)[:, counts > 0]
    return (np.stack(correct), labels) if (off <= 0.5).all() else (None, None)


def _seeds(rows: pd.DataFrame) -> list[int]:
    return rows["seed"].astype("Int64").fillna(-1).astype(int).tolist()


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of few enough fractions of each curve."""
    kept = []
    for _, rows in by_curve(table):
        sizes = rows[["fraction", "k"]].drop_duplicates().sort_values("k")
        kept.append(rows[rows["fraction"].isin(thinned(sizes, MOST_FRACTIONS)["fraction"])])
    return pd.concat(kept, ignore_index=True)


def _lines(rows: pd.DataFrame, losses: pd.DataFrame) -> dict[str, Any]:
    """Return accuracies by class and fraction, and what each class loses at each fraction."""
    mean = rows.pivot_table(
        index="class", columns="fraction", values="class_accuracy", sort=False
    ).sort_index(axis=1)
    sizes = rows.drop_duplicates("fraction").set_index("fraction")["k"].reindex(mean.columns)
    found = {
        "classes": [str(name) for name in mean.index],
        "fraction": numbers(mean.columns),
        "k": numbers(sizes),
        "seeds": int(rows["seed"].nunique(dropna=False)),
        "mean": [numbers(values) for values in mean.to_numpy()],
        "losses": [],
    }
    if losses.empty:
        return found
    for fraction, each in losses.groupby("fraction"):
        found["losses"].append({"fraction": float(fraction), "table": _losses(each)})
    return found


def _losses(each: pd.DataFrame) -> dict[str, Any]:
    columns = [
        Column("class", "text", each["class"]),
        Column("all features", "score", each["full"]),
        Column("part", "score", each["part"]),
        Column("lost", "score", each["loss"]),
        *intervals("score", each["loss"], each["low"], each["high"]),
        Column("kept", "kept", each["kept"]),
    ]
    return as_json(View(columns))


def _inequality(unequal: dict[tuple, pd.DataFrame], labels: dict[tuple, str]) -> dict[str, Any]:
    rows = pd.concat([each.assign(curve=labels[key]) for key, each in unequal.items()])
    columns = [Column("curve", "text", rows["curve"])] if len(unequal) > 1 else []
    columns += [
        Column("features", "share", rows["fraction"]),
        Column("Gini", "score", rows["gini"], spread=rows["gini_std"]),
        Column("rise", "score", rows["gini_rise"]),
        *intervals("score", rows["gini_rise"], rows["gini_rise_low"], rows["gini_rise_high"]),
        Column("Gini of mean", "score", rows["gini_of_mean"]),
        Column("CV", "score", rows["cv"]),
        Column("range", "score", rows["range"]),
        Column("worst class", "text", rows["worst_class"]),
        Column("its accuracy", "score", rows["worst_accuracy"]),
    ]
    return as_json(View(columns))
