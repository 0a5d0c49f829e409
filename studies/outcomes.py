"""What became of the parts of a study."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from probe.errors import ProbeError
from studies.errors import PartMissing, StudyError

KNOWN = (FeatstoreError, ProbeError, StudyError, OSError)
"""What a part fails with on purpose: the text says what to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of one part: "made", "there" (nothing to do) or "missing", and then why."""

    part: str
    status: str
    reason: str = ""


def require(outcomes: Sequence[Outcome]) -> None:
    """Raise PartMissing, naming the first, if a part is missing.

    >>> require([Outcome("a", "made"), Outcome("b", "missing", "no such file")])
    Traceback (most recent call last):
    studies.errors.PartMissing: 1 of 2 parts are missing; the first is b: no such file
    """
    missing = [each for each in outcomes if each.status == "missing"]
    if missing:
        first = missing[0]
        raise PartMissing(
            f"{len(missing)} of {len(outcomes)} parts are missing; the first is {first.part}: "
            f"{first.reason}"
        )


def failed(part: str, error: Exception, told: Callable[[str], Any]) -> Outcome:
    """Return the outcome of a part that failed, and tell it: the rest of the study goes on.

    What nobody meant to raise is said with its kind and place, since a long study had better
    finish what it can than stop at a fault in one figure.
    """
    reason = str(error)
    if not isinstance(error, KNOWN):
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        reason = f"unexpected {type(error).__name__}: {error} ({where}); please report it"
    told(f"{part}: {reason}")
    return Outcome(part, "missing", reason)
