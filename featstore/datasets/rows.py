"""The contract of a data set: rows of images, asked for in any order and from any thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from featstore.errors import DatasetError, UsageError


@dataclass(frozen=True)
class ImageRows:
    """One split of a data set.

    `labels` int64 (n,) index `classes`; `ids` says what each row is: a path, an index or a key;
    `image` gives row i as a PIL image of any mode. `fingerprint` identifies the data of the whole
    split, also where `limited` keeps a part of it.
    """

    dataset: str
    split: str
    labels: np.ndarray
    ids: Sequence[str]
    classes: tuple[str, ...]
    fingerprint: str
    image: Callable[[int], Image.Image]

    def __post_init__(self):
        if len(self.labels) == 0:
            raise DatasetError(f"{self.dataset} has no image in its {self.split} split")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            raise DatasetError(
                f"row {self.ids[wrong[0]]} of the {self.split} split of {self.dataset} has label"
                f" {self.labels[wrong[0]]}; labels of {len(self.classes)} classes are 0 to"
                f" {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        """Row `row` as an RGB image and its label; `DatasetError` names one that cannot be read."""
        try:
            image = self.image(row).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetError(
                f"image {self.ids[row]} of the {self.split} split of {self.dataset} cannot be read:"
                f" {error}; replace it, or take it out"
            ) from error
        return image, int(self.labels[row])


def limited(rows: ImageRows, limit: int | None) -> ImageRows:
    """At most `limit` rows, evenly spaced from the first to the last.

    Sets are often sorted by class: the first rows alone would lack most classes.
    """
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise UsageError(f"a limit of {limit} rows leaves nothing; give a positive --limit")
    kept = np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)
    return replace(
        rows,
        labels=rows.labels[kept],
        ids=[rows.ids[row] for row in kept],
        image=lambda row: rows.image(int(kept[row])),
    )


def unknown_split(dataset: str, split: str, there: Sequence[str]) -> UsageError:
    """The error for a split that a data set does not have."""
    return UsageError(f"{dataset} has no split {split!r}; it has {', '.join(there)}")
