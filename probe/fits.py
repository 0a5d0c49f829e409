"""Probes of given chains: which penalties, where to compute, and the table of what was solved."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore.probe import arrays
from featstore.probe.devices import Grant, grant
from featstore.probe.errors import UsageError
from featstore.probe.memory import Progress, Settings, least, silent
from featstore.probe.moments import remembered
from featstore.probe.penalties import AUTO, L2, Penalties, planned
from featstore.probe.result import ProbeResult, probe_table
from featstore.probe.rows import (
    RowBlocks,
    Rows,
    as_blocks,
    check_labels,
    check_train,
    validation_of,
    views_of,
)
from featstore.probe.selection import fit_chosen, mean_variance
from featstore.probe.solvers.registry import Fitted, Solver, solver_named
from featstore.probe.solvers.routes import solve
from featstore.probe.splits import WithValidation
from featstore.probe.subsets import Chain, check_chains


def fit(
    train: Rows,
    chains: Sequence[Chain],
    *,
    solver: str = "logistic",
    l2: L2 = None, select: str | None = None, held_out: float = 0.1, held_out_seed: int = 0,
    standardize: bool = True, validation: Rows | None = None,
    memory: str | int | Grant = "auto", device: str = "auto", backend: str = "torch",
    store: str = "", tap: str = "",
    moments_cache: Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> ProbeResult:  # fmt: skip
    """Return every probe of these chains and penalties, solved but not yet scored.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)); floats for labels are numbers to be
            predicted.
        chains: orderings of features with their prefix sizes.
        solver: a key of `featstore.probe.solvers.registry.SOLVERS`.
        l2: penalty or rising penalties of the objective mean loss + (l2/2) ||W||^2, each solved;
            or "auto", to choose for each probe from `featstore.probe.penalties.LADDER`, which is
            what
            happens by default, save for sgd, whose protocol fixes it.
        select: "validation" or "loo" (ridge, lda) to choose for each probe from `l2`; by default
            leave-one-out where there is a closed form for it.
        held_out: share of every class of train that a part of "validation" holds out.
        held_out_seed: of the draw of that part.
        standardize: divide each feature by its train standard deviation.
        validation: of `sgd` alone: rows by which the epoch is chosen, in place of a tenth of train.
        memory: what arrays may take, on host and device each: "4GiB", bytes, or "auto", as in
            `featstore.probe.devices.Grant`. A device with less is met with half, and a warning.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        store: what to call the features in the table.
        tap: what to call their layer there.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        progress: callback.
        **options: the solver's own.

    Raises:
        UsageError: an argument cannot be used.
        DataError: train cannot be probed.
        MemoryBudgetError: `memory` is too small; the message says how much would do.

    Example:
        >>> from featstore.probe.subsets import subset_chain
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> fit((x, y), [subset_chain([0, 2], n_features=3)]).weights(0).coef.shape
        (2, 3)
    """
    entry = solver_named(solver, options)
    blocks, where = (
        with_validation(entry, as_blocks(train), validation),
        arrays.backend(backend, device),
    )
    penalties = planned(l2, select, held_out, held_out_seed, **entry.penalties)
    penalties = penalties.of(views_of(blocks))

    def within(memory: int) -> Fitted:
        # plans are made from it, and all processes must make the same
        settings = Settings(standardize, least(memory), where, moments_cache, progress)
        return _fitted(entry, blocks, chains, penalties, settings, options)

    with arrays.own_settings():
        fitted = grant(memory, where).spend(within)
    text = options_text(entry, penalties, standardize, options, validation_of(blocks))
    table = probe_table(fitted, solver, penalties, {"store": store, "tap": tap}, text)
    return ProbeResult(table, fitted, np.arange(len(fitted.axes)), solver)


def _fitted(
    entry: Solver,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> Fitted:
    check_train(train)
    check_chains(chains, train.n_features)
    rows = remembered(train)
    if penalties.chosen:
        if not settings.standardize and not entry.raw:
            penalties = penalties.in_units(mean_variance(train))
        return fit_chosen(entry, rows, chains, penalties, settings, options)
    return solve(entry, rows, chains, penalties.values, settings, options)


def with_validation(entry: Solver, train: RowBlocks, validation: Rows | None) -> RowBlocks:
    """Return train rows with the validation rows that are given, if any.

    Raises:
        UsageError: the solver chooses nothing by them.
        DataError: they do not go with the train rows.
    """
    if validation is None:
        return train
    if not entry.validates:
        raise UsageError(
            "validation rows choose the epoch of solver sgd, and this solver has none: leave "
            "`validation` out, or add these rows to train"
        )
    rows = WithValidation(train, as_blocks(validation))
    check_labels(rows.validation.labels(), train.n_classes, "validation")
    return rows


def described(
    solver: str, arguments: Mapping[str, Any], n_views: int = 1,
    validation: RowBlocks | None = None,
) -> tuple[Penalties, str]:  # fmt: skip
    """Return the penalties that `fit` would take from these arguments, and its column "options".

    Arguments:
        solver: a key of `featstore.probe.solvers.registry.SOLVERS`.
        arguments: of `fit`.
        n_views: of the rows.
        validation: the rows of their own by which epochs are chosen, if train has some.

    Raises:
        UsageError: the solver, a penalty or an option cannot be used.
    """
    bound = inspect.signature(fit).bind((), (), solver=solver, **arguments)
    bound.apply_defaults()
    values = bound.arguments
    entry = solver_named(solver, values["options"])
    selection = [values[name] for name in ("l2", "select", "held_out", "held_out_seed")]
    penalties = planned(*selection, **entry.penalties).of(n_views)
    options = values["options"]
    return penalties, options_text(entry, penalties, values["standardize"], options, validation)


def options_text(
    entry: Solver, penalties: Penalties, standardize: bool, options: Mapping[str, Any],
    validation: RowBlocks | None = None,
) -> str:  # fmt: skip
    """Return all that decides about the probes and has no column of its own, as "name=value ...".

    Example:
        >>> from featstore.probe.solvers.registry import SOLVERS
        >>> options_text(SOLVERS["ridge"], planned([0.1, 1], "validation"), True, {})
        'standardize=True path=0.1,1 rule=squared held_out=0.1 held_out_seed=0'
    """
    words: dict[str, Any] = {"standardize": standardize}
    if penalties.chosen:
        values = ",".join(f"{value:g}" for value in penalties.values)
        words |= {"path": AUTO if penalties.automatic else values, "rule": entry.loss}
        words |= {"held_out": penalties.held_out, "held_out_seed": penalties.seed}
    parameters = inspect.signature(entry.fit).parameters
    words |= {name: options.get(name, parameters[name].default) for name in entry.options()}
    if validation is not None:
        for drawn in ("val_fraction", "split_seed"):
            words.pop(drawn, None)
        words["validation"] = f"{validation.n_rows}_rows_of_their_own"
    return " ".join(f"{name}={value}" for name, value in words.items())
