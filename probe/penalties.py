"""Which penalties to solve, and whether each stands for itself or one of them is to be chosen."""

import math
from dataclasses import dataclass, replace

from featstore.probe.errors import UsageError
from featstore.probe.modes import OF_LABELS
from featstore.probe.solvers.options import AUTO, L2, check_penalties
from featstore.probe.splits import check_share

GIVEN, VALIDATION, LOO = "given", "validation", "loo"
CHOICES = (VALIDATION, LOO)

LADDER = tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-18, 9))
"""All penalties that "auto" may come to, two a decade, for features of unit variance."""

FIRST = 10.0
"""The one that "auto" begins with: downwards until a score is past its best, and upwards only if
nothing smaller is better."""


@dataclass(frozen=True)
class Penalties:
    """The penalties of a fit.

    Attributes:
        values: rising.
        choice: "given" if every penalty makes probes of its own; or how each probe's is chosen
            among them: "validation" (on parts of the train rows that are held out meanwhile) or
            "loo" (leaving out one train row at a time).
        held_out: share of every class that a part holds out.
        seed: of the draw of the parts.
        first: position of the value that is tried first.
        asked: whether the way to choose was asked for, and not the solver's own.
        automatic: whether the values are those of "auto".
    """

    values: tuple[float, ...]
    choice: str = GIVEN
    held_out: float = 0.1
    seed: int = 0
    first: int = -1
    asked: bool = False
    automatic: bool = False

    @property
    def chosen(self) -> bool:
        """Whether each probe has a penalty of its own."""
        return self.choice != GIVEN

    @property
    def columns(self) -> tuple[float, ...]:
        """The penalty axis of the result: NaN stands for "whichever the probe has chosen"."""
        return (math.nan,) if self.chosen else self.values

    def choice_of(self, ranking: str | None) -> str:
        """Return how the penalties of a chain are chosen, given what its order came from.

        An order that labels decided about has seen the label of a row that is left out, so that
        it is made again, from the rows that are not held out.
        """
        return VALIDATION if self.choice == LOO and ranking in OF_LABELS else self.choice

    def in_units(self, variance: float) -> "Penalties":
        """Return those of "auto" for features of such a variance, to the nearest half decade.

        Without scaling, features that are c times as large want penalties c^2 times as large.
        """
        if not self.automatic or not variance > 0:
            return self
        unit = 10 ** (round(2 * math.log10(variance)) / 2)
        return replace(self, values=tuple(float(f"{value * unit:.3g}") for value in LADDER))

    def of(self, n_views: int) -> "Penalties":
        """Return these penalties for rows of so many views.

        The other views of a row that is left out tell its label, so that a solver's own way to
        choose becomes one that holds out all of them.

        Raises:
            UsageError: leave-one-out was asked for.
        """
        if self.choice != LOO or n_views == 1:
            return self
        if self.asked:
            raise UsageError(
                f"leave-one-out would leave out one of {n_views} views of an image and keep "
                "the others, which tell its label: select by validation, which holds out all"
            )
        return replace(self, choice=VALIDATION)


def planned(
    l2: L2,
    select: str | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    *,
    default: float = 1e-3,
    zero: bool = True,
    choice: str = GIVEN,
    ladder: tuple[float, ...] | None = None,
) -> Penalties:
    """Return which penalties to solve.

    Arguments:
        l2: one or several; "auto" for a choice from `LADDER`; None for what the solver does by
            itself: that, or its `default`.
        select: None, "validation" or "loo"; with "auto", None means the solver's own `choice`.
        held_out: share of train rows to choose by.
        seed: of the draw of those rows.
        default: the solver's own penalty.
        zero: whether the solver takes a penalty of 0.
        choice: how the solver chooses by itself; "given" if it does not.
        ladder: what "auto" chooses from, tried from the largest on; None for `LADDER`.

    Raises:
        UsageError: an argument cannot be used, or there is nothing to choose among.

    Example:
        >>> planned("auto").choice, planned([0.1, 1.0]).choice, planned(None).values
        ('validation', 'given', (0.001,))
        >>> planned(None, choice="loo").choice, planned(None, choice="loo").automatic
        ('loo', True)
    """
    if isinstance(l2, str) and l2 != AUTO:
        raise UsageError(f"l2 is {l2!r}: a number, a list of numbers or {AUTO!r} is wanted")
    automatic = isinstance(l2, str) or (l2 is None and choice != GIVEN)
    values = (
        (ladder or LADDER)
        if automatic
        else check_penalties(default if l2 is None else l2, zero=zero)
    )
    own = VALIDATION if choice == GIVEN else choice
    chosen = select or (own if automatic else GIVEN)
    if chosen == GIVEN:
        return Penalties(values)
    if chosen not in CHOICES:
        raise UsageError(f"no way to select is called {select!r}: there are {', '.join(CHOICES)}")
    if len(values) < 2:
        raise UsageError(
            f"select is {select!r}, but l2 is {values[0]:g} alone: "
            f"give several penalties to choose among, or {AUTO!r}"
        )
    check_share(held_out)
    begins = automatic and ladder is None
    first = values.index(FIRST) if begins else len(values) - 1
    return Penalties(values, chosen, held_out, seed, first, select is not None, automatic)
