"""Rows of images that lie encoded elsewhere than in files of their own: in a tar, in a table."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence

from PIL import Image

from featstore.datasets import fingerprints
from featstore.datasets.labels import Encoded
from featstore.datasets.pixels import opened
from featstore.datasets.rows import ImageRows


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
        fingerprint=fingerprints.of_encoded(ids, labels.values.tolist(), sizes, images.encoded),
        read=images,
        targets=labels.targets,
    )
