"""Features and labels of one split in two .npy files, read a slice at a time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featstore.downloads import mistaken
from featstore.errors import DatasetError

# Names for the classes are kept for each number up to the largest label.
MOST_CLASSES = 1_000_000

NUMBERED = (
    "number the classes and save y, as by names, y = numpy.unique(labels, return_inverse=True),"
    " where labels are those of all splits together"
)


@dataclass(frozen=True)
class NpySplit:
    """`features` (n_rows, D) of real numbers and `labels` (n_rows,) of integers from 0, on disk.

    Where `targets` names T quantities, labels are real numbers (n_rows,) or (n_rows, T).
    """

    name: str
    features: Path
    labels: Path
    targets: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse shapes and types that make no split: `DatasetError` names the file."""
        features, labels = _mapped(self.features), _mapped(self.labels)
        if features.ndim != 2 or 0 in features.shape:
            raise DatasetError(
                f"{self.features} has shape {features.shape}; {self.name} features are (rows,"
                " features), at least one of each"
            )
        if features.dtype.kind not in "fiu":
            raise DatasetError(
                f"{self.features} holds {features.dtype}; features are real numbers: convert them"
            )
        if labels.dtype.kind in "US" and not self.targets:
            raise DatasetError(f"{self.labels} holds texts ({labels.dtype}); {NUMBERED}")
        if labels.dtype.kind not in ("fiu" if self.targets else "iu"):
            raise DatasetError(
                f"{self.labels} holds {labels.dtype}; labels are integers from 0, and targets"
                " (--targets) real numbers: convert them"
            )
        shapes = [features.shape[:1]] if len(self.targets) < 2 else []
        if self.targets:
            shapes.append((len(features), len(self.targets)))
        if labels.shape not in shapes:
            raise DatasetError(
                f"{self.labels} has shape {labels.shape} and {self.features} {features.shape};"
                f" {self.name} needs {' or '.join(map(str, shapes))}, one label a row"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, D)."""
        return _mapped(self.features).shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the features."""
        return _mapped(self.features).dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of some rows of features, in the dtype of the file.

        The file is mapped for this alone, or the pages of all earlier slices would stay in memory.
        """
        return np.array(_mapped(self.features)[start:stop])

    def checked_labels(self) -> np.ndarray:
        """All labels as int64 (n_rows,); targets as float64 (n_rows,), or (n_rows, T) of several.

        Raises `DatasetError` naming the row of one that is no class number, or not finite.
        """
        labels = np.array(_mapped(self.labels))
        if self.targets:
            return self._checked_targets(labels)
        wrong = np.flatnonzero((labels < 0) | (labels >= MOST_CLASSES))
        if wrong.size:
            raise DatasetError(
                f"row {wrong[0]} of {self.name} has label {labels[wrong[0]]} ({self.labels});"
                f" classes are numbered from 0 and below {MOST_CLASSES:,}"
            )
        return labels.astype(np.int64)

    def _checked_targets(self, labels: np.ndarray) -> np.ndarray:
        values = labels.astype(np.float64).reshape(len(labels), -1)
        wrong = np.argwhere(~np.isfinite(values))
        if wrong.size:
            row, column = wrong[0]
            raise DatasetError(
                f"row {row} of {self.name} has {self.targets[column]} {values[row, column]}"
                f" ({self.labels}); targets are finite: mend that row, or leave it out"
            )
        return values[:, 0] if len(self.targets) == 1 else values


def _mapped(path: Path) -> np.ndarray:
    if path.is_file() and (wrong := mistaken(path)):
        raise DatasetError(f"{path} cannot be read as an array: it is {wrong}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"there is no file {path}; give a .npy file") from None
    # damage makes NumPy's parser raise a dozen kinds
    except Exception as error:
        if "object" in str(error).lower():
            raise DatasetError(
                f"{path} cannot be read as an array: it holds Python objects, whose loading could"
                " run anything; save numbers of one type, as X.astype('float32') of rows of one"
                f" length, and of labels that are texts {NUMBERED}"
            ) from None
        if "mmap length" in str(error):
            raise DatasetError(
                f"{path} cannot be read as an array: its end is missing after"
                f" {path.stat().st_size:,} bytes; fetch or save it again"
            ) from None
        raise DatasetError(
            f"{path} cannot be read as an array ({error}); save it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DatasetError(f"{path} holds several arrays; save each alone with numpy.save")
    return array
