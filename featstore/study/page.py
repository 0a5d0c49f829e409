"""The page and the figures of a study."""

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from featstore.errors import BadStudy, StudyError
from featstore.probe import figures
from featstore.probe.errors import nearest, visible
from featstore.probe.results import score_name
from featstore.probe.results.features import ANALYSES
from featstore.probe.results.files import written_whole
from featstore.probe.results.reading import read_per_class
from featstore.probe.results.views import NOTHING
from featstore.report import provenance
from featstore.study import facts as sheets
from featstore.study.analyses import Context
from featstore.study.facts import Facts, markdown
from featstore.study.feature_tables import joined
from featstore.study.features import Source
from featstore.study.records import VERSION, Part, Records, content, digest
from featstore.study.spec import Study, several
from featstore.study.sweeps import SweepResults

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
    has_ours, has_theirs = (part is not None for part in parts)
    whose = ("both" if has_theirs else "ours") if has_ours else "theirs" if known else "none"
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
        for _, row in (_at(table, name, fraction) if "accuracy" in table else table[:0]).iterrows():
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
                    gap = row["redundancy"] - theirs
                    facts_of = {"store": name, "probe": row["probe"], "rule": rule}
                    facts_of |= {"delta": row["delta"], "ours": row["redundancy"]}
                    facts_of |= {"low": row["low"], "high": row["high"]}
                    rows.append(facts_of | {"published": theirs, "difference": gap})
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
    if "rule" in row:
        place = f"{row['rule']}, DR({row['delta']:g})"
    elif "what" in row and pd.notna(row.get("k")):
        place = f"{row['what']}, k = {row['k']:g}"
    elif "what" in row:
        place = f"{row['what']}, {100 * row['fraction']:g} %"
    else:
        place = f"{100 * row['fraction']:g} %, k = {row['k']:,}"

    def spread(value: str, std: str) -> str:
        known = f" ± {row[std]:.{digits}f}" if std in row and pd.notna(row[std]) else ""
        return f"{row[value]:.{digits}f}{known}"

    errors = f"{row['errors']:+.1f}" if pd.notna(row.get("errors")) else ""
    numbers = [spread("ours", "std"), spread("published", "published_std")]
    difference = f"{row['difference']:+.{digits}f}"
    which = [row["store"], row.get("probe", ""), place]
    return [*which, *numbers, difference, errors, row.get("spread", "")]


NEEDED = ["seeds", "models", "accuracy_percent", "seed_std_percent", "diffused_redundancy", "cka"]


def check(published: Mapping[str, Any]) -> None:
    """Raise UsageError unless a file of published numbers has the parts that are read here."""
    for key in NEEDED:
        if key not in published:
            raise BadStudy(
                f"the published numbers have no {key!r}: see featstore/study/published.json"
            )


SUFFIXES = (".svg", ".png")

DRAWN = 3
"""Version of the figures' drawing; a higher one makes figures anew, and no table."""


@dataclass(frozen=True)
class Drawing:
    """One figure: its name, what draws it, the table that it shows, and what that is read from."""

    name: str
    draw: Callable
    table: Callable[[], Any]
    files: Sequence[Path]


def drawings(context: Context, sources: Sequence[str]) -> list[Drawing]:
    """Return the figures that a study asks for and there is something to draw of."""
    wanted = several(context.study.figures)
    every = [*_of_probes(context), *_of_sweeps(context), *_alone(context, sources)]
    return [each for kind, each in every if kind in wanted]


def figure_part(drawing: Drawing, folder: Path) -> Part:
    """Return a figure, which is drawn anew when what it shows has changed."""
    contents = [content(path) for path in drawing.files]
    paths = [folder / "figures" / f"{drawing.name}{suffix}" for suffix in SUFFIXES]

    def make() -> None:
        table = drawing.table()
        for path in paths:
            drawing.draw(table, path)

    fingerprint = digest([VERSION, DRAWN, drawing.name, contents])
    return Part(f"figures/{drawing.name}", fingerprint, paths, make)


