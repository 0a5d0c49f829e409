"""Probes of given chains: which penalties, where to compute, and the table of what was solved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.probe import arrays
from featstore.probe.devices import Grant, grant
from featstore.probe.errors import UsageError
from featstore.probe.memory import Progress, Settings, callback, least, silent
from featstore.probe.moments import remembered
from featstore.probe.penalties import Penalties, planned
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
from featstore.probe.solvers.options import AUTO, L2, Choice, Options, takes_solver
from featstore.probe.solvers.registry import Chosen, Solver, chosen
from featstore.probe.solvers.routes import solve
from featstore.probe.solvers.weights import Fitted
from featstore.probe.splits import WithValidation
from featstore.probe.subsets import Chain, check_chains


@dataclass(frozen=True)
class Setup:
    """How probes are computed, and what they are called; each field is an argument of `fit`."""

    standardize: bool
    memory: str | int | Grant
    device: str
    backend: str
    store: str
    tap: str
    moments_cache: Path | None
    progress: Progress

    @property
    def where(self) -> arrays.Backend:
        """Where arrays are computed."""
        return arrays.backend(self.backend, self.device)


@takes_solver
def fit(
    train: Rows,
    chains: Sequence[Chain],
    *,
    solver: str | Options = "logistic",
    l2: L2 = None,
    select: Choice | None = None,
    held_out: float | None = None,
    held_out_seed: int | None = None,
    standardize: bool = True,
    validation: Rows | None = None,
    memory: str | int | Grant = "auto",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    moments_cache: Path | None = None,
    progress: Progress | bool = silent,
) -> ProbeResult:
    """Return every probe of these chains and penalties, solved but not yet scored.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)); floats for labels are numbers to be
            predicted.
        chains: orderings of features with their prefix sizes.
        solver: a value, such as `Ridge(l2=0.1)` or `Logistic(tol=1e-5)`; or "ridge", "lda",
            "logistic" or "sgd", which stands for that solver with its defaults.
        l2: with the name of a solver, as the field of its value.
        select: likewise.
        held_out: likewise.
        held_out_seed: likewise.
        standardize: divide each feature by its train standard deviation.
        validation: of `SGD` alone: rows by which the epoch is chosen, in place of a tenth of train.
        memory: what arrays may take, of host and device each: "4GiB", bytes, or "auto", as in
            `featstore.probe.devices.Grant`. A device with less is met with half, and a warning.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        store: what to call the features in the table.
        tap: what to call their layer there.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        progress: callback; True for lines on standard error.

    Raises:
        UsageError: an argument cannot be used, or an option is given twice.
        DataError: train cannot be probed.
        MemoryBudgetError: `memory` is too small; the message says how much would do.

    Example:
        >>> from featstore.probe.subsets import subset_chain
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> fit((x, y), [subset_chain([0, 2], n_features=3)]).weights(0).coef.shape
        (2, 3)
    """
    how = chosen(solver, l2=l2, select=select, held_out=held_out, held_out_seed=held_out_seed)
    setup = Setup(
        standardize, memory, device, backend, store, tap, moments_cache, callback(progress)
    )
    return fitted(with_validation(how.entry, as_blocks(train), validation), chains, how, setup)


def fitted(blocks: RowBlocks, chains: Sequence[Chain], how: Chosen, setup: Setup) -> ProbeResult:
    """Return every probe as `fit` does.

    Arguments:
        blocks: the train rows, with the validation rows, if there are some.
        chains: orderings of features with their prefix sizes.
        how: the solver.
        setup: how to compute.
    """
    where = setup.where
    penalties, text = described(how, setup.standardize, views_of(blocks), validation_of(blocks))

    def within(memory: int) -> Fitted:
        # plans are made from it, and all processes must make the same
        host = None if granted.host is None else least(granted.host)
        settings = Settings(
            setup.standardize, least(memory), where, setup.moments_cache, setup.progress, host
        )
        return _fitted(how, blocks, chains, penalties, settings)

    with arrays.own_settings():
        granted = grant(setup.memory, where)
        found = granted.spend(within)
    table = probe_table(found, how.name, penalties, {"store": setup.store, "tap": setup.tap}, text)
    return ProbeResult(table, found, np.arange(len(found.axes)), how.name)


def _fitted(
    how: Chosen,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
) -> Fitted:
    check_train(train)
    check_chains(chains, train.n_features)
    entry, rows = how.entry, remembered(train)
    if penalties.chosen:
        if not settings.standardize and not entry.raw and entry.ladder is None:
            penalties = penalties.in_units(mean_variance(train))
        return fit_chosen(entry, rows, chains, penalties, settings, how.own)
    return solve(entry, rows, chains, penalties.values, settings, how.own)


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
    how: Chosen,
    standardize: bool = True,
    n_views: int = 1,
    validation: RowBlocks | None = None,
) -> tuple[Penalties, str]:
    """Return the penalties that `fit` would take, and its column "options".

    The column holds all that decides about the probes and has no column of its own, as
    "name=value ...".

    Arguments:
        how: the solver.
        standardize: as of `fit`.
        n_views: of the rows.
        validation: the rows of their own by which epochs are chosen, if train has some.

    Raises:
        UsageError: there is no penalty to choose, or none can be chosen like that.

    Example:
        >>> described(chosen("ridge", l2=[0.1, 1], select="validation"))[1]
        'standardize=True path=0.1,1 rule=squared held_out=0.1 held_out_seed=0'
    """
    entry, options = how.entry, how.options
    penalties = planned(
        getattr(options, options.place),
        options.select,
        options.held_out,
        options.held_out_seed,
        **entry.penalties,
    ).of(n_views)
    words: dict[str, Any] = {"standardize": standardize}
    if penalties.chosen:
        values = ",".join(f"{value:g}" for value in penalties.values)
        words |= {"path": AUTO if penalties.automatic else values, "rule": entry.loss}
        words |= {"held_out": penalties.held_out, "held_out_seed": penalties.seed}
    # what stands in the penalty's place has a column of its own
    words |= {name: value for name, value in options.own().items() if name != options.place}
    if validation is not None:
        for drawn in ("val_fraction", "split_seed"):
            words.pop(drawn, None)
        words["validation"] = f"{validation.n_rows}_rows_of_their_own"
    return penalties, " ".join(f"{name}={value}" for name, value in words.items())
