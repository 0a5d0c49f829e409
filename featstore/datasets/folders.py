"""`folder:DIR`: class folders below `train/` and `test/` (or `val/`)."""

import os
from pathlib import Path

from featstore.datasets import splits
from featstore.datasets.image_files import EXTENSIONS, of_files
from featstore.datasets.rows import ImageRows
from featstore.errors import DatasetError


def load(folder: str, split: str, data_dir: Path | None) -> ImageRows:
    """One split of DIR: an image's class is the folder that it lies in, at any depth.

    The classes of all splits together are numbered in the order of their names, so that a number
    means the same in each. "test" reads `val/` where there is no `test/`. Rows come in the order of
    their paths. Raises `DatasetError` for a folder that holds no such tree.
    """
    root = (data_dir or Path()) / Path(folder).expanduser()
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; give folder:DIR")
    there = [name for name in splits.NAMES if (root / name).is_dir()]
    if not there:
        found = ", ".join(sorted(_class_names(root))[:5]) or "nothing"
        raise DatasetError(
            f"{root} has no train/ or test/ below it, but {found}; sort the class folders of each"
            " split under a folder train/, test/ or val/"
        )
    dataset = f"folder:{root.resolve().name}"
    held = splits.held(dataset, split, there)
    classes = tuple(sorted({name for part in there for name in _class_names(root / part)}))
    images = [
        (path, label)
        for label, name in enumerate(classes)
        for path in _images_below(root / held / name)
    ]
    if not images:
        raise DatasetError(
            f"{root / held} has no image ({', '.join(EXTENSIONS)}) in a class folder"
        )
    paths, labels = zip(*images, strict=True)
    return of_files(dataset, split, paths, labels, classes, root)


def _class_names(folder: Path) -> list[str]:
    return [
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._"
    ]


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )
