"""Which penalties to solve, and whether each stands for itself or one of them is to be chosen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from probe.errors import UsageError
from probe.validation import check_share

L2: TypeAlias = float | Sequence[float] | str | None
"""What `l2` may be: a penalty, several, "auto", or None for the solver's own."""

AUTO = "auto"
CHOICES = ("validation", "loo")

PATH = tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-12, 3))
"""The penalties of "auto": 1e-6 to 10, two a decade, meant for features of unit variance."""


@dataclass(frozen=True)
class Penalties:
    """The penalties of a fit.

    Attributes:
        values: rising.
        choice: "given" if every penalty makes probes of its own; or how each probe's is chosen
            among them: "validation" (on a part of the train rows that is held out meanwhile) or
            "loo" (leaving out one train row at a time).
        held_out: share of every class that is held out.
        seed: of the draw of that part.
    """

    values: tuple[float, ...]
    choice: str = "given"
    held_out: float = 0.1
    seed: int = 0

    @property
    def chosen(self) -> bool:
        """Whether each probe has a penalty of its own."""
        return self.choice != "given"

    @property
    def columns(self) -> tuple[float, ...]:
        """The penalty axis of the result: NaN stands for "whichever the probe has chosen"."""
        return (math.nan,) if self.chosen else self.values


def planned(
    l2: L2,
    select: str | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    *,
    default: float = 1e-3,
    zero: bool = True,
) -> Penalties:
    """Return which penalties to solve.

    Arguments:
        l2: one or several; "auto" for `PATH`; None for the solver's `default`.
        select: None, "validation" or "loo"; with "auto", None means "validation".
        held_out: share of train rows to choose by.
        seed: of the draw of those rows.
        default: the solver's own penalty.
        zero: whether the solver takes a penalty of 0.

    Raises:
        UsageError: an argument cannot be used, or there is nothing to choose among.

    Example:
        >>> planned("auto").choice, planned([0.1, 1.0]).choice, planned(None).values
        ('validation', 'given', (0.001,))
    """
    if isinstance(l2, str) and l2 != AUTO:
        raise UsageError(f"l2 is {l2!r}: a number, a list of numbers or {AUTO!r} is wanted")
    automatic = isinstance(l2, str)
    values = PATH if automatic else check_penalties(default if l2 is None else l2, zero=zero)
    choice = select or ("validation" if automatic else "given")
    if choice == "given":
        return Penalties(values)
    if choice not in CHOICES:
        raise UsageError(f"no way to select is called {select!r}: there are {', '.join(CHOICES)}")
    if len(values) < 2:
        raise UsageError(
            f"select is {select!r}, but l2 is {values[0]:g} alone: "
            f"give several penalties to choose among, or {AUTO!r}"
        )
    check_share(held_out)
    return Penalties(values, choice, held_out, seed)


def check_penalties(l2: float | Sequence[float], *, zero: bool = True) -> tuple[float, ...]:
    """Return the penalties as a tuple, each finite and not negative (or positive, if not `zero`).

    Raises:
        UsageError: a penalty cannot be used, is given twice, or is smaller than the one before.
    """
    penalties = tuple(float(value) for value in np.atleast_1d(np.asarray(l2, dtype=float)))
    if not penalties:
        raise UsageError("no penalty given: a fit needs at least one l2")
    for value in penalties:
        if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
            wanted = "0 or a positive number" if zero else "a positive number"
            raise UsageError(f"l2 is {value}: {wanted} is wanted")
    for before, value in pairwise(penalties):
        if before == value:
            raise UsageError(f"l2 {value} is given twice: each penalty makes one row")
        if before > value:
            raise UsageError(f"l2 {value:g} comes after {before:g}: list penalties rising")
    return penalties