def _of_probes(context: Context) -> Iterator[tuple[str, Drawing]]:
    """Yield what shows all features side by side: random subsets, by each probe."""
    tables, level = context.folder / "tables", context.study.analyses.level
    for probe in dict.fromkeys(each.probe for each in context.sweeps):
        held = [each for each in context.sweeps if each.probe == probe and _random(each)]
        files = [each.files[0] for each in held]
        if held:
            for kind in ("accuracy", "ratio"):
                draw = _with_rows(getattr(figures, f"{kind}_against_fraction"), level)
                yield kind, Drawing(f"{kind}.{probe}", draw, _random_results(held), files)
            # several taps of one store are the layers of a network
            if len({str(each.sweep.source.store.path) for each in held}) < len(held):
                draw = _with_rows(figures.accuracy_against_layer, level)
                yield "layers", Drawing(f"layers.{probe}", draw, _random_results(held), files)
            path = tables / "redundancy_curve.csv"
            yield (
                "redundancy",
                Drawing(
                    f"redundancy.{probe}",
                    figures.redundancy_curve,
                    _random_rows(path, probe),
                    [path],
                ),
            )
        if any(each.sweep.per_class for each in held):
            path, draw = tables / "inequality.csv", figures.inequality_against_accuracy
            rows = _random_rows(path, probe)
            yield "inequality", Drawing(f"inequality.{probe}", draw, rows, [path])


def _of_sweeps(context: Context) -> Iterator[tuple[str, Drawing]]:
    """Yield what shows one feature: its modes side by side, its classes."""
    level = context.study.analyses.level
    for each in context.sweeps:
        name, files = each.sweep.name, each.files
        if len(each.sweep.modes) > 1:
            for kind in ("accuracy", "ratio"):
                draw = _with_rows(getattr(figures, f"{kind}_against_fraction"), level)
                yield kind, Drawing(f"{kind}.{name}", draw, partial(_results, each), files[:1])
            if each.sweep.arguments.get("cka"):
                draw = figures.cka_against_fraction
                yield "cka", Drawing(f"cka.{name}", draw, each.results, files[:1])
        if each.sweep.per_class and _random(each):
            yield (
                "classes",
                Drawing(f"classes.{name}", figures.class_lines, _of_classes(each), files[2:]),
            )


