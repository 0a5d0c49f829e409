"""Maps of images: a class or a number for each pixel, reduced to labels of patches.

A map lies on its image. It follows the image through resizing and cropping, and what of it lies
under a patch decides about the patch's label; a patch of which nothing is known is no row.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from featstore.data.files import MOST_CLASSES
from featstore.data.rows import Ragged, Rows, opened, utf8, without_rows
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

KINDS = ("majority", "nearest", "mean")
# The value of pixels that have no class, as most sets of segmentation have it.
IGNORED = 255
# Maps of a split that are read before the first of them is used.
_AHEAD = 64

Sources = Callable[[tuple[int, int]], tuple[np.ndarray, np.ndarray]]
"""From an image's size (width, height) to the places that a network's pixels come from."""


@dataclass(frozen=True)
class Maps:
    """Rule by which the pixels of a map below a patch become its label.

    `by` is "majority", the class of most of them, "nearest", the class of the one in the middle, or
    "mean", their mean, a number to regress on. Pixels of the value `ignore` (by default 255 of
    classes and none of numbers) have no label, nor do those that are not finite, or lie outside of
    the image. A patch has none where these are more than those of its class, or of any number, or
    where its class, or numbers, are on less than `share` of its pixels.
    """

    by: str = "majority"
    share: float = 0.0
    ignore: float | None = None

    def __post_init__(self):
        if self.by not in KINDS:
            raise UsageError(f"maps are read by {self.by!r}; choose {', '.join(KINDS)}")
        if not 0 <= self.share <= 1:
            raise UsageError(f"the share of a patch's pixels is {self.share}; give one in [0, 1]")

    @property
    def ignored(self) -> float | None:
        """Return the value of pixels without a label, None where there is none."""
        return IGNORED if self.ignore is None and self.by != "mean" else self.ignore


class Mapped(NamedTuple):
    """The map (h, w) of one image, and the image's size, (width, height)."""

    values: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class MapFiles:
    """Maps in files beside those of their images, of which the headers alone are read."""

    images: Sequence[Path]
    maps: Sequence[Path]

    def __call__(self, row: int) -> Mapped:
        """Return the map of a row."""
        with Image.open(self.images[row]) as image:
            size = image.size
        return Mapped(_of_file(self.maps[row]), size)


def _of_file(path: Path) -> np.ndarray:
    """Return the numbers in an image file of one channel, or in a .npy file."""
    if not path.exists():
        raise ValueError(f"there is no file {utf8(str(path))}")
    if path.suffix == ".npy":
        return as_map(np.load(path, allow_pickle=False))
    image = opened(path)
    if image.format == "JPEG":
        raise ValueError("JPEG changes the numbers of pixels; save it as PNG")
    return as_map(image)


def as_map(given: Any) -> np.ndarray:
    """Return a PIL image of one channel, an array or a tensor as an array (h, w).

    Of an image of a palette they are its indices. Raises `ValueError` for any other.
    """
    if isinstance(given, Image.Image) and len(given.getbands()) != 1:
        raise ValueError(
            f"it has colours ({given.mode}), and a map one number a pixel: save a grey image,"
            " or one with a palette"
        )
    found = np.asarray(given)
    found = found[0] if found.ndim == 3 and len(found) == 1 else found
    found = found.astype(np.uint8) if found.dtype.kind == "b" else found
    if found.ndim != 2 or found.dtype.kind not in "iuf" or not found.size:
        raise ValueError(f"it is {found.dtype} {found.shape}, and a map holds numbers (h, w)")
    return found


def is_map(label: object) -> bool:
    """Return whether a label is a map: an image, or an array or tensor of two axes."""
    if isinstance(label, Image.Image):
        return True
    shape = getattr(label, "shape", ())
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)


