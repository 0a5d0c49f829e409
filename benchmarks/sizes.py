"""How large a measured problem is: a name, or one's own numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from featstore.probe.errors import UsageError

DEFAULT = "medium"


@dataclass(frozen=True)
class ProbeSizes:
    """Probes to fit.

    Attributes:
        rows: train rows.
        features: D.
        classes: C.
        fractions: how many fractions of the features, the whole layer besides.
        seeds: how many seeds.
        loop_probes: how many of one seed's probes the loop that is replaced is timed on.
        repeats: how often each time is taken; the shortest counts.
        points: how many values each axis of growth has.
    """

    rows: int
    features: int
    classes: int
    fractions: int
    seeds: int
    loop_probes: int = 4
    repeats: int = 2
    points: int = 4


@dataclass(frozen=True)
class SweepSizes(ProbeSizes):
    """Probes to fit, and to score on `test_rows` rows."""

    test_rows: int = 1000


@dataclass(frozen=True)
class EpochSizes(SweepSizes):
    """Probes to train for some `epochs`."""

    epochs: int = 2


Sizes = TypeVar("Sizes")


def chosen(named: Mapping[str, Sizes], text: str) -> Sizes:
    """Return the sizes that a text asks for: a name, numbers, or a name and then numbers.

    Numbers replace those of the name before them, or of "medium" where there is none.

    Raises:
        UsageError: no size has the name, or a number cannot be used; the message says what can.

    Example:
        >>> named = {"medium": ProbeSizes(1000, 64, 10, 5, 2)}
        >>> chosen(named, "rows=50000,classes=100").classes
        100
    """
    sizes = named[DEFAULT]
    for place, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        key, equals, value = part.partition("=")
        if equals:
            sizes = replace(sizes, **{key: _number(sizes, key, value)})
        elif place == 0 and part in named:
            sizes = named[part]
        else:
            raise UsageError(
                f"{part!r} is no size here: sizes are {', '.join(named)}, or numbers such as "
                f"{_numbers(sizes)[0]}=1000, or a name and then numbers"
            )
    return sizes


def _numbers(sizes: Sizes) -> list[str]:
    return [field.name for field in fields(sizes) if field.type is int]


def _number(sizes: Sizes, key: str, value: str) -> int:
    if key not in _numbers(sizes):
        raise UsageError(f"no size is called {key!r} here: there are {', '.join(_numbers(sizes))}")
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"size {key} is {value!r}: a whole number of at least 1 is wanted")
    return int(value)


def as_dict(sizes: Sizes) -> dict[str, object]:
    """Return the sizes by name."""
    return {field.name: getattr(sizes, field.name) for field in fields(sizes)}
