"""Solvers as values: each option of a solver is declared here, and nowhere else.

The defaults of `fit` and `sweep`, the options of the command line and the keys of study files all
come from the fields of these classes. This module loads no array library.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_type_hints

from featstore.probe.errors import F, UsageError, spelt

L2: TypeAlias = float | Sequence[float] | str | None
"""What `l2` may be: a penalty, several rising ones, "auto", or None for the solver's default."""

AUTO = "auto"

Count: TypeAlias = int | Sequence[int] | str
"""What `k` may be: a number of neighbours, several rising ones, or "auto"."""


def check_penalties(l2: float | Sequence[float], *, zero: bool = True) -> tuple[float, ...]:
    """Return the penalties as a tuple, each finite and not negative (or positive, if not `zero`).

    Raises:
        UsageError: a penalty cannot be used, is given twice, or is smaller than the one before.
    """
    try:
        values = tuple(l2)  # type: ignore[arg-type]
    except TypeError:
        values = (l2,)
    for value in values:
        if not hasattr(value, "__float__"):
            raise UsageError(f"l2 is {value!r}: a number, a list of numbers or 'auto' is wanted")
    penalties = tuple(float(value) for value in values)
    if not penalties:
        raise UsageError("no penalty given: a fit needs at least one l2")
    for value in penalties:
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            wanted = "0 or a positive number" if zero else "a positive number"
            raise UsageError(f"l2 is {value}: {wanted} is wanted")
    for before, value in pairwise(penalties):
        if before == value:
            raise UsageError(f"l2 {value} is given twice: each penalty makes one row")
        if before > value:
            raise UsageError(f"l2 {value:g} comes after {before:g}: list penalties rising")
    return penalties


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)


def _positive(usual: str = "") -> Callable[[str, Any], str]:
    def problem(name: str, value: Any) -> str:
        good = _is_number(value) and math.isfinite(value) and value > 0
        return "" if good else f"{name} is {value}: a positive number is wanted{usual}"

    return problem


def _whole(wanted: str = "a whole number of at least 1 is wanted") -> Callable[[str, Any], str]:
    def problem(name: str, value: Any) -> str:
        good = _is_number(value) and math.isfinite(value) and value == int(value) and value >= 1
        return "" if good else f"{name} is {value}: {wanted}"

    return problem


def _seed(name: str, value: Any) -> str:
    good = hasattr(value, "__index__") and not isinstance(value, bool)
    return "" if good else f"{name} is {value!r}: a whole number is wanted"


def _share(name: str, value: Any) -> str:
    good = _is_number(value) and 0 < value < 1
    return "" if good else f"validation fraction {value} is outside (0, 1): 0.1 is usual"


def _below_one(name: str, value: Any) -> str:
    good = _is_number(value) and 0 <= value < 1
    return "" if good else f"{name} is {value}: it lies in [0, 1)"


def _flag(name: str, value: Any) -> str:
    return "" if value in (True, False) else f"{name} is {value!r}: True or False is wanted"


def _choice(name: str, value: Any) -> str:
    known = get_args(Choice)
    good = value in known
    return "" if good else f"no way to select is called {value!r}: there are {', '.join(known)}"


def _l2(name: str, value: Any) -> str:
    if isinstance(value, str) and value != AUTO:
        return f"l2 is {value!r}: a number, a list of numbers or {AUTO!r} is wanted"
    if not isinstance(value, str):
        check_penalties(value)
    return ""


def _no_penalty(name: str, value: Any) -> str:
    return f"{name} is {value!r}: neighbours have no penalty; k stands in its place"


def _counts(name: str, value: Any) -> str:
    if isinstance(value, str):
        return "" if value == AUTO else f"k is {value!r}: give numbers of neighbours, or {AUTO!r}"
    return _rising(name, value, lambda each: each == int(each) and each >= 1, "1 or more")


def _temperatures(name: str, value: Any) -> str:
    return _rising(name, value, lambda each: 0 < each < 1, "between 0 and 1; 0.07 is usual")


