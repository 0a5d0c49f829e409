"""The page that `featstore report` writes."""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from featstore.probe.errors import UsageError, visible
from featstore.probe.figures import accuracy_against_layer
from featstore.probe.layers import accuracy_by_layer
from featstore.probe.redundancy import DELTAS, diffused_redundancy
from featstore.probe.results import SCORES, is_score, score_name, score_of
from featstore.probe.results.curves import Evidence
from featstore.probe.results.features import ANALYSES
from featstore.probe.results.files import written_whole
from featstore.probe.results.sentences import warnings
from featstore.probe.results.views import Column, View, as_json, number, numbers, without_features
from featstore.probe.statuses import Status
from featstore.report.reading import (
    Curve,
    Material,
    Source,
    answer,
    by_curve,
    curves_of,
    intervals,
    not_run,
    of_classes,
    over_of_curves,
    read,
    remarks,
    script_json,
    thinned,
    title_of,
)

MOST_CLASSES = 12


def made(sources: Sequence[Source]) -> str:
    """Return an HTML element for each file of results."""
    return "\n".join(_of_source(source, len(sources) == 1) for source in sources)


def _of_source(source: Source, alone: bool) -> str:
    note = source.note
    facts: list[tuple[str, str]] = [("file", str(source.path)), ("probes", f"{source.rows:,}")]
    if source.options:
        facts.append(("options", "; ".join(source.options)))
    if note is None:
        file = f"{source.path.name}.provenance.json"
        facts.append(("how it was made", f"unknown: there is no note {file} beside the file"))
    else:
        if source.changed:
            facts.append(("note", "written for other contents: the file has changed since"))
        facts += _of_note(note)
    stores = [] if note is None else [each for each in _list(note, "stores") if _is_map(each)]
    inside = _list_of(facts) + "".join(map(_of_store, stores))
    opened = " open" if alone else ""
    return f"<details{opened}><summary>{escape(source.path.name)}</summary>{inside}</details>"


def _of_note(note: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = _map(note, "machine")
    computed = [machine.get(name) for name in ("processor", "device", "system")]
    cores = machine.get("cores")
    if cores:
        computed.insert(1, f"{cores} core{'s' if cores != 1 else ''}")
    return [
        ("command", _text(note.get("command")) or "none: called from Python"),
        ("finished", _text(note.get("finished"))),
        ("machine", ", ".join(_text(each) for each in computed if each)),
        ("versions", _pairs(_map(note, "versions"))),
    ]


def _of_store(store: Mapping[str, Any]) -> str:
    spec = _map(store, "spec")
    keys = ["backbone", "weights", "transform", "dataset", "dtype", "precision", "augment"]
    facts = [(name, _text(spec.get(name))) for name in [*keys, "limit"]]
    for each in filter(_is_map, _list(spec, "splits")):
        rows, mark = _count(each.get("n_rows")), _text(each.get("fingerprint"))
        facts.append((f"split {_text(each.get('name'))}", f"{rows} rows, fingerprint {mark}"))
    for each in filter(_is_map, _list(spec, "taps")):
        dim, pooling = _count(each.get("dim")), _text(each.get("pooling"))
        facts.append((f"tap {_text(each.get('name'))}", f"{dim} features, pooling {pooling}"))
    facts += [
        ("classes", _some(_list(spec, "classes"))),
        ("targets", _some(_list(spec, "targets"))),
        ("digest of the spec", _text(store.get("digest"))),
    ]
    facts += [
        (f"extraction: {name}", _flat(value)) for name, value in _map(store, "provenance").items()
    ]
    return f"<h3>Store {escape(_text(store.get('path')))}</h3>{_list_of(facts)}"


def _list_of(facts: Iterable[tuple[str, str]]) -> str:
    items = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value]
    return f"<dl>{''.join(items)}</dl>"


