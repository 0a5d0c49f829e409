"""The sweeps of a study, and the results they keep."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import featstore
from featstore import probe
from featstore.errors import BadStudy
from featstore.probe.errors import FileError, ProbeError, seeds_of
from featstore.probe.modes import modes_of
from featstore.probe.plans import described
from featstore.probe.result import KEYS, ProbeResult
from featstore.probe.results import score_of
from featstore.probe.results.files import (
    as_written,
    digest_path,
    load_arrays,
    read_table,
    save_arrays,
    save_table,
)
from featstore.probe.results.reading import load_rows, read_predictions, read_results, rows_path
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers import Options, declared
from featstore.probe.solvers.registry import SOLVERS, Chosen, chosen
from featstore.report import provenance
from featstore.study.features import Source
from featstore.study.outside import identity, is_outside, resolved
from featstore.study.records import VERSION, Part, Records, content, digest
from featstore.study.spec import Probe, Study, several

# What a study says of a probe that is not an argument of `probe.sweep`, or has another name there.
_OWN = {"features", "modes", "fractions", "sizes", "seeds", "per_class"}
# What decides how, and not what, is computed.
_HOW = {"memory", "device", "backend"}
SOLVER_OPTIONS = {each.name for each in declared()}
"""The arguments of a probe that are fields of its solver."""


@dataclass(frozen=True)
class Sweep:
    """The probes of one source.

    Attributes:
        name: "SOURCE.PROBE", of its files.
        source: rows.
        arguments: of `probe.sweep`.
        modes: names.
        per_class: whether predictions are kept.
        score: what its tables are of; None for accuracy, R^2, or AUROC of several labels.
    """

    name: str
    source: Source
    arguments: dict[str, Any]
    modes: list[str]
    per_class: bool
    score: str | None = None

    @property
    def part(self) -> str:
        """The name of its record."""
        return f"results/{self.name}"

    def departures(self) -> list[str]:
        """Return in which respects it departs from the released code; of other solvers none."""
        options, store = solver_of(self.arguments).options, self.source.store
        return departures_of(store, self.source.tap, store.test_split(), options)

    def fingerprint(self) -> str:
        """Return what decides about its numbers: arguments, modes, rows."""
        wanted = {key: each for key, each in self.arguments.items() if key not in _HOW}
        files = {
            mode: identity(mode) if is_outside(mode) else content(Path(mode.partition(":")[2]))
            for mode in self.modes
            if ":" in mode
        }
        parts = [VERSION, wanted, self.modes, files, self.source.identity(), self.per_class]
        store = self.source.store
        own = validation_rows(self.arguments["solver"], store, self.source.tap, store.test_split())
        if own is not None:
            parts.append(f"epochs by {own.n_rows} rows of their own")
        standardize = self.arguments.get("standardize", True)
        penalties, options = described(solver_of(self.arguments), standardize)
        # how a penalty is chosen decides too, and is no argument where it is the solver's own way
        return digest([*parts, options] if penalties.chosen else parts)

    def files(self, folder: Path) -> list[Path]:
        """Return what it writes."""
        found = [folder / "results" / f"{self.name}.csv"]
        if self.per_class:
            found.append(folder / "predictions" / f"{self.name}.npz")
            found.append(folder / "per_class" / f"{self.name}.csv")
        return found


def arguments_of(
    study: Study, name: str, dim: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of `probe.sweep` for a probe of a study, and its modes.

    Arguments:
        study: it.
        name: of the probe.
        dim: D, by which sizes become fractions.

    Raises:
        UsageError: the solver, a penalty or an option of it cannot be used.
    """
    each: Probe = study.probes[name]
    given = each.model_dump(exclude_unset=True, exclude_none=True, exclude=_OWN)
    flags = ("every_k", "cka")
    arguments = {key: v for key, v in given.items() if v is not False or key not in flags}
    arguments["solver"] = each.solver or name
    if "metrics" in arguments:
        arguments["metrics"] = several(arguments["metrics"])
    arguments["fractions"] = list(each.fractions or study.fractions)
    if each.sizes:
        arguments["fractions"] = shares(each.sizes, dim or 2 * max(each.sizes))
    try:
        seeds = seeds_of(study.seeds if each.seeds is None else each.seeds)
        arguments["seeds"] = list(seeds)
        described(solver_of(arguments))
        modes = [_located(study, mode) for mode in several(each.modes or study.modes)]
        modes_of([mode for mode in modes if not is_outside(mode)] or "random")
    except ProbeError as error:
        raise BadStudy(f"probe {name}: {error}") from None
    if each.per_class and each.every_k:
        raise BadStudy(f"probe {name}: per_class with every_k would keep too much; drop one")
    return arguments, modes


def solver_of(arguments: Mapping[str, Any]) -> Chosen:
    """Return the solver of a probe, with the options that stand among its arguments.

    Raises:
        UsageError: there is no such solver, or it has no such option.
    """
    given = {name: value for name, value in arguments.items() if name in SOLVER_OPTIONS}
    return chosen(arguments["solver"], given)