def _alone(context: Context, sources: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    """Yield what shows features without any probe."""
    folder, level = context.folder, context.study.analyses.level
    for kind, name, draw, table in (
        ("cka", "cka", figures.cka_against_fraction, "cka"),
        ("spectra", "spectra", figures.spectra, "eigenvalues"),
    ):
        files = [folder / "features" / f"{source}.{table}.csv" for source in sources]
        files = [path for path in files if path.exists()]
        if files:
            yield kind, Drawing(name, draw, _named(folder, sources, table), files)
    drawing = {
        "universality": figures.attributions,
        "attribution": figures.attributions,
        "retrieval": partial(figures.retrieval_against_fraction, level=level),
    }
    for kind, draw in drawing.items():
        for source in sources:
            path = folder / "features" / f"{source}.{kind}.csv"
            if path.exists():
                yield kind, Drawing(f"{kind}.{source}", draw, partial(pd.read_csv, path), [path])
    path = folder / "tables" / "agreement.csv"
    for row in (pd.read_csv(path) if path.exists() else pd.DataFrame()).itertuples():
        files = {name: folder / "features" / f"{name}.attribution.csv" for name in row[1:3]}
        name, against = ".".join(files), figures.attributions_against
        drawn = Drawing(f"agreement.{name}", against, partial(_pair, files), list(files.values()))
        yield "agreement", drawn


def _pair(files: Mapping[str, Path]) -> pd.DataFrame:
    """Return what features are worth to each of two tasks, as they agree by."""
    tables = {name: pd.read_csv(path) for name, path in files.items()}
    known = all("shapley" in table for table in tables.values())
    measure = "shapley" if known else "loss_change"
    return pd.DataFrame({name: table[measure] for name, table in tables.items()})


def _random(each: SweepResults) -> bool:
    return "random" in each.sweep.modes


def _with_rows(draw: Callable, level: float) -> Callable:
    """Return what draws probes, and which test rows they have right, given as a pair."""
    return lambda pair, path: draw(pair[0], path, pair[1], level)


def _results(each: SweepResults) -> tuple[pd.DataFrame, list[np.ndarray | None]]:
    """Return the probes of a sweep, and which test rows each has right."""
    table, known = each.results(), each.evidence()
    return table, [None] * len(table) if known is None else list(known)


def _random_results(held: Sequence[SweepResults]) -> Callable[[], tuple[pd.DataFrame, list]]:
    def probes() -> tuple[pd.DataFrame, list]:
        tables, rows = zip(*map(_results, held), strict=True)
        table, correct = pd.concat(tables, ignore_index=True), [one for own in rows for one in own]
        chosen = np.flatnonzero(table["mode"] == "random")
        return table.iloc[chosen].reset_index(drop=True), [correct[place] for place in chosen]

    return probes


def _random_rows(path: Path, probe: str) -> Callable[[], pd.DataFrame]:
    def table() -> pd.DataFrame:
        rows = pd.read_csv(path, dtype={"probe": str, "store": str})
        chosen = (rows["probe"] == probe) & (rows["mode"] == "random")
        return rows[chosen].reset_index(drop=True)

    return table


def _of_classes(each: SweepResults) -> Callable[[], pd.DataFrame]:
    def table() -> pd.DataFrame:
        rows = read_per_class(each.files[2])
        return rows[rows["mode"] == "random"].reset_index(drop=True)

    return table


def _named(folder: Path, sources: Sequence[str], kind: str) -> Callable[[], pd.DataFrame]:
    return lambda: joined(folder, list(sources), kind).rename(columns={"store": "name"})


BESIDE = {
    "beside": "Beside the published accuracies, %",
    "beside_redundancy": "Beside the published diffused redundancy",
    "beside_cka": "Beside the published similarity",
}
"""Titles of tables of published numbers."""

_OLD = re.compile(r"\{\{\s*([a-z_]+)(?:\.([a-z]+))?:([^{}]*)\}\}")
"""A fact, table or figure as templates had it before they were jinja: {{ratio:one,random}}."""


@dataclass(frozen=True)
class Page:
    """Contents of a page.

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


class _Sandbox(ImmutableSandboxedEnvironment):
    """Templates that call facts, tables and figures, and reach nothing else.

    There are no files, no filters and none of jinja's own functions; a product is an error, since
    a study may be somebody else's and `"a" * 10**12` fills the memory.
    """

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError(f"a template has no {operator}; write numbers out")


def filled(template: str, page: Page) -> tuple[str, list[str]]:
    """Return the text of a jinja template, and why some of what it asks for is not known.

    What is not known stands in the text as **not known**.

    Raises:
        BadStudy: the template is of the old form, names what there is not, or is no jinja; the line
            that says so names the line of the template.
    """
    old = _OLD.search(template)
    if old is not None:
        line = template.count("\n", 0, old.start()) + 1
        raise BadStudy(f"line {line} of the template: {old[0]} is now written {_modern(old)}")
    environment = _Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.clear()
    wanting: list[str] = []
    environment.globals = {
        name: _or_not_known(name, function, wanting) for name, function in _names(page).items()
    }
    environment.globals["title"] = page.context.study.title
    try:
        _check_names(environment.parse(template), list(environment.globals))
        return environment.from_string(template).render(), wanting
    except TemplateSyntaxError as error:
        raise BadStudy(f"line {error.lineno} of the template: {error.message}") from None
    except BadStudy:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next(each.lineno for each in reversed(frames) if each.filename == "<template>")
        raise BadStudy(f"line {line} of the template: {error}") from None


def _names(page: Page) -> dict[str, Callable[..., str]]:
    """Return the functions that a template may call."""
    facts = page.facts
    own = {"made": lambda: made(page), "missing": lambda: missing(page), **page.more}

    def table(name: str, /, *arguments: Any, **named: Any) -> str:
        if name in own and not arguments and not named:
            return own[name]()
        if name not in sheets.SHEETS:
            known = [*sheets.SHEETS, *own]
            raise BadStudy(f"there is no table {name!r}; {nearest(str(name), known)}")
        return sheets.sheet(facts, name, *arguments, **named)

    every: dict[str, Callable[..., str]] = {n: partial(facts.fact, n) for n in sheets.FACTS}
    return {**every, "table": table, "figure": partial(_figure, page)}


def _or_not_known(name: str, function: Callable, wanting: list[str]) -> Callable[..., str]:
    """Return a function that notes what is not known, with the template's line, and goes on."""

    def call(*arguments: Any, **named: Any) -> str:
        """Call the function; where it does not know, say so."""
        try:
            return visible(function(*arguments, **named))
        except (StudyError, TypeError) as error:
            frame = sys._getframe(1)
            while "__jinja_template__" not in frame.f_globals:
                frame = frame.f_back
            line = frame.f_globals["__jinja_template__"].get_corresponding_lineno(frame.f_lineno)
            wanting.append(f"line {line}: {_call(name, *arguments, **named)}: {error}")
            return "**not known**"

    return call


def _check_names(tree: nodes.Template, known: Sequence[str]) -> None:
    for name in tree.find_all(nodes.Name):
        if name.name in meta.find_undeclared_variables(tree) and name.name not in known:
            raise BadStudy(
                f"line {name.lineno} of the template: there is no {name.name!r}; "
                f"{nearest(name.name, known)}"
            )


def _call(function: str, /, *arguments: Any, **named: Any) -> str:
    """Write a call as a template has it.

    >>> _call("table", "ratio", "ridge", mode="random")
    '{{ table("ratio", "ridge", mode="random") }}'
    """
    words = [json.dumps(each, default=str) for each in arguments]
    words += [f"{key}={json.dumps(value, default=str)}" for key, value in named.items()]
    return f"{{{{ {function}({', '.join(words)}) }}}}"


def _modern(old: re.Match) -> str:
    """Write a brace of the old form as the call that it is now."""
    function, part, rest = old[1], old[2], old[3].strip()
    if function == "figure":
        return _call(function, *(word.strip() for word in rest.split("|", 1)))
    words = [word.strip() for word in rest.split(",")] if rest else []
    named = dict(word.split("=", 1) for word in words if "=" in word)
    named |= {"part": part} if part else {}
    return _call(function, *(_value(word) for word in words if "=" not in word), **named)


def _value(word: str) -> str | float:
    return json.loads(word) if re.fullmatch(r"\d+(\.\d+)?", word) else word


def _figure(page: Page, name: str, caption: str = "") -> str:
    if name not in page.figures:
        raise BadStudy(f"no figure {name} is drawn; {nearest(str(name), list(page.figures))}")
    path = page.context.folder / "figures" / f"{name}.svg"
    return f"![{caption or name}]({Path(os.path.relpath(path, page.path.parent)).as_posix()})"


def default(page: Page) -> str:
    """Return the template of a study that brings none: every table, and the figures beside them."""
    probes = list(dict.fromkeys(each.probe for each in page.context.sweeps))
    parts = ["# {{ title }}"]
    for probe in probes:
        parts += [f"## {probe}: {_named_score(page.facts, probe)}"]
        parts += [_call("table", "accuracy", probe)]
        parts += _drawn(page, f"accuracy.{probe}", f".{probe}", "accuracy.")
        parts += _drawn(page, f"layers.{probe}", f".{probe}", "layers.")
        parts += ["Of the full layer's, %:", _call("table", "ratio", probe)]
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
    } | {
        ANALYSES[name].title: (name, f"{name}.")
        for name in sheets.OF_FEATURES
        if len(page.facts.of_features(name))
    }
    modes = [mode for each in page.context.sweeps for mode in each.sweep.modes]
    # of many modes the random features alone: their classes are the paper's question
    random = {"mode": "random"} if "random" in modes else {}
    for title, (table, figure) in by_title.items():
        shown = random if table in ("classes", "inequality") else {}
        parts += [f"## {title}", _call("table", table, **shown)]
        parts += [ANALYSES[table].note] if table in sheets.OF_FEATURES else []
        parts += _drawn(page, None, "", figure) if figure else []
    for name in page.more:
        parts += [f"## {BESIDE[name]}", _call("table", name)]
    if page.missing:
        parts += ["## What is missing", _call("table", "missing")]
    return "\n\n".join([*parts, "## How it was made", _call("table", "made")]) + "\n"


