"""What a study needs, what of it is there already, and what is still to be made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from featstore.errors import FeatstoreError
from studies.errors import StudyError, UsageError
from studies.features import Feature, features_of, sources
from studies.made import Made
from studies.spec import Study, several
from studies.sweeping import Sweep, arguments_of, sweeps_of

ANALYSES = "analyses"
"""What chooses tables, figures and page alone."""


@dataclass(frozen=True)
class Planned:
    """A feature and what hangs on it.

    Attributes:
        feature: it.
        chosen: whether it, or one of its sweeps, is to be made if it is missing.
        dim, rows, classes: of its store; 0 as long as there is none.
        sweeps: of it, by names; what they are of is known once there is a store.
        todo: names of the sweeps that are chosen and missing, or whose inputs changed.
        reason: why it cannot be had.
    """

    feature: Feature
    chosen: bool
    extracted: bool
    sweeps: tuple[str, ...]
    todo: tuple[str, ...]
    dim: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """A study in a folder, as it stands."""

    study: Study
    folder: Path
    features: list[Planned]

    @property
    def complete(self) -> bool:
        """Whether every chosen store and sweep is there."""
        return not any(each.chosen and (each.todo or not each.extracted) for each in self.features)


def plan(study: Study, folder: str | Path, only: str | None = None) -> Plan:
    """Return what there is and what is missing; nothing is extracted, solved or written.

    Arguments:
        study: as `spec.read` gives it.
        folder: of its outputs.
        only: names or patterns of features, of probes, or of "FEATURE.PROBE", with commas between;
            "analyses" for tables, figures and page, which are otherwise left to a run of all.

    Raises:
        UsageError: the study asks for what cannot be, or `only` chooses nothing.
    """
    for name in study.probes:
        arguments_of(study, name)
    made = Made(Path(folder))
    planned = [_planned(study, feature, made, only) for feature in features_of(study)]
    nothing = not any(each.chosen for each in planned)
    if only is not None and nothing and ANALYSES not in several(only):
        names = ", ".join(each.feature.name for each in planned)
        raise UsageError(
            f"--only {only} chooses nothing: features are {names}; probes are "
            f"{', '.join(study.probes)}; {ANALYSES} are tables, figures and page"
        )
    return Plan(study, Path(folder), planned)


def chosen(only: str | None, feature: str, probe: str) -> bool:
    """Return whether a sweep is chosen by a pattern.

    >>> chosen("lite0-*", "lite0-digits", "ridge"), chosen("ridge", "lite0-digits", "ridge")
    (True, True)
    >>> chosen("*.lda", "lite0-digits", "ridge"), chosen(None, "lite0-digits", "ridge")
    (False, True)
    """
    if only is None:
        return True
    names = (feature, probe, f"{feature}.{probe}")
    return any(fnmatchcase(name, word) for word in several(only) for name in names)


def _planned(study: Study, feature: Feature, made: Made, only: str | None) -> Planned:
    wanted = tuple(
        name
        for name, each in study.probes.items()
        if any(fnmatchcase(feature.name, pattern) for pattern in several(each.features))
        and chosen(only, feature.name, name)
    )
    is_chosen = bool(wanted) or chosen(only, feature.name, "")
    try:
        store = feature.found(made)
    except (FeatstoreError, StudyError) as error:
        return Planned(feature, is_chosen, False, wanted, wanted, reason=str(error))
    if store is None:
        return Planned(feature, is_chosen, False, wanted, wanted, reason=feature.absent)
    sweeps = sweeps_of(study, feature.name, sources(feature, store))
    todo = tuple(each.name for each in sweeps if of_probe(each) in wanted and not fresh(each, made))
    spec = store.spec
    rows = {split.name: split.n_rows * split.views for split in spec.splits}
    names = tuple(each.name for each in sweeps)
    dim = max(tap.dim for tap in spec.taps)
    return Planned(feature, is_chosen, True, names, todo, dim, rows, spec.n_classes)


def fresh(sweep: Sweep, made: Made) -> bool:
    """Return whether the results of a sweep are there, and of what they would be of now."""
    return made.fresh(sweep.part, sweep.fingerprint())


def of_probe(sweep: Sweep) -> str:
    """Return the name of a sweep's probe."""
    return sweep.name.rpartition(".")[2]


def todo(sweeps: Sequence[Sweep], feature: str, made: Made, only: str | None) -> list[Sweep]:
    """Return the sweeps of a feature that are chosen and not fresh."""
    return [s for s in sweeps if chosen(only, feature, of_probe(s)) and not fresh(s, made)]
