"""The whole way from feature blocks to a table of accuracies against fractions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe import arrays, budget
from probe.axes import check_penalties
from probe.blocks import Rows, as_blocks
from probe.chains import Chain, check_chains, first_chain, random_chain, sizes
from probe.checks import as_pair, check_train
from probe.errors import UsageError
from probe.metrics import check_metrics
from probe.result import ProbeResult, probe_table
from probe.settings import Progress, Settings, silent
from probe.solvers import solver_named

MODES = ("random", "first")


def fit(
    train: Rows,
    chains: Sequence[Chain],
    *,
    solver: str = "ridge",
    l2: float | Sequence[float] | None = None,
    standardize: bool = True,
    memory: str | int = "4GiB",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    moments_cache: Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> ProbeResult:
    """Return every probe of these chains and penalties, solved but not yet scored.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)).
        chains: orderings of features with their prefix sizes.
        solver: a key of `probe.solvers.SOLVERS`.
        l2: penalty or penalties of the objective mean loss + (l2/2) ||W||^2; by default the
            solver's own.
        standardize: divide each feature by its train standard deviation.
        memory: what arrays may take, as "4GiB" or bytes.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        store: name of the features for the table.
        tap: name of their layer for the table.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        progress: callback.
        options: the solver's own.

    Raises:
        UsageError: an argument cannot be used.
        DataError: train cannot be probed.
        MemoryBudgetError: `memory` is too small; the message says how much would do.

    Example:
        >>> from probe.chains import subset_chain
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> result = fit((x, y), [subset_chain([0, 2], n_features=3)])
        >>> result.weights(0).coef.shape
        (2, 3)
    """
    entry = solver_named(solver, options)
    penalties = check_penalties(entry.default_l2 if l2 is None else l2, zero=entry.zero_penalty)
    settings = Settings(
        standardize, budget.parse(memory), arrays.backend(backend, device), moments_cache, progress
    )
    blocks = as_blocks(train)
    check_train(blocks)
    check_chains(chains, blocks.n_features)
    fitted = entry.fit(blocks, chains, penalties, settings, **options)
    probes = np.arange(len(fitted.axes))
    table = probe_table(fitted, solver, probes, {"store": store, "tap": tap})
    return ProbeResult(table, fitted, probes, solver)


def sweep(
    train: Rows,
    test: Rows,
    *,
    fractions: Sequence[float],
    seeds: Sequence[int] = (1,),
    solver: str = "ridge",
    mode: str = "random",
    metrics: Sequence[str] = ("accuracy",),
    **arguments: Any,
) -> ProbeResult:
    """Return the scored probes of every fraction, seed and penalty, and of the whole layer.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)).
        test: row blocks, or (features, labels), to score on.
        fractions: shares of the features in (0, 1]; k = int(fraction * D). The whole layer,
            fraction 1, is always probed too.
        seeds: what the random subsets are drawn with; for one seed they are nested.
        solver: a key of `probe.solvers.SOLVERS`.
        mode: "random", or "first" for the leading features (which knows no seed).
        metrics: what to score, keys of `probe.metrics.METRICS`.
        arguments: the other arguments of `fit`.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `fit`; and for fractions outside (0, 1],
            repeated ones or ones that take no feature, and for repeated seeds.

    Example:
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> result = sweep((x, y), (x, y), fractions=[0.4], seeds=[1, 2])
        >>> result.table[["seed", "fraction", "k"]].values.tolist()
        [[1, 0.4, 1], [1, 1.0, 3], [2, 0.4, 1], [2, 1.0, 3]]
    """
    train_blocks, test_blocks = as_pair(train, test)
    check_metrics(metrics)
    shared = not solver_named(solver).seeded
    chains = sweep_chains(train_blocks.n_features, fractions, seeds, mode, shared)
    result = fit(train_blocks, chains, solver=solver, **arguments)
    drawn = seeds if mode == "random" else [None]
    if shared:
        result = _by_seed(result, drawn)
    return result.score(test_blocks, metrics)


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


def _by_seed(result: ProbeResult, seeds: Sequence[int | None]) -> ProbeResult:
    """Return the result with the whole layer, its last chain, in the rows of every seed."""
    axes = result.fitted.axes
    whole = len(axes.chains) - 1
    chains = [[number, whole] if whole else [whole] for number in range(len(seeds))]
    probes, column = [], []
    for seed, numbers in zip(seeds, chains, strict=True):
        for penalty in range(len(axes.penalties)):
            rows = [probe for number in numbers for probe in axes.prefixes(number, penalty)]
            probes += rows
            column += [seed] * len(rows)
    table = result.table.iloc[probes].reset_index(drop=True)
    table["seed"] = pd.array(column, dtype="Int64")
    return replace(result, table=table, probes=np.array(probes))
