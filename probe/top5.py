"""Top-5 accuracy: how often the label is among the five largest logits."""

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.kernels import Judged

FIRST = 5


class TopFive:
    """The share of rows whose label's logit is among the five largest; of equal ones the first.

    With five classes or fewer every row would count, which says nothing: the column is NaN. Classes
    that no train row has are none.

    Attributes:
        hits: int64 (P,), rows that each probe gets right.
        rows: int64 (P,), rows that each probe has seen.
    """

    def __init__(self, n_probes: int, n_classes: int):
        self.hits, self.rows = np.zeros((2, n_probes), np.int64)
        self._tells = n_classes > FIRST

    @property
    def sums(self) -> list[np.ndarray]:
        """What adds up over rows."""
        return [self.hits, self.rows]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Count the rows that each of these probes gets right."""
        if self._tells:
            found = stand.among_first(FIRST)
            self.hits[probes] += to_host(array_namespace(found).sum(found, axis=1))
            self.rows[probes] += stand.n_rows

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are counted as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"top5": float64 (P,)}."""
        return {"top5": np.where(self.rows > 0, self.hits / np.maximum(self.rows, 1), np.nan)}
