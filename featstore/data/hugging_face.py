"""`hf:NAME`, `hf:NAME:CONFIG` and `hf:DIR`: sets as Hugging Face's `datasets` reads them."""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featstore.data import splits
from featstore.data.columns import (
    HIDDEN,
    LABEL,
    Chosen,
    Columns,
    Encoded,
    choose,
    cleaned,
    encoded,
    labels_not_told,
    plain,
    several,
    with_kept,
)
from featstore.data.files import EncodedImages, below, rows_of_encoded
from featstore.data.rows import ImageRows, Rows, Unreadable
from featstore.data.tables import of_texts, of_words, with_spans
from featstore.downloads import downloading, from_network
from featstore.errors import DatasetError, UsageError, with_extra
from featstore.places import lies_in, saved_files

# Before this major version the library ran scripts that came with a set.
_SCRIPTLESS = 4
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_CONFIG = re.compile(r"[\w.\-+ ]*")


@dataclass(frozen=True)
class HubImages(EncodedImages):
    """Images of a `datasets.Dataset` as rows; files that it names are read below `roots` alone."""

    rows: Any
    column: str
    roots: tuple[Path, ...]

    def encoded(self, row: int) -> bytes:
        """The bytes of a row's file; `ValueError` where there are none."""
        cell = self.rows[row][self.column] or {}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if not cell.get("path"):
            raise ValueError("there is none")
        return self._trusted(cell["path"]).read_bytes()

    def size(self, path: str | None) -> int | None:
        """Bytes of a file that is not in the table; None where there is none."""
        return self._trusted(path).stat().st_size if path else None

    def _trusted(self, path: str) -> Path:
        for root in self.roots:
            try:
                return below(root, path)
            except ValueError:
                continue
        raise ValueError(f"it is said to lie in {path}, outside of the set's own folders")


def load(
    name: str, split: str, data_dir: Path | None, columns: Columns, skip: bool = False
) -> Rows:
    """One split of a set of the hub, or of a folder that the library saved or can read.

    A folder is one of `save_to_disk`, or holds Parquet, Arrow or image files as `load_dataset`
    takes them. Sets of the hub are kept in `data_dir`, or without one in the library's own cache.
    With `skip` rows without a label are left out.
    Class names are those of the label's feature, if it is a `ClassLabel`. Nothing that comes with a
    set is executed.

    Raises `DatasetError` where the library is not installed or cannot read the set,
    `DownloadRefused` where the hub cannot be reached.
    """
    library = _library()
    folder = Path(data_dir or "", Path(name).expanduser())
    with _quiet(library):
        if folder.is_dir():
            dataset = f"hf:{folder.resolve().name}"
            tables = _explained(dataset, lambda: _of_folder(library, folder))
        else:
            dataset = f"hf:{name}"
            tables = dict(_of_hub(library, dataset, name, data_dir))
    held = splits.held(dataset, split, list(tables))
    features = tables[held].features
    chosen = _choose(library, dataset, features, columns)
    for part, table in tables.items():
        absent = {chosen.item, *chosen.labels} - set(table.column_names)
        if part == held and absent:
            raise UsageError(f"the {part} split of {dataset} has no column {absent.pop()!r}")
    left_out = []
    ids = [str(row) for row in range(len(tables[held]))]
    if skip:
        tables, lacks = _labelled(library, tables, chosen)
        whence = f"of the {held} split of {dataset} has no {chosen.labels[0]}"
        left_out = [Unreadable(row, split, str(row), f"row {row} {whence}") for row in lacks[held]]
        ids = [id_ for row, id_ in enumerate(ids) if row not in lacks[held]]
        if not ids:
            raise DatasetError(f"no row {whence.replace('has no', 'has any')}")
    if columns.rows == "tokens":
        feature = getattr(features[chosen.labels[0]], "feature", None)
        names = feature.names if isinstance(feature, library.ClassLabel) else ()
        cells = {
            part: [_column(table, name) for name in chosen.labels]
            for part, table in tables.items()
            if set(chosen.labels) <= set(table.column_names)
        }
        texts = _column(tables[held], chosen.item)
        rows = of_words(dataset, split, held, texts, cells, chosen, columns, names)
        rows = with_kept(rows, held, _cells(tables, columns.keep), columns.keep)
        return replace(rows, notices=(*splits.stand_in(split, held), *rows.notices))
    labels = _labels(library, dataset, held, tables, chosen, columns)
    told = (*splits.stand_in(split, held), *labels.notices)
    if chosen.modality == "text":
        rows = of_texts(dataset, split, _column(tables[held], chosen.item), labels, ids)
        if columns.span:
            rows = with_spans(rows, held, _column(tables[held], columns.span), columns.span)
        rows = with_kept(rows, held, _cells(tables, columns.keep), columns.keep)
        return replace(rows, notices=told, left_out=tuple(left_out))
    if not isinstance(features[chosen.item], library.Image):
        raise DatasetError(
            f"the column {chosen.item} of {dataset} is {features[chosen.item]}, not images; choose"
            " another with --image-column"
        )
    roots = _roots(library, folder, data_dir)
    rows = _of_images(library, dataset, split, tables[held], chosen.item, labels, roots, ids)
    rows = with_kept(rows, held, _cells(tables, columns.keep), columns.keep)
    return replace(rows, notices=told, left_out=tuple(left_out))


