"""`digits`: the 1,797 handwritten digits that scikit-learn carries."""

import numpy as np

from featstore.datasets import stratified
from featstore.datasets.arrays import of_arrays
from featstore.datasets.rows import ImageRows, unknown_split
from featstore.errors import DatasetError

TEST_SHARE = 0.25


def check(split: str) -> None:
    """Raise `UsageError` for a split that is not there."""
    if split not in ("train", "test"):
        raise unknown_split("digits", split, ("train", "test"))


def load(split: str) -> ImageRows:
    """One split of the digits, 8 x 8 grey levels of 0 to 16 spread over 0 to 255.

    The set has no split of its own: of each class a quarter is test, chosen by the hash of its row
    (`stratified`), 1,347 train and 450 test rows in all.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    check(split)
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    rows = stratified.rows_of(split, [str(row) for row in range(len(labels))], labels, TEST_SHARE)
    classes = tuple(str(digit) for digit in range(10))
    ids = [str(row) for row in rows]
    return of_arrays("digits", split, images[rows], labels[rows], classes, ids)
