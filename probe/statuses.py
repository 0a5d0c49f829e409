"""Outcomes of probes: one enumeration, whose members say the cause and the remedy.

The column `status` of a table and of its files has the text of one member, as "ok" or "max_iter",
or of several joined by "+", the worst first, as "max_iter+jitter=1e-10". What follows "=" is a
value. "ok" and "converged" stand alone. That text is taken apart here and nowhere else.
"""

from collections.abc import Iterable
from enum import StrEnum

import numpy as np
import pandas as pd


class Status(StrEnum):
    """Outcome of a probe, from the best to the worst; the value is what files hold.

    Attributes:
        cause: why it came to this; empty where nothing is to be said.
        remedy: what to do.
        failed: whether the probe did not reach its solution.
        usable: whether it is scored all the same.

    Example:
        >>> Status("max_iter").failed, Status.MAX_ITER.remedy
        (True, 'give a larger max_iter, tol or l2')
    """

    cause: str
    remedy: str
    failed: bool
    usable: bool

    def __new__(
        cls,
        value: str,
        cause: str = "",
        remedy: str = "",
        failed: bool = True,
        usable: bool = False,
    ) -> "Status":
        """Make a member; a text alone is a probe that needs no remark."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.cause, member.remedy = cause, remedy
        member.failed, member.usable = failed and bool(cause), usable or not cause
        return member

    @property
    def text(self) -> str:
        """Cause and remedy, as one line ends with them."""
        return f"{self.cause}: {self.remedy}"

    OK = "ok"
    CONVERGED = "converged"
    JITTER = (
        "jitter",
        "the features are almost linearly dependent, so that l2 is larger by the value",
        "give a larger l2",
        False,
        True,
    )
    IMPRECISE = (
        "imprecise",
        "rounding decides about it, and nothing better is known",
        "give a larger l2, or float64 features",
        False,
        True,
    )
    LINE_SEARCH = (
        "line_search",
        "rounding hides any further decrease",
        "give a larger tol or l2, or float64 features",
        True,
        True,
    )
    MAX_ITER = (
        "max_iter",
        "the steps allowed did not suffice",
        "give a larger max_iter, tol or l2",
        True,
        True,
    )
    DIVERGED = (
        "diverged",
        "the loss is not finite any more, since the steps are too long for features of this size",
        "give a smaller lr, or divide the features by a constant",
    )
    SEPARABLE = (
        "separable",
        "without a penalty the weights of separated classes grow for ever",
        "give an l2 above 0",
    )
    NOT_FINITE = (
        "not_finite",
        "its logits are no finite numbers",
        "give an l2 nearer to 1, or divide features that are very large",
    )
    SINGULAR = (
        "singular",
        "the features are linearly dependent and l2 is too small to tell them apart",
        "give a larger l2",
    )
    FEW_ROWS = (
        "few_rows",
        "train has fewer rows than neighbours are to vote",
        "give a smaller k",
    )
    NOT_RUN = (
        "not run",
        "an interrupted sweep did not reach it",
        "run the sweep again, which goes on",
        False,
    )


SOLVED = tuple(one for one in Status if not one.cause)
"""Those of a probe that needs no remark."""

FAILED = tuple(one for one in Status if one.failed)
"""Those of a probe that did not reach its solution."""

UNUSABLE = tuple(one for one in FAILED if not one.usable)
"""Those of them that are not worth scoring."""

_RANK = {one: place for place, one in enumerate(Status)}


def jitter(added: float) -> str:
    """Return the status of a probe that needed `added` on top of l2.

    >>> jitter(1e-10)
    'jitter=1.0e-10'
    """
    return f"{Status.JITTER}={added:.1e}"


def combined(*statuses: str) -> str:
    """Return what several statuses of one probe say together, the worst first.

    Of one kind with several values the largest stays.

    Raises:
        ValueError: there is no such status.

    >>> combined("converged", "jitter=1.0e-10"), combined("ok", "converged")
    ('jitter=1.0e-10', 'converged')
    >>> combined("jitter=1.0e-10", "max_iter", "jitter=2.0e-11")
    'max_iter+jitter=1.0e-10'
    """
    values: dict[Status, str] = {}
    for part in (part for status in statuses for part in status.split("+")):
        name, _, value = part.partition("=")
        values[Status(name)] = max(values.get(Status(name), ""), value, key=lambda v: float(v or 0))
    remarks = [one for one in values if one not in SOLVED] or [max(values, key=_RANK.__getitem__)]
    remarks.sort(key=_RANK.__getitem__, reverse=True)
    return "+".join(f"{one}={values[one]}" if values[one] else one.value for one in remarks)


def kinds(status: str) -> tuple[Status, ...]:
    """Return what a text of the column says, the worst first.

    Raises:
        ValueError: there is no such status.

    >>> [one.name for one in kinds("max_iter+jitter=1.0e-10")]
    ['MAX_ITER', 'JITTER']
    """
    return tuple(Status(part.partition("=")[0]) for part in status.split("+"))


def has(statuses: pd.Series | np.ndarray, wanted: Iterable[Status]) -> np.ndarray:
    """Return which texts of the column have one of these kinds, bool; "" has none.

    >>> has(np.array(["ok", "max_iter+jitter=1.0e-10"]), [Status.JITTER]).tolist()
    [False, True]
    """
    wanted = set(wanted)
    texts = [str(status) for status in statuses]
    return np.array([bool(t) and not wanted.isdisjoint(kinds(t)) for t in texts], bool)
