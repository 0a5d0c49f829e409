"""Arrays wherever they lie, read a slice at a time: files of every usual kind, and objects."""

import fnmatch
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.downloads import mistaken
from featstore.errors import (
    DatasetError,
    ExtraMissing,
    FeatstoreError,
    NotAStore,
    UsageError,
    with_extra,
)
from featstore.places import lies_in, saved_files
from featstore.store.hdf5 import told_of
from featstore.store.labels import as_array

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = (
    ".npy, .npz:NAME, .safetensors:NAME, .pt:NAME, .parquet:COLUMN, .h5:NAME, .arrow:COLUMN, a Zarr"
    " folder FOLDER:NAME, or a folder of Hugging Face's save_to_disk FOLDER:COLUMN"
)
# Bytes that are decoded at a time where a file is read from its beginning.
_PIECE = 4 << 20
_TEXT = np.dtype(object)


@dataclass(frozen=True)
class Source:
    """An array that is read in slices: `rows(start, stop)` copies some of its rows.

    `label` names it in messages and `name` in a store; `whole` is how many bytes of it are in
    memory at once whatever is read. Texts are of dtype object.
    """

    label: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], Any]
    whole: int = 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop), cut at the last; `DatasetError` where they cannot be read."""
        stop = min(stop, self.shape[0])
        try:
            found = as_array(self.read(start, stop), self.label)
        except (MemoryError, FeatstoreError):
            raise
        # damage makes each library raise its own kinds
        except Exception as error:
            raise DatasetError(
                f"{self.label} cannot be read at rows {start}:{stop} ({_line(error)}); fetch or"
                " save it again"
            ) from error
        if len(found) != stop - start or found.shape[1:] != self.shape[1:]:
            raise DatasetError(
                f"{self.label} gives {found.shape} at rows {start}:{stop}, and has shape"
                f" {self.shape}; give rows of one length"
            )
        return found


def source(given: Any, what: str = "array") -> Source:
    """Return an array given as a file, `FILE:NAME` of a file that holds several, or an object.

    Objects are arrays, tensors, lists, columns of `datasets`, and other sequences with slices.
    Raises `DatasetError` for what cannot be read, or names what a file holds where none is named.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, str | Path):
        return _of_file(str(given))
    if isinstance(given, np.ndarray):
        return Source(f"the {what}", "arrays", given.shape, given.dtype, _sliced(given))
    if hasattr(given, "detach"):
        first = as_array(given[:1], what)
        shape = tuple(given.shape)
        return Source(f"the {what}", "arrays", shape, first.dtype, _sliced(given))
    if isinstance(given, list | tuple):
        array = as_array(given, f"the {what}")
        return Source(f"the {what}", "arrays", array.shape, array.dtype, _sliced(array))
    if isinstance(given, Sequence) or hasattr(given, "__array__"):
        first = as_array(given[: min(1, len(given))], f"the {what}")
        shape = (len(given), *first.shape[1:])
        return Source(f"the {what}", "arrays", shape, first.dtype, _sliced(given))
    raise DatasetError(
        f"the {what} is of type {type(given).__name__}; give an array, a tensor, or a file: {KINDS}"
    )


def _sliced(array: Any) -> Callable[[int, int], Any]:
    return lambda start, stop: array[start:stop]


def exists(given: str) -> bool:
    """Return whether there is a file or folder of `FILE` or `FILE:NAME`."""
    return _parted(given)[0].exists()


def _parted(given: str) -> tuple[Path, str]:
    path, (before, _, name) = Path(given).expanduser(), given.rpartition(":")
    if path.exists() or not before:
        return path, ""
    return Path(before).expanduser(), name


