"""Files that are whole or not there: checked by name, written aside, then renamed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from probe.errors import UsageError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a name aside to write to, and rename it to `path` once the block ends well.

    Whatever goes wrong in between, `path` is as it was and nothing is left beside it. The name
    keeps the suffix, by which some writers choose their format.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written_whole(folder / "a.txt") as aside:
    ...     _ = aside.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def writable(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path if a file can be written under its name.

    Raises:
        UsageError: it ends in none of `suffixes`, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path.name!r} ends in none of {', '.join(suffixes)}: name it so")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    return path