def labelled(
    rows: Mapping[str, Rows],
    how: Maps,
    grid: tuple[int, int],
    pixels: tuple[int, int],
    sources: Sources | None,
    name: str = "target",
    threads: int = 1,
) -> dict[str, Rows]:
    """Return rows of images with the labels of their patches, read off the maps of all of them.

    Classes are the values that patches have in any split, sorted.

    Arguments:
        rows: the images of each split, which have `maps`.
        how: what makes a label of a patch's pixels.
        grid: patches of an image, (rows, columns).
        pixels: what the network sees, (height, width).
        sources: where its pixels come from, `models.transforms.sources`; None where a map is as
            large as that, and lies as it does.
        name: what numbers to regress on are called.
        threads: how many read.

    Raises `DatasetError` naming the row of a map that is not there or does not fit its image, and a
    split without any label.
    """
    found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for split, one in rows.items():
        read = partial(_of_row, one, how=how, grid=grid, pixels=pixels, sources=sources)
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        with ThreadPoolExecutor(threads, thread_name_prefix="featstore-maps") as pool:
            for start in range(0, len(one), _AHEAD):
                pairs += pool.map(read, range(start, min(start + _AHEAD, len(one))))
        values, places = map(list, zip(*pairs, strict=True))
        if not sum(map(len, values)):
            raise DatasetError(
                f"no patch of the {split} split of {one.dataset} has a label: of all of them most"
                " pixels are ignored"
                + ("" if how.ignored is None else f", which have the value {how.ignored:g}")
                + "; give another value to be ignored (--map-ignore), or mend the maps"
            )
        found[split] = values, places
    classes: tuple[str, ...] = ()
    numbers = np.zeros(0)
    if how.by != "mean":
        numbers = np.unique(np.concatenate([np.concatenate(some) for some, _ in found.values()]))
        classes = _names(numbers, next(iter(rows.values())))
    made = {}
    for split, (values, places) in found.items():
        labels = np.concatenate(values)
        labels = np.searchsorted(numbers, labels) if classes else labels.astype(np.float64)
        starts = np.concatenate([[0], np.cumsum([len(some) for some in values])])
        pieces = Ragged(labels, starts.astype(np.int64), np.concatenate(places).astype(np.int64))
        one, total = rows[split], len(values) * grid[0] * grid[1]
        said = list(one.notices)
        if total > len(labels):
            text = f"patches of {split} without a label, left out: {total - len(labels):,} of"
            said.append(Notice("maps", f"{text} {total:,}", total - len(labels)))
        one = replace(
            one,
            labels=np.zeros(len(one), np.int64 if classes else np.float64),
            classes=classes,
            targets=() if classes else (name,),
            pieces=pieces,
            notices=tuple(said),
        )
        made[split] = replace(one, notices=(*one.notices, *without_rows(one)))
    return made


def _names(numbers: np.ndarray, rows: Rows) -> tuple[str, ...]:
    """Return the names of classes: those that a data set states by number, or the numbers."""
    if len(numbers) > MOST_CLASSES:
        raise DatasetError(
            f"maps of {rows.dataset} have {len(numbers):,} values, as those of instances or of"
            " distances have: give maps of classes, or take their mean as a number to regress on"
            " (--map-labels mean)"
        )
    stated = rows.classes if len(rows.classes) > numbers[-1] else None
    return tuple(stated[number] if stated else str(number) for number in numbers.tolist())


