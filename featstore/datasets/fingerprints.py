"""What identifies the data of a split: pixels of arrays; names, sizes and bytes of files."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Up to this size every byte of every file counts; above, every name and size, and the bytes of
# evenly spaced files. ImageNet's 150 GB would take minutes to hours to read before the first image
# is; its names and sizes take seconds. A set that was made anew is told apart either way, one file
# edited to the same size is not. Times of modification stay out: a copy holds the same images.
ALL_BYTES = 256 << 20
SAMPLED_FILES = 256


def of_arrays(images: np.ndarray, labels: np.ndarray) -> str:
    """Fingerprint of images (n, ...) uint8 and labels int64 or float64: their shapes and bytes.

    >>> images, labels = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    >>> of_arrays(images, labels) == of_arrays(images.reshape(2, 2, 8), labels)
    False
    """
    digest = hashlib.sha256()
    kind = np.float64 if labels.dtype.kind == "f" else np.int64
    for array in (images, labels.astype(kind)):
        digest.update(f"{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array))
    return f"arrays:{digest.hexdigest()}"


def of_files(
    paths: Sequence[Path],
    ids: Sequence[str],
    labels: Sequence,
    sizes: Sequence[int | None] | None = None,
) -> str:
    """Fingerprint of files in row order: ids, labels and sizes of all, bytes as said above.

    `sizes` are those of the files, None of one that is not there.
    """
    sizes = [path.stat().st_size for path in paths] if sizes is None else sizes
    return of_encoded(ids, labels, sizes, lambda row: paths[row].read_bytes())


def of_encoded(
    ids: Sequence[str],
    labels: Sequence,
    sizes: Sequence[int | None],
    encoded: Callable[[int], bytes],
) -> str:
    """Fingerprint of images as they are encoded, row i of `sizes[i]` bytes `encoded(i)`.

    A size of None is an image that is not there.
    """
    digest = hashlib.sha256()
    for id_, label, size in zip(ids, labels, sizes, strict=True):
        digest.update(f"{id_}|{label}|{size}\n".encode())
    if sum(size or 0 for size in sizes) <= ALL_BYTES:
        read = range(len(sizes))
    else:
        read = np.unique(np.linspace(0, len(sizes) - 1, SAMPLED_FILES).round().astype(int))
    for row in read:
        if sizes[row] is not None:
            digest.update(encoded(int(row)))
    return f"files:{digest.hexdigest()}"


def of_texts(texts: pa.LargeStringArray, labels: np.ndarray) -> str:
    """Fingerprint of texts and labels, all of their bytes."""
    digest = hashlib.sha256()
    lengths = pc.binary_length(texts).fill_null(-1).to_numpy()
    for part in (lengths, labels):
        digest.update(f"{part.dtype.str}|{part.shape}|".encode())
        digest.update(np.ascontiguousarray(part))
    for text in texts.drop_null():
        digest.update(text.as_buffer())
    return f"texts:{digest.hexdigest()}"