def _of_file(given: str) -> Source:
    path, name = _parted(given)
    if not path.exists():
        raise DatasetError(f"there is no file {given}; give {KINDS}")
    if not path.is_dir() and not path.is_file():  # a pipe may never say anything
        raise DatasetError(f"{path} is not a regular file; give {KINDS}")
    open_one = _OPENERS.get(path.suffix.lower())
    if path.is_dir():
        open_one = _of_folder
    elif open_one is None:
        open_one = _of_npy
    if path.is_file() and (wrong := mistaken(path)) and open_one is not _of_hdf5:
        raise DatasetError(f"{path} cannot be read as an array: it is {wrong}")
    try:
        return open_one(path, name)
    except (MemoryError, FeatstoreError):
        raise
    except ModuleNotFoundError as error:
        raise ExtraMissing.of(error) or error from None
    except Exception as error:
        raise DatasetError(f"{given} cannot be read as an array ({_line(error)})") from error


def _called(path: Path, name: str) -> tuple[str, str]:
    """Return how an array is called in messages, and in a store."""
    return (f"{path}:{name}", f"{path.name}:{name}") if name else (str(path), path.name)


def _chosen(path: Path, name: str, there: Iterable[str], kind: str = "array") -> str:
    """Return the name of the array that is meant: the one named, or the only one."""
    names = list(there)
    if name in names:
        return name
    if not name and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    wrong = f"has no {kind} {name!r}" if name else f"holds {len(names)} {kind}s"
    remedy = f"; name one, as {path}:{names[0]}" if names else ""
    raise DatasetError(f"{path} {wrong}; there {_are(names)} {listed or 'none'}{remedy}")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) < 2 else "are"


# NumPy's files


def _of_npy(path: Path, name: str) -> Source:
    if name:
        raise DatasetError(f"{path} is one array; leave :{name} out")
    array = _mapped(path)
    # The file is mapped for each slice, or the pages of all earlier ones would stay in memory.
    return Source(
        str(path),
        path.name,
        array.shape,
        array.dtype,
        lambda start, stop: np.array(_mapped(path)[start:stop]),
    )


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # damage makes NumPy's parser raise a dozen kinds
    except Exception as error:
        if "object" in str(error).lower():
            raise DatasetError(f"{path} cannot be read as an array: {_OBJECTS}") from None
        if "mmap length" in str(error):
            raise DatasetError(
                f"{path} cannot be read as an array: its end is missing after"
                f" {path.stat().st_size:,} bytes; fetch or save it again"
            ) from None
        raise DatasetError(
            f"{path} cannot be read as an array ({error}); save it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DatasetError(f"{path} holds several arrays; give it the suffix .npz and a name")
    return array


_OBJECTS = (
    "it holds Python objects, whose loading could run anything; save numbers of one type, as"
    " X.astype('float32') of rows of one length, and labels that are texts as y.astype(str)"
)


def _of_npz(path: Path, name: str) -> Source:
    with zipfile.ZipFile(path) as archive:
        members = [one.removesuffix(".npy") for one in archive.namelist() if one.endswith(".npy")]
        member = f"{_chosen(path, name, members)}.npy"
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file)
    label, stored = _called(path, name or member.removesuffix(".npy"))
    if dtype.hasobject:
        raise DatasetError(f"{label} cannot be read as an array: {_OBJECTS}")
    if fortran and len(shape) > 1:

        def whole(start: int, stop: int) -> np.ndarray:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[member.removesuffix(".npy")][start:stop]

        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return Source(label, stored, shape, dtype, whole, whole=nbytes)

    def pieces() -> Iterator[np.ndarray]:
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _npy_header(file)
            while data := file.read(max(1, _PIECE // row_bytes) * row_bytes):
                yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])

    return Source(label, stored, shape, dtype, _Sequential(pieces).read)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    return read(file)


