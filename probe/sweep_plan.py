"""Which chains a sweep solves, in what groups, and which row of its table each probe has."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.axes import Axes
from probe.blocks import RowBlocks
from probe.chains import Chain, first_chain, random_chain, sizes
from probe.errors import UsageError
from probe.fits import described
from probe.result import identity_table
from probe.resume import Layout
from probe.solvers import solver_named

MODES = ("random", "first")


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


def sweep_plan(
    train: RowBlocks,
    test: RowBlocks,
    fractions: Sequence[float],
    seeds: Sequence[int],
    solver: str,
    mode: str,
    arguments: Mapping[str, Any],
) -> SweepPlan:
    """Return the plan of `probe.sweep` with these arguments.

    Raises:
        UsageError: an argument cannot be used.
    """
    entry, (penalties, options) = solver_named(solver), described(solver, arguments)
    chains = sweep_chains(train.n_features, fractions, seeds, mode, not entry.seeded)
    axes = Axes(tuple(chains), penalties.columns)
    names = {name: arguments.get(name, "") for name in ("store", "tap")}
    identity = identity_table(axes, solver, penalties.choice, train.n_rows, names).assign(
        n_test=test.n_rows, options=f"{options} data={data_digest(train, test)}"
    )
    return SweepPlan(
        groups(chains, len(penalties.values), entry.together),
        identity,
        axes,
        layout(axes, seeds if mode == "random" else [None], not entry.seeded),
    )


def data_digest(train: RowBlocks, test: RowBlocks) -> str:
    """Return 12 hex digits for the content of both splits, by fingerprint or else by labels."""
    digest = hashlib.sha256()
    for rows in (train, test):
        digest.update(rows.fingerprint.encode() if rows.fingerprint else rows.labels().tobytes())
    return digest.hexdigest()[:12]


def sweep_chains(
    n_features: int, fractions: Sequence[float], seeds: Sequence[int], mode: str, shared: bool
) -> list[Chain]:
    """Return one chain for each seed and, last, the whole layer.

    Where the whole layer is `shared` by all seeds it is a chain of its own, in natural order, and
    not a prefix of the others: its features are the same whatever the seed, and the triangles of
    small subsets are much smaller than that of all features.

    Raises:
        UsageError: a fraction, a seed or the mode cannot be used.
    """
    if mode not in MODES:
        raise UsageError(f"no mode is called {mode!r}: there are {', '.join(MODES)}")
    sizes(n_features, fractions)
    drawn = check_seeds(seeds) if mode == "random" else [None]
    parts = [f for f in fractions if f < 1] + ([] if shared else [1.0])
    make = random_chain if mode == "random" else _first_chain
    chains = [make(n_features, parts, seed) for seed in drawn] if parts else []
    if shared:
        chains.append(Chain(np.arange(n_features), (n_features,), (1.0,), mode))
    return chains


def _first_chain(n_features: int, fractions: Sequence[float], seed: None) -> Chain:
    return first_chain(n_features, fractions)


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds as a list of distinct integers.

    Raises:
        UsageError: there is none, one is no integer, or one is given twice.
    """
    checked = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise UsageError(f"seed {seed!r} is not an integer")
        if int(seed) in checked:
            raise UsageError(f"seed {seed} is given twice: each seed makes its own rows")
        checked.append(int(seed))
    if not checked:
        raise UsageError("no seed given: name at least one")
    return checked


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


def layout(axes: Axes, seeds: Sequence[int | None], shared: bool) -> Layout:
    """Return the rows of the table: seed by seed, penalty by penalty, prefix by prefix.

    Where the whole layer is `shared`, it is the last chain, and stands in the rows of every seed.
    """
    if not shared:
        chains = [axes.chains[number] for number in axes.chain]
        return Layout(np.arange(len(axes)), [chain.seed for chain in chains])
    whole = len(axes.chains) - 1
    probes, column = [], []
    for number, seed in enumerate(seeds):
        for penalty in range(len(axes.penalties)):
            for chain in [number, whole] if whole else [whole]:
                probes += axes.prefixes(chain, penalty)
                column += [seed] * len(axes.chains[chain])
    return Layout(np.array(probes), column)
