"""Notes of how results were made, next to them: command, versions, machine, stores.

Beside `results.csv` stands `results.csv.provenance.json`. It decides nothing and identifies
nothing: results name their own sweep and data in the column `options`. It is for a person who
asks, later, what made a number.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import featstore
from featstore.errors import VERSION
from featstore.probe.results.files import written_whole

FORMAT = 1

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "onnxruntime",
    "cupy-cuda13x",
    "numpy",
    "scipy",
    "pandas",
    "zarr",
    "h5py",
)
"""Packages that may have had a part in a number; those that are installed are noted."""

PROGRAM = ("__main__.py", "cli.py", "featstore")

# What stands before the last @ of a URL's authority is a user's name and password, and what
# follows ? is where storages put their signatures.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)[^\s/?#]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://[^\s?#]*)\?[^\s#,]*")


def beside(results: str | Path) -> Path:
    """Return where the note of a results file lies.

    >>> beside("sweeps/results.csv").name
    'results.csv.provenance.json'
    """
    path = Path(results)
    return path.with_name(f"{path.name}.provenance.json")


def write(
    results: str | Path,
    stores: Sequence[featstore.Store] = (),
    command: Sequence[str] | None = None,
) -> Path:
    """Write how a results file was made, whole or not at all, and return where.

    Arguments:
        results: the file that was written; the note keeps its digest.
        stores: the stores whose features were probed.
        command: the words of the command line, the program first; None for a call from Python.
            What URLs hold of users, passwords and signatures is left out, here and in stores.
    """
    note = {
        "format": FORMAT,
        "results": Path(results).name,
        "sha256": _digest(Path(results)),
        "command": None if command is None else shlex.join(_words(command)),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "stores": [_of_store(store) for store in stores],
    }
    path = beside(results)
    with written_whole(path) as aside:
        aside.write_text(
            json.dumps(public(note), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return path


def read(results: str | Path) -> dict[str, Any] | None:
    """Return the note beside a results file; None where there is none that can be read.

    A note is never worth a failure: one that is damaged is as good as none.
    """
    try:
        note = json.loads(beside(results).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return public(note) if isinstance(note, dict) and note.get("format") == FORMAT else None


def is_of(note: dict[str, Any], results: str | Path) -> bool:
    """Say whether a results file is still what it was when its note was written."""
    return note.get("sha256") in (None, _digest(Path(results)))


def public(value: Any) -> Any:
    """Return a JSON value with nothing in its URLs that opens a door.

    >>> public(["s3://key:secret@host/a.zarr", {"u": "https://host/x?sig=1"}, "a@b"])
    ['s3://host/a.zarr', {'u': 'https://host/x'}, 'a@b']
    """
    if isinstance(value, str):
        return _QUERY.sub(r"\1", _USER.sub(r"\1", value))
    if isinstance(value, dict):
        return {public(key): public(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public(each) for each in value]
    return value


def machine() -> dict[str, Any]:
    """Return what computes here: system, processor, cores, and a CUDA device if there is one."""
    facts = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    try:
        import torch

        if torch.cuda.is_available():
            facts["device"] = torch.cuda.get_device_name()
    except (ImportError, RuntimeError):  # a driver that does not fit has no name to give
        pass
    return facts


def versions() -> dict[str, str]:
    """Return the versions of Python, of featstore and of those `LIBRARIES` that are installed."""
    found = {"python": platform.python_version(), "featstore": VERSION}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _words(command: Sequence[str]) -> list[str]:
    """Return the command as a person types it, whatever file of the program was run."""
    program, *words = map(str, command)
    return [
        "featstore" if PurePath(program).name in PROGRAM else program,
        *(public(word) for word in words),
    ]


def _of_store(store: featstore.Store) -> dict[str, Any]:
    return {
        "path": str(store.path),
        "spec": store.spec.model_dump(mode="json", exclude_defaults=True),
        "digest": store.spec.digest(),
        "provenance": {
            **store.provenance,
            **({"notices": [str(notice) for notice in store.notices]} if store.notices else {}),
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