def _named_score(facts: Facts, probe: str) -> str:
    """Name the score of a probe's table, with its unit."""
    table = facts.table("accuracy")
    score = sheets.score_in(table[table["probe"] == probe] if len(table) else table)
    return score_name(score) + (", %" if sheets.in_per_cent(score) else "")


def _drawn(page: Page, first: str | None, end: str, start: str) -> list[str]:
    names = [n for n in page.figures if n.startswith(start) and n.endswith(end) and n != first]
    if first in page.figures:
        names.insert(0, first)
    return [_call("figure", name) for name in names]


def missing(page: Page) -> str:
    """Return what the study could not get, and why."""
    if not page.missing:
        return "Nothing is missing."
    return sheets.markdown(["part", "why"], page.missing, 2)


def made(page: Page) -> str:
    """Return how it was made: features, sweeps, machine and versions, times."""
    records = Records(page.context.folder)
    rows = [_feature(source, records) for source in page.sources]
    headings = ["features", "backbone", "rows", "D", "weights", "extracted in"]
    parts = [sheets.markdown(headings, rows, 2)]
    sweeps = []
    for each in page.context.sweeps:
        record, solver = records.record(each.sweep.part), each.sweep.arguments["solver"]
        probes, seconds = str(record.get("probes", "")), _seconds(record.get("seconds"))
        sweeps.append([each.sweep.name, solver, probes, seconds])
    parts.append(sheets.markdown(["results", "solver", "probes", "solved in"], sweeps, 2))
    notes = [note for each in page.context.sweeps if (note := provenance.read(each.files[0]))]
    if notes:
        last = max(notes, key=lambda note: note["finished"])
        machine = ", ".join(str(value) for value in last["machine"].values())
        versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
        parts.append(f"Last result: {last['finished'][:10]}, on {machine} cores.\nWith {versions}.")
    return "\n\n".join(parts)


def _feature(source: Source, records: Records) -> list[str]:
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
        raise BadStudy(f"the template {path} cannot be read: {error.strerror}") from None
