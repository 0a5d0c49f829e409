"""WebDataset's conventions: what a pattern of shards stands for, which members make a sample."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.tar_index import index_of, read_member
from featstore.errors import DatasetError, UsageError

MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Sample:
    """Consecutive members of a shard whose names agree up to the first dot of the last part.

    `members` maps what follows that dot, in lower case, to (offset, size).
    """

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        return read_member(self.shard, *self.members[name])


def samples_of(shard: Path, skip: bool = False) -> Iterator[Sample]:
    """The samples of a shard, in order; members without a suffix belong to none.

    Raises `DatasetError` where a member is there twice, or as `index_of`.
    """
    index = index_of(shard, skip)
    places = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    named = ((*_parts(name), place) for name, place in zip(index.names, places, strict=True))
    members = (part for part in named if part[0] and part[1])
    for key, group in itertools.groupby(members, key=lambda part: part[0]):
        sample = Sample(shard, key, {})
        for _, suffix, place in group:
            if suffix in sample.members:
                raise DatasetError(f"{shard} has {key}.{suffix} twice; make the shard anew")
            sample.members[suffix] = place
        yield sample


def strays_of(shard: Path, skip: bool = False) -> list[str]:
    """Members of a shard that belong to no sample: hidden ones, and those without a suffix."""
    return [name for name in index_of(shard, skip).names if not all(_parts(name))]


def files_of(pattern: Path) -> list[Path]:
    """The files of a pattern: those of braces whether they are there or not, those of * sorted."""
    found = []
    for path in map(Path, expanded(str(pattern))):
        if any(sign in path.name for sign in "*?["):
            found += sorted(path.parent.glob(path.name))
        else:
            found.append(path)
    return found


def expanded(pattern: str) -> list[str]:
    """Every name that the braces of a pattern stand for, as in bash.

    >>> expanded("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if at % 2 == 0 else _alternatives(part) for at, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_SHARDS:
        raise UsageError(f"{pattern} stands for {count:,} shards; give a smaller range")
    return ["".join(names) for names in itertools.product(*choices)]


def _alternatives(inside: str) -> range | list[str]:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not ends:
        return inside.split(",")
    first, last = ends.groups()
    if int(last) - int(first) >= MOST_SHARDS:
        raise UsageError(f"{{{inside}}} stands for too many shards; give a smaller range")
    padded = any(end.startswith("0") and len(end) > 1 for end in ends.groups())
    width = max(len(first), len(last)) if padded else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _parts(name: str) -> tuple[str, str]:
    """Key and suffix of a member; the key is empty where the file is hidden or has no name."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return (folder + slash + stem).removeprefix("./") if stem else "", suffix.lower()
