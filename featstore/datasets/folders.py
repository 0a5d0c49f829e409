"""`folder:DIR`: class folders below `train/` and `test/` (or `val/`)."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featstore.datasets import splits
from featstore.datasets.image_files import EXTENSIONS, of_files
from featstore.datasets.labels import class_names
from featstore.datasets.rows import ImageRows, utf8
from featstore.errors import DatasetError
from featstore.notices import Notice, counted

# What systems leave in folders, beside everything whose name begins with a dot.
_CLUTTER = {
    "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


def load(folder: str, split: str, data_dir: Path | None) -> ImageRows:
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
        dataset, split, [Path(root, path) for path in paths], labels, tuple(classes), root,
        notices=notices,
    )  # fmt: skip


def check(folder: str, names: Sequence[str], data_dir: Path | None) -> None:
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
    """What lies directly in a folder: folders that are no clutter, by name, and images."""

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
    """What walks through class folders met and did not take, by path below `root`."""

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
        """What was left out of a split, and which images lie deeper than their class folder."""
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
    """Whether a link to a folder leads to one that it lies in: its walk would not end."""
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