class _Sequential:
    """Slices of what can be read from its beginning alone: a step back begins again."""

    def __init__(self, pieces: Callable[[], Iterator[np.ndarray]]):
        self._pieces = pieces
        self._begin()

    def _begin(self) -> None:
        self._left, self._at, self._held = self._pieces(), 0, None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop), fewer at the end."""
        if start < self._at:
            self._begin()
        taken = []
        while self._at < stop:
            if self._held is None:
                self._held = next(self._left, None)
                if self._held is None:
                    break
            skipped = min(max(start - self._at, 0), len(self._held))
            count = min(stop - self._at - skipped, len(self._held) - skipped)
            if count > 0:
                taken.append(self._held[skipped : skipped + count])
            used = skipped + max(count, 0)
            self._at += used
            self._held = self._held[used:] if used < len(self._held) else None
        return np.concatenate(taken) if taken else np.empty(0)


# Tensors


def _of_safetensors(path: Path, name: str) -> Source:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        key = _chosen(path, name, file.keys(), "tensor")
        piece = file.get_slice(key)
        shape, kind = tuple(piece.get_shape()), piece.get_dtype()
    # NumPy has no bfloat16, and float32 holds each
    framework = "pt" if kind in ("BF16", "F8_E4M3", "F8_E5M2") else "np"

    def read(start: int, stop: int) -> Any:
        with safe_open(path, framework=framework) as file:
            return file.get_slice(key)[start:stop]

    first = as_array(read(0, 1), str(path)) if shape and framework == "np" else np.empty(0, "f4")
    return Source(*_called(path, name), shape, first.dtype, read)


def _of_torch(path: Path, name: str) -> Source:
    import pickle

    import torch

    try:
        whole = 0
        try:
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of torch before 1.6, which cannot be mapped
            held = torch.load(path, map_location="cpu", weights_only=True)
            whole = path.stat().st_size
    except pickle.UnpicklingError:
        raise DatasetError(
            f"{path} cannot be read as tensors alone, and what else it holds could run anything;"
            " save tensors with torch.save, or arrays with numpy.save"
        ) from None
    tensors = dict(_tensors(held, ""))
    key = _chosen(path, name, tensors, "tensor")
    tensor = tensors[key]
    first = as_array(tensor[:1], str(path)) if tensor.ndim else np.empty(0, "f4")
    called = _called(path, name)
    return Source(*called, tuple(tensor.shape), first.dtype, _sliced(tensor), whole=whole)


def _tensors(held: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Give each tensor in nested dictionaries and lists by its path, as "test.features"."""
    if hasattr(held, "detach"):
        yield path, held
        return
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(held, dict):
        members = held.items()
    elif isinstance(held, list | tuple):
        members = enumerate(held)
    for key, one in members:
        yield from _tensors(one, f"{path}.{key}" if path else str(key))


# Tables


def _of_parquet(path: Path, name: str) -> Source:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    columns = _columns(path, name, file.schema_arrow)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    whole = max((group.total_byte_size for group in groups), default=0)

    def batches(n_rows: int) -> Iterator["pa.RecordBatch"]:
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(n_rows, columns=columns, use_threads=False)

    return _of_table(path, name, columns, batches, file.metadata.num_rows, whole)


