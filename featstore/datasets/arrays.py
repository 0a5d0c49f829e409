"""`npz:FILE`: image arrays in one NumPy archive."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from featstore.datasets import fingerprints
from featstore.datasets.labels import HIDDEN, labels_not_told
from featstore.datasets.rows import ImageRows, unknown_split
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

# Keras's names, and MedMNIST's.
_PATTERNS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_SPLITS = ("train", "val", "test")
# So many classes have names of their own only if there are rows for them.
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class ImageArrays:
    """Images in memory as rows: uint8 (n, H, W) or (n, H, W, 3)."""

    images: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        """The image of a row."""
        return Image.fromarray(self.images[row])

    def cut(self, rows: np.ndarray) -> "ImageArrays":
        """Images of these rows alone, int64 (k,)."""
        return ImageArrays(self.images[rows])


def check(file: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raise where there is no such file."""
    path = (data_dir or Path()) / Path(file).expanduser()
    if not path.is_file():
        raise DatasetError(f"there is no file {path}; give npz:FILE, an archive of image arrays")


def load(file: str, split: str, data_dir: Path | None, kind: str | None = None) -> ImageRows:
    """One split of an archive with x_train, y_train, x_test, y_test (or train_images, ...).

    Images are uint8 (n, H, W), (n, H, W, 1), (n, H, W, 3) or channels first; labels whole numbers
    (n,) or (n, 1) from 0 on, or floats (n,) or (n, T): targets. Where `kind` is "class" floats are
    classes too, and rows of one 1 among zeros are the class that it stands for; where it is
    "number" whole numbers are targets. An array `classes` of strings names classes, one `targets`
    those. Nothing is unpickled.
    """
    path = (data_dir or Path()) / Path(file).expanduser()
    dataset = f"npz:{path.name}"
    check(file, [split], data_dir)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _split(dataset, split, archive, kind)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as an npz archive: {error}") from error


def of_arrays(
    dataset: str,
    split: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    ids: Sequence[str] | None = None,
    targets: tuple[str, ...] = (),
    notices: Sequence[Notice] = (),
) -> ImageRows:
    """Rows of images uint8 (n, H, W) or (n, H, W, 3) in memory, and labels as `Rows` has them.

    A row's id is its index, unless `ids` are given.
    """
    return ImageRows(
        dataset=dataset,
        split=split,
        labels=labels,
        ids=ids or [str(row) for row in range(len(labels))],
        classes=classes,
        fingerprint=fingerprints.of_arrays(images, labels),
        read=ImageArrays(images),
        targets=targets,
        notices=tuple(notices),
    )


def _split(dataset: str, split: str, archive: np.lib.npyio.NpzFile, kind: str | None) -> ImageRows:
    names = {
        known: (images.format(known), labels.format(known))
        for images, labels in _PATTERNS
        for known in _SPLITS
        if images.format(known) in archive and labels.format(known) in archive
    }
    if not names:
        raise DatasetError(
            f"{dataset} has the arrays {', '.join(archive.files) or '(none)'}; wanted x_train,"
            " y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels"
        )
    if split not in names:
        raise unknown_split(dataset, split, list(names))
    every = {known: archive[key] for known, (_, key) in names.items()}
    hidden = [known for known, some in every.items() if some.size and (some == HIDDEN).all()]
    told = [known for known in names if known not in hidden]
    if split in hidden:
        raise labels_not_told(dataset, split, names[split][1], told)
    images_name, labels_name = names[split]
    images = _images(dataset, images_name, archive[images_name])
    labels = _labels(dataset, labels_name, archive[labels_name], kind)
    if len(images) != len(labels):
        raise DatasetError(
            f"{dataset} has {len(images)} images in {images_name} and {len(labels)} labels in"
            f" {labels_name}; give one label an image"
        )
    if labels.dtype.kind == "f":
        targets = _target_names(dataset, labels, archive)
        said = []
        if kind is None and (labels == np.round(labels)).all():
            text = (
                f"{labels_name} of {dataset} has whole numbers stored as floats, taken as numbers"
                " to regress on (--label-kind class makes classes of them)"
            )
            said.append(Notice("kind", text))
        return of_arrays(dataset, split, images, labels, (), targets=targets, notices=said)
    if "classes" in archive:
        classes = tuple(str(name) for name in archive["classes"])
        return of_arrays(dataset, split, images, labels, classes)
    # Over all splits: a class may have no row in this one.
    keys = [names[known][1] for known in told]
    every = np.concatenate([_labels(dataset, key, archive[key], kind) for key in keys])
    highest = int(every.max())
    if highest >= MOST_CLASSES and highest >= 10 * len(every):
        raise DatasetError(
            f"{dataset} has labels up to {highest:,} in {len(every):,} rows; number the classes"
            " from 0 on, as np.unique(labels, return_inverse=True) does, and name them in `classes`"
        )
    classes = tuple(str(label) for label in range(highest + 1))
    return of_arrays(dataset, split, images, labels, classes)


def _target_names(
    dataset: str, labels: np.ndarray, archive: np.lib.npyio.NpzFile
) -> tuple[str, ...]:
    n_targets = 1 if labels.ndim == 1 else labels.shape[1]
    if "targets" not in archive:
        return ("target",) if n_targets == 1 else tuple(f"target{i}" for i in range(n_targets))
    names = tuple(str(name) for name in np.atleast_1d(archive["targets"]))
    if len(names) != n_targets:
        raise DatasetError(
            f"{dataset} has {n_targets} targets a row and {len(names)} names in its array targets"
        )
    return names


def _images(dataset: str, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise DatasetError(
            f"{name} of {dataset} is {images.dtype}; images are uint8 from 0 to 255: scale and"
            " convert them"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim != 3 and images.shape[3:] != (3,):
        raise DatasetError(
            f"{name} of {dataset} has shape {images.shape}; images are (n, H, W) or (n, H, W, 3)"
        )
    return images


def _labels(dataset: str, name: str, labels: np.ndarray, kind: str | None) -> np.ndarray:
    shape = labels.shape
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if _is_one_hot(labels) and kind != "number":
        if kind is None:
            raise UsageError(
                f"{name} of {dataset} has one 1 among {shape[1] - 1} zeros in each row: say whether"
                " that is a class or so many numbers, --label-kind class or --label-kind number"
            )
        labels = labels.argmax(axis=1)
    if kind == "class" and labels.dtype.kind == "f" and labels.ndim == 1:
        if not (labels == np.round(labels)).all():
            raise UsageError(
                f"{name} of {dataset} has numbers with a fraction, which number no classes; leave"
                " --label-kind class out, or number the classes from 0"
            )
        labels = labels.astype(np.int64)
    if kind == "number" and labels.dtype.kind in "iub":
        labels = labels.astype(np.float64)
    ranks = {"i": (1,), "u": (1,), "f": (1, 2)}
    if labels.ndim not in ranks.get(labels.dtype.kind, ()) or labels.size == 0:
        raise DatasetError(
            f"{name} of {dataset} is {labels.dtype} {shape}; labels are whole numbers (n,), or"
            " floats (n,) or (n, T), a row an image"
        )
    if labels.dtype.kind == "f":
        return labels.astype(np.float64)
    if labels.min() < 0:
        raise UsageError(f"{name} of {dataset} has label {labels.min()}; labels count from 0")
    return labels.astype(np.int64)


def _is_one_hot(labels: np.ndarray) -> bool:
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "iufb":
        return False
    return (
        bool(len(labels))
        and bool(((labels == 0) | (labels == 1)).all())
        and bool((labels.sum(axis=1) == 1).all())
    )
