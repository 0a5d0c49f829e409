"""Parts of a study: what each was made of, and what became of it."""

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError, PartMissing, StudyError
from featstore.probe.errors import ProbeError
from featstore.probe.results.files import written_whole

VERSION = 1
"""Version of all that is made here; a higher one makes everything but stores anew."""


def digest(value: Any) -> str:
    """Return 16 hex digits for a JSON value, whatever the order of its keys.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}), digest([1]) == digest([2])
    (True, False)
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content(path: Path) -> str:
    """Return 16 hex digits for a file's bytes, "absent" if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return "absent"


def stamp(path: str | Path) -> list[Any]:
    """Return what tells whether a file, or anything in a folder, has changed, without reading it.

    Files: [size, time of change]. Folders: [files, their sizes, the latest time].
    """
    path = Path(path)
    try:
        if path.is_file():
            found = path.stat()
            return [found.st_size, found.st_mtime_ns]
        count = size = latest = 0
        for folder, _, files in os.walk(path):
            for name in files:
                found = os.stat(os.path.join(folder, name))
                count, size = count + 1, size + found.st_size
                latest = max(latest, found.st_mtime_ns)
        return [count, size, latest]
    except OSError as error:
        return [error.strerror]


@dataclass(frozen=True)
class Part:
    """One thing that a study makes.

    Attributes:
        name: of its record.
        fingerprint: of all that decides about it.
        files: that it writes.
        make: writes them, into folders that are there; what it returns is noted in the record.
    """

    name: str
    fingerprint: str
    files: Sequence[Path]
    make: Callable[[], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Records:
    """The records of a study's folder, one file a part: below FOLDER/.made.

    A part is fresh when its record has the fingerprint that it would get now, and all its files
    are as they were written. Records are written whole, after the files: a killed run has either
    both or a part that is made again.
    """

    folder: Path

    def record(self, part: str) -> dict[str, Any]:
        """Return the record of a part, {} where there is none."""
        try:
            record = json.loads(self._path(part).read_text())
            return record if isinstance(record, dict) else {}
        except (OSError, ValueError, RecursionError):
            return {}

    def fresh(self, part: str, fingerprint: str) -> bool:
        """Return whether a part need not be made again."""
        record = self.record(part)
        if record.get("fingerprint") != fingerprint:
            return False
        files = record.get("files", {})
        return all(content(self.folder / name) == known for name, known in files.items())

    def bring(self, *parts: Part) -> bool:
        """Bring parts up to date: make those that are not fresh; say whether there were any."""
        stale = [part for part in parts if not self.fresh(part.name, part.fingerprint)]
        for part in stale:
            for path in part.files:
                path.parent.mkdir(parents=True, exist_ok=True)
            facts = part.make() or {}
            self.write(part.name, part.fingerprint, part.files, **facts)
        return bool(stale)

    def write(self, part: str, fingerprint: str, files: Iterable[Path] = (), **facts: Any) -> None:
        """Note that a part is made: of what, its files, and what else is known of it."""
        names = {str(path.relative_to(self.folder)): content(path) for path in files}
        self.note(part, {"fingerprint": fingerprint, "files": names, **facts})

    def note(self, part: str, record: Mapping[str, Any]) -> None:
        """Write the record of a part."""
        path = self._path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as aside:
            aside.write_text(json.dumps(record, indent=1, default=str) + "\n")

    def _path(self, part: str) -> Path:
        return self.folder / ".made" / f"{part}.json"


KNOWN = (FeatstoreError, ProbeError, StudyError, OSError)
"""Errors that a part raises on purpose: their text says what to do."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one part: "made", "there" (nothing to do) or "missing", and then why."""

    part: str
    status: str
    reason: str = ""


def require(outcomes: Sequence[Outcome]) -> None:
    """Raise PartMissing, naming the first, if a part is missing.

    >>> require([Outcome("a", "made"), Outcome("b", "missing", "no such file")])
    Traceback (most recent call last):
    featstore.errors.PartMissing: 1 of 2 parts are missing; the first is b: no such file
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

    An unexpected error is told with its kind and place, since a fault in one figure should not
    stop a long study.
    """
    reason = str(error)
    if not isinstance(error, KNOWN):
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        reason = f"unexpected {type(error).__name__}: {error} ({where}); please report it"
    told(f"{part}: {reason}")
    return Outcome(part, "missing", reason)
