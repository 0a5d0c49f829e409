"""The end of a study: tables, figures and the page, of whatever results are there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from probe.settings import Progress
from probe.tables import save_table
from studies import alone, beside, drawing, pages, paper, tables
from studies.errors import StudyError
from studies.facts import Facts
from studies.features import Source, sources
from studies.held import Held
from studies.made import Made
from studies.outcomes import KNOWN, Outcome, failed
from studies.plan import Plan, fresh
from studies.sweeping import sweeps_of

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
    made = Made(plan.folder)
    found, held = there(plan)
    context = tables.Context(plan.study, held, plan.folder)
    outcomes = []

    def part(name: str, make: Callable[[], Any]) -> None:
        try:
            outcomes.append(Outcome(name, "made" if make() else "there"))
        except Exception as error:
            outcomes.append(failed(name, error, told))

    for source in found:
        part(f"features/{source.name}", lambda s=source: alone.make(plan.study, s, made, progress))
    for name in tables.TABLES:
        part(f"tables/{name}", lambda n=name: tables.make(context, n, made, progress))
    names = [source.name for source in found]
    drawn = drawing.drawings(context, names)
    for number, each in enumerate(drawn):
        progress("figures", number, len(drawn), of=each.name)
        part(f"figures/{each.name}", lambda d=each: drawing.make(d, made))
    part("page", lambda: _page(plan, context, found, drawn, [*missing, *outcomes], told))
    return outcomes


def there(plan: Plan) -> tuple[list[Source], list[Held]]:
    """Return the taps and the results of a study that are there and fresh, in its order."""
    made = Made(plan.folder)
    found: list[Source] = []
    held: list[Held] = []
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
        held += [Held(sweep, plan.folder) for sweep in sweeps if fresh(sweep, made)]
    return found, held


def _page(
    plan: Plan,
    context: tables.Context,
    found: Sequence[Source],
    drawn: Sequence[drawing.Drawing],
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
    numbers = paper.published(plan.study.located(plan.study.published))
    beside.check(numbers)
    for name, make in beside.TABLES.items():
        table = make(facts, numbers)
        if not table.empty:
            save_table(table, plan.folder / "tables" / f"{name}.csv")
    return {name: partial(beside.sheet, facts, numbers, name) for name in beside.TABLES}
