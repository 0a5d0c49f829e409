"""Files that are written whole or not at all: tables, arrays, and digests of both."""

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import xxhash

from featstore.probe import statuses
from featstore.probe.errors import (
    CONTROL,
    INSTALL,
    ChangedWarning,
    DataError,
    FileError,
    UsageError,
    escape_of,
)
from featstore.probe.results import FIRST_FEW

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a name aside to write to, and rename it to `path` once the block ends well.

    Whatever goes wrong in between, `path` is as it was and nothing is left beside it. The name
    keeps the suffix, by which some writers choose their format; it is new, so that no link that
    lies there is written through. It is locked until then: what writers of the same file left
    that were killed is not, and is deleted first.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written_whole(folder / "a.txt") as aside:
    ...     _ = aside.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    stem = path.stem[:80]  # a long name and what is added to it may be too long together
    _clear(path.parent, f".{stem}.", path.suffix)
    aside, lock = _made_aside(path, stem)
    try:
        yield aside
        aside.replace(path)
    except Exception as error:
        full = _no_room(error)
        if full is None:
            raise
        # some writers hide it behind an error of closing what they had begun
        raise OSError(full.errno, full.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _clear(folder: Path, start: str, suffix: str) -> None:
    """Delete the files aside of this start and suffix that no living process holds."""
    left = re.compile(rf"{re.escape(start)}\d+-[0-9a-f]{{8}}{re.escape(suffix)}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if left.fullmatch(entry.name)]:
            with suppress(OSError):
                _delete_unheld(entry.path)


def _delete_unheld(path: str) -> None:
    if fcntl is None:
        return
    # to be locked over a network, it has to be open for writing
    number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
    finally:
        os.close(number)


def _made_aside(path: Path, stem: str) -> tuple[Path, int | None]:
    """Return an empty new file beside `path`, and what it is held by until that is closed."""
    while True:
        aside = path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
        number = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(number)
            return aside, None
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = aside.exists()
        except BlockingIOError:
            ours = False  # somebody takes it for what a killed one left, and deletes it
        except OSError:
            ours = True  # where nothing can be locked, nothing is deleted
        if ours:
            return aside, number
        os.close(number)


def _no_room(error: BaseException | None) -> OSError | None:
    """Return the error of a disk, full or broken, behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def written_with_digest(path: str | Path) -> Iterator[Path]:
    """Write a file as `written_whole` does, and its SHA-256 beside it, as `sha256sum` writes it.

    Killed at any instant, what lies there is as it was written: until the new file has taken its
    place, the digest of the old one stands beside its own.
    """
    path = Path(path)
    with written_whole(path) as aside:
        yield aside
        new = _sha256(aside)
        _note(path, new, *([_sha256(path)] if as_written(path) else []))
    _note(path, new)


def digest_path(path: str | Path) -> Path:
    """Return the file beside a file that holds the digest of its bytes."""
    return Path(f"{path}.sha256")


def as_written(path: str | Path) -> bool | None:
    """Return whether a file is what was written, by the digest beside it; None without one."""
    try:
        with opened(digest_path(path)) as file:
            known = re.findall(rb"^([0-9a-f]{64})  ", file.read(1000), re.MULTILINE)
        return _sha256(path).encode() in known if known else None
    except FileError:
        return None


def _note(path: Path, *digests: str) -> None:
    with written_whole(digest_path(path)) as aside:
        name = path.name.replace("\n", "_")
        aside.write_text("".join(f"{digest}  {name}\n" for digest in digests), encoding="utf-8")


def _sha256(path: str | Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file to be read; a pipe, which may never say anything, is not opened.

    Raises:
        FileError: there is no such file, it is none, or it cannot be read.
    """
    path = Path(path)
    try:
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        said = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path} cannot be read: {said}; name another file") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FileError(f"{path} is not a regular file: name one")
    with os.fdopen(number, "rb") as file:
        yield file


def writable(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path if a file can be written under its name.

    Raises:
        UsageError: it ends in none of `suffixes`, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path.name!r} ends in none of {', '.join(suffixes)}: name it so")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        told = INSTALL.format("parquet")
        raise UsageError(f"{path.name} needs pyarrow, which is not installed: {told}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    return path


_DIGEST = "digest_of_arrays"
"""The member that holds the digest of all others."""


def save_arrays(path: str | Path, arrays: Mapping[str, object]) -> None:
    """Write arrays, numbers and texts to a .npz file with their digest, whole or not at all.

    NumPy reads the file as any other; the digest is one more text in it.
    """
    held = {name: np.asarray(value) for name, value in arrays.items()}
    with written_whole(path) as aside, _FullDisk(aside) as file:
        np.savez(file, **held, **{_DIGEST: np.array(digest_of(held))})


class _FullDisk:
    """A file whose first failure is raised when it is closed, and not before.

    zipfile, if a write fails, fails once more while it closes, and again when it is collected.
    """

    def __init__(self, path: Path):
        self._file, self._error = path.open("wb"), None
        self.read = self._file.read  # by which NumPy knows a file
        self.seek, self.tell = self._file.seek, self._file.tell

    def write(self, data: bytes) -> int:
        """Write, unless that has failed before."""
        try:
            if self._error is None:
                self._file.write(data)
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """Leave it to the end."""

    def __enter__(self):
        return self

    def __exit__(self, *raised) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            raise self._error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file that are what was written; nothing is unpickled.

    Each array's size is held against the bytes that are there before any of it is allocated.
    A file of before digests were written is returned as it is.

    Raises:
        FileError: it is not there, damaged, no such file, or not a regular file.
    """
    path = Path(path)
    with opened(path) as file:
        try:
            held = _read(file)
        # on damage zipfile, zlib and NumPy's parser raise a dozen kinds between them
        except Exception as error:
            first = (str(error) or type(error).__name__).partition("\n")[0]
            raise FileError(f"{path} is damaged, or is no .npz file ({first})") from None
    digest = held.pop(_DIGEST, None)
    if digest is not None and str(digest) != digest_of(held):
        raise FileError(f"{path} is damaged: its arrays have another digest than was written")
    return held


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return 32 hex digits for names, dtypes, shapes and values of arrays, in any order.

    >>> x = np.arange(3)
    >>> digest_of({"a": x, "b": x}) == digest_of({"b": x, "a": x})
    True
    >>> digest_of({"a": x}) == digest_of({"a": x + 1})
    False
    """
    found = xxhash.xxh3_128()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {np.shape(arrays[name])}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data if array.nbytes else b"")
    return found.hexdigest()


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    there = os.fstat(file.fileno()).st_size
    held = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > there:
                raise ValueError(f"{name} is compressed, or longer than the file")
            with archive.open(member) as stream:
                if np.lib.format.read_magic(stream) != (1, 0):
                    raise ValueError(f"{name} is of another version of NumPy's format")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                n_bytes = dtype.itemsize * math.prod(shape)
                if dtype.hasobject or n_bytes != member.file_size - stream.tell():
                    raise ValueError(f"{name} says {dtype} {shape}, which is not what it holds")
            with archive.open(member) as stream:
                held[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return held


SUFFIXES = (".csv", ".json", ".parquet")

TEXTS = ("store", "tap", "mode", "solver", "l2_choice", "l2_place", "status", "options", "class")
"""Columns that hold text even where it looks like a number, or is empty."""

_LIMITS = {
    **dict.fromkeys(
        ("accuracy", "mean_per_class", "ece", "class_accuracy", "chance", "majority"), (0.0, 1.0)
    ),
    **dict.fromkeys(
        ("balanced_accuracy", "macro_f1", "weighted_f1", "auroc", "average_precision"), (0.0, 1.0)
    ),
    **dict.fromkeys(("micro_f1", "label_accuracy", "subset_accuracy"), (0.0, 1.0)),
    **dict.fromkeys(("class_f1", "class_auroc", "class_average_precision"), (0.0, 1.0)),
    "kappa": (-1.0, 1.0),
    "cka": (-1e-6, 1 + 1e-6),
    "r2": (-math.inf, 1.0),
    **dict.fromkeys(("nll", "mse", "mae", "l2"), (0.0, math.inf)),
    **dict.fromkeys(("n_train", "n_test", "n_groups", "folds"), (0.0, 2.0**53)),
}
"""Between what a number of a table of probes may lie; that of top<k>, (0, 1), is not among them."""

# What a spreadsheet takes for the beginning of a formula, and what marks a text that began so.
_FORMULA, _TEXT = "=+-@\t\r", "'"

# An escape as `escape_of` writes it, and what it stands for: a control character, or a backslash
# that would be read as the beginning of one.
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))")
_ESCAPED = re.compile(rf"{CONTROL.pattern}|\\(?={_ESCAPE.pattern[2:]})")


