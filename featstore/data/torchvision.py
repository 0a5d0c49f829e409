"""The data sets of torchvision, each as it lies on disk."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from featstore.data import splits
from featstore.data.files import of_arrays, of_files
from featstore.data.rows import ImageRows, unknown_split
from featstore.downloads import downloading, from_network
from featstore.errors import DatasetError

_STEMS = {"train": "train", "test": "t10k"}
_UINT8 = 8


def present(folder: Path) -> bool:
    """Return whether any of the files lies directly in `folder`."""
    return any(_find(folder, _STEMS[split], kind) for split in _STEMS for kind in _KINDS)


def load_idx(dataset: str, split: str, folder: Path, classes: tuple[str, ...]) -> ImageRows:
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


EUROSAT_TEST_SHARE = 0.2
_TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}


@dataclass(frozen=True)
class Source:
    """A class of `torchvision.datasets`, the arguments of each split, and how its rows are read."""

    name: str
    splits: dict[str, dict]
    rows: Callable[[str, str, object, Path], ImageRows]
    downloadable: bool = True

    @property
    def kind(self) -> Callable:
        """The class; torchvision brings in torch, which a process that decodes does without."""
        from torchvision import datasets

        return getattr(datasets, self.name)


def _named(*splits: str, **renamed: str) -> dict[str, dict]:
    """Arguments of sets that take `split=NAME`, under torchvision's names or ours for them."""
    return {split: {"split": renamed.get(split, split)} for split in (*splits, *renamed)}


def check(name: str, splits: Sequence[str], data_dir: Path | None) -> None:
    """Raise where there is no such split, or no folder of a set that cannot be downloaded."""
    source = SOURCES[name]
    for split in splits:
        if split not in source.splits:
            raise unknown_split(name, split, list(source.splits))
    if not source.downloadable and data_dir is not None and not data_dir.is_dir():
        raise DatasetError(
            f"{name} is not to be downloaded, and there is no folder {data_dir}; put a local copy"
            " in DIR and give --data-dir DIR"
        )


def load(name: str, split: str, data_dir: Path | None) -> ImageRows:
    """One split of the set `name`, from `data_dir` or downloaded into it.

    "train" and "test" work for every set: the test of ImageNet and Places365 is their validation
    split, Pets' train its trainval, and EuroSAT, which has no split, has a fifth of each class as
    test (`stratified`). Raises `DownloadRefused` where a set is not there and cannot be fetched.
    """
    source = SOURCES[name]
    check(name, [split], data_dir)
    root = Path(data_dir or platformdirs.user_cache_path("featstore") / "datasets").expanduser()
    if name in _MNIST_LIKE and present(root):
        return load_idx(name, split, root, tuple(source.kind.classes))
    read = _made(name, source, split, root)
    return source.rows(name, split, read, root)


def _made(name: str, source: Source, split: str, root: Path):
    arguments = source.splits[split]
    remedy = f"put a local copy in DIR and give --data-dir DIR (looked in {root})"
    if not source.downloadable:
        try:
            return source.kind(root, **arguments)
        except (RuntimeError, FileNotFoundError) as error:
            raise DatasetError(f"{name} is not to be downloaded: {error}; {remedy}") from error
    with downloading(f"the data set {name}", "its home page", remedy):
        try:
            return source.kind(root, download=True, **arguments)
        except ModuleNotFoundError as error:
            raise DatasetError(f"{name} needs {error.name}: pip install {error.name}") from None
        except (RuntimeError, OSError, ValueError) as error:
            if from_network(error):
                raise
            if str(error).startswith("Error downloading"):  # MNIST's mirrors, one after another
                raise ConnectionError(error) from None
            raise DatasetError(f"{name} in {root} cannot be read: {error}; {remedy}") from error


def _of_pixels(name: str, split: str, read, root: Path) -> ImageRows:
    """Sets in memory: `data` (n, H, W) or (n, H, W, 3), `targets`."""
    images, labels = np.asarray(read.data), np.asarray(read.targets, np.int64)
    return of_arrays(name, split, images, labels, tuple(read.classes))


