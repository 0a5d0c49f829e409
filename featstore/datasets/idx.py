"""MNIST's own file format: `*-ubyte` or `*-ubyte.gz`, lying directly in a folder."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from featstore.datasets.arrays import of_arrays
from featstore.datasets.rows import ImageRows
from featstore.errors import DatasetError

_STEMS = {"train": "train", "test": "t10k"}
_UINT8 = 8


def present(folder: Path) -> bool:
    """Whether any of the files lies directly in `folder`."""
    return any(_find(folder, _STEMS[split], kind) for split in _STEMS for kind in _KINDS)


def load(dataset: str, split: str, folder: Path, classes: tuple[str, ...]) -> ImageRows:
    """The "train" or "test" rows of the files in `folder`.

    Raises `DatasetError` naming a file that is missing, truncated or of another shape.
    """
    files = []
    for kind in _KINDS:
        file = _find(folder, _STEMS[split], kind)
        if file is None:
            raise DatasetError(
                f"{folder} lacks {_STEMS[split]}-{kind}.gz of {dataset}; put it beside the others"
            )
        files.append(file)
    images, labels = (read(file) for file in files)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DatasetError(
            f"{files[0]} holds {images.shape} and {files[1]} {labels.shape}; wanted (n, H, W)"
            " images and (n,) labels"
        )
    return of_arrays(dataset, split, images, labels.astype(np.int64), classes)


def read(file: Path) -> np.ndarray:
    """The uint8 array in an idx file: two zeros, the type, the rank, big-endian sizes, bytes."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{file} is damaged or truncated: {error}; fetch it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UINT8:
        raise DatasetError(
            f"{file} starts with {data[:4].hex(' ')}, which is no header of an idx file of bytes"
        )
    rank = data[3]
    header = 4 + 4 * rank
    sizes = data[4:header].ljust(4 * rank, b"\0")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    wanted = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != wanted:
        raise DatasetError(
            f"{file} has {len(data)} bytes where its header {shape} asks for {wanted};"
            " it is truncated or damaged: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _find(folder: Path, stem: str, kind: str) -> Path | None:
    candidates = [folder / f"{stem}-{kind}{suffix}" for suffix in (".gz", "")]
    return next((file for file in candidates if file.is_file()), None)
