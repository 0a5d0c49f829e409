"""What splits are called, and which one is read for "test" where there is none of that name."""

from collections.abc import Sequence
from pathlib import Path

from featstore.datasets.rows import unknown_split

# Names by which a split is found; the last two stand in for "test" where there is none.
PLACE = "{split}"  # in a pattern of file names, stands for a split's name
NAMES = ("train", "test", "val", "validation")
_FOR_TEST = ("val", "validation")


def named(pattern: Path, split: str) -> Path:
    """The path that a pattern gives for a split.

    >>> named(Path("lists/{split}.csv"), "train").as_posix()
    'lists/train.csv'
    """
    return Path(str(pattern).replace(PLACE, split))


def held(dataset: str, split: str, there: Sequence[str]) -> str:
    """The name among `there` that holds `split`; `UsageError` where none does.

    >>> held("imagenet", "test", ["train", "val"])
    'val'
    """
    names = (split, *_FOR_TEST) if split == "test" else (split,)
    found = next((name for name in names if name in there), None)
    if found is None:
        raise unknown_split(dataset, split, there)
    return found