def _rising(name: str, value: Any, good: Callable[[Any], bool], wanted: str) -> str:
    """Return what is wrong with one number or several rising ones."""
    values = value if isinstance(value, tuple) else (value,)
    if not values:
        return f"{name} is {value!r}: name at least one"
    for each in values:
        if not (_is_number(each) and math.isfinite(each) and good(each)):
            return f"{name} is {each!r}: numbers are {wanted}"
    for before, each in pairwise(values):
        if before >= each:
            return f"{name} {each} comes after {before}: list them rising, each once"
    return ""


def _one_of(known: Any) -> Callable[[str, Any], str]:
    names = get_args(known)

    def problem(name: str, value: Any) -> str:
        return "" if value in names else f"{name} is {value!r}: choose {' or '.join(names)}"

    return problem


Choice: TypeAlias = Literal["validation", "loo"]
Metric: TypeAlias = Literal["cosine", "euclidean"]
Votes: TypeAlias = Literal["uniform", "exp"]


def _told(
    check: Callable[[str, Any], str], told: str, *, shown: str = "", off: str = ""
) -> dict[str, Any]:
    """Return what a field says of its option.

    Arguments:
        check: returns what is wrong with a value, "" if nothing is.
        told: its help text.
        shown: what help shows for a default that says too little.
        off: the name of the opposite of a flag that is set by default.
    """
    return {"check": check, "help": told, "shown": shown, "off": off}


