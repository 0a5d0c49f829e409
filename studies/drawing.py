"""The figures of a study: one line a feature for each probe, one line a mode for each sweep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe import figures
from probe.reading import read_per_class
from studies.alone import joined
from studies.held import Held
from studies.made import VERSION, Made, content, digest
from studies.spec import several
from studies.tables import Context

SUFFIXES = (".svg", ".png")

DRAWN = 2
"""Of how figures are drawn; a higher one makes figures anew, and no table."""


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
    every = [*_of_probes(context), *_of_sweeps(context), *_alone(context.folder, sources)]
    return [each for kind, each in every if kind in wanted]


def make(drawing: Drawing, made: Made) -> bool:
    """Draw a figure if it is not there, or what it shows has changed; say whether."""
    contents = [content(path) for path in drawing.files]
    fingerprint = digest([VERSION, DRAWN, drawing.name, contents])
    part = f"figures/{drawing.name}"
    if made.fresh(part, fingerprint):
        return False
    table, folder = drawing.table(), made.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}{suffix}" for suffix in SUFFIXES]
    for path in paths:
        drawing.draw(table, path)
    made.write(part, fingerprint, paths)
    return True


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


def _alone(folder: Path, sources: Sequence[str]) -> Iterator[tuple[str, Drawing]]:
    """Yield what shows features without any probe."""
    for kind, name, draw, table in (
        ("cka", "cka", figures.cka_against_fraction, "cka"),
        ("spectra", "spectra", figures.spectra, "eigenvalues"),
    ):
        files = [folder / "features" / f"{source}.{table}.csv" for source in sources]
        files = [path for path in files if path.exists()]
        if files:
            yield kind, Drawing(name, draw, _named(folder, sources, table), files)


def _random(each: Held) -> bool:
    return "random" in each.sweep.modes


def _with_rows(draw: Callable, level: float) -> Callable:
    """Return what draws probes, and which test rows they have right, given as a pair."""
    return lambda pair, path: draw(pair[0], path, pair[1], level)


def _results(each: Held) -> tuple[pd.DataFrame, list[np.ndarray | None]]:
    """Return the probes of a sweep, and which test rows each has right."""
    table, known = each.results(), each.correct()
    return table, [None] * len(table) if known is None else list(known[1])


def _random_results(held: Sequence[Held]) -> Callable[[], tuple[pd.DataFrame, list]]:
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


def _of_classes(each: Held) -> Callable[[], pd.DataFrame]:
    def table() -> pd.DataFrame:
        rows = read_per_class(each.files[2])
        return rows[rows["mode"] == "random"].reset_index(drop=True)

    return table


def _named(folder: Path, sources: Sequence[str], kind: str) -> Callable[[], pd.DataFrame]:
    return lambda: joined(folder, list(sources), kind).rename(columns={"store": "name"})
