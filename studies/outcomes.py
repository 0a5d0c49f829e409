"""What became of the parts of a study."""

from collections.abc import Sequence
from dataclasses import dataclass

from featstore.errors import FeatstoreError
from probe.errors import ProbeError
from studies.errors import PartMissing, StudyError

KNOWN = (FeatstoreError, ProbeError, StudyError, OSError)
"""What a part may fail with while the rest of the study goes on."""


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