_PENALTY = _told(
    _l2,
    "The penalty of mean loss + (l2/2) ||W||^2; a list solves each; auto chooses for each probe, "
    "on train rows alone.",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of any solver: its penalties, and how one of them is chosen.

    Attributes:
        l2: penalty, or rising penalties that are each solved, of the objective
            mean loss + (l2/2) ||W||^2; "auto" to choose one for each probe from
            `featstore.probe.selection.LADDER`.
        select: "validation" or "loo" to choose for each probe from `l2`; by default leave-one-out
            where there is a closed form for it.
        held_out: share of every class of train that a part of "validation" holds out.
        held_out_seed: seed that draws the held-out rows.

    Raises:
        UsageError: a value cannot be used.
    """

    solver: ClassVar[str] = ""

    @property
    def place(self) -> str:
        """The field whose values are solved one by one, or chosen among: the penalty's place."""
        return "l2"

    l2: L2 = field(default=None, metadata=_PENALTY)
    select: Choice | None = field(
        default=None,
        metadata=_told(
            _choice,
            "How penalties are chosen: on held-out parts of train, or by leave-one-out.",
            shown="loo; logistic: validation",
        ),
    )
    held_out: float = field(
        default=0.1, metadata=_told(_share, "Share of train held out to choose.")
    )
    held_out_seed: int = field(
        default=0, metadata=_told(_seed, "Seed that draws the held-out rows.")
    )

    def __post_init__(self):
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.default is None:
                continue
            value = _plain(value)
            if problem := one.metadata["check"](one.name, value):
                raise UsageError(problem)
            object.__setattr__(self, one.name, value)

    def own(self) -> dict[str, Any]:
        """Return the options that only this solver has, by name."""
        return {one.name: getattr(self, one.name) for one in own_fields(type(self))}


def _plain(value: Any) -> Any:
    """Return a value as Python's own, lists as tuples, one of a single number as that number."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = tuple(map(_plain, value))
        return value[0] if len(value) == 1 else value
    return value


def _solver(cls: type) -> type:
    """Make a misspelt field of a class a TypeError that names the nearest."""
    cls.__init__ = spelt(cls.__init__, cls.__name__)
    return cls


@dataclass(frozen=True, kw_only=True)
class Ridge(Options):
    """Least squares on one-hot labels, or on numbers: mean ||y - W'x - b||^2 / 2 + (l2/2) ||W||^2.

    Example:
        >>> Ridge(l2=[0.1, 1])
        Ridge(l2=(0.1, 1), select=None, held_out=0.1, held_out_seed=0)
        >>> Ridge(l=1)
        Traceback (most recent call last):
        TypeError: Ridge() has no argument 'l'; did you mean l2?
    """

    solver: ClassVar[str] = "ridge"

    l2: L2 = field(default=AUTO, metadata=_PENALTY)


@dataclass(frozen=True, kw_only=True)
class LDA(Options):
    """Gaussian classes with one covariance S + l2 I: linear discriminant analysis."""

    solver: ClassVar[str] = "lda"

    l2: L2 = field(default=AUTO, metadata=_PENALTY)


@dataclass(frozen=True, kw_only=True)
class Logistic(Options):
    """Exact softmax regression: mean -log softmax(W'x + b)[y] + (l2/2) ||W||^2.

    Attributes:
        tol: g'H g <= tol^2 f ends a run, as `featstore.probe.solvers.logistic.fit` has it.
        max_iter: most iterations.
        fast: round the products of the first steps on a CUDA device to TF32.
    """

    solver: ClassVar[str] = "logistic"

    l2: L2 = field(default=AUTO, metadata=_PENALTY)
    tol: float = field(
        default=1e-4, metadata=_told(_positive(", 1e-4 is usual"), "Gradient norm to stop at.")
    )
    max_iter: int = field(
        default=2000,
        metadata=_told(_whole("at least one step is wanted, 2000 is usual"), "Most iterations."),
    )
    fast: bool = field(
        default=False,
        metadata=_told(
            _flag, "Round the products of the first steps on CUDA to TF32; the last are exact."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class SGD(Options):
    """Training by minibatch SGD on raw features, as the paper's released code sets it.

    Attributes:
        lr: learning rate of the first epoch.
        momentum: share of the last step that is kept (no dampening, not Nesterov's).
        epochs: passes over the train part.
        step_every: epochs after which the rate falls; None for a fifth of all, which is the
            paper's 20 of 100 and 10 of 50.
        gamma: what the rate is multiplied by then.
        batch_size: rows of a minibatch; the last of an epoch takes what is left.
        val_fraction: share of the train rows to choose the epoch by, where none are there for it.
        split_seed: seed that draws the validation part.
        order_seed: seed of the order of the rows, and of the view that each is shown in, drawn
            anew for each epoch.
        validate_every: the epochs among which the best one is chosen: each fifth, and the last.
        one_start: whether all seeds start from the layer of one draw, as the paper's do.

    Reference:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
    """

    solver: ClassVar[str] = "sgd"

    l2: L2 = field(default=5e-4, metadata=_PENALTY)
    lr: float = field(default=0.1, metadata=_told(_positive(), "First learning rate."))
    momentum: float = field(default=0.9, metadata=_told(_below_one, "Momentum."))
    epochs: int = field(default=100, metadata=_told(_whole(), "Passes over train."))
    step_every: int | None = field(
        default=None, metadata=_told(_whole(), "Epochs a rate.", shown="a fifth of all")
    )
    gamma: float = field(default=0.1, metadata=_told(_positive(), "Factor between rates."))
    batch_size: int = field(default=256, metadata=_told(_whole(), "Rows a step."))
    val_fraction: float = field(default=0.1, metadata=_told(_share, "Validation part."))
    split_seed: int = field(
        default=0, metadata=_told(_seed, "Seed that draws the validation part.")
    )
    order_seed: int = field(default=0, metadata=_told(_seed, "Seed of the order of rows."))
    validate_every: int = field(
        default=5, metadata=_told(_whole(), "Epochs among which the best is chosen.")
    )
    one_start: bool = field(
        default=True,
        metadata=_told(
            _flag, "Start all seeds from one layer, or each from its own.", off="own-starts"
        ),
    )

    @property
    def rows(self) -> int:
        """Rows that are picked together: a minibatch, or 256 where no step is taken."""
        return max(256, self.batch_size)

    @property
    def largest_decay(self) -> float:
        """The weight decay from which on v = m v + decay w, w = w - lr v lets weights grow."""
        return 2 * (1 + self.momentum) / self.lr

    def validated(self, epoch: int) -> bool:
        """Return whether the probes are validated after an epoch, counted from 1."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    def rates(self) -> list[float]:
        """Return the learning rate of each epoch, falling as `torch.optim.lr_scheduler.StepLR`.

        Example:
            >>> SGD(epochs=5, step_every=2).rates()
            [0.1, 0.1, 0.010000000000000002, 0.010000000000000002, 0.0010000000000000002]
        """
        every = self.step_every or max(1, self.epochs // 5)
        rates = [self.lr]
        for epoch in range(1, self.epochs):
            rates.append(rates[-1] * (1.0 if epoch % every else self.gamma))
        return rates


@dataclass(frozen=True, kw_only=True)
class KNN(Options):
    """Votes of the k nearest train rows, of equal votes for the first class; it has no weights.

    Each neighbour votes for its class with the weight 1, or with exp(s / temperature) of its cosine
    similarity s. A list of `k`, or else of `temperature`, stands in the penalty's place: each is
    solved, or one chosen for each probe, and the column `l2` has it.

    Attributes:
        k: neighbours that vote; several rising ones; or "auto", to choose for each probe on train
            rows by leave-one-out.
        metric: "cosine" or "euclidean", of features that are centred and scaled by their deviation
            in train, unless `standardize` is False: then they are as they are.
        weights: "uniform", or "exp", which needs cosine similarities.
        temperature: of "exp"; several rising ones where `k` is one number.

    Reference:
        Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, for
        votes exp(s / 0.07).

    Example:
        >>> KNN(k=[5, 20]).place, KNN(k=20, weights="exp", temperature=[0.05, 0.1]).place
        ('k', 'temperature')
        >>> KNN(weights="exp", metric="euclidean")
        Traceback (most recent call last):
        featstore.probe.errors.UsageError: weights 'exp' are of cosine similarities: take metric \
'cosine'
    """

    solver: ClassVar[str] = "knn"

    l2: None = field(default=None, metadata=_told(_no_penalty, "", shown=""))
    k: Count = field(
        default=20, metadata=_told(_counts, "Neighbours that vote; a list, or auto, as of l2.")
    )
    metric: Metric = field(default="cosine", metadata=_told(_one_of(Metric), "Which are nearest."))
    weights: Votes = field(default="uniform", metadata=_told(_one_of(Votes), "What a vote counts."))
    temperature: float | Sequence[float] = field(
        default=0.07, metadata=_told(_temperatures, "Of votes exp(s/temperature); or a list.")
    )

    def __post_init__(self):
        super().__post_init__()
        if self.weights == "exp" and self.metric != "cosine":
            raise UsageError("weights 'exp' are of cosine similarities: take metric 'cosine'")
        if self.place == "temperature" and self.weights != "exp":
            raise UsageError("temperature is of weights 'exp': add them, or leave it out")
        if self.place == "temperature" and not _is_number(self.k):
            raise UsageError("k and temperature are both to be compared: give one number of one")
        if self.select is not None and len(self.values) == 1:
            raise UsageError(
                f"select is {self.select!r}, but {self.place} is one number: give several to "
                f"choose among, or k={AUTO!r}"
            )
        if not isinstance(self.k, str):
            whole = tuple(map(int, self.k)) if isinstance(self.k, tuple) else int(self.k)
            object.__setattr__(self, "k", whole)

    @property
    def place(self) -> str:
        """The one of `k` and `temperature` that is a list; of none `k`."""
        return "temperature" if isinstance(self.temperature, tuple) else "k"

    @property
    def values(self) -> tuple[float, ...]:
        """Return the penalties that are given; () where one is to be chosen from all."""
        given = getattr(self, self.place)
        return () if given == AUTO else given if isinstance(given, tuple) else (given,)


VALUES: Mapping[str, type[Options]] = {one.solver: one for one in (Logistic, Ridge, LDA, SGD, KNN)}
"""The classes by the names of their solvers, the default one first."""

for _cls in (Options, *VALUES.values()):
    _solver(_cls)


def own_fields(cls: type[Options]) -> list[Field[Any]]:
    """Return the fields that a solver has beyond those of any."""
    common = {one.name for one in fields(Options)}
    return [one for one in fields(cls) if one.name not in common]


@dataclass(frozen=True)
class _Declared:
    """An option as the command line and study files need it.

    Attributes:
        name: of the field.
        annotation: its type.
        told: help text.
        default: what help shows.
        off: the name of the opposite of a flag that is set by default.
        solvers: names of the solvers that have it; empty for all.
    """

    name: str
    annotation: Any
    told: str
    default: str
    off: str
    solvers: tuple[str, ...]


def declared() -> list[_Declared]:
    """Return every option of every solver, those of all first.

    >>> [each.name for each in declared()][:6]
    ['l2', 'select', 'held_out', 'held_out_seed', 'tol', 'max_iter']
    >>> declared()[0].default
    'auto; sgd: 0.0005'
    """
    found: dict[str, _Declared] = {}
    for cls in VALUES.values():
        annotations = get_type_hints(cls)
        for one in fields(cls):
            having = {name: c for name, c in VALUES.items() if one.name in c.__dataclass_fields__}
            told, general = one.metadata, len(having) == len(VALUES)
            found.setdefault(
                one.name,
                _Declared(
                    one.name,
                    annotations[one.name],
                    told["help"],
                    told["shown"] or _defaults(one.name, having),
                    told["off"],
                    () if general else tuple(having),
                ),
            )
    return list(found.values())


def _defaults(name: str, having: Mapping[str, type[Options]]) -> str:
    defaults = {solver: cls.__dataclass_fields__[name].default for solver, cls in having.items()}
    # what a solver lacks has no default there
    values = {solver: each for solver, each in defaults.items() if each is not None} or defaults
    usual = next(iter(values.values()))
    others = [f"{solver}: {value}" for solver, value in values.items() if value != usual]
    return "; ".join([str(usual), *others])


def value_of(
    solver: str | Options,
    given: Mapping[str, Any] = MappingProxyType({}),
    known: Sequence[str] = tuple(VALUES),
) -> Options:
    """Return a solver as a value.

    Arguments:
        solver: a value, or the name of a solver.
        given: fields, where `solver` is a name; None stands for "not given".
        known: names of all solvers.

    Raises:
        UsageError: no solver has the name, or it has no such option; a value cannot be used; or
            a field is given beside a value.

    Example:
        >>> value_of("ridge", {"l2": 0.1}) == Ridge(l2=0.1), value_of(SGD()) == SGD()
        (True, True)
        >>> value_of(Ridge(l2=1), {"l2": 2})
        Traceback (most recent call last):
        featstore.probe.errors.UsageError: l2 is given twice, in Ridge(...) and as l2=2: drop one
    """
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(solver, Options):
        for name, value in given.items():
            where = f"in {type(solver).__name__}(...) and as {name}={value!r}"
            raise UsageError(f"{name} is given twice, {where}: drop one")
        return solver
    if isinstance(solver, type) and issubclass(solver, Options):
        raise UsageError(f"solver is the class {solver.__name__}: give {solver.__name__}()")
    if solver not in known:
        raise UsageError(f"no solver is called {solver!r}: there are {', '.join(known)}")
    cls = VALUES.get(solver, Options)
    for name in given:
        if name not in cls.__dataclass_fields__:
            own = [one.name for one in own_fields(cls)]
            has = f"it has {', '.join(own)}" if own else "it has none"
            raise UsageError(f"solver {solver} has no option {name!r}: {has}")
    return cls(**given)


_ELSEWHERE = {
    one.name: f"it is an option of a solver: give solver={cls.__name__}({one.name}=...)"
    for cls in VALUES.values()
    for one in own_fields(cls)
}
"""What to say of options of one solver that are given as arguments of `fit` or `sweep`."""


def takes_solver(function: F) -> F:
    """Return a function whose TypeError for a solver's own option says that the solver takes it."""
    return spelt(function, elsewhere=_ELSEWHERE)
