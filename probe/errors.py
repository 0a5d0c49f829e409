"""Errors and warnings of probing, what both show of names, and checks of arguments."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import TypeVar


class ProbeError(Exception):
    """Base of every error that `probe` raises on purpose; its text is one line for a person."""


class UsageError(ProbeError):
    """An argument has a value that cannot be used (exit status 2 on the command line)."""


class DataError(ProbeError):
    """The features or labels cannot be probed: non-finite, empty, or without some class."""


class FileError(ProbeError):
    """A file that was to be read is not there, is damaged, or holds something else."""


class MemoryBudgetError(ProbeError):
    """The memory that was granted cannot hold what the computation needs at least."""


class DeviceWarning(UserWarning):
    """A device could not do what was planned for it, and something slower or smaller serves."""


class RowsWarning(UserWarning):
    """Warns that probes' right test rows are not known, so that intervals are over seeds alone."""


class ChangedWarning(UserWarning):
    """A file is read that was changed since it was written."""


class SelectionWarning(UserWarning):
    """A penalty is chosen in another way, or by other rows, than one would expect."""


class ProbeFailed(ProbeError):
    """A probe did not reach its solution; raised by `ProbeResult.raise_if_failed`."""


# Names come with data sets and stores, and could move the cursor, colour what follows, turn the
# direction of what is read, or be none that XML and UTF-8 have a place for; a line feed and a tab
# are layout.
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""Return a text with its control characters as escapes, as it is written for people.

    >>> visible("red \x1b[31m"), visible("two\nlines"), visible("a\r\u202eb")
    ('red \\x1b[31m', 'two\nlines', 'a\\x0d\\u202eb')
    """
    return CONTROL.sub(escape_of, text)


def escape_of(found: re.Match[str]) -> str:
    r"""Return the escape of the character that was found, as \x1b or \u202e."""
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def line(text: object) -> str:
    r"""Return a text as one line: `visible`, and line feeds as escapes too.

    >>> line("a\nWarning: b")
    'a\\nWarning: b'
    """
    return visible(str(text).strip().replace("\n", "\\n"))


F = TypeVar("F", bound=Callable[..., object])
INSTALL = 'pip install "featstore-probe[{}]"'
"""The line that installs an extra, as `featstore.errors.with_extra` has it."""

MOST_SEEDS = 10_000
"""Seeds of a sweep; more are a slip, and of a million no sweep would come to an end."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return which known word was probably meant, or which there are.

    >>> nearest("rigde", ["ridge", "lda"]), nearest("x", ["ridge", "lda"])
    ('did you mean ridge?', 'there are ridge, lda')
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if not close and (longer := [name for name in known if word and name.startswith(word)]):
        close = longer
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"


def spelt(function: F, name: str | None = None, elsewhere: dict[str, str] | None = None) -> F:
    """Return the function, whose TypeError for an argument it lacks names the nearest it has.

    Arguments:
        function: with every argument spelt out; its signature stays to be seen.
        name: what the error calls it; by default its own name.
        elsewhere: for names of arguments that belong elsewhere, where that is.
    """
    parameters = inspect.signature(function).parameters
    named = [key for key, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY]
    known = [key for key in named if key != "self"]

    @functools.wraps(function)
    def call(*args: object, **arguments: object) -> object:
        for word in arguments:
            if word not in parameters:
                remedy = (elsewhere or {}).get(word) or nearest(word, known)
                raise TypeError(f"{name or function.__name__}() has no argument {word!r}; {remedy}")
        return function(*args, **arguments)

    return call  # type: ignore[return-value]


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return seeds: 5 stands for 1 to 5.

    Raises:
        UsageError: they are none, or more than a sweep takes.

    >>> seeds_of(3), seeds_of([3, 7])
    ((1, 2, 3), (3, 7))
    """
    alone = not isinstance(seeds, Sized)
    count = len(seeds) if isinstance(seeds, Sized) else int(seeds)
    if count > MOST_SEEDS:
        raise UsageError(
            f"{count:,} seeds are as many probes of every mode, fraction and penalty: give "
            f"{MOST_SEEDS:,} or fewer"
        )
    if alone and count < 1:
        raise UsageError(f"{count} seeds are none: 5 stands for seeds 1 to 5, [{count}] for that")
    return tuple(range(1, count + 1)) if alone else tuple(seeds)


def several(values: float | Sequence[float]) -> Sequence[float]:
    """Return numbers, of which a single one may stand by itself.

    >>> several(0.1), several([0.1, 0.5])
    ((0.1,), [0.1, 0.5])
    """
    if isinstance(values, Sized):
        return values
    return (values,)