def _of_channels_first(name: str, split: str, read, root: Path) -> ImageRows:
    """Sets in memory: `data` (n, 3, H, W), `labels`; SVHN's classes are its ten digits."""
    images = np.ascontiguousarray(np.asarray(read.data).transpose(0, 2, 3, 1))
    classes = getattr(read, "classes", [str(digit) for digit in range(10)])
    return of_arrays(name, split, images, np.asarray(read.labels, np.int64), tuple(classes))


def _of_image_files(name: str, split: str, read, root: Path) -> ImageRows:
    """Sets that keep two lists, of files and of labels."""
    paths = read._images if name == "oxford_iiit_pet" else read._image_files
    return of_files(name, split, [Path(path) for path in paths], read._labels, _classes(read), root)


def _of_samples(name: str, split: str, read, root: Path) -> ImageRows:
    """Sets that keep one list of (file, label)."""
    kept = next(each for each in ("samples", "_samples", "imgs") if hasattr(read, each))
    samples = getattr(read, kept)
    paths, labels = zip(*samples, strict=True)
    return of_files(name, split, [Path(path) for path in paths], labels, _classes(read), root)


def _of_eurosat(name: str, split: str, read, root: Path) -> ImageRows:
    paths = [Path(path) for path, _ in read.samples]
    labels = np.array([label for _, label in read.samples], np.int64)
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    kept = splits.rows_of(split, names, labels, EUROSAT_TEST_SHARE)
    kept_paths = [paths[row] for row in kept]
    return of_files(name, split, kept_paths, labels[kept].tolist(), _classes(read), root)


def _classes(read) -> tuple[str, ...]:
    """Names of the classes; ImageNet gives each several."""
    names = getattr(read, "classes", None) or [str(label) for label in range(43)]
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)


SOURCES = {
    "cifar10": Source("CIFAR10", _TRAIN_TEST, _of_pixels),
    "cifar100": Source("CIFAR100", _TRAIN_TEST, _of_pixels),
    "mnist": Source("MNIST", _TRAIN_TEST, _of_pixels),
    "fashion_mnist": Source("FashionMNIST", _TRAIN_TEST, _of_pixels),
    "kmnist": Source("KMNIST", _TRAIN_TEST, _of_pixels),
    "svhn": Source("SVHN", _named("train", "test", "extra"), _of_channels_first),
    "stl10": Source("STL10", _named("train", "test"), _of_channels_first),
    "flowers102": Source("Flowers102", _named("train", "val", "test"), _of_image_files),
    "dtd": Source("DTD", _named("train", "val", "test"), _of_image_files),
    "food101": Source("Food101", _named("train", "test"), _of_image_files),
    "fgvc_aircraft": Source(
        "FGVCAircraft", _named("train", "val", "test", "trainval"), _of_image_files
    ),
    "oxford_iiit_pet": Source("OxfordIIITPet", _named("test", train="trainval"), _of_image_files),
    "eurosat": Source("EuroSAT", {"train": {}, "test": {}}, _of_eurosat),
    "gtsrb": Source("GTSRB", _named("train", "test"), _of_samples),
    "country211": Source("Country211", _named("train", "test", val="valid"), _of_samples),
    "imagenette": Source("Imagenette", _named("train", "val", test="val"), _of_samples),
    "imagenet": Source(
        "ImageNet", _named("train", "val", test="val"), _of_samples, downloadable=False
    ),
    # of 256 x 256 pixels, 24 GB; its own test split has no labels
    "places365": Source(
        "Places365",
        {
            name: {"split": theirs, "small": True}
            for name, theirs in (("train", "train-standard"), ("val", "val"), ("test", "val"))
        },
        _of_samples,
        downloadable=False,
    ),
}
_MNIST_LIKE = ("mnist", "fashion_mnist", "kmnist")
