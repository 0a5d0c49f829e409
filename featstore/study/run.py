"""Run a study: bring every part up to date."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featstore.errors import StudyError
from featstore.probe.memory import Progress, shows
from featstore.probe.results.files import save_table, written_whole
from featstore.study import analyses, feature_tables, page as pages, spec
from featstore.study.facts import Facts
from featstore.study.features import Feature, Source, extract, sources
from featstore.study.plan import ANALYSES, Cost, Line, Plan, chosen, fresh, of_probe, todo
from featstore.study.records import KNOWN, Outcome, Records, failed
from featstore.study.spec import several
from featstore.study.sweeps import Sweep, SweepResults, solve, sweeps_of

Told = Callable[[str], Any]


def write_up(
    plan: Plan, missing: Sequence[Outcome], progress: Progress, told: Told
) -> list[Outcome]:
    """Make the tables, figures and page that are not there or whose inputs have changed.

    Arguments:
        plan: of the study.
        missing: parts that could not be had, for the page to name.
        progress: as in `running.run`.
        told: likewise.
    """
    made = Records(plan.folder)
    found, held = there(plan)
    context = analyses.Context(plan.study, held, plan.folder)
    outcomes: list[Outcome] = []

    def bring(makes: Sequence[tuple[str, Callable[[], bool]]], later: int) -> None:
        """Make these parts; so many more are known to follow."""
        total = len(outcomes) + len(makes) + later
        for name, make in makes:
            progress("analyses", len(outcomes), total, seconds=(), of=name)
            try:
                outcomes.append(Outcome(name, "made" if make() else "there"))
            except Exception as error:
                outcomes.append(failed(name, error, told))

    def of_table(name: str) -> bool:
        return made.bring(analyses.table_part(context, name, made, progress))

    def of_figure(drawing: pages.Drawing) -> bool:
        return made.bring(pages.figure_part(drawing, made.folder))

    # what there is of pairs, and to draw, is known when those before are made
    for parts_of in (feature_tables.parts_of_sources, feature_tables.parts_of_pairs):
        parts = parts_of(plan.study, found, made.folder, progress)
        bring([(each.name, partial(made.bring, each)) for each in parts], len(analyses.TABLES) + 1)
    bring([(f"tables/{name}", partial(of_table, name)) for name in analyses.TABLES], 1)
    drawn = pages.drawings(context, [source.name for source in found])
    bring([(f"figures/{each.name}", partial(of_figure, each)) for each in drawn], 1)
    lacking = [*missing, *outcomes]
    bring([("page", lambda: _page(plan, context, found, drawn, lacking, told))], 0)
    progress("analyses", len(outcomes), len(outcomes), seconds=())
    return outcomes


def there(plan: Plan) -> tuple[list[Source], list[SweepResults]]:
    """Return the taps and the results of a study that are there and fresh, in its order."""
    made = Records(plan.folder)
    found: list[Source] = []
    held: list[SweepResults] = []
    for each in plan.features:
        try:
            store = each.feature.found(made)
            if store is None:
                continue
            of_feature = sources(each.feature, store)
            sweeps = sweeps_of(plan.study, each.feature.name, of_feature)
        except KNOWN:
            continue  # named as missing where it was to be had
        found += of_feature
        held += [SweepResults(sweep, plan.folder) for sweep in sweeps if fresh(sweep, made)]
    return found, held


def _page(
    plan: Plan,
    context: analyses.Context,
    found: Sequence[Source],
    drawn: Sequence[pages.Drawing],
    outcomes: Sequence[Outcome],
    told: Told,
) -> bool:
    study = plan.study
    path = plan.folder / "page.md" if study.page is None else Path(study.located(study.page))
    lacks = [(each.part, each.reason) for each in outcomes if each.status == "missing"]
    names = [each.name for each in drawn if (plan.folder / "figures" / f"{each.name}.svg").exists()]
    before = path.read_text(encoding="utf-8") if path.exists() else None
    page = pages.Page(context, found, names, lacks, path, {})
    page = replace(page, more=_published(plan, page.facts))
    wanting = pages.write(page)
    for line in wanting:
        told(line)
    if wanting:
        raise StudyError(f"{len(wanting)} numbers of {path.name} are not known; {wanting[0]}")
    told(f"page: {path}")
    return path.read_text(encoding="utf-8") != before


def _published(plan: Plan, facts: Facts) -> dict[str, Callable[[], str]]:
    """Return the sheets that set numbers beside published ones; their tables are written too."""
    if plan.study.published is None:
        return {}
    numbers = spec.published(plan.study.located(plan.study.published))
    pages.check(numbers)
    for name, make in pages.TABLES.items():
        table = make(facts, numbers)
        if not table.empty:
            save_table(table, plan.folder / "tables" / f"{name}.csv")
    return {name: partial(pages.sheet, facts, numbers, name) for name in pages.TABLES}


@shows
def run(
    plan: Plan,
    *,
    only: str | None = None,
    progress: Progress | bool | None = None,
    told: Told = str,
    command: Sequence[str] | None = None,
    cost: Cost | None = None,
) -> list[Outcome]:
    """Make what a study lacks: stores, results, tables, figures, page; return a line for each part.

    Feature by feature, stores are extracted or found complete and their sweeps solved. A part is
    on disk, with a record of what it is of, before the next begins: killed at any instant, the same
    call goes on. A part that cannot be had is "missing", with its reason, and the rest goes on.

    Arguments:
        plan: as `plan.plan` gives it.
        only: as in `plan.plan`.
        progress: callback, with the fact `of`: the part, or whether to show it; by default where
            somebody looks.
        told: is given a sentence when a part is made or cannot be.
        command: the words that started this, for provenance.
        cost: as `plan.cost_of` gives it; progress then tells how long all stores and sweeps take.
    """
    folder = plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "study.toml") as aside:
        aside.write_text(plan.study.text, encoding="utf-8")
    made = Records(folder)
    outcomes: list[Outcome] = []
    ahead = _Ahead(progress, plan, cost)
    for each in plan.features:
        if each.chosen:
            outcomes += _of_feature(plan, each.feature, made, only, ahead, told, command)
            ahead.leave(each.feature.name)
    ahead.close()
    if only is None or ANALYSES in several(only):
        outcomes += write_up(plan, outcomes, progress, told)
    return outcomes


class _Ahead:
    """Tells a callback which of all stores and sweeps goes on, and how long those after it take.

    Arguments:
        progress: the callback.
        plan: of the study.
        cost: of the plan, None if it is not known.
    """

    def __init__(self, progress: Progress, plan: Plan, cost: Cost | None):
        self.progress = progress
        lines = {line.name: line for line in cost.lines} if cost else {}
        self._known = bool(lines)
        self._past: list[float] = []
        self._later: dict[str, list[float]] = {}
        for each in plan.features:
            if not each.chosen:
                continue
            line = lines.get(each.feature.name, Line(each.feature.name))
            self._known &= None not in (line.extracting, line.probing)
            extracting = [] if each.extracted else [line.extracting or 0.0]
            probing = [(line.probing or 0.0) / len(each.todo) for _ in each.todo]
            self._later[each.feature.name] = extracting + probing

    def enter(self, feature: str, parts: int | None = None) -> None:
        """Say that the next part of a feature begins, of so many that it has left."""
        left = self._later[feature]
        if parts is not None and parts != len(left):
            left[:] = [sum(left) / parts] * parts
        self._tell()
        self._past += [left.pop(0)] if left else [0.0]

    def leave(self, feature: str) -> None:
        """Take that nothing of a feature is left."""
        self._later[feature].clear()

    def close(self) -> None:
        """Say that all are done."""
        if self._past:
            self.progress("parts", len(self._past), len(self._past), seconds=())

    def _tell(self) -> None:
        seconds = [*self._past, *itertools.chain(*self._later.values())]
        self.progress(
            "parts", len(self._past), len(seconds), seconds=seconds if self._known else ()
        )


def _of_feature(
    plan: Plan,
    feature: Feature,
    made: Records,
    only: str | None,
    ahead: _Ahead,
    told: Told,
    command: Sequence[str] | None,
) -> list[Outcome]:
    store, outcome = _store(feature, made, ahead, told)
    wanted = [name for name in plan.study.probes if chosen(only, feature.name, name)]
    if store is None:
        without = [f"{feature.name}.{name}" for name in wanted]
        return [outcome, *(Outcome(part, "missing", f"no {feature.name}") for part in without)]
    try:
        sweeps = sweeps_of(plan.study, feature.name, sources(feature, store))
        left = todo(sweeps, feature.name, made, only)
        departs = dict.fromkeys(line for sweep in left for line in sweep.departures())
    except Exception as error:
        return [outcome, failed(f"{feature.name}.*", error, told)]
    outcomes = [outcome]
    for line in departs:
        told(f"{feature.name}: {line}")
    parts = len(left)
    for sweep in sweeps:
        if sweep in left:
            ahead.enter(feature.name, parts)
            parts -= 1
            outcomes.append(_solved(sweep, made, ahead.progress, told, command))
        elif of_probe(sweep) in wanted:
            outcomes.append(Outcome(sweep.name, "there"))
    return outcomes


def _store(feature: Feature, made: Records, ahead: _Ahead, told: Told):
    """Return a feature's store, None where it cannot be had, and what became of it."""
    try:
        store = feature.found(made)
        if store is not None:
            return store, Outcome(feature.name, "there")
        ahead.enter(feature.name)
        done = extract(feature, made, named(ahead.progress, feature.name))
    except Exception as error:
        return None, failed(feature.name, error, told)
    what = f"{done.images_done:,} {done.modality}s in {done.seconds:.1f} s"
    for notice in done.notices:
        told(f"{feature.name}: {notice}")
    told(f"{feature.name}: " + ("complete already" if done.reused else f"extracted {what}"))
    return done.store, Outcome(feature.name, "there" if done.reused else "made")


def _solved(
    sweep: Sweep, made: Records, progress: Progress, told: Told, command: Sequence[str] | None
) -> Outcome:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solve(sweep, made, named(progress, sweep.name), command)
    except Exception as error:
        return failed(sweep.name, error, told)
    for warning in caught:
        told(f"{sweep.name}: {warning.message}")
    record = made.record(sweep.part)
    told(f"{sweep.name}: {record['probes']} probes, {record['seconds']:.1f} s")
    return Outcome(sweep.name, "made")


def named(progress: Progress, part: str) -> Progress:
    """Return a callback that says which part of a study it is that goes on."""
    return lambda stage, done, total, **facts: progress(stage, done, total, of=part, **facts)


def default_folder(path: Path) -> Path:
    """Return where the outputs of a study file go by default: its own path without the suffix."""
    return path.with_suffix("")
