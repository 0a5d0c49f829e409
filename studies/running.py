"""Running a study: what is missing is made, part by part, and what fails is named."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probe.files import written_whole
from probe.settings import Progress, silent
from studies.features import Feature, extract, sources
from studies.made import Made
from studies.outcomes import Outcome, failed
from studies.plan import ANALYSES, Plan, chosen, of_probe, todo
from studies.spec import several
from studies.sweeping import Sweep, solve, sweeps_of
from studies.writing import write_up

Told = Callable[[str], Any]


def run(
    plan: Plan,
    *,
    only: str | None = None,
    progress: Progress = silent,
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
        progress: callback, with the fact `of`: the part.
        told: is given a sentence when a part is made or cannot be.
        command: the words that started this, for provenance.
    """
    folder = plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "study.toml") as aside:
        aside.write_text(plan.study.text, encoding="utf-8")
    made = Made(folder)
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
    made: Made,
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


def _store(feature: Feature, made: Made, progress: Progress, told: Told):
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
    sweep: Sweep, made: Made, progress: Progress, told: Told, command: Sequence[str] | None
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