def check_suffix(path: str | Path) -> Path:
    """Return the path if a table can be written under its name.

    Raises:
        UsageError: it ends in none of .csv, .json and .parquet, or its folder does not exist.
    """
    return writable(path, SUFFIXES)


def save_table(
    table: pd.DataFrame,
    path: str | Path,
    before: Callable[[], object] | None = None,
    digest: bool = False,
) -> None:
    """Write a table in the format of the file's suffix, aside first and renamed when complete.

    Every number is written with all its digits; what is not known is an empty field in .csv and
    null in .json. In .csv a text that a spreadsheet would run as a formula stands behind a "'",
    and control characters are escapes, as `escaped` writes them.

    Arguments:
        table: any.
        path: of the file.
        before: called when the table is written aside, before it takes the file's place: what lies
            beside the file is then there as soon as the table is, and not if the table is not.
        digest: whether to write the file's SHA-256 beside it, by which `read_table` sees changes.

    Raises:
        UsageError: as `check_suffix`.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with (written_with_digest if digest else written_whole)(path) as aside:
        if suffix == ".csv":
            escaped(table).to_csv(aside, index=False)
        elif suffix == ".json":
            aside.write_text(as_json(table, indent=1) + "\n")
        else:
            table.to_parquet(aside, index=False)
        if before:
            before()


def as_json(table: pd.DataFrame, indent: int | None = None) -> str:
    """Return the rows as a list of objects, every number with all its digits, null for missing."""
    # pandas would cut a gradient norm of 1e-11 to 0
    known = table.astype(object).where(table.notna(), None)
    return json.dumps(known.to_dict("records"), indent=indent, default=lambda value: value.item())


def from_json(text: str) -> pd.DataFrame:
    """Return the table that `as_json` wrote; whole numbers that are missing somewhere as Int64."""
    records = json.loads(text)
    return _typed({name: [record[name] for record in records] for name in records[0]})


def read_table(path: str | Path, unchanged: bool = False) -> pd.DataFrame:
    """Return a table that `save_table` wrote; whole numbers that are missing somewhere as Int64.

    A file whose digest lies beside it is held against that. One that was changed is read with a
    warning.

    Arguments:
        path: of the file.
        unchanged: whether to refuse a file that was changed since it was written.

    Raises:
        UsageError: the file is no such table, or was changed and must not have been.
        DataError: a number is outside of what it may be, or a status is none.
        FileError: there is no such file.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with opened(path) as file:
        content = io.BytesIO(file.read())
    if as_written(path) is False:
        _say_changed(path, unchanged)
    try:
        if suffix == ".csv":
            written = pd.read_csv(content, dtype=str, keep_default_na=False)
            table = _typed({name: _numbers(written[name].tolist(), name) for name in written})
        elif suffix == ".json":
            table = from_json(content.getvalue().decode())
        else:
            table = pd.read_parquet(content)
    # damage makes the parsers raise a dozen kinds between them
    except Exception as error:
        first = (str(error) or type(error).__name__).partition("\n")[0]
        raise UsageError(
            f"{path} is no table of results ({first}): name another file, or remove it"
        ) from None
    check_values(table, path)
    return table


