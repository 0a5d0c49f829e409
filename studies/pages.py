"""A page of markdown: what a study found, from a template whose numbers come from its tables.

`{{NAME:ARGUMENTS}}` in a template is a fact (`studies.facts`); `{{table:NAME,ARGUMENTS}}` a table
(`studies.sheets`, and `made`, `missing`, `beside`); `{{figure:NAME}}` a figure, with its name for
alternative text or `{{figure:NAME|TEXT}}`. A study file without a template gets all of it.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.files import written_whole
from studies import sheets
from studies.errors import StudyError, UsageError
from studies.facts import Facts
from studies.features import Source
from studies.made import Made
from studies.report import provenance
from studies.spec import Study, nearest
from studies.tables import Context

BESIDE = {
    "beside": "Beside the published accuracies, %",
    "beside_redundancy": "Beside the published diffused redundancy",
    "beside_cka": "Beside the published similarity",
}
"""Titles of tables of published numbers."""

_BRACES = re.compile(r"\{\{([^{}]+)\}\}")


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    Attributes:
        context: of the study's tables.
        sources: taps that are there, in order.
        figures: names of those that are drawn.
        missing: (part, reason) of what the study could not get.
        path: where the page goes.
        more: further tables by name, each a function without arguments.
    """

    context: Context
    sources: Sequence[Source]
    figures: Sequence[str]
    missing: Sequence[tuple[str, str]]
    path: Path
    more: dict[str, Callable[[], str]]

    @property
    def facts(self) -> Facts:
        """The study's numbers by name."""
        return Facts(self.context.folder, [source.name for source in self.sources])


def write(page: Page) -> list[str]:
    """Write a page, if it would change, and return what its template asks for and cannot have."""
    study = page.context.study
    template = default(page) if study.template is None else _read(study)
    text, wanting = filled(template, page)
    if not page.path.exists() or page.path.read_text(encoding="utf-8") != text:
        page.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(page.path) as aside:
            aside.write_text(text, encoding="utf-8")
    return wanting


def filled(template: str, page: Page) -> tuple[str, list[str]]:
    """Return the text with every brace filled in, and why some could not be.

    What cannot be filled in stands in the text as **not known**.
    """
    facts, wanting = page.facts, []

    def found(match: re.Match) -> str:
        try:
            return _filled(match[1].strip(), facts, page)
        except StudyError as error:
            wanting.append(f"{match[0]}: {error}")
            return "**not known**"

    return _BRACES.sub(found, template), wanting


def _filled(text: str, facts: Facts, page: Page) -> str:
    kind, _, rest = text.partition(":")
    if kind == "figure":
        return _figure(rest, page)
    if kind != "table":
        return facts.fact(text)
    name, *arguments = (word.strip() for word in rest.split(","))
    own = {"made": lambda: made(page), "missing": lambda: missing(page), **page.more}
    if name in own and not arguments:
        return own[name]()
    if name not in sheets.SHEETS:
        known = [*sheets.SHEETS, *own]
        raise UsageError(f"there is no table {name!r}; {nearest(name, known)}")
    return sheets.sheet(facts, name, *arguments)


def _figure(text: str, page: Page) -> str:
    name, _, caption = text.partition("|")
    name = name.strip()
    if name not in page.figures:
        raise UsageError(f"no figure {name} is drawn; {nearest(name, list(page.figures))}")
    path = page.context.folder / "figures" / f"{name}.svg"
    return (
        f"![{caption.strip() or name}]({Path(os.path.relpath(path, page.path.parent)).as_posix()})"
    )


def default(page: Page) -> str:
    """Return the template of a study that brings none: every table, and the figures beside them."""
    study = page.context.study
    probes = list(dict.fromkeys(each.probe for each in page.context.sweeps))
    parts = [f"# {study.title}"]
    for probe in probes:
        parts += [f"## {probe}: accuracy, %", f"{{{{table:accuracy,{probe}}}}}"]
        parts += _drawn(page, f"accuracy.{probe}", f".{probe}", "accuracy.")
        parts += ["Of the full layer's, %:", f"{{{{table:ratio,{probe}}}}}"]
        parts += _drawn(page, f"ratio.{probe}", f".{probe}", "ratio.")
    by_title = {
        "Diffused redundancy": ("redundancy", "redundancy."),
        "Solvers beside each other, points": ("solvers", ""),
        "Modes beside random features, points": ("modes", ""),
        "Which classes pay": ("classes", "classes."),
        "Inequality over classes": ("inequality", "inequality."),
        "CKA of random features with the whole layer": ("cka", "cka"),
        "CKA between random subsets of two seeds": ("cka_pairs", ""),
        "Why: spectra": ("spectrum", "spectra"),
    }
    modes = [mode for each in page.context.sweeps for mode in each.sweep.modes]
    # of many modes the random features alone: their classes are the paper's question
    random = ",mode=random" if "random" in modes else ""
    for title, (table, figure) in by_title.items():
        shown = random if table in ("classes", "inequality") else ""
        parts += [f"## {title}", f"{{{{table:{table}{shown}}}}}"]
        parts += _drawn(page, None, "", figure) if figure else []
    for name in page.more:
        parts += [f"## {BESIDE[name]}", f"{{{{table:{name}}}}}"]
    if page.missing:
        parts += ["## What is missing", "{{table:missing}}"]
    return "\n\n".join([*parts, "## How it was made", "{{table:made}}"]) + "\n"


def _drawn(page: Page, first: str | None, end: str, start: str) -> list[str]:
    names = [n for n in page.figures if n.startswith(start) and n.endswith(end) and n != first]
    if first in page.figures:
        names.insert(0, first)
    return [f"{{{{figure:{name}}}}}" for name in names]


def missing(page: Page) -> str:
    """Return what the study could not get, and why."""
    if not page.missing:
        return "Nothing is missing."
    return sheets.markdown(["part", "why"], page.missing, 2)


def made(page: Page) -> str:
    """Return how it was made: features, sweeps, machine and versions, times."""
    records = Made(page.context.folder)
    rows = [_feature(source, records) for source in page.sources]
    headings = ["features", "backbone", "rows", "D", "weights", "extracted in"]
    parts = [sheets.markdown(headings, rows, 2)]
    sweeps = [
        [each.sweep.name, each.sweep.arguments["solver"], str(record.get("probes", "")),
         _seconds(record.get("seconds"))]
        for each in page.context.sweeps
        for record in [records.record(each.sweep.part)]
    ]  # fmt: skip
    parts.append(sheets.markdown(["results", "solver", "probes", "solved in"], sweeps, 2))
    notes = [note for each in page.context.sweeps if (note := provenance.read(each.files[0]))]
    if notes:
        last = max(notes, key=lambda note: note["finished"])
        machine = ", ".join(str(value) for value in last["machine"].values())
        versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
        parts.append(f"Last result: {last['finished'][:10]}, on {machine} cores.\nWith {versions}.")
    return "\n\n".join(parts)


def _feature(source: Source, records: Made) -> list[str]:
    spec = source.store.spec
    weights = spec.of_tap(source.tap)["weights"]
    rows = " + ".join(f"{split.n_rows:,}" for split in spec.splits)
    record: dict[str, Any] = records.record(f"features/{source.name.partition('@')[0]}")
    short = weights if len(weights) < 24 else f"{weights[:20]}..."
    dim = f"{spec.tap(source.tap).dim:,}"
    return [source.name, spec.backbone, rows, dim, short, _seconds(record.get("seconds"))]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"


def _read(study: Study) -> str:
    path = study.located(study.template)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the template {path} cannot be read: {error.strerror}") from None