def _some(names: Sequence[Any]) -> str:
    if not names:
        return ""
    shown = ", ".join(map(_text, names[:MOST_CLASSES]))
    more = ", ..." if len(names) > MOST_CLASSES else ""
    return f"{len(names):,}: {shown}{more}"


def _flat(value: Any) -> str:
    if _is_map(value):
        return _pairs(value)
    return ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _pairs(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in found.items())


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _map(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what is an object in a note that was read from a file, and may hold anything."""
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []


SHOWN_DELTAS = (0.8, 0.9, 0.95, 0.99)
"""Shares of the full accuracy that the table of diffused redundancy has a row for."""

HIDDEN = ("options", "l2_choice")
"""Columns of results that the table of all probes leaves to other parts of the page."""

ALWAYS = ("mode", "seed", "fraction", "k", "accuracy", "r2")
"""Columns that the table of all probes has even where all are the same."""

SHARES = ("chance", "majority", "ece", "cka")
KINDS = {
    "fraction": "share",
    "seed": "id",
    **dict.fromkeys((*SCORES, *SHARES), "score"),
    **dict.fromkeys(("k", "n_train", "n_test", "iterations"), "count"),
}


def drawn(curve: Curve, redundancy: pd.DataFrame | None) -> dict[str, Any]:
    """Return one curve as the figures take it."""
    points, full = thinned(curve.points), curve.full
    score = score_of(points)
    whole = None if full is None else {"k": int(full["k"]), "mean": number(full[score])}
    return {
        "label": curve.label,
        "full": whole,
        "points": {
            "fraction": numbers(points["fraction"]),
            "k": numbers(points["k"]),
            "probes": numbers(points["probes"]),
            "mean": numbers(points[score]),
            "low": numbers(points[f"{score}_low"]),
            "high": numbers(points[f"{score}_high"]),
            "ratio": numbers(points["ratio"]),
            "ratio_low": numbers(points["ratio_low"]),
            "ratio_high": numbers(points["ratio_high"]),
        },
        "redundancy": None if redundancy is None else _redundancy(redundancy),
        "cka": _cka(curve.probes),
    }


def _redundancy(rows: pd.DataFrame) -> dict[str, Any]:
    names = {"delta": "delta", "mean": "redundancy", "low": "low", "high": "high"}
    found = {name: numbers(rows[column]) for name, column in names.items()}
    return found | {"seeds": int(rows["seeds"].iloc[0])}


def _cka(probes: pd.DataFrame) -> dict[str, Any] | None:
    if "cka" not in probes or not probes["cka"].notna().any():
        return None
    by_size = probes.dropna(subset="cka").groupby("k")["cka"]
    rows = thinned(by_size.agg(["mean", "std", "count"]).reset_index())
    names = {"k": "k", "mean": "mean", "std": "std", "probes": "count"}
    return {name: numbers(rows[column]) for name, column in names.items()}


def redundancies(rows: pd.DataFrame, correct: Evidence = None) -> dict[tuple, pd.DataFrame]:
    """Return DR against delta of each curve that has a full layer, interpolated; see `probe`."""
    run, correct = _run(rows, correct)
    found = diffused_redundancy(run, DELTAS, correct=correct)
    curves = dict(by_curve(found))
    return {key: each for key, each in curves.items() if each["redundancy"].notna().any()}


def _run(rows: pd.DataFrame, correct: Evidence) -> tuple[pd.DataFrame, Evidence]:
    """Return the probes that were run, and on which rows they are right."""
    run = (rows["status"] != Status.NOT_RUN).to_numpy()
    if correct is None:
        return rows[run], None
    return rows[run], [own for own, ran in zip(correct, run, strict=True) if ran]


def tables(curves: Sequence[Curve], rows: pd.DataFrame, correct: Evidence = None) -> dict[str, Any]:
    """Return the tables of curves, of diffused redundancy, and of all probes."""
    return {
        "summary": _summary(curves),
        "redundancy": _thresholds(curves, rows, correct),
        "probes": all_probes(rows),
    }


def _summary(curves: Sequence[Curve]) -> dict[str, Any]:
    points = pd.concat([each.points.assign(curve=each.label) for each in curves])
    score = score_of(points)
    columns = [
        Column("features", "share", points["fraction"]),
        Column("k", "count", points["k"]),
        Column(f"test {score_name(score)}", "score", points[score]),
        *intervals("score", points[score], points[f"{score}_low"], points[f"{score}_high"]),
        Column("of the full layer", "kept", points["ratio"]),
        *intervals("kept", points["ratio"], points["ratio_low"], points["ratio_high"]),
        Column("over chance", "kept", points["corrected"]),
        Column("probes", "count", points["probes"]),
    ]
    return as_json(View([*_names(curves, points["curve"]), *columns]))


def _names(curves: Sequence[Curve], of_rows: pd.Series) -> list[Column]:
    return [Column("curve", "text", of_rows)] if len(curves) > 1 else []


def _by_layer(run: pd.DataFrame, correct: Evidence) -> dict[str, Any]:
    """Return the table of each layer's score, a row for each fraction and layer."""
    rows, score = accuracy_by_layer(run, correct), score_of(run)
    keys = [key for key in ("store", "mode", "solver") if rows[key].nunique() > 1]
    columns = [
        *(Column(key, "text", rows[key]) for key in keys),
        Column("layer", "text", rows["tap"]),
        Column("features", "share", rows["fraction"]),
        Column("k", "count", rows["k"]),
        Column(f"test {score_name(score)}", "score", rows[score]),
        *intervals("score", rows[score], rows[f"{score}_low"], rows[f"{score}_high"]),
        Column("probes", "count", rows["probes"]),
    ]
    return as_json(View(columns))


def _picture(run: pd.DataFrame, correct: Evidence) -> str:
    """Return accuracy by layer as an image in the page itself."""
    written = io.BytesIO()
    accuracy_against_layer(run, correct=correct).savefig(written, format="svg")
    data = base64.b64encode(written.getvalue()).decode()
    return f'<img class="picture" alt="accuracy by layer" src="data:image/svg+xml;base64,{data}">'


def _thresholds(
    curves: Sequence[Curve], rows: pd.DataFrame, correct: Evidence
) -> dict[str, Any] | None:
    """Return the table of DR at some deltas, by threshold on the grid and interpolated."""
    run, correct = _run(rows, correct)
    found = diffused_redundancy(run, SHOWN_DELTAS, ("threshold", "interpolated"), correct)
    of_curve = dict(by_curve(found))
    parts = []
    for curve in (curve for curve in curves if curve.full is not None):
        by_rule = dict(list(of_curve[curve.key].groupby("rule")))
        between = by_rule["interpolated"].reset_index(drop=True)
        grid = by_rule["threshold"].reset_index(drop=True)
        parts.append(between.assign(curve=curve.label, grid=grid["redundancy"]))
    if not parts:
        return None
    read = pd.concat(parts, ignore_index=True)
    columns = [
        Column("accuracy kept, δ", "share", read["delta"]),
        Column("features needed", "kept", read["fraction"]),
        Column("DR(δ)", "score", read["redundancy"]),
        *intervals("score", read["redundancy"], read["low"], read["high"]),
        Column("DR(δ) on the grid", "score", read["grid"]),
        Column("seeds", "count", read["seeds"]),
    ]
    return as_json(View([*_names(curves, read["curve"]), *columns]))


def all_probes(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the table of all probes; a column in which all are the same is said once, beside."""
    columns, same = [], {}
    for name in rows.columns.drop([name for name in HIDDEN if name in rows]):
        values = rows[name]
        if values.isna().all():
            continue
        if name not in ALWAYS and len(rows) > 1 and values.nunique(dropna=False) == 1:
            same[name] = f"{values.iloc[0]:g}" if _is_number(values) else str(values.iloc[0])
        else:
            columns.append(Column(name, _kind(name, values), values))
    return as_json(View(columns)) | {"same": same}


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _kind(name: str, values: pd.Series) -> str:
    known = KINDS.get(name, "score" if is_score(name) else "number")
    return known if _is_number(values) else "text"


ASSETS = files("featstore.report") / "assets"
STYLES = ("report.css",)
SCRIPTS = ("numbers.js", "tables.js", "charts.js", "figures.js", "report.js")
"""In the order in which they define what the next ones use."""


def write(
    results: Sequence[str | Path],
    out: str | Path,
    title: str | None = None,
    per_class: Sequence[str | Path] = (),
    predictions: Sequence[str | Path] = (),
    score: str | None = None,
) -> Path:
    """Write a page about results: one .html file that opens without a network.

    Arguments:
        results: files that `featstore probe --out` wrote, or folders of studies.
        out: the file to write; replaced once the page is whole.
        title: of the page; by default the store's name.
        per_class: files that `featstore probe --save-per-class` wrote.
        predictions: files that `featstore probe --save-predictions` wrote, one for each file of
            `results`; intervals are then over test rows too.
        score: a column of the results that the page is of; by default accuracy, or R^2.

    Returns:
        The path written.

    Raises:
        UsageError: a file is not there or is no table of probes, or `out` does not end in .html.
        DataError: predictions are of other probes or rows.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out.name!r} does not end in .html: name the page so")
    text = page(read(results, per_class, predictions, score), title)
    with written_whole(out) as aside:
        aside.write_text(text, encoding="utf-8")
    return out


def page(material: Material, title: str | None = None) -> str:
    """Return the page's HTML."""
    curves = curves_of(material.table, material.correct)
    data = _data(material, curves)
    scripts = [_plotly(), "\n".join(_asset(name) for name in SCRIPTS)]
    sections = [each for each in _sections(material) if data[each[0]]]
    texts = {
        "policy": escape(_policy(scripts)),
        "title": escape(title or title_of(curves)),
        "answer": "\n".join(f"<p>{_unbroken(each)}</p>" for each in answer(curves)),
        "about": escape(_about(material, curves)),
        "warnings": _warnings([*remarks(curves), *warnings(material.table)]),
        "contents": _contents(sections),
        "sections": "\n".join(
            _section(*each, data["over_classes"], data["layers"]) for each in sections
        ),
        "making": made(material.sources),
    }
    return Template(_asset("report.html")).substitute(
        {name: visible(text) for name, text in texts.items()},
        style="\n".join(_asset(name) for name in STYLES),
        data=script_json({**data, "layers": bool(data["layers"])}),
        plotly=scripts[0],
        script=scripts[1],
    )


SECTIONS = (
    ("accuracy", "What a part of the features keeps", "summary"),
    ("layers", "What each layer reaches", "layers"),
    ("redundancy", "How much can be left out", "redundancy"),
    ("cka", "How alike a part is to the whole", None),
    ("classes", "Which classes pay", "losses"),
    ("inequality", "How unequal classes become", "inequality"),
    ("probes", "Every probe", "probes"),
)
"""Sections: the name that the script knows each by, its heading, its table."""


def _sections(material: Material) -> list[tuple[str, str, str | None]]:
    """Return the sections of a page: those of features themselves before every probe."""
    about = [(name, ANALYSES[name].title, name) for name in material.features]
    return [*SECTIONS[:-1], *about, *SECTIONS[-1:]]


def _data(material: Material, curves: Sequence[Curve]) -> dict[str, Any]:
    redundant = redundancies(material.table, material.correct)
    score = score_of(material.table)
    classes = of_classes(material, curves)
    curves_drawn = [drawn(curve, redundant.get(curve.key)) for curve in curves]
    laid_out = tables(curves, material.table, material.correct)
    run, known = _run(material.table, material.correct)
    if run.groupby("store", dropna=False)["tap"].nunique().max() > 1:
        laid_out["layers"] = _by_layer(run, known)
    if classes:
        laid_out["inequality"] = classes["inequality"]
    for name, rows in material.features.items():
        laid_out[name] = as_json(_apart(ANALYSES[name].view(rows)))
    return {
        "score": {"key": score, "name": f"test {score_name(score)}"},
        "over": over_of_curves(curves),
        "curves": curves_drawn,
        "tables": laid_out,
        # which sections there are
        "accuracy": True,
        "layers": _picture(run, known) if "layers" in laid_out else "",
        "redundancy": bool(redundant),
        "cka": any(each["cka"] for each in curves_drawn),
        "classes": classes and classes["curves"],
        "inequality": classes is not None,
        "over_classes": classes["over"] if classes else "",
        "features": list(material.features),
        "probes": True,
        **dict.fromkeys(material.features, True),
    }


def _apart(view: View) -> View:
    """Return a view whose intervals have columns of their own, by which rows can be sorted."""
    columns = []
    for column in view.columns:
        title = column.title.replace("-\n", "").replace("\n", " ")
        columns.append(replace(column, title=title, ends=None))
        if column.ends is not None:
            columns.append(replace(column, title="interval"))
    return View(columns, view.title)


NOTES = {
    **{name: each.note for name, each in ANALYSES.items()},
    "inequality": "Gini coefficients of accuracies by class: mean over seeds ± one sample standard "
    "deviation. Rise: above the same seed's full layer. Gini of mean, CV (standard deviation over "
    "mean), range and worst class are of accuracies averaged over seeds first, as published.",
}
"""Texts about tables that no figure explains."""


def _contents(sections: Sequence[tuple[str, str, str | None]]) -> str:
    """Return links to the sections, and to how all was made."""
    headings = [(name, heading) for name, heading, _ in sections]
    links = (
        f'<a href="#heading-{name}">{escape(heading)}</a>'
        for name, heading in [*headings, ("making", "How it was made")]
    )
    return f'<nav class="contents" aria-label="Contents">{" ".join(links)}</nav>'


def _section(name: str, heading: str, table: str | None, over_classes: str, picture: str) -> str:
    figure = (
        ""
        if name in ("inequality", "probes", *ANALYSES)
        else f'<div class="figure" id="{name}"></div>'
    )
    figure = picture if name == "layers" else figure
    notes = [NOTES[name]] if name in NOTES else []
    if name in ("classes", "inequality") and over_classes:
        what = "what classes lose" if name == "classes" else "the rise"
        notes.append(f"Intervals of {what} are over {over_classes}.")
    note = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    rows = f'<div class="table" id="table-{table}"></div>' if table else ""
    return (
        f'<section aria-labelledby="heading-{name}">'
        f'<h2 id="heading-{name}">{escape(heading)}</h2>{note}{figure}{rows}</section>'
    )


def _about(material: Material, curves: Sequence[Curve]) -> str:
    rows, left = len(material.table), not_run(material.table)
    probes = f"{rows:,} probe{'s' if rows > 1 else ''}" + (
        f", {left:,} of them not run" * (left > 0)
    )
    lines = f"{len(curves)} curve{'s' if len(curves) > 1 else ''}"
    sources = len(material.sources)
    over = over_of_curves(curves)
    told = f" Intervals are over {over}." if over else ""
    told += "".join(f" {note[0].upper()}{note[1:]}." for note in without_features(material.table))
    return f"{probes} in {lines}, from {sources} file{'s' if sources > 1 else ''} of results.{told}"


def _warnings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<aside class="warnings"><h2>To know before reading on</h2><ul>{items}</ul></aside>'


def _unbroken(text: str) -> str:
    """Return a sentence's HTML, in which no number is parted from its unit."""
    return escape(text).replace(" %", "&nbsp;%").replace(" seeds", "&nbsp;seeds")


def _policy(scripts: Sequence[str]) -> str:
    """Return what the browser lets the page do: run these scripts, and reach nothing."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return plotly.js as the installed package has it, so that it may stand in an element."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")