def _say_changed(path: Path, refuse: bool) -> None:
    beside = digest_path(path).name
    changed = f"{path} was changed since it was written: its SHA-256 is not that in {beside}"
    if refuse:
        raise UsageError(
            f"{changed}; put the file back, leave out resume to solve every probe, or remove "
            f"{beside} to go on with the change"
        )
    warnings.warn(
        f"{changed}; its numbers are taken as they are (remove {beside} if they are right)",
        ChangedWarning,
        stacklevel=3,
    )


def check_values(table: pd.DataFrame, path: Path) -> None:
    """Raise DataError where a table of probes has what none can have: `_LIMITS`, status words.

    Rows are counted from 0.
    """
    if not {"mode", "solver"} <= set(table):
        return  # of no probes
    shares = {name: (0.0, 1.0) for name in table if FIRST_FEW.fullmatch(str(name))}
    for name, (low, high) in (_LIMITS | shares).items():
        if name not in table:
            continue
        values = _as_floats(table[name], name, path)
        wrong = np.flatnonzero((values < low) | (values > high))
        if wrong.size:
            bounds = f"at most {high:g}" if low == -math.inf else f"at least {low:g}"
            bounds = f"from {low:.0f} to {high:.0f}" if math.isfinite(high - low) else bounds
            raise _impossible(path, wrong[0], name, f"{values[wrong[0]]:g}", f"it is {bounds}")
    if "status" in table:
        for row, status in enumerate(table["status"].astype(str)):
            try:
                statuses.kinds(status)
            except ValueError:
                raise _impossible(
                    path, row, "status", repr(status), "no probe has that status"
                ) from None
    if "fraction" in table and "k" in table:
        _check_fractions(table, path)


