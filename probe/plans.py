"""The plan of a sweep: its modes, chains, penalties, and the parts that are computed together."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe import arrays
from featstore.probe.arrays import Backend, to_host
from featstore.probe.errors import RowsWarning, UsageError, seeds_of, several
from featstore.probe.memory import Grant, Progress
from featstore.probe.metrics import METRICS
from featstore.probe.modes import Layer, Mode, Recipe, modes_of
from featstore.probe.moments import Moments
from featstore.probe.result import identity_table
from featstore.probe.results import FIRST_FEW, score_of
from featstore.probe.results.evidence import RowScores
from featstore.probe.results.files import as_computed, check_suffix, read_table
from featstore.probe.results.reading import load_rows, rows_path, save_with_rows
from featstore.probe.rows import (
    RowBlocks,
    content_digest,
    groups_of,
    has_several_labels,
    targets_of,
    validation_of,
    views_of,
)
from featstore.probe.selection import LOO, Penalties, part_count, planned
from featstore.probe.solvers import AUTO
from featstore.probe.solvers.registry import Chosen
from featstore.probe.statuses import Status
from featstore.probe.subsets import Axes, Basis, Chain, Grid, check_seeds, every_size, grid


@dataclass(frozen=True)
class Setup:
    """Computation and names of probes; each field is an argument of `fit`, or `Settings.watch`."""

    standardize: bool
    memory: str | int | Grant
    device: str
    backend: str
    store: str
    tap: str
    moments_cache: Path | None
    progress: Progress
    watch: Callable[[Basis, arrays.Array], None] | None = None

    @property
    def where(self) -> arrays.Backend:
        """Return the device that arrays are computed on."""
        return arrays.backend(self.backend, self.device)


def described(
    how: Chosen,
    standardize: bool = True,
    n_views: int = 1,
    validation: RowBlocks | None = None,
    grouped: bool = False,
    labels: bool = False,
) -> tuple[Penalties, str]:
    """Return the penalties that `fit` would take, and its column "options".

    The column holds all that decides about the probes and has no column of its own, as
    "name=value ...".

    Arguments:
        how: the solver.
        standardize: as of `fit`.
        n_views: of the rows.
        validation: the rows of their own by which epochs are chosen, if train has some.
        grouped: whether train rows are of groups.
        labels: whether rows have several labels at once.

    Raises:
        UsageError: there is no penalty to choose, or none can be chosen like that.

    Example:
        >>> from featstore.probe.solvers.registry import chosen
        >>> described(chosen("ridge", {"l2": [0.1, 1], "select": "validation"}))[1]
        'standardize=True path=0.1,1 rule=squared held_out=0.1 held_out_seed=0'
    """
    entry, options = how.entry, how.options
    penalties = planned(
        getattr(options, options.place),
        options.select,
        options.held_out,
        options.held_out_seed,
        **entry.penalties,
    ).of(n_views, grouped, not (entry.probabilities and labels))
    words: dict[str, Any] = {"standardize": standardize}
    if penalties.chosen:
        values = ",".join(f"{value:g}" for value in penalties.values)
        words |= {"path": AUTO if penalties.automatic else values, "rule": entry.rule(labels)}
        words |= {"held_out": penalties.held_out, "held_out_seed": penalties.seed}
    # what stands in the penalty's place has a column of its own
    words |= {name: value for name, value in options.own().items() if name != options.place}
    if validation is not None:
        for drawn in ("val_fraction", "split_seed"):
            words.pop(drawn, None)
        words["validation"] = f"{validation.n_rows}_rows_of_their_own"
    return penalties, " ".join(f"{name}={value}" for name, value in words.items())


@dataclass(frozen=True)
class Layout:
    """Rows of the table of a sweep, and the probe of each.

    Attributes:
        probes: int64 (rows,); the whole layer, solved once, stands in the rows of every mode and
            seed.
        seeds: (rows,) the seed of each row, None where nothing was drawn.
        modes: (rows,) the mode of each row.
    """

    probes: np.ndarray
    seeds: list[int | None]
    modes: list[str]

    def arranged(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table with one row a probe, in order of probes, as laid out."""
        rows = table.iloc[self.probes].reset_index(drop=True)
        rows["seed"] = pd.array(self.seeds, dtype="Int64")
        rows["mode"] = self.modes
        return rows


