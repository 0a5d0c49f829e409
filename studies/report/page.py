"""The page: results, answer, figures and tables in one HTML file that asks nothing of a network."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from probe.errors import UsageError
from probe.files import written_whole
from probe.printed import without_features
from probe.summaries import NAMES, score_of, warnings
from studies.report import content
from studies.report.answers import answer, remarks
from studies.report.by_class import of_classes
from studies.report.curves import Curve, curves_of, over_of, title_of
from studies.report.embedded import script_json
from studies.report.making import made
from studies.report.reading import Material, not_run, read

ASSETS = files("studies.report") / "assets"
STYLES = ("report.css",)
SCRIPTS = ("numbers.js", "tables.js", "charts.js", "figures.js", "report.js")
"""In the order in which they define what the next ones use."""


def write(
    results: Sequence[str | Path],
    out: str | Path,
    title: str | None = None,
    per_class: Sequence[str | Path] = (),
    predictions: Sequence[str | Path] = (),
) -> Path:
    """Write a page about results: one .html file that opens without a network.

    Arguments:
        results: files that `featstore probe --out` wrote, or folders of studies.
        out: the file to write; replaced once the page is whole.
        title: of the page; by default the store's name.
        per_class: files that `featstore probe --per-class` wrote.
        predictions: files that `featstore probe --save-predictions` wrote, one for each file of
            `results`; intervals are then over test rows too.

    Returns:
        The path written.

    Raises:
        UsageError: a file is not there or is no table of probes, or `out` does not end in .html.
        DataError: predictions are of other probes or rows.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out.name!r} does not end in .html: name the page so")
    text = page(read(results, per_class, predictions), title)
    with written_whole(out) as aside:
        aside.write_text(text, encoding="utf-8")
    return out


def page(material: Material, title: str | None = None) -> str:
    """Return the page's HTML."""
    curves = curves_of(material.table, material.correct)
    data = _data(material, curves)
    scripts = [_plotly(), "\n".join(_asset(name) for name in SCRIPTS)]
    return Template(_asset("report.html")).substitute(
        policy=escape(_policy(scripts)),
        title=escape(title or title_of(curves)),
        style="\n".join(_asset(name) for name in STYLES),
        answer="\n".join(f"<p>{_unbroken(each)}</p>" for each in answer(curves)),
        about=escape(_about(material, curves)),
        warnings=_warnings([*remarks(curves), *warnings(material.table)]),
        sections="\n".join(
            _section(*each, data["over_classes"]) for each in SECTIONS if data[each[0]]
        ),
        making=made(material.sources),
        data=script_json(data),
        plotly=scripts[0],
        script=scripts[1],
    )


SECTIONS = (
    ("accuracy", "What a part of the features keeps", "summary"),
    ("redundancy", "How much can be left out", "redundancy"),
    ("cka", "How alike a part is to the whole", None),
    ("classes", "Which classes pay", "losses"),
    ("inequality", "How unequal classes become", "inequality"),
    ("probes", "Every probe", "probes"),
)
"""Of each section: the name that the script knows it by, its heading, its table."""


def _data(material: Material, curves: Sequence[Curve]) -> dict[str, Any]:
    redundancies = content.redundancies(material.table, material.correct)
    score = score_of(material.table)
    classes = of_classes(material, curves)
    drawn = [content.drawn(curve, redundancies.get(curve.key)) for curve in curves]
    tables = content.tables(curves, material.table, material.correct)
    if classes:
        tables["inequality"] = classes["inequality"]
    return {
        "score": {"key": score, "name": f"test {NAMES[score]}"},
        "over": over_of(curves),
        "curves": drawn,
        "tables": tables,
        # which sections there are
        "accuracy": True,
        "redundancy": bool(redundancies),
        "cka": any(each["cka"] for each in drawn),
        "classes": classes and classes["curves"],
        "inequality": classes is not None,
        "over_classes": classes["over"] if classes else "",
        "probes": True,
    }


NOTES = {
    "inequality": "Gini coefficients of accuracies by class: mean over seeds ± one sample standard "
    "deviation. Rise: above the same seed's full layer. Gini of mean, CV (standard deviation over "
    "mean), range and worst class are of accuracies averaged over seeds first, as published.",
}
"""What is said of a table that no figure explains."""


def _section(name: str, heading: str, table: str | None, over_classes: str) -> str:
    figure = "" if name in ("inequality", "probes") else f'<div class="figure" id="{name}"></div>'
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
    over = over_of(curves)
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