def validation_rows(solver: str, store: featstore.Store, tap: str, tested: str) -> RowBlocks | None:
    """Return the rows by which a solver chooses its epoch, where it does and a store has a split.

    Only the first view of each image is among them.
    """
    split = store.validation_split(tested)
    if split is None or not SOLVERS[solver].validates or store.missing(split):
        return None
    return store.tap(split, tap, view=0)


def departures_of(store: featstore.Store, tap: str, tested: str, solver: Options) -> list[str]:
    """Return in which respects SGD on a tap departs from the released code, a sentence each.

    Of other solvers there are none.

    Arguments:
        store: whose rows are probed.
        tap: which features.
        tested: the split that is tested on.
        solver: a value.
    """
    from featstore.probe.solvers.sgd import departures

    if not isinstance(solver, probe.SGD):
        return []
    own = validation_rows("sgd", store, tap, tested)
    return departures(store.tap("train", tap), own, solver)


def sweeps_of(study: Study, feature: str, found: Sequence[Source]) -> list[Sweep]:
    """Return the sweeps of a feature's sources, in the order of the study's probes."""
    sweeps = []
    for source in found:
        for name, each in study.probes.items():
            patterns = several(each.features)
            if any(fnmatchcase(one, p) for p in patterns for one in (feature, source.name)):
                spec, score = source.store.spec, study.analyses.score
                arguments, modes = arguments_of(study, name, spec.tap(source.tap).dim)
                # of several labels every score is counted by itself
                if score is not None and not (spec.binary and "metrics" not in arguments):
                    main = ["r2" if spec.targets else "accuracy"]
                    wanted = arguments.get("metrics", main)
                    arguments["metrics"] = list(dict.fromkeys([*wanted, score]))
                sweeps.append(
                    Sweep(f"{source.name}.{name}", source, arguments, modes, each.per_class, score)
                )
    return sweeps


def solve(sweep: Sweep, made: Records, progress: Callable, command: Sequence[str] | None) -> None:
    """Solve what the results file of a sweep does not have yet, and note that it is made.

    A results file that another fingerprint was begun with is removed first; one that was begun
    with this one is completed. Raises what `probe.sweep` raises.
    """
    kept = made.folder / ".made" / "groups" / sweep.name
    files = sweep.files(made.folder)
    make = partial(_solved, sweep, made, kept, progress, command)
    made.bring(Part(sweep.part, sweep.fingerprint(), files, make))
    shutil.rmtree(kept, ignore_errors=True)


def _solved(
    sweep: Sweep, made: Records, kept: Path, progress: Callable, command: Sequence[str] | None
) -> dict[str, Any]:
    """Solve a sweep, its groups kept below `kept`; return the time that it took, and its probes."""
    fingerprint, files = sweep.fingerprint(), sweep.files(made.folder)
    begun = f"begun/{sweep.name}"
    # what was changed since it was written is made again, as what is of another fingerprint
    if made.record(begun).get("fingerprint") != fingerprint or as_written(files[0]) is False:
        _forget(kept, files)
        made.note(begun, {"fingerprint": fingerprint})
    kept.mkdir(parents=True, exist_ok=True)
    started, before = time.perf_counter(), made.record(begun).get("seconds", 0.0)
    groups = Groups(kept, sweep, made, begun, started, before)
    store = sweep.source.store
    # every k takes the place of fractions, which tables are still shown at
    unused = {"solver", *SOLVER_OPTIONS}
    unused |= {"fractions"} if sweep.arguments.get("every_k") else set()
    own = validation_rows(sweep.arguments["solver"], store, sweep.source.tap, store.test_split())
    standardize = sweep.arguments.get("standardize", True)
    modes = resolved(sweep.modes, store, sweep.source.tap, standardize, progress)
    result = probe.sweep(
        *(store.tap(split, sweep.source.tap) for split in ("train", store.test_split())),
        mode=modes[0] if len(modes) == 1 else modes,
        store=sweep.source.name,
        tap=sweep.source.tap,
        moments_cache=sweep.source.store.moments_folder,
        progress=progress,
        out=files[0],
        resume=files[0].exists(),
        each=groups,
        validation=own,
        solver=solver_of(sweep.arguments).options,
        **{name: value for name, value in sweep.arguments.items() if name not in unused},
    )
    if sweep.per_class:
        try:
            found = groups.read(result.table)
        except FileError as error:
            _forget(kept, files)
            raise FileError(f"{error}; run the same command again to make it anew") from None
        _save_predictions(result.table, found, sweep, *files[1:])
    provenance.write(files[0], [sweep.source.store], command)
    seconds = before + time.perf_counter() - started
    return {"seconds": seconds, "probes": len(result)}


