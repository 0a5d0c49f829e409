"""Which rows of a set cannot be read: found before a store is made, named in a report, left out."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from featstore import durable
from featstore.datasets.rows import Rows, Unreadable
from featstore.errors import DatasetError

# Rows that one call of a thread reads.
_STEP = 64

T = TypeVar("T", bound=Rows)


def scan(
    rows: Rows, *, workers: int = 1, progress: Callable[..., None] = lambda *_, **__: None
) -> tuple[Unreadable, ...]:
    """The rows that cannot be read, in order; every row is read to its end, in `workers` threads.

    Calls `progress("checked images", done, total, unreadable=...)`, or "checked texts".
    """
    found: list[Unreadable] = []
    starts = range(0, len(rows), _STEP)
    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-scan") as pool:
        for start, some in zip(starts, pool.map(lambda s: _scanned(rows, s), starts), strict=True):
            found += some
            done = min(start + _STEP, len(rows))
            progress(f"checked {rows.modality}s", done, len(rows), unreadable=len(found))
    return tuple(found)


def without(rows: T, unreadable: Sequence[Unreadable]) -> T:
    """The rows that are left; their fingerprint says which were left out.

    Raises `DatasetError` where none is left.
    """
    if not unreadable:
        return rows
    out = {one.row for one in unreadable}
    if len(out) == len(rows):
        first = unreadable[0]
        raise DatasetError(
            f"none of the {len(rows):,} rows of the {rows.split} split of {rows.dataset} can be"
            f" read; the first: {first.why}"
        )
    names = hashlib.sha256("\n".join(sorted(rows.ids[row] for row in out)).encode()).hexdigest()
    kept = rows.kept(np.array([row for row in range(len(rows)) if row not in out], np.int64))
    return replace(kept, fingerprint=f"{rows.fingerprint} without {len(out)} rows:{names}")


def save_report(path: str | Path, unreadable: Iterable[Unreadable]) -> None:
    """Write a CSV of split, id and why, a row each; the file is whole, or is not there."""
    path = Path(path)
    with (
        durable.written_whole(path) as aside,
        open(aside, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(("split", "id", "why"))
        lines.writerows((one.split, one.id, one.why) for one in unreadable)


def _scanned(rows: Rows, start: int) -> list[Unreadable]:
    found = []
    for row in range(start, min(start + _STEP, len(rows))):
        try:
            rows[row]
        except DatasetError as error:
            found.append(Unreadable(row, rows.split, rows.ids[row], str(error)))
    return found