@dataclass(frozen=True)
class ResultsFile:
    """The file in which a sweep keeps the probes that it has finished.

    Attributes:
        path: .csv, .json or .parquet.
        identity: one row a probe: what is known of it before it is solved. A penalty that is
            still to be chosen is NaN.
        layout: the rows.
        metrics: the columns that scoring adds.
    """

    path: Path
    identity: pd.DataFrame
    layout: Layout
    metrics: tuple[str, ...]

    def __post_init__(self):
        check_suffix(self.path)

    def write(self, finished: pd.DataFrame, rows: RowScores | None = None) -> None:
        """Write every row, those of unfinished probes with the status "not run".

        Arguments:
            finished: the finished probes, indexed by their numbers.
            rows: the part of each test row in their scores, for the file beside; None for none.
        """
        every = self.identity.index
        table = finished.reindex(every)
        if len(finished) < len(every):
            solved = every.isin(finished.index)
            fill = self.identity.assign(status=Status.NOT_RUN.value)
            for name, column in finished.items():
                if pd.api.types.is_integer_dtype(column):
                    table[name] = column.astype("Int64").reindex(every)
                if name in fill:
                    table[name] = table[name].where(solved, fill[name])
        save_with_rows(self.layout.arranged(table), self.path, rows, self.layout.probes)

    def read_rows(self, room: RowScores | None) -> RowScores | None:
        """Return the room with what the file beside knows of the finished probes.

        Without that file it is None, with a warning: what is finished stays as it is.
        """
        table = read_table(self.path)
        if room is None:
            return None
        if not rows_path(self.path).exists():
            warnings.warn(
                f"{self.path} has finished probes, and no {rows_path(self.path).name} beside it "
                "says which test rows they have right: intervals are over seeds alone; leave out "
                "resume to have them over test rows too",
                RowsWarning,
                stacklevel=2,
            )
            return None
        found = load_rows(self.path, table, score_of(table))
        if found is None:
            return None
        done = np.unique(self.layout.probes[(table["status"] != Status.NOT_RUN).to_numpy(bool)])
        kept, probes = found
        if not np.array_equal(probes, self.layout.probes) or not kept.known[done].all():
            return None
        # results of before other facts than the first were kept go on without these
        both = room.only([fact for fact in kept.kept if fact in room.kept])
        if any(array.shape != kept.kept[fact].shape for fact, array in both.kept.items()):
            return None
        both.put(done, kept.at(done))
        return both if both.kept else None

    def read(self) -> pd.DataFrame:
        """Return the finished probes, indexed by their numbers, as `write` was given them.

        Raises:
            UsageError: the file is no table of results, was changed since it was written, or is
                of another sweep; the message names what differs.
            DataError: a value is none that a probe can have.
        """
        table = read_table(self.path, unchanged=True)
        self._check(table)
        solved = (table["status"] != Status.NOT_RUN).to_numpy(bool)
        finished = as_computed(table[solved]).set_axis(self.layout.probes[solved])
        return finished[~finished.index.duplicated()].sort_index()

    def _check(self, table: pd.DataFrame) -> None:
        mine = self.layout.arranged(self.identity)
        for name in [*mine, *self.metrics, "status"]:
            if name not in table:
                raise self._other(f"it has no column {name!r}")
        for name in table:
            if (name in METRICS or FIRST_FEW.fullmatch(name)) and name not in self.metrics:
                raise self._other(f"it has the metric {name!r}, which is not asked for now")
        theirs = as_computed(table)
        for name in mine:
            if name == "l2" and mine["l2"].isna().all():
                continue  # to be chosen
            difference = _difference(mine[name], theirs[name])
            if difference:
                raise self._other(f"its {name} is {difference[1]}, and here it is {difference[0]}")
        if len(mine) != len(theirs):
            raise self._other(f"it has {len(theirs)} rows, and here there are {len(mine)}")

    def _other(self, what: str) -> UsageError:
        return UsageError(
            f"{self.path} holds another sweep: {what}; resume with the arguments of that sweep, "
            "or name another file"
        )