def _forget(kept: Path, files: Sequence[Path]) -> None:
    """Remove the results of a sweep, what lies beside them, and what was kept of its groups."""
    shutil.rmtree(kept, ignore_errors=True)
    for path in (*files, rows_path(files[0]), *map(digest_path, files)):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Groups:
    """Predictions of the groups of a sweep, each in a file before the results file counts it."""

    folder: Path
    sweep: Sweep
    made: Records
    begun: str
    started: float
    before: float

    def __call__(self, result: ProbeResult) -> None:
        """Keep what the probes of a group predict for the test rows, and the time so far."""
        if self.sweep.per_class:
            source = self.sweep.source
            found = result.predict(source.store.tap(source.store.test_split(), source.tap))
            keys = np.array(self._keys(result.table))
            arrays = {"keys": keys, "labels": found.labels, "classes": found.classes}
            save_arrays(self.folder / f"{digest(keys.tolist())}.npz", arrays)
        record = {"fingerprint": self.sweep.fingerprint()}
        self.made.note(
            self.begun, record | {"seconds": self.before + time.perf_counter() - self.started}
        )

    def read(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (N,) and the classes (N, R) that the probes of R rows predict."""
        known, labels = {}, None
        for path in sorted(self.folder.glob("*.npz")):
            held = load_arrays(path)
            labels, classes = held["labels"], held["classes"]
            known |= dict(zip(held["keys"].tolist(), classes.T, strict=True))
        whole = {key.rpartition("|")[2]: key for key in known if "|1.0|" in key}
        # the whole layer is solved once, whatever the seed and the mode
        keys = [k if k in known else whole[k.rpartition("|")[2]] for k in self._keys(table)]
        return labels, np.stack([known[key] for key in keys], 1)

    def _keys(self, table: pd.DataFrame) -> list[str]:
        given = (table["l2_choice"] == "given").to_numpy()
        l2 = np.where(given, table["l2"], -1.0)
        seeds = table["seed"].astype("Int64").fillna(-1)
        columns = (table["mode"], seeds, table["fraction"].astype(float), l2)
        return ["|".join(map(str, key)) for key in zip(*columns, strict=True)]


def _save_predictions(
    table: pd.DataFrame,
    found: tuple[np.ndarray, np.ndarray],
    sweep: Sweep,
    predictions: Path,
    per_class: Path,
) -> None:
    labels, classes = found
    save_arrays(predictions, {"labels": labels, "classes": classes})
    names = sweep.source.store.spec.classes
    counts = np.bincount(labels, minlength=len(names))
    hits = np.zeros((len(names), len(table)))
    np.add.at(hits, labels, classes == labels[:, None])
    accuracy = np.divide(
        hits, counts[:, None], out=np.full(hits.shape, np.nan), where=counts[:, None] > 0
    )
    rows = np.repeat(np.arange(len(table)), len(names))
    long = table.iloc[rows][list(KEYS)].reset_index(drop=True)
    long = long.assign(**{"class": list(names) * len(table), "class_accuracy": accuracy.T.ravel()})
    save_table(long, per_class, digest=True)


def shares(sizes: Sequence[int], dim: int) -> list[float]:
    """Return the fractions f of D features with int(f D) = k, for the sizes k below D.

    >>> int(1 / 49 * 49), [int(f * 49) for f in shares([1, 5, 60], 49)]
    (0, [1, 5])
    """
    found = [k / dim for k in sizes if k < dim]
    return [
        f if int(f * dim) == k else float(np.nextafter(f, 1))
        for f, k in zip(found, sizes, strict=False)
    ]


def _located(study: Study, mode: str) -> str:
    kind, colon, path = mode.partition(":")
    return f"{kind}:{study.located(path)}" if colon else mode


@dataclass(frozen=True)
class SweepResults:
    """The results of one sweep, read back."""

    sweep: Sweep
    folder: Path

    @property
    def probe(self) -> str:
        """The name of its probe."""
        return self.sweep.name.rpartition(".")[2]

    @property
    def files(self) -> list[Path]:
        """Files that it was read from."""
        return self.sweep.files(self.folder)

    def results(self) -> pd.DataFrame:
        """Return one row a probe."""
        return read_results(self.files[0], score=self.sweep.score)

    def grid(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the probes at the fractions that were asked for, and which rows those are.

        A sweep of every k has k = int(fraction * D) among them, under another fraction.
        """
        table = self.results()
        if not self.sweep.arguments.get("every_k"):
            return table, np.arange(len(table))
        dim = int(table["k"].max())
        asked = {int(f * dim): f for f in self.sweep.arguments["fractions"]} | {dim: 1.0}
        rows = np.flatnonzero(table["k"].isin(list(asked)))
        table = table.iloc[rows].reset_index(drop=True)
        return table.assign(fraction=table["k"].map(asked)), rows

    def correct(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (n,) and which rows each probe has right, (R, n), of the predictions."""
        labels, classes = read_predictions(self.files[1])
        return labels, np.ascontiguousarray((classes == labels[:, None]).T)

    def evidence(self) -> np.ndarray | None:
        """Return the parts of test rows in the score, (R, n); None if not known.

        Of accuracy they come of the predictions, or else of what lies beside the results.
        """
        table = read_table(self.files[0])
        score = self.sweep.score or score_of(table)
        if self.sweep.per_class and score == "accuracy":
            return self.correct()[1]
        found = load_rows(self.files[0], table, score)
        return None if found is None else found[0].of(found[1], score)
