"""The paper's own study: its list, as a study file, and the numbers that it printed.

Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from probe.solvers import SOLVERS
from studies.errors import UsageError
from studies.spec import Model, Probe, Study, nearest, read

LIST = Path(__file__).with_name("paper.toml")
PUBLISHED = Path(__file__).with_name("published.json")

# Options of a probe that are of every solver; the others are of the published protocol.
_OF_ALL = ("features", "modes", "fractions", "sizes", "seeds", "per_class")


@cache
def published(path: Path = PUBLISHED) -> dict[str, Any]:
    """Return the numbers that the authors' notebooks print."""
    return json.loads(path.read_text())


def study(
    solvers: Sequence[str] = ("logistic",),
    weights: Mapping[str, str | Path] | None = None,
    data_dir: str | Path | None = None,
) -> Study:
    """Return the paper's study.

    Arguments:
        solvers: "sgd" for the published protocol; any other takes its own penalties, chosen for
            each probe, in its place. Of several, their differences are a table.
        weights: files of weights by the names of models, for those that no hub has.
        data_dir: where the data sets lie or are downloaded to.

    Raises:
        UsageError: there is no solver or no model of some name.
    """
    listed = read(LIST)
    for solver in solvers:
        if solver not in SOLVERS:
            raise UsageError(f"no solver is called {solver}; {nearest(solver, list(SOLVERS))}")
    models = dict(listed.models)
    for name, file in (weights or {}).items():
        if name not in models:
            raise UsageError(f"the paper has no model {name!r}; {nearest(name, list(models))}")
        file = Path(file).absolute()
        models[name] = models[name].model_copy(update={"weights": str(file), "absent": None})
        models[name] = Model.model_validate(_given(models[name]))
    probes: dict[str, Probe] = {}
    for solver in solvers:
        for name, each in listed.probes.items():
            probes[name.removesuffix("sgd") + solver] = solved_by(each, solver)
    changes: dict[str, Any] = {"models": models, "probes": probes}
    if data_dir is not None:
        where = {"data_dir": str(Path(data_dir).absolute())}
        changes["extract"] = listed.extract.model_validate(_given(listed.extract) | where)
    return listed.model_copy(update=changes)


def solved_by(each: Probe, solver: str) -> Probe:
    """Return a probe of the paper under another solver, its penalty chosen by validation.

    >>> sgd = Probe(solver="sgd", fractions=[0.1], epochs=50, l2=5e-4)
    >>> solved_by(sgd, "sgd").epochs, solved_by(sgd, "ridge").l2, solved_by(sgd, "ridge").epochs
    (50, 'auto', None)
    """
    if solver == "sgd":
        return each
    kept = {key: value for key, value in _given(each).items() if key in _OF_ALL}
    return Probe.model_validate({**kept, "solver": solver, "l2": "auto"})


def limited(given: Study, rows: int) -> Study:
    """Return a study of so many rows of each split, for a trial on a small machine."""
    datasets = {
        name: each.model_copy(update={"limit": min(rows, each.limit or rows)})
        for name, each in given.datasets.items()
    }
    return given.model_copy(update={"datasets": datasets, "title": f"{given.title} ({rows} rows)"})


def _given(part: Any) -> dict[str, Any]:
    return part.model_dump(exclude_unset=True, exclude_none=True)
