"""Rows of image files, and the rule for the paths that a list names."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from featstore.datasets import fingerprints
from featstore.datasets.pixels import opened
from featstore.datasets.rows import ImageRows, Rows, utf8
from featstore.errors import DatasetError
from featstore.notices import Notice

# Names of files that are images: those of torchvision's folders, then what else Pillow reads by
# itself and people keep pictures in.
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
    ".gif", ".jfif", ".jpe", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".mpo",
    ".apng", ".dib", ".pbm", ".pnm", ".pfm", ".tga", ".ico", ".pcx", ".psd", ".dds", ".qoi", ".sgi",
)  # fmt: skip


@dataclass(frozen=True)
class ImageFiles:
    """Image files as rows; each is opened when it is asked for, and closed again."""

    paths: Sequence[Path]
    missing: Sequence[Path] = ()

    def __call__(self, row: int) -> Image.Image:
        """The image of a row."""
        return opened(self.paths[row])

    def cut(self, rows: np.ndarray) -> "ImageFiles":
        """Files of these rows alone, int64 (k,)."""
        return ImageFiles([self.paths[row] for row in rows])


def of_files(
    dataset: str,
    split: str,
    paths: Sequence[Path],
    labels: Sequence[int] | np.ndarray,
    classes: tuple[str, ...],
    root: Path,
    targets: tuple[str, ...] = (),
    notices: Iterable[Notice] = (),
) -> ImageRows:
    """Rows of image files, each one's id its path below `root`; see `require_files`."""
    ids = [utf8(os.path.relpath(path, root).replace(os.sep, "/")) for path in paths]
    sizes = [_size(path) for path in paths]
    missing = tuple(path for path, size in zip(paths, sizes, strict=True) if size is None)
    labels = np.asarray(labels, np.float64 if targets else np.int64)
    return ImageRows(
        dataset=dataset,
        split=split,
        labels=labels,
        ids=ids,
        classes=classes,
        fingerprint=fingerprints.of_files(paths, ids, labels.tolist(), sizes),
        read=ImageFiles(paths, missing),
        targets=targets,
        notices=tuple(notices),
    )


def require_files(rows: Rows) -> None:
    """Raise `DatasetError` where files that a set lists are not there."""
    missing = rows.read.missing if isinstance(rows.read, ImageFiles) else ()
    if missing:
        remedy = "fetch the set again, or give the folder that its paths start from as --data-dir"
        if "\\" in str(missing[0]):
            remedy = "write its paths with / in place of \\"
        more = f" and {len(missing) - 1:,} more are not" if missing[1:] else " is not"
        raise DatasetError(
            f"{rows.dataset} lists {len(rows):,} images; {utf8(str(missing[0]))}{more} there:"
            f" {remedy}"
        )


def below(root: Path, name: str) -> Path:
    """The path that a list calls `name`; `ValueError` where it does not lie below `root`.

    A list from elsewhere must not choose which files of this machine are read.

    >>> below(Path("/set"), "cat/./0.jpg").as_posix()
    '/set/cat/0.jpg'
    """
    # Links are not followed: whoever laid the folder laid them.
    root = os.path.abspath(root)
    path = os.path.normpath(os.path.join(root, name))
    if not path.startswith(root.rstrip(os.sep) + os.sep) or "\0" in name:
        raise ValueError(f"{name!r} does not lie below {root}")
    return Path(path)


def _size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