def _difference(mine: pd.Series, theirs: pd.Series) -> tuple[str, str] | None:
    """Return what the columns hold, where they differ: only the words that do, if of text."""
    ours, others = mine.tolist(), theirs.tolist()
    if len(ours) == len(others) and all(map(_same, ours, others)):
        return None
    if set(map(str, ours)) == set(map(str, others)):
        return None if len(ours) != len(others) else ("in one order", "in another order")
    values = [_distinct(column) for column in (ours, others)]
    words = [value.split() for value in values]
    if mine.name == "options":
        words = [
            [word for word in these if word not in those]
            for these, those in (words, reversed(words))
        ]
    return " ".join(words[0]) or "without", " ".join(words[1]) or "without"


def _same(mine: object, theirs: object) -> bool:
    return (
        mine == theirs if pd.notna(mine) and pd.notna(theirs) else pd.isna(mine) == pd.isna(theirs)
    )


def _distinct(values: list[object], most: int = 8) -> str:
    distinct = list(dict.fromkeys(map(str, values)))
    return ", ".join(distinct[:most]) + (", ..." if len(distinct) > most else "")


@dataclass(frozen=True)
class SweepPlan:
    """Chains and probes that a sweep will solve.

    Attributes:
        groups: chains that are solved together, group after group.
        identity: one row a probe, what is known of it before it is solved.
        axes: which probe is which.
        layout: which row of the table each probe stands in.
    """

    groups: list[list[Chain]]
    identity: pd.DataFrame
    axes: Axes
    layout: Layout


@dataclass(frozen=True)
class Wanted:
    """Request for probes of a sweep.

    Attributes:
        fractions: shares of the features; None with `every_k`.
        seeds: of the modes that draw.
        mode: one or several, as `featstore.probe.modes.modes_of` takes them.
        every_k: whether every number of features is probed.
        cka: whether what each probe sees is compared with the whole layer.
    """

    fractions: float | Sequence[float] | None
    seeds: int | Sequence[int] = (1,)
    mode: Mode | Sequence[Mode] = "random"
    every_k: bool = False
    cka: bool = False

    @property
    def words(self) -> str:
        """Return the text of the column `options`: what has no column of its own."""
        keys = [f" given={each.key}" for each in modes_of(self.mode).values() if each.key]
        return "".join([" cka=True" if self.cka else "", *keys])

    def grid(self, n_features: int) -> Grid:
        """Return the prefix sizes.

        Raises:
            UsageError: a fraction cannot be used; or there are fractions beside `every_k`, or
                neither.
        """
        if self.every_k:
            if self.fractions is not None:
                raise UsageError("every_k probes every fraction there is: leave out fractions")
            return every_size(n_features)
        if self.fractions is None:
            raise UsageError("no fractions given: name some in (0, 1], or set every_k")
        return grid(n_features, several(self.fractions))


def sweep_plan(
    train: RowBlocks,
    test: RowBlocks,
    wanted: Wanted,
    how: Chosen,
    moments: Callable[[], Moments],
    setup: Setup,
) -> SweepPlan:
    """Return the plan of `probe.sweep` with these arguments.

    Arguments:
        train: the rows to fit on.
        test: the rows to score on.
        wanted: which probes.
        how: the solver.
        moments: returns the moments of train, for the modes that need them.
        setup: how to compute.

    Raises:
        UsageError: an argument cannot be used.
        MemoryBudgetError: a mode needs moments that do not fit.
    """
    entry = how.entry
    of_train = views_of(train), validation_of(train), groups_of(train) is not None
    penalties, options = described(how, setup.standardize, *of_train, has_several_labels(train))
    if wanted.every_k and not entry.every_prefix:
        raise UsageError(
            f"solver {how.name} solves each prefix by itself, and every_k asks for all of them: "
            "take solver ridge or lda, whose prefixes share one factorisation, or name fractions"
        )
    shape = wanted.grid(train.n_features)
    layer = Layer(train.n_features, shape, moments, setup.standardize, setup.progress)
    found = sweep_chains(
        layer, modes_of(wanted.mode), wanted.seeds, not entry.depends_on_seed(how.options)
    )
    axes = Axes(tuple(found.chains), penalties.columns)
    names = {"store": setup.store, "tap": setup.tap}
    identity = identity_table(axes, how.name, penalties, train.n_rows, names).assign(
        n_test=test.n_rows, options=f"{options}{wanted.words} data={data_digest(train, test)}"
    )
    return SweepPlan(
        groups(found.chains, len(penalties.columns), entry.together),
        identity,
        axes,
        layout(axes, found.curves),
    )


