"""What the column `status` says of a probe: one kind or several, the worst first.

A status is one kind, as "ok" or "max_iter", or several joined by "+", as "max_iter+jitter=1e-10".
What follows "=" is a value. "ok" and "converged" stand alone.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

OK, CONVERGED = "ok", "converged"
SOLVED = (OK, CONVERGED)
"""Kinds of a probe that needs no remark."""

NOT_RUN = "not run"
"""The kind of a probe that an interrupted sweep did not reach."""

SINGULAR, NOT_FINITE, SEPARABLE, DIVERGED = "singular", "not_finite", "separable", "diverged"
FEW_ROWS = "few_rows"
MAX_ITER, LINE_SEARCH, IMPRECISE, JITTER = "max_iter", "line_search", "imprecise", "jitter"

WORST_FIRST = (
    NOT_RUN,
    FEW_ROWS,
    SINGULAR,
    NOT_FINITE,
    SEPARABLE,
    DIVERGED,
    MAX_ITER,
    LINE_SEARCH,
    IMPRECISE,
    JITTER,
)

REMEDIES = {
    NOT_FINITE: "its logits are no finite numbers: give an l2 nearer to 1, or divide features "
    "that are very large",
}
"""For each kind that any solver may have and that leaves no probe: cause and remedy."""


def jitter(added: float) -> str:
    """Return the status of a probe that needed `added` on top of l2.

    >>> jitter(1e-10)
    'jitter=1.0e-10'
    """
    return f"{JITTER}={added:.1e}"


def combined(*statuses: str) -> str:
    """Return what several statuses of one probe say together, the worst kind first.

    Of one kind with several values the largest stays.

    >>> combined("converged", "jitter=1.0e-10"), combined("ok", "converged")
    ('jitter=1.0e-10', 'converged')
    >>> combined("jitter=1.0e-10", "max_iter", "jitter=2.0e-11")
    'max_iter+jitter=1.0e-10'
    """
    parts = dict.fromkeys(part for status in statuses for part in status.split("+"))
    remarks = [part for part in parts if part not in SOLVED]
    if not remarks:
        return CONVERGED if CONVERGED in parts else OK
    by_kind: dict[str, str] = {}
    for part in remarks:
        kind, _, value = part.partition("=")
        if kind not in by_kind or float(value or 0) > float(by_kind[kind].partition("=")[2] or 0):
            by_kind[kind] = part
    return "+".join(sorted(by_kind.values(), key=_rank))


def kinds(status: str) -> tuple[str, ...]:
    """Return the kinds of a status, the worst first.

    >>> kinds("max_iter+jitter=1.0e-10")
    ('max_iter', 'jitter')
    """
    return tuple(part.partition("=")[0] for part in status.split("+"))


def has(statuses: pd.Series | np.ndarray, wanted: Iterable[str]) -> np.ndarray:
    """Return which statuses have one of these kinds, bool.

    >>> has(np.array(["ok", "max_iter+jitter=1.0e-10"]), ["jitter"]).tolist()
    [False, True]
    """
    wanted = set(wanted)
    return np.array([not wanted.isdisjoint(kinds(str(status))) for status in statuses], bool)


def _rank(part: str) -> int:
    kind = part.partition("=")[0]
    # one that is not listed is taken for the worst, so that it is seen
    return WORST_FIRST.index(kind) if kind in WORST_FIRST else -1