def _as_floats(column: pd.Series, name: str, path: Path) -> np.ndarray:
    try:
        return column.astype("Float64").to_numpy(float, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is no table of results (its {name} holds other things than numbers: "
            f"{str(error).partition(chr(10))[0]}): name another file, or remove it"
        ) from None


def _impossible(path: Path, row: int, name: str, value: str, why: str) -> DataError:
    return DataError(
        f"row {row} of {path} has {name} {value}, which cannot be: {why}; the file is damaged or "
        "was edited: put it back, or make it again"
    )


def _check_fractions(table: pd.DataFrame, path: Path) -> None:
    fraction, k = (_as_floats(table[name], name, path) for name in ("fraction", "k"))
    wrong = ~((fraction > 0) & (fraction <= 1) & (k > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"row {row} of {path} has fraction {fraction[row]:g} and k = {table['k'].iloc[row]}: "
            "fractions lie in (0, 1], and take one feature at least; drop that row"
        )


def escaped(table: pd.DataFrame) -> pd.DataFrame:
    r"""Return a table whose texts no spreadsheet runs as a formula and no terminal obeys.

    A text that begins with = + - @ or a tab, and is no number, gets a "'" in front; so does one
    that begins with "'" and such a character. Control characters are escapes such as \x1b; where
    a text has these four letters themselves, its backslash is one, \x5c. So `unescaped` gives
    back what was there.

    >>> names = pd.DataFrame({"class": ["=1+1", "-1", "'tis", "'=", "\x1b[2J", r"\x1b", r"\x"]})
    >>> print(*escaped(names)["class"])
    '=1+1 -1 'tis ''= \x1b[2J \x5cx1b \x
    >>> unescaped(escaped(names)).equals(names)
    True
    """
    texts = table.select_dtypes(include=["object", "string", "category"])
    return table.assign(
        **{str(name): escaped_texts(texts[name].tolist()) for name in texts}
    ).set_axis(escaped_texts(list(table.columns)), axis=1)


def unescaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return what `escaped` was given."""
    texts = table.select_dtypes(include=["object", "string"])
    return table.assign(**{name: [_unescaped(text) for text in texts[name]] for name in texts})


def escaped_texts(texts: Sequence) -> list:
    """Return values whose texts are written as `escaped` says."""
    plain = [_ESCAPED.sub(escape_of, text) if isinstance(text, str) else text for text in texts]
    return [_TEXT + text if isinstance(text, str) and _is_formula(text) else text for text in plain]


def _is_formula(text: str) -> bool:
    if not text.lstrip(_TEXT).startswith(tuple(_FORMULA)):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _unescaped(text: object) -> object:
    if not isinstance(text, str):
        return text
    marked = text.startswith(_TEXT) and _is_formula(text[1:])
    return _ESCAPE.sub(_behind, text[marked:])


def _behind(escape: re.Match[str]) -> str:
    """Return the character of an escape; another text that looks like one stays."""
    character = chr(int(escape[1] or escape[2], 16))
    ours = character == "\\" or CONTROL.match(character)
    # a surrogate, which no name that is kept holds, would be none that pandas does
    return character if ours and not "\ud800" <= character <= "\udfff" else escape[0]


def _numbers(texts: list[str], name: str) -> list:
    """Return the values of a .csv column to the last digit, None where nothing is written."""
    if name in TEXTS:
        return [_unescaped(text) for text in texts]
    read = int if all(re.fullmatch(r"-?\d*", text) for text in texts) else float
    return [read(text) if text else None for text in texts]


def _typed(columns: dict[str, list]) -> pd.DataFrame:
    """Return numbers that are whole wherever they are known as Int64, others as float64."""
    table = {}
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        if any(isinstance(value, str) for value in known):
            table[name] = pd.Series(values, dtype=object)
        else:
            whole = known and all(isinstance(value, int) for value in known)
            table[name] = pd.array(values, dtype="Int64" if whole else "Float64")
    return pd.DataFrame(table)


def as_computed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that was read with the dtypes it had when it was computed.

    Whole numbers are int64 (but seeds, which may be missing, Int64), other numbers float64, and
    text is text, empty where nothing is written.
    """
    columns = {}
    for name in table.columns:
        column = table[name]
        if name in TEXTS:
            column = column.astype(object).where(column.notna(), "").astype(str)
        elif name == "seed":
            column = pd.array(column, dtype="Int64")
        elif not pd.api.types.is_bool_dtype(column):
            whole = pd.api.types.is_integer_dtype(column) and not column.isna().any()
            column = column.astype("int64" if whole else "float64")
        columns[name] = column
    return pd.DataFrame(columns, index=table.index)