def data_digest(train: RowBlocks, test: RowBlocks) -> str:
    """Return 12 hex digits for all of both splits that decides about the probes.

    Rows with a fingerprint are known by it; of others every feature and label is read once.
    """
    digest = hashlib.sha256()
    for rows in filter(None, (train, test, validation_of(train))):
        digest.update((rows.fingerprint or content_digest(rows)).encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Curve:
    """The probes of one mode and seed.

    Attributes:
        mode: its name.
        seed: None where nothing was drawn.
        chains: numbers of its chains, in the order of their rows.
        whole: the number of the chain whose last prefix is the whole layer; None where the chains
            hold it themselves.
    """

    mode: str
    seed: int | None
    chains: list[int]
    whole: int | None = None


@dataclass
class _SweepChains:
    """The chains of a sweep, and what each is for.

    Attributes:
        chains: each solved once.
        curves: which chains make the rows of each mode and seed.
    """

    chains: list[Chain] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def added(self, chains: Sequence[Chain]) -> list[int]:
        """Take in some chains and return their numbers."""
        self.chains += chains
        return list(range(len(self.chains) - len(chains), len(self.chains)))


def sweep_chains(
    layer: Layer, modes: Mapping[str, Recipe], seeds: Sequence[int], shared: bool
) -> _SweepChains:
    """Return the chains of every mode and seed, and of the whole layer.

    Where the whole layer is `shared` by all seeds it is a chain of its own, the last, in natural
    order, and not a prefix of the others: its features are the same whatever the mode and seed,
    and the triangles of small subsets are much smaller than that of all features. Where it is not,
    since a probe depends on its seed too, there is one for each seed.

    Raises:
        UsageError: a seed or a mode cannot be used.
    """
    found, parts = _SweepChains(), replace(layer, grid=layer.grid.parts())
    drawn = check_seeds(seeds) if any(recipe.seeded for recipe in modes.values()) else []
    for name, recipe in modes.items():
        nested = not shared and name in _NESTED
        grid = layer.grid.with_whole(layer.n_features) if nested else parts.grid
        for seed in drawn if recipe.seeded else [None]:
            made = recipe.make(replace(layer, grid=grid), seed) if len(grid) else []
            made = [c for c in made if nested or c.sizes[-1] < layer.n_features]
            found.curves.append(Curve(name, seed, found.added(made)))
    wholes = {curve.seed: curve.chains[0] for curve in found.curves if _holds_whole(found, curve)}
    for number, curve in enumerate(found.curves):
        seed = None if shared else curve.seed
        if curve.chains and wholes.get(seed) == curve.chains[0]:
            continue
        if seed not in wholes:
            every, mode = np.arange(layer.n_features), next(iter(modes))
            whole = Chain(every, (layer.n_features,), (1.0,), mode, seed)
            (wholes[seed],) = found.added([whole])
        found.curves[number] = replace(curve, whole=wholes[seed])
    return found


_NESTED = ("random", "first")
"""Modes whose chains end with the whole layer where a probe of it depends on the seed."""


def _holds_whole(found: _SweepChains, curve: Curve) -> bool:
    return bool(curve.chains) and found.chains[curve.chains[0]].fractions[-1] == 1


def groups(chains: Sequence[Chain], penalties: int, together: int) -> list[list[Chain]]:
    """Return the chains in groups that are solved one after another, in order.

    The groups depend on the sweep alone, so that it has the same bits whether it is run in one go
    or stopped and resumed.

    Arguments:
        chains: of the sweep.
        penalties: how many are solved on each chain.
        together: (chain, penalty) pairs of a group at most, but at least one chain.
    """
    count = max(1, together // penalties)
    return [list(chains[start : start + count]) for start in range(0, len(chains), count)]


def layout(axes: Axes, curves: Sequence[Curve]) -> Layout:
    """Return the rows of the table: curve by curve, penalty by penalty, prefix by prefix.

    The whole layer, which several curves share, stands in the rows of each, last.
    """
    probes: list[int] = []
    seeds: list[int | None] = []
    modes: list[str] = []
    for curve in curves:
        for penalty in range(len(axes.penalties)):
            before = len(probes)
            for chain in curve.chains:
                probes += axes.prefixes(chain, penalty)
            if curve.whole is not None:
                probes.append(axes.prefixes(curve.whole, penalty)[-1])
            seeds += [curve.seed] * (len(probes) - before)
            modes += [curve.mode] * (len(probes) - before)
    return Layout(np.array(probes), seeds, modes)


PHASES = ("reading", "choosing", "solving", "scoring")
"""What a group of chains goes through, in this order."""

_RUNGS = 8
"""Penalties that a probe tries where it chooses among all: most have their choice by then."""

PASSES = {"choosing": 18, "solving": 45}
"""Passes over train rows of a softmax probe: with each penalty that is tried, and with its own."""

SHARES = {"ridge": 0.35, "lda": 0.3, "logistic": 0.25, "sgd": 0.15, "knn": 0.3}
"""What solvers reach of the rate of large matrix products."""

_PASS_SECONDS = 0.003
"""What a pass takes however few rows there are: a few dozen small products."""


@dataclass(frozen=True)
class Shape:
    """Rows of train and test, outputs (classes or targets) and features of a layer."""

    train: int
    test: int
    outputs: int
    features: int

    @classmethod
    def of(cls, train: RowBlocks, test: RowBlocks) -> "Shape":
        """Return the shape of these rows."""
        return cls(
            train.n_rows, test.n_rows, train.n_classes or targets_of(train), train.n_features
        )


@dataclass(frozen=True)
class Trials:
    """Counts of penalties tried, of held-out parts, and of penalties given.

    Attributes:
        rungs: penalties tried by each probe; 0 where they are given.
        parts: held-out parts that each is tried on; 0 for leave-one-out.
        given: penalties that are each solved.
    """

    rungs: int = 0
    parts: int = 0
    given: int = 1


def seconds(
    solver: str,
    chains: Sequence[Sequence[int]],
    shape: Shape,
    trials: Trials,
    rate: float,
    epochs: int,
) -> dict[str, float]:
    """Return about how many seconds each of `PHASES` of a group of chains takes.

    Arguments:
        solver: a key of `featstore.probe.solvers.registry.SOLVERS`.
        chains: the sizes of the prefixes of each chain.
        shape: of the layer.
        trials: how penalties come about.
        rate: operations a second of matrix products, as `products` measures it.
        epochs: of sgd.
    """
    summed, longest = sum(map(sum, chains)), [max(sizes) for sizes in chains]
    if solver == "knn":
        # a product with all train rows, for all prefixes and numbers of neighbours together
        once = 2.0 * shape.train * sum(longest) / rate
        choosing = shape.train * once if trials.rungs else 0.0
        taken = {"choosing": choosing, "solving": 0.0, "scoring": shape.test * once}
        return {"reading": 0.0} | {name: each / SHARES[solver] for name, each in taken.items()}
    if solver in ("ridge", "lda"):
        factors = sum(k**3 / 3 for k in longest)
        rows = sum(
            min(2.0 * shape.outputs * sum(sizes), k * (k + 2.0 * shape.outputs))
            for k, sizes in zip(longest, chains, strict=True)
        )
        left_out = sum(k * (k + 2.0 * shape.outputs) for k in longest)
        per_try = (
            shape.train * left_out + factors
            if not trials.parts
            else trials.parts * factors + 0.1 * trials.parts * shape.train * rows
        )
        operations = {"solving": trials.given * factors, "choosing": trials.rungs * per_try}
        overhead = 0.0
    else:
        once, overhead = 4.0 * shape.train * shape.outputs * summed, _PASS_SECONDS
        passes = dict.fromkeys(PASSES, epochs) if solver == "sgd" else PASSES
        rows = 2.0 * shape.outputs * summed
        tries = trials.rungs * max(1, trials.parts)
        operations = {
            "solving": trials.given * passes["solving"] * once,
            "choosing": tries * passes["choosing"] * once,
        }
        overhead = {
            "solving": trials.given * passes["solving"] * _PASS_SECONDS,
            "choosing": tries * passes["choosing"] * _PASS_SECONDS,
        }
    operations["reading"] = 2.0 * shape.train * shape.features**2 if solver != "sgd" else 0.0
    operations["scoring"] = trials.given * shape.test * rows
    reached = SHARES.get(solver, min(SHARES.values())) * rate
    found = {phase: operations[phase] / reached for phase in PHASES}
    if overhead:
        found |= {phase: found[phase] + more for phase, more in overhead.items()}
    return found


def forecast(wanted: Wanted, how: Chosen, shape: Shape, where: Backend) -> float:
    """Return about how many seconds a sweep of a layer of this shape takes.

    Raises:
        UsageError: a fraction, a seed or a mode cannot be used.
    """
    sizes, layer = wanted.grid(shape.features).parts().sizes, (shape.features,)
    seeds = len(seeds_of(wanted.seeds))
    drawn = sum(seeds if recipe.seeded else 1 for recipe in modes_of(wanted.mode).values())
    wholes = seeds if how.entry.depends_on_seed(how.options) else 1
    chains = [*([sizes] * drawn if sizes else []), *[layer] * wholes]
    trials = trials_of(described(how)[0], shape.train, how.entry.batch)
    epochs = how.options.own().get("epochs", 0)
    return sum(seconds(how.name, chains, shape, trials, products(where), epochs).values())


def trials_of(penalties: Penalties, train_rows: int, batch: int) -> Trials:
    """Return how the penalties of a fit come about, where so many of them are tried at once."""
    if not penalties.chosen:
        return Trials(given=len(penalties.values))
    parts = 0 if penalties.choice == LOO else part_count(penalties.held_out, train_rows)
    tried = -(-_RUNGS // batch) * batch
    return Trials(min(tried, len(penalties.values)), parts)


class Outlook:
    """Tells a callback, before each group of a sweep, how long it and those after it will take.

    The callback gets the stage "sweep" with the probes that are done and all there are, `phases`
    (seconds of each of `PHASES` of the group that follows), and `later` (seconds of the groups
    after it). Estimates are set right by how long the groups before took.

    Arguments:
        progress: the callback.
        groups: how many seconds each phase of each group takes.
        probes: how many each group has.
    """

    def __init__(
        self, progress: Progress, groups: Sequence[dict[str, float]], probes: Sequence[int]
    ):
        self._progress, self._groups, self._probes = progress, list(groups), list(probes)
        self._took = self._expected = 0.0
        self._began = 0.0

    def begin(self, group: int) -> None:
        """Say that a group begins."""
        pace = self._took / self._expected if self._expected else 1.0
        phases = {name: pace * each for name, each in self._groups[group].items()}
        later = pace * sum(sum(each.values()) for each in self._groups[group + 1 :])
        done, total = sum(self._probes[:group]), sum(self._probes)
        self._progress("sweep", done, total, phases=phases, later=later)
        self._began = time.perf_counter()

    def end(self, group: int) -> None:
        """Say that a group is solved."""
        self._took += time.perf_counter() - self._began
        self._expected += sum(self._groups[group].values())

    def close(self) -> None:
        """Say that all is done, if anything had to be."""
        if self._began:
            self._progress("sweep", sum(self._probes), sum(self._probes))


@cache
def products(backend: Backend, size: int = 1024) -> float:
    """Return operations a second of float32 matrix products, by three of them."""
    a = backend.empty((size, size), "float32")
    a[...] = 1.0
    to_host((a @ a)[:1, :1])  # the first one starts threads and libraries
    started, times = time.perf_counter(), 3
    for _ in range(times):
        b = a @ a
    to_host(b[:1, :1])  # which waits for a device
    return times * 2 * size**3 / (time.perf_counter() - started)
