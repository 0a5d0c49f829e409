"""Data sets made up: archives of noise, and tiny copies of torchvision's sets.

The copies are the files and folders that torchvision's own code reads. Each has two classes, four
train and two test rows in the order of labels 0, 1, 0, 1 (files sort by class). An image is flat,
and its grey level tells split and label: see `grey`.
"""

import gzip
import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

LABELS = {"train": [0, 1, 0, 1], "test": [0, 1]}
WNIDS = ("n01440764", "n02102040")


def noise(path: Path, classes: int = 7, size: int = 20, **rows: int) -> Path:
    """Write an archive of noisy images, so many `rows` of each split; return its path."""
    levels, arrays = np.random.default_rng(0), {}
    for split, n in rows.items():
        arrays[f"x_{split}"] = levels.integers(0, 256, (n, size, size, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(n) % classes
    np.savez(path, **arrays)
    return path


def grey(split: str, label: int) -> int:
    """Level of every pixel of an image of this split and label."""
    return {"train": 40, "test": 160}[split] + 40 * label


def pixels(split: str, size: int, channels: int | None = None) -> np.ndarray:
    """Flat images uint8 (n, size, size) or (n, size, size, channels)."""
    levels = np.array([grey(split, label) for label in LABELS[split]], np.uint8)
    shape = (len(levels), size, size) + ((channels,) if channels else ())
    return np.broadcast_to(levels.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()


def write_image(path: Path, split: str, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (14, 11), (grey(split, label),) * 3).save(path)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array in MNIST's format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(folder: Path, suffix: str = ".gz") -> None:
    """Write the four files of an MNIST-like set directly into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    for split, stem in {"train": "train", "test": "t10k"}.items():
        labels = np.array(LABELS[split], np.uint8)
        for kind, array in (("images-idx3", pixels(split, 28)), ("labels-idx1", labels)):
            (folder / f"{stem}-{kind}-ubyte{suffix}").write_bytes(pack(idx_bytes(array)))


def _mnist_like(kind):
    return lambda root, monkeypatch: idx_files(root / kind.__name__ / "raw", suffix="")


def _cifar(kind, key: str):
    def make(root: Path, monkeypatch) -> None:
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        lists = {}
        for split, name in {"train": kind.train_list[0][0], "test": kind.test_list[0][0]}.items():
            data = pixels(split, 32, 3).transpose(0, 3, 1, 2).reshape(len(LABELS[split]), -1)
            (folder / name).write_bytes(pickle.dumps({"data": data, key: LABELS[split]}))
            lists[split] = [[name, md5(folder / name)]]
        meta = folder / kind.meta["filename"]
        meta.write_bytes(pickle.dumps({kind.meta["key"]: ["cat", "dog"]}))
        monkeypatch.setattr(kind, "train_list", lists["train"])
        monkeypatch.setattr(kind, "test_list", lists["test"])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})

    return make


def _svhn(root: Path, monkeypatch) -> None:
    root.mkdir(parents=True, exist_ok=True)
    known = dict(datasets.SVHN.split_list)
    for split in LABELS:
        file = root / known[split][1]
        # The set writes the digit 0 as 10.
        labels = np.array([[label or 10] for label in LABELS[split]], np.uint8)
        images = pixels(split, 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(file, {"X": images, "y": labels})
        known[split] = [*known[split][:2], md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", known)


def _stl10(root: Path, monkeypatch) -> None:
    folder = root / datasets.STL10.base_folder
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    (folder / "unlabeled_X.bin").write_bytes(b"")
    lists = {"train": [], "test": []}
    for split in lists:
        files = {
            f"{split}_X.bin": pixels(split, 96, 3).transpose(0, 3, 2, 1).tobytes(),
            f"{split}_y.bin": bytes(label + 1 for label in LABELS[split]),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
            lists[split].append([name, md5(folder / name)])
    lists["train"].append(["unlabeled_X.bin", md5(folder / "unlabeled_X.bin")])
    monkeypatch.setattr(datasets.STL10, "train_list", lists["train"])
    monkeypatch.setattr(datasets.STL10, "test_list", lists["test"])


def _flowers102(root: Path, monkeypatch) -> None:
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    rows = [(split, label) for split in LABELS for label in LABELS[split]]
    for number, (split, label) in enumerate(rows, 1):
        write_image(folder / "jpg" / f"image_{number:05}.jpg", split, label)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [label + 1 for _, label in rows]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [1, 2, 3, 4], "valid": [5], "tstid": [5, 6]})
    files = {
        kind: (name, md5(folder / name) if name.endswith(".mat") else known)
        for kind, (name, known) in datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)


def _dtd(root: Path, monkeypatch) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for split in LABELS:
        lines = []
        for number, label in enumerate(LABELS[split]):
            name = f"{['banded', 'dotted'][label]}/{split}_{number}.jpg"
            write_image(folder / "images" / name, split, label)
            lines.append(name)
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(lines))


def _food101(root: Path, monkeypatch) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split in LABELS:
        listed = {"apple_pie": [], "ramen": []}
        for number, label in enumerate(LABELS[split]):
            name = f"{list(listed)[label]}/{split}{number}"
            write_image(folder / "images" / f"{name}.jpg", split, label)
            listed[list(listed)[label]].append(name)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))


def _fgvc_aircraft(root: Path, monkeypatch) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("707-320\nA340 200\n")
    for split in LABELS:
        lines = []
        for number, label in enumerate(LABELS[split]):
            write_image(data / "images" / f"{split}{number}.jpg", split, label)
            lines.append(f"{split}{number} {['707-320', 'A340 200'][label]}")
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines))


def _oxford_iiit_pet(root: Path, monkeypatch) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, theirs in {"train": "trainval", "test": "test"}.items():
        lines = []
        for number, label in enumerate(LABELS[split]):
            name = f"{['Abyssinian', 'yorkshire_terrier'][label]}_{split}{number}"
            write_image(folder / "images" / f"{name}.jpg", split, label)
            lines.append(f"{name} {label + 1} {label + 1} 1")
        (folder / "annotations" / f"{theirs}.txt").write_text("\n".join(lines))


def _eurosat(root: Path, monkeypatch) -> None:
    for label, name in enumerate(["AnnualCrop", "River"]):
        for number in range(10):
            write_image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", "train", label)


def _gtsrb(root: Path, monkeypatch) -> None:
    folder = root / "gtsrb" / "GTSRB"
    lines = ["Filename;ClassId"]
    for split in LABELS:
        for number, label in enumerate(LABELS[split]):
            if split == "train":
                write_image(folder / "Training" / f"{label:05}" / f"{number}.ppm", split, label)
            else:
                write_image(folder / "Final_Test" / "Images" / f"{number}.ppm", split, label)
                lines.append(f"{number}.ppm;{label}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines))


def class_folders(root: Path, names, folders=("train", "test"), suffix=".jpg") -> None:
    """Write train and test images as root / folder / name / file."""
    for split, folder in zip(LABELS, folders, strict=True):
        for number, label in enumerate(LABELS[split]):
            write_image(root / folder / names[label] / f"{number}{suffix}", split, label)


def _imagenet(root: Path, monkeypatch) -> None:
    class_folders(root, WNIDS, ("train", "val"), ".JPEG")
    names = {WNIDS[0]: ("tench", "Tinca tinca"), WNIDS[1]: ("English springer",)}
    torch.save((names, []), root / "meta.bin")


def _places365(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.Places365, "_check_integrity", lambda *given: True)
    names = ["/a/airfield", "/z/zen_garden"]
    root.mkdir(parents=True, exist_ok=True)
    (root / "categories_places365.txt").write_text(f"{names[0]} 0\n{names[1]} 1\n")
    for split, folder, file in (
        ("train", "data_256_standard", "places365_train_standard.txt"),
        ("test", "val_256", "places365_val.txt"),
    ):
        lines = []
        for number, label in enumerate(LABELS[split]):
            name = f"{names[label]}/{number}.jpg" if split == "train" else f"{number}.jpg"
            write_image(root / folder / name.lstrip("/"), split, label)
            lines.append(f"{name} {label}")
        (root / file).write_text("\n".join(lines))


TREES = {
    "cifar10": _cifar(datasets.CIFAR10, "labels"),
    "cifar100": _cifar(datasets.CIFAR100, "fine_labels"),
    "mnist": _mnist_like(datasets.MNIST),
    "fashion_mnist": _mnist_like(datasets.FashionMNIST),
    "kmnist": _mnist_like(datasets.KMNIST),
    "svhn": _svhn,
    "stl10": _stl10,
    "flowers102": _flowers102,
    "dtd": _dtd,
    "food101": _food101,
    "fgvc_aircraft": _fgvc_aircraft,
    "oxford_iiit_pet": _oxford_iiit_pet,
    "eurosat": _eurosat,
    "gtsrb": _gtsrb,
    "country211": lambda root, monkeypatch: class_folders(root / "country211", ["AD", "ZW"]),
    "imagenette": lambda root, monkeypatch: class_folders(
        root / "imagenette2", WNIDS, ("train", "val"), ".JPEG"
    ),
    "imagenet": _imagenet,
    "places365": _places365,
}
