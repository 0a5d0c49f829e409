"""Counts and examples of what was left out of a data set, or read otherwise than it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

# Examples that a notice keeps; the count says how many there are.
MOST_EXAMPLES = 5

# What decoding finds of rows that a backbone does not see as they are, by the names that commit
# records use, which are short.
REMARKS = {
    "alpha": "images of {split} with transparent parts, laid on white",
    "cmyk": "images of {split} in CMYK, converted without their colour profile",
    "frames": "images of {split} of several frames, of which the first is taken",
    "turned": "images of {split} with a camera's orientation, which is not applied",
    "deep": "images of {split} of 16 bits a channel, of which the high byte is kept",
    "dark": "images of {split} of 16 bits a channel that use a quarter of their range at most, of"
    " which the high byte is kept (if fewer bits count, say how many: --bit-depth 12)",
    "cut": "texts of {split} that were cut to the transform's max_length (--transform FILE sets"
    " another one, and --long-texts chunk reads all of them)",
    "chunked": "texts of {split} that were longer than the transform's max_length, and are the mean"
    " of their parts",
    "blank": "texts of {split} that are empty",
    "tiny": "rows of {split} of which float16 makes 0 of more than a hundredth of the features that"
    " are not 0 (to keep them: --dtype float32)",
    "scaled": "images of {split} of 16 bits a channel, scaled from the bit depth that was given",
}


@dataclass(frozen=True)
class Notice:
    """One thing that a person should know of how data were read.

    `kind` is one word for a program, `text` a sentence that holds the numbers, `count` how many
    files, rows or names it is about, `examples` some of them, and `more` whether there are others.

    >>> print(Notice.of("files", "left out of train: 3 .txt", ["a.txt", "b.txt", "c.txt"]))
    left out of train: 3 .txt (a.txt, b.txt, c.txt)
    """

    kind: str
    text: str
    count: int = 1
    examples: tuple[str, ...] = ()
    more: bool = False

    @classmethod
    def of(cls, kind: str, text: str, about: Sequence[str], count: int | None = None) -> Self:
        """A notice about all of these, or about `count` of which these are some."""
        count = len(about) if count is None else count
        return cls(kind, text, count, tuple(about[:MOST_EXAMPLES]), len(about) > MOST_EXAMPLES)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The notice that `to_json` wrote."""
        given: dict[str, Any] = {**fields, "examples": tuple(fields["examples"])}
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """The notice as a JSON object."""
        return {**asdict(self), "examples": list(self.examples)}

    def __str__(self) -> str:
        if not self.examples:
            return self.text
        more = ", ..." if self.more else ""
        return f"{self.text} ({', '.join(self.examples)}{more})"


def of_remarks(split: str, counts: Mapping[str, int]) -> tuple[Notice, ...]:
    """A notice for each of `REMARKS` that decoding made of a split, from how many rows it met.

    >>> [notice.text for notice in of_remarks("train", {"alpha": 1200})]
    ['images of train with transparent parts, laid on white: 1,200']
    """
    return tuple(
        Notice(name, f"{told.format(split=split)}: {counts[name]:,}", counts[name])
        for name, told in REMARKS.items()
        if counts.get(name)
    )


def distinct(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """The notices in order, each once: every split of a set may have told the same."""
    return tuple(dict.fromkeys(notices))


def counted(names: Mapping[str, int], most: int = 8) -> str:
    """Counts by name for a sentence, the largest first.

    >>> counted({".txt": 1, ".gif": 1200})
    '1,200 .gif, 1 .txt'
    """
    ranked = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} {name}" for name, count in ranked[:most]]
    rest = sum(count for _, count in ranked[most:])
    return ", ".join([*told, *([f"{rest:,} others"] if rest else [])])
