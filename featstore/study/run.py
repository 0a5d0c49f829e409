"""Run a study: bring every part up to date."""

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
from featstore.study.plan import ANALYSES, Plan, chosen, fresh, of_probe, todo
from featstore.study.records import KNOWN, Outcome, Part, Records, failed
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
    outcomes = []

    def bring(name: str, make: Callable[[], bool]) -> None:
        try:
            outcomes.append(Outcome(name, "made" if make() else "there"))
        except Exception as error:
            outcomes.append(failed(name, error, told))

    def of_table(name: str) -> Part:
        return analyses.table_part(context, name, made, progress)

    for part in feature_tables.parts_of_sources(plan.study, found, made.folder, progress):
        bring(part.name, lambda p=part: made.bring(p))
    for part in feature_tables.parts_of_pairs(plan.study, found, made.folder, progress):
        bring(part.name, lambda p=part: made.bring(p))
    for name in analyses.TABLES:
        bring(f"tables/{name}", lambda n=name: made.bring(of_table(n)))
    drawn = pages.drawings(context, [source.name for source in found])
    for number, each in enumerate(drawn):
        progress("figures", number, len(drawn), of=each.name)
        bring(f"figures/{each.name}", lambda d=each: made.bring(pages.figure_part(d, made.folder)))
    bring("page", lambda: _page(plan, context, found, drawn, [*missing, *outcomes], told))
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
    """
    folder = plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "study.toml") as aside:
        aside.write_text(plan.study.text, encoding="utf-8")
    made = Records(folder)
    outcomes: list[Outcome] = []
    for each in plan.features:
        if each.chosen:
            outcomes += _of_feature(plan, each.feature, made, only, progress, told, command)
    if only is None or ANALYSES in several(only):
        outcomes += write_up(plan, outcomes, progress, told)
    return outcomes


def _of_feature(
    plan: Plan,
    feature: Feature,
    made: Records,
    only: str | None,
    progress: Progress,
    told: Told,
    command: Sequence[str] | None,
) -> list[Outcome]:
    store, outcome = _store(feature, made, progress, told)
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
    for sweep in sweeps:
        if sweep in left:
            outcomes.append(_solved(sweep, made, progress, told, command))
        elif of_probe(sweep) in wanted:
            outcomes.append(Outcome(sweep.name, "there"))
    return outcomes


def _store(feature: Feature, made: Records, progress: Progress, told: Told):
    """Return a feature's store, None where it cannot be had, and what became of it."""
    try:
        store = feature.found(made)
        if store is not None:
            return store, Outcome(feature.name, "there")
        done = extract(feature, made, named(progress, feature.name))
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