def check(name: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raise where the library is not installed, or a name is of no set and no folder."""
    if importlib.util.find_spec("datasets") is None:
        _library()
    if not Path(data_dir or "", Path(name).expanduser()).is_dir():
        _repository(f"hf:{name}", name, data_dir)


def _labelled(library, tables: dict, chosen: Chosen) -> tuple[dict, dict[str, list[int]]]:
    """The rows of each split that have a label, and the numbers of the others."""
    kept, lacks = {}, {}
    for part, table in tables.items():
        without = np.zeros(len(table), bool)
        for name in set(chosen.labels) & set(table.column_names):
            (column,) = cleaned([_column(table, name)])
            without |= pc.is_null(column).to_numpy()
            if isinstance(table.features[name], library.ClassLabel):
                without |= pc.fill_null(pc.less(column, 0), True).to_numpy()
        lacks[part] = np.flatnonzero(without).tolist()
        kept[part] = table.select(np.flatnonzero(~without)) if without.any() else table
    return kept, lacks


def _library():
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(
            f"hf: sets are read by Hugging Face's datasets, and {error.name} is not installed:"
            f" {with_extra('hf')}"
        ) from None
    if int(datasets.__version__.split(".")[0]) < _SCRIPTLESS:
        raise DatasetError(
            f"datasets {datasets.__version__} runs scripts that come with a set; featstore takes"
            f" {_SCRIPTLESS}.0 or newer: {with_extra('hf', upgrade=True)}"
        )
    return datasets


@contextmanager
def _quiet(library) -> Iterator[None]:
    """No bars of the library's own."""
    shown = library.are_progress_bars_disabled() is False
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


def _of_folder(library, folder: Path) -> dict:
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    for file in saved_files(folder) if saved else ():
        if not lies_in(folder, file):
            raise DatasetError(
                f"{folder} takes its rows from {file}, outside of it; copy that into it"
            )
    found = library.load_from_disk(folder) if saved else library.load_dataset(str(folder))
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _of_hub(library, dataset: str, name: str, data_dir: Path | None) -> dict:
    repository, config = _repository(dataset, name, data_dir)
    # With the backbones come seconds of imports, which a folder does not need.
    from featstore import downloads

    cache = None if data_dir is None else str(data_dir)
    remedy = "copy the set here and give hf:DIR, a folder of save_to_disk or of its Parquet files"
    with downloading(f"the data set {dataset}", downloads.endpoint(), remedy):
        silence = downloads.silence()
        with _offline(library, silence is not None):
            try:
                load = partial(library.load_dataset, repository, config or None, cache_dir=cache)
                return _explained(dataset, load)
            except Exception:
                if silence is None:
                    raise
                raise ConnectionError(silence) from None


def _repository(dataset: str, name: str, data_dir: Path | None) -> tuple[str, str]:
    """The name of a set of the hub, and of its configuration."""
    repository, _, config = name.partition(":")
    if Path(data_dir or "", name).is_file():
        raise DatasetError(f"{dataset} is a file; give the folder that it lies in, or parquet:FILE")
    if not _NAME.fullmatch(repository) or not _CONFIG.fullmatch(config):
        raise DatasetError(
            f"there is no folder {Path(data_dir or '', repository)}, and {repository!r} is no name"
            " of a set of the hub: give hf:NAME, hf:OWNER/NAME, with :CONFIG behind it if it has"
            " several, or hf:DIR"
        )
    return repository, config


@contextmanager
def _offline(library, offline: bool) -> Iterator[None]:
    """Have the library look into its cache at once, which it else does after half a minute."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before


def _explained(dataset: str, load):
    """Return what `load` gives; raise `DatasetError` where the library refuses a set."""
    try:
        return load()
    except Exception as error:
        # Its errors have no base of their own: RuntimeError of scripts, ValueError of configs,
        # FileNotFoundError of empty folders, DatasetGenerationError of damaged files.
        if from_network(error):
            raise
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:400] or type(cause).__name__
        raise DatasetError(f"{dataset} cannot be read: {reason}") from error


def _choose(library, dataset: str, features, columns: Columns) -> Chosen:
    classed = [name for name in features if isinstance(features[name], library.ClassLabel)]
    return choose(
        dataset,
        list(features),
        columns,
        is_image=lambda name: isinstance(features[name], library.Image),
        usual_label=("label", *classed, *LABEL) if len(classed) == 1 else LABEL,
    )


def _labels(
    library, dataset: str, held: str, tables: dict, chosen: Chosen, asked: Columns
) -> Encoded:
    feature = tables[held].features[chosen.labels[0]]
    are_numbers = asked.targets or asked.kind == "number"
    if isinstance(feature, library.ClassLabel) and not are_numbers:
        values = _column(tables[held], chosen.labels[0]).fill_null(HIDDEN)
        if len(values) and pc.max(values).as_py() == HIDDEN:
            others = [part for part in tables if part != held]
            raise labels_not_told(dataset, held, chosen.labels[0], others)
        return Encoded(values.to_numpy(), classes=tuple(feature.names))
    inner = getattr(feature, "feature", None)
    if isinstance(inner, library.ClassLabel) and not asked.targets:
        lists = _column(tables[held], chosen.labels[0]).to_pylist()
        return Encoded(several(lists, range(inner.num_classes)), targets=tuple(inner.names))
    columns = {
        part: [_column(table, name) for name in chosen.labels]
        for part, table in tables.items()
        if set(chosen.labels) <= set(table.column_names)
    }
    return encoded(dataset, held, columns, chosen.labels, asked)


def _cells(tables, names: Sequence[str]) -> dict[str, dict[str, pa.ChunkedArray]]:
    """Columns of each split that has them."""
    return {
        part: {name: _column(table, name) for name in names}
        for part, table in tables.items()
        if set(names) <= set(table.column_names)
    }


def _column(table, name: str) -> pa.ChunkedArray:
    return plain(table.select_columns([name]).with_format("arrow")[:][name])


def _of_images(
    library,
    dataset: str,
    split: str,
    table,
    column: str,
    labels: Encoded,
    roots: tuple[Path, ...],
    ids: list[str],
) -> ImageRows:
    # Encoded bytes, not images: what is decoded here is decoded as from every other source.
    undecoded = table.select_columns([column]).cast_column(column, library.Image(decode=False))
    images = HubImages(undecoded.with_format(None), column, roots)
    try:
        sizes = _sizes(undecoded.with_format("arrow"), images)
    except (OSError, ValueError) as error:
        raise DatasetError(f"an image of {dataset} is not to be read: {error}") from error
    return rows_of_encoded(dataset, split, images, sizes, ids, labels)


def _sizes(table, images: HubImages) -> list[int | None]:
    """Bytes of each image's file, which is in the table or named by it."""
    sizes: list[int | None] = []
    for batch in table.iter(1000):
        cells = batch[images.column].combine_chunks()
        lengths = pc.binary_length(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
        sizes += [
            images.size(path) if length is None else length
            for length, path in zip(lengths, paths, strict=True)
        ]
    return sizes


def _roots(library, folder: Path, data_dir: Path | None) -> tuple[Path, ...]:
    """Return where files of a set may lie: its folder, or the caches of the library."""
    if folder.is_dir():
        return (folder,)
    config = library.config
    caches = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.HF_HUB_CACHE, data_dir)
    return tuple(Path(cache) for cache in caches if cache)
