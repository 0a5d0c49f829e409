"""The solvers by name, and what each must offer: fit once, then score and weights of any probe."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from featstore.probe import neighbours
from featstore.probe.memory import Settings
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers import Options, closed_form, logistic, sgd, value_of
from featstore.probe.solvers.weights import Fitted
from featstore.probe.subsets import Chain


class Fit(Protocol):
    """Solves every probe; a solver with options of its own takes them as `options`."""

    def __call__(
        self,
        train: RowBlocks,
        chains: Sequence[Chain],
        penalties: Sequence[float],
        settings: Settings,
        **options: Any,
    ) -> Fitted:
        """Return all probes of these chains and penalties, solved."""


@dataclass(frozen=True)
class Solver:
    """One entry of the registry.

    Attributes:
        fit: solves all probes.
        seeded: whether a probe may depend on its chain's seed by more than the order of features;
            where it does not, the whole layer is solved once for all seeds.
        zero_penalty: whether l2 = 0 is allowed.
        choice: how a penalty is chosen if none is given: "validation" or "loo"; "given" where the
            default is taken.
        loss: by what one is chosen: "log", the mean of -log p[label]; "squared"; or "errors", the
            share of rows that are missed. Of several labels it is "log" if there are
            `probabilities`, and else "squared".
        batch: penalties that are tried at once.
        path: like `fit`, but the probes are solved when they are asked for, some penalties at a
            time (`featstore.probe.solvers.logistic.LogisticPath`); None where each penalty is
            solved alone.
        probabilities: whether the softmax of the logits are class probabilities, so that
            likelihood and calibration mean something.
        leave_one_out: like `fit`, but the probes are scored on their own train rows, each row as
            if it had not been there; None where there is no closed form for that.
        moments: whether it gathers moments.
        targets: whether it can predict numbers in place of classes.
        validates: whether it chooses by validation rows of their own where train has some.
        raw: whether it takes features as they are, neither centred nor scaled.
        every_prefix: whether all prefixes of a chain come from one factorisation.
        ladder: all values that "auto" may come to; None for `featstore.probe.selection.LADDER`.
        at_once: whether further penalties cost hardly more than one: all are tried, and the chosen
            ones are taken from one fit of all.
        affine: whether a probe is an affine map, which has weights.
        together: how many (chain, penalty) are solved and scored together when a sweep is cut
            into groups: few enough that an interruption loses little.
    """

    fit: Fit
    seeded: bool = False
    zero_penalty: bool = True
    choice: str = "validation"
    loss: str = "log"
    batch: int = 1
    path: Fit | None = None
    probabilities: bool = True
    leave_one_out: Fit | None = None
    moments: bool = True
    targets: bool = False
    validates: bool = False
    raw: bool = False
    every_prefix: bool = False
    ladder: tuple[float, ...] | None = None
    at_once: bool = False
    affine: bool = True
    together: int = 16

    @property
    def penalties(self) -> dict[str, Any]:
        """Return what `featstore.probe.selection.planned` needs to know of the solver."""
        return {"zero": self.zero_penalty, "choice": self.choice, "ladder": self.ladder}

    def rule(self, several: bool) -> str:
        """Return by what loss a penalty is chosen, of classes or of several labels at once."""
        return ("log" if self.probabilities else "squared") if several else self.loss

    def depends_on_seed(self, options: Options) -> bool:
        """Return whether, under these options, seeds change more than the order of features."""
        return self.seeded and not options.own().get("one_start", False)


SOLVERS: dict[str, Solver] = {
    "ridge": Solver(
        closed_form.fit_ridge,
        choice="loo",
        loss="squared",
        probabilities=False,
        leave_one_out=closed_form.fit_left_out,
        targets=True,
        every_prefix=True,
    ),
    "lda": Solver(
        closed_form.fit_lda,
        choice="loo",
        loss="errors",
        leave_one_out=closed_form.leave_one_out,
        every_prefix=True,
    ),
    "logistic": Solver(logistic.fit, path=logistic.path),
    "sgd": Solver(
        sgd.fit,
        seeded=True,
        choice="given",
        batch=15,
        moments=False,
        validates=True,
        raw=True,
        together=sys.maxsize,
    ),
    "knn": Solver(
        neighbours.fit,
        zero_penalty=False,
        choice="loo",
        loss="errors",
        batch=sys.maxsize,
        probabilities=False,
        leave_one_out=neighbours.fit_left_out,
        moments=False,
        ladder=neighbours.TRIED,
        at_once=True,
        affine=False,
        together=64,
    ),
}


@dataclass(frozen=True)
class Chosen:
    """A solver that was chosen, with the options that it was given.

    Attributes:
        name: a key of `SOLVERS`.
        options: as given, or its defaults.
    """

    name: str
    options: Options

    @property
    def entry(self) -> Solver:
        """Return the registry's entry of the solver."""
        return SOLVERS[self.name]

    @property
    def own(self) -> dict[str, Options]:
        """Return the entry's arguments besides rows, chains, penalties and settings."""
        return {"options": self.options} if self.options.own() else {}


def chosen(solver: str | Options, given: Mapping[str, Any] = MappingProxyType({})) -> Chosen:
    """Return the solver of that name or value.

    Arguments:
        solver: a value, or a key of `SOLVERS`.
        given: fields of the value, where `solver` is a name; None stands for "not given".

    Raises:
        UsageError: as `featstore.probe.solvers.value_of`.
    """
    value = value_of(solver, given, tuple(SOLVERS))
    return Chosen(value.solver or str(solver), value)