def _of_row(
    rows: Rows,
    row: int,
    *,
    how: Maps,
    grid: tuple[int, int],
    pixels: tuple[int, int],
    sources: Sources | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the patches of an image that have one, and their places (n,)."""
    try:
        placed, there = _placed(rows.maps(row), pixels, sources)
        there &= _known(placed, how)
        # positions that are finer than pixels share them
        finer = [-(-count // side) for count, side in zip(grid, pixels, strict=True)]
        placed, there = (one.repeat(finer[0], 0).repeat(finer[1], 1) for one in (placed, there))
        if how.by == "nearest":
            return _middles(placed, there, grid)
        cells = _cells(placed.shape, grid)
        if how.by == "mean":
            return _means(placed, there, cells, how.share)
        return _majorities(placed, there, cells, how.share)
    except (MemoryError, DatasetError):
        raise
    except Exception as error:
        raise DatasetError(
            f"the map of row {rows.ids[row]} of the {rows.split} split of {rows.dataset} cannot be"
            f" used: {str(error) or type(error).__name__}"
        ) from error


def _placed(
    mapped: Mapped, pixels: tuple[int, int], sources: Sources | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the map as the network sees its image, (H, W), and which pixels lie in the image."""
    values, (width, height) = mapped
    map_height, map_width = values.shape
    if sources is None:
        if values.shape != pixels:
            raise ValueError(
                f"it is {map_height} x {map_width}, and the network sees {pixels[0]} x {pixels[1]}"
                " pixels: a map beside a transform of your own is as that leaves the image"
            )
        return values, np.ones(pixels, bool)
    apart = min(
        abs(map_width - width * map_height / height), abs(map_height - height * map_width / width)
    )
    if apart > 1:
        raise ValueError(
            f"it is {map_width} x {map_height} pixels and its image {width} x {height}: a map has"
            " the shape of its image, in any size"
        )
    # the middle of each pixel decides
    down, across = sources((width, height))
    there = (down >= 0) & (across >= 0)
    down = (2 * np.maximum(down, 0) + 1) * map_height // (2 * height)
    across = (2 * np.maximum(across, 0) + 1) * map_width // (2 * width)
    return values[down, across], there


def _known(placed: np.ndarray, how: Maps) -> np.ndarray:
    """Return which pixels have a label, bool (H, W)."""
    known = np.isfinite(placed)
    if how.ignored is not None:
        known &= placed != how.ignored
    if how.by != "mean":
        values = placed[known]
        if placed.dtype.kind == "f" and (values % 1).any():
            raise ValueError(
                f"it has numbers with a fraction, such as {values[values % 1 > 0][0]:g}, and a map"
                " of classes has whole ones: say that they are numbers to regress on"
                " (--map-labels mean), or mend it"
            )
        if values.size and values.min() < 0:
            raise ValueError(
                f"it has the class {values.min():g}; number the classes from 0, or say that this"
                " value is to be ignored (--map-ignore)"
            )
    return known


@lru_cache(maxsize=8)
def _cells(pixels: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Return which patch each pixel is of, int64 (H, W), counted row by row."""
    (height, width), (rows, columns) = pixels, grid
    down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
    return down[:, None] * columns + across


def _majorities(
    placed: np.ndarray, there: np.ndarray, cells: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.bincount(cells.ravel())
    values, which = np.unique(placed[there], return_inverse=True)
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pairs, counts = np.unique(cells[there] * len(values) + which, return_counts=True)
    place, label = np.divmod(pairs, len(values))
    # of each patch the most frequent first, and of equally frequent ones the smallest
    order = np.lexsort((label, -counts, place))
    found, first = np.unique(place[order], return_index=True)
    most, unknown = counts[order[first]], sizes[found] - np.bincount(cells[there])[found]
    kept = (most >= unknown) & (most >= share * sizes[found])
    return values[label[order[first]][kept]].astype(np.int64), found[kept]


def _middles(
    placed: np.ndarray, there: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    down, across = (
        (2 * np.arange(count) + 1) * side // (2 * count)
        for count, side in zip(grid, placed.shape, strict=True)
    )
    middle = np.ix_(down, across)
    kept = np.flatnonzero(there[middle])
    return placed[middle].ravel()[kept].astype(np.int64), kept


def _means(
    placed: np.ndarray, there: np.ndarray, cells: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.bincount(cells.ravel())
    known = cells[there]
    counts = np.bincount(known, minlength=len(sizes))
    sums = np.bincount(known, placed[there].astype(np.float64), minlength=len(sizes))
    kept = np.flatnonzero((2 * counts >= sizes) & (counts >= share * sizes))
    return sums[kept] / counts[kept], kept
