"""Which chains a sweep solves, in what groups, and which row of its table each probe has."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from probe.axes import Axes
from probe.blocks import RowBlocks, content_digest, validation_of, views_of
from probe.chains import Chain, Grid, every_size, grid
from probe.checks import MOST_SEEDS
from probe.errors import UsageError
from probe.fits import described
from probe.modes import Layer, Mode, Recipe, modes_of
from probe.moments import Moments
from probe.result import identity_table
from probe.resume import Layout
from probe.solvers import solver_named


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will solve.

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
    """Which probes a sweep is asked for.

    Attributes:
        fractions: shares of the features; None with `every_k`.
        seeds: of the modes that draw.
        mode: one or several, as `probe.modes.modes_of` takes them.
        every_k: whether every number of features is probed.
        cka: whether what each probe sees is compared with the whole layer.
    """

    fractions: Sequence[float] | None
    seeds: Sequence[int] = (1,)
    mode: Mode | Sequence[Mode] = "random"
    every_k: bool = False
    cka: bool = False

    @property
    def words(self) -> str:
        """What of this has no column of its own, for the column `options`."""
        return " cka=True" if self.cka else ""

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
        return grid(n_features, self.fractions)


def sweep_plan(
    train: RowBlocks,
    test: RowBlocks,
    wanted: Wanted,
    solver: str,
    moments: Callable[[], Moments],
    arguments: Mapping[str, Any],
) -> SweepPlan:
    """Return the plan of `probe.sweep` with these arguments.

    Arguments:
        train: the rows to fit on.
        test: the rows to score on.
        wanted: which probes.
        solver: a key of `probe.solvers.SOLVERS`.
        moments: returns the moments of train, for the modes that need them.
        arguments: of `probe.fit`.

    Raises:
        UsageError: an argument cannot be used.
        MemoryBudgetError: a mode needs moments that do not fit.
    """
    entry = solver_named(solver)
    penalties, options = described(solver, arguments, views_of(train), validation_of(train))
    if wanted.every_k and not entry.every_prefix:
        raise UsageError(
            f"solver {solver} solves each prefix by itself, and every_k asks for all of them: take "
            "solver ridge or lda, whose prefixes share one factorisation, or name fractions"
        )
    about = {name: arguments[name] for name in ("standardize", "progress") if name in arguments}
    layer = Layer(train.n_features, wanted.grid(train.n_features), moments, **about)
    found = sweep_chains(
        layer, modes_of(wanted.mode), wanted.seeds, not entry.depends_on_seed(arguments)
    )
    axes = Axes(tuple(found.chains), penalties.columns)
    names = {name: arguments.get(name, "") for name in ("store", "tap")}
    identity = identity_table(axes, solver, penalties, train.n_rows, names).assign(
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
class SweepChains:
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
) -> SweepChains:
    """Return the chains of every mode and seed, and of the whole layer.

    Where the whole layer is `shared` by all seeds it is a chain of its own, the last, in natural
    order, and not a prefix of the others: its features are the same whatever the mode and seed,
    and the triangles of small subsets are much smaller than that of all features. Where it is not,
    since a probe depends on its seed too, there is one for each seed.

    Raises:
        UsageError: a seed or a mode cannot be used.
    """
    found, parts = SweepChains(), replace(layer, grid=layer.grid.parts())
    drawn = check_seeds(seeds) if any(recipe.seeded for recipe in modes.values()) else []
    for name, recipe in modes.items():
        nested = not shared and name in NESTED
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


NESTED = ("random", "first")
"""Modes whose chains end with the whole layer where a probe of it depends on the seed."""


def _holds_whole(found: SweepChains, curve: Curve) -> bool:
    return bool(curve.chains) and found.chains[curve.chains[0]].fractions[-1] == 1


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds as a list of distinct integers.

    Raises:
        UsageError: there is none, one is no integer of 64 bits, one is given twice, or there are
            more than `MOST_SEEDS`.
    """
    if len(seeds) > MOST_SEEDS:
        raise UsageError(
            f"{len(seeds):,} seeds are as many probes of every mode, fraction and penalty: give "
            f"{MOST_SEEDS:,} or fewer"
        )
    checked = {}
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise UsageError(f"seed {seed!r} is not an integer")
        if not -(2**63) <= seed < 2**63:
            raise UsageError(f"seed {seed} does not fit in 64 bits: give a smaller one")
        if int(seed) in checked:
            raise UsageError(f"seed {seed} is given twice: each seed makes its own rows")
        checked[int(seed)] = None
    if not checked:
        raise UsageError("no seed given: name at least one")
    return list(checked)


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