def _of_arrow(path: Path, name: str) -> Source:
    import pyarrow as pa
    from pyarrow import ipc

    def opened() -> Any:
        mapped = pa.memory_map(str(path))
        try:
            return ipc.open_file(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            return ipc.open_stream(mapped)

    columns = _columns(path, name, opened().schema)
    n_rows = sum(batch.num_rows for batch in _batches(opened()))
    return _of_table(
        path,
        name,
        columns,
        lambda _: (batch.select(columns) for batch in _batches(opened())),
        n_rows,
        0,
    )


def _batches(reader: Any) -> Iterator["pa.RecordBatch"]:
    batches = reader
    if hasattr(reader, "num_record_batches"):
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    for batch in batches:
        batch.validate(full=True)  # or lengths and offsets that lie would be followed anywhere
        yield batch


def _columns(path: Path, name: str, schema: "pa.Schema") -> list[str]:
    """Return the columns that are meant: one, several of numbers as "a,b" or "f*", or the only."""
    names = schema.names
    if name in names or not name:
        return [_chosen(path, name, names, "column")]
    asked = [part.strip() for part in name.split(",")]
    found = [one for part in asked for one in names if fnmatch.fnmatchcase(one, part)]
    missing = [part for part in asked if not fnmatch.filter(names, part)]
    if missing:
        _chosen(path, missing[0], names, "column")
    return list(dict.fromkeys(found))


def _of_table(
    path: Path,
    name: str,
    columns: list[str],
    batches: Callable[[int], Iterator["pa.RecordBatch"]],
    n_rows: int,
    whole: int,
) -> Source:
    """Return columns as an array; `batches` gives them in pieces of at most so many rows."""
    label, stored = _called(path, name)

    def pieces(at_once: int) -> Iterator[np.ndarray]:
        row = 0
        for batch in batches(at_once):
            yield _of_batch(label, batch, len(columns), row)
            row += batch.num_rows

    first = next(pieces(1), np.empty((0,)))
    shape = (n_rows, *first.shape[1:])
    at_once = max(1, _PIECE // max(1, first[:1].nbytes))
    read = _Sequential(lambda: pieces(at_once)).read
    return Source(label, stored, shape, first.dtype, read, whole=whole)


def _of_batch(label: str, batch: "pa.RecordBatch", count: int, row: int) -> np.ndarray:
    """Return columns of numbers side by side, a column of lists (b, D), or one of values (b,)."""
    if count == 1:
        return _of_column(label, batch.column(0), row)
    arrays = [_of_column(label, column, row) for column in batch.columns]
    wrong = [array.dtype for array in arrays if array.ndim > 1 or array.dtype.kind not in "fiu"]
    if wrong:
        raise DatasetError(f"{label} has a column of {wrong[0]} among several; give real numbers")
    return np.stack(arrays, axis=1)


def _of_column(label: str, column: "pa.Array", row: int) -> np.ndarray:
    import pyarrow as pa

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        null = row + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DatasetError(f"row {null} of {label} is empty; mend or leave out that row")
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _of_column(label, column.flatten(), row)
        lengths = np.array([len(inner) // max(len(column), 1)])
        if not pa.types.is_fixed_size_list(kind):
            lengths = np.diff(column.offsets.to_numpy())
        wrong = np.flatnonzero(lengths != lengths[:1])
        if wrong.size:
            raise DatasetError(
                f"row {row + wrong[0]} of {label} has {lengths[wrong[0]]} values and row {row}"
                f" {lengths[0]}; give rows of one length"
            )
        return inner.reshape(len(column), -1, *inner.shape[1:])
    return column.to_numpy(zero_copy_only=False)


# Trees

_AGAIN = "fetch or save it again"

# The names of an HDF5 file's data sets, and which other files the one that is meant is read from.
# All its index and texts are gone through, on which HDF5 would crash or go round if damaged.
_SURVEY = """
import json, sys
import h5py
names, elsewhere = [], []
with h5py.File(sys.argv[1], "r", locking=False) as file:
    file.visititems(lambda key, one: names.append(key) if isinstance(one, h5py.Dataset) else None)
    meant = [sys.argv[2]] if sys.argv[2] in names else names if len(names) == 1 else []
    for data in map(file.get, meant):
        elsewhere += [name for name, *_ in data.external or ()]
        if data.is_virtual:
            elsewhere += [one.file_name for one in data.virtual_sources() if one.file_name != "."]
        if data.chunks and not elsewhere:
            for number in range(data.id.get_num_chunks()):
                data.id.get_chunk_info(number)
        if data.ndim and not elsewhere:
            data[:] if h5py.check_string_dtype(data.dtype) else (data[:1], data[-1:])
print(json.dumps([names, elsewhere]))
"""


def _check_inside(path: Path, folder: Path, named: Iterable[str | Path]) -> None:
    """Refuse what is read from files outside of its folder, such as somebody's keys."""
    for name in named:
        if not lies_in(folder, folder / name):
            raise DatasetError(
                f"{path} takes its numbers from {name}, outside of its folder; copy them into it"
            )


def _of_hdf5(path: Path, name: str) -> Source:
    import h5py

    seconds = 9 + path.stat().st_size / 20e6  # of a disk that is slow to give all texts
    try:
        names, elsewhere = told_of(path, _SURVEY, name.strip("/"), remedy=_AGAIN, seconds=seconds)
    except NotAStore as error:
        raise DatasetError(str(error)) from None
    key = _chosen(path, name.strip("/"), names, "data set")
    _check_inside(path, path.parent, elsewhere)
    with h5py.File(path, "r") as file:
        shape, dtype = file[key].shape, file[key].dtype
        texts = h5py.check_string_dtype(dtype) is not None

    def read(start: int, stop: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            return file[key].asstr()[start:stop] if texts else file[key][start:stop]

    return Source(*_called(path, name), shape, _TEXT if texts else dtype, read)


def _of_folder(path: Path, name: str) -> Source:
    if (path / "state.json").is_file():
        return _of_saved(path, name)
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        told = f"{path / splits[0]}:COLUMN" if splits else "a folder with data"
        raise DatasetError(f"{path} holds splits, {', '.join(splits)}; give one, as {told}")
    if not any((path / one).is_file() for one in ("zarr.json", ".zarray", ".zgroup")):
        raise DatasetError(f"{path} is a folder without an array; give {KINDS}")
    import zarr

    node = zarr.open(path, mode="r")
    array = node
    if not isinstance(node, zarr.Array):
        names = sorted(
            key for key, one in node.members(max_depth=None) if isinstance(one, zarr.Array)
        )
        name = _chosen(path, name.strip("/"), names)
        array = node[name]
    elif name:
        raise DatasetError(f"{path} is one array; leave :{name} out")
    dtype = np.dtype(array.dtype)
    dtype = _TEXT if dtype.kind in "OT" else dtype
    return Source(*_called(path, name), tuple(array.shape), dtype, _sliced(array))


def _of_saved(path: Path, name: str) -> Source:
    """Return a column of a folder that `datasets` has saved."""
    try:
        import datasets
    except ImportError:
        raise DatasetError(f"{path} is a folder of datasets; {with_extra('hf')}") from None
    import pyarrow as pa

    _check_inside(path, path, saved_files(path))
    saved = datasets.load_from_disk(str(path)).with_format("arrow")
    columns = _columns(path, name, saved.data.schema)
    label, stored = _called(path, name)
    chosen = saved.select_columns(columns)

    def read(start: int, stop: int) -> np.ndarray:
        table = chosen[start:stop]
        table.validate(full=True)
        table = table.combine_chunks()
        batch = pa.RecordBatch.from_arrays(
            [column.combine_chunks() for column in table.columns], names=table.column_names
        )
        return _of_batch(label, batch, len(columns), start)

    first = read(0, min(1, len(chosen))) if len(chosen) else np.empty((0,))
    shape = (len(chosen), *first.shape[1:])
    labels = None
    with suppress(AttributeError, KeyError):
        labels = saved.features[columns[0]].names
    if labels and len(columns) == 1:  # a column of classes: their names
        names = np.array(labels, object)
        return Source(label, stored, shape, _TEXT, lambda start, stop: names[read(start, stop)])
    return Source(label, stored, shape, first.dtype, read)


_OPENERS = {
    ".npy": _of_npy,
    ".npz": _of_npz,
    ".safetensors": _of_safetensors,
    ".pt": _of_torch,
    ".pth": _of_torch,
    ".parquet": _of_parquet,
    ".pq": _of_parquet,
    ".arrow": _of_arrow,
    ".h5": _of_hdf5,
    ".hdf5": _of_hdf5,
}


def check_memory(sources: Iterable[Source], memory: int) -> None:
    """Raise `UsageError` naming a source of which more has to be in memory than is allowed."""
    for one in sources:
        if one.whole > memory:
            raise UsageError(
                f"{one.label} is read {one.whole / 1e6:,.0f} MB at a time, and memory is"
                f" {memory / 1e6:,.0f} MB; give more --memory, or save it as .npy or .safetensors"
            )


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
