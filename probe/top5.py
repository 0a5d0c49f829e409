"""Top-5 accuracy: how often the label is among the five largest logits."""

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, at_labels, set_at_labels, to_host

FIRST = 5


class TopFive:
    """The share of rows whose label's logit is among the five largest; of equal ones the first.

    With five classes or fewer every row would count, which says nothing: the column is NaN.

    Attributes:
        hits: int64 (P,), rows that each probe gets right.
        rows: int64 (P,), rows that each probe has seen.
    """

    def __init__(self, n_probes: int, n_classes: int):
        self.hits, self.rows = np.zeros((2, n_probes), np.int64)
        self._tells = n_classes > FIRST

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Count the rows that each of these probes gets right."""
        if self._tells:
            found = label_among_first(logits, labels, FIRST)
            self.hits[probes] += to_host(array_namespace(found).sum(found, axis=1))
            self.rows[probes] += len(labels)

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are counted as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"top5": float64 (P,)}."""
        return {"top5": np.where(self.rows > 0, self.hits / np.maximum(self.rows, 1), np.nan)}


def label_among_first(logits: Array, labels: Array, first: int) -> Array:
    """Return whether the label is among the `first` largest logits, bool (P, rows).

    Equal logits rank by class index, as in argmax. Counting how many logits lie below the
    label's settles most rows; only for the rest must equal ones be told apart. Logits are changed
    meanwhile and put back.

    Arguments:
        logits: (P, rows, C).
        labels: int64 (rows,).
        first: how many count, fewer than C.
    """
    xp = array_namespace(logits)
    enough = logits.shape[-1] - first
    own = at_labels(logits, labels)
    set_at_labels(logits, labels, xp.full_like(own, xp.inf))
    found = xp.count_nonzero(logits < own[..., None], axis=-1) >= enough
    set_at_labels(logits, labels, own)
    probes, rows = xp.nonzero(~found)
    rivals, mine, label = logits[probes, rows], own[probes, rows], labels[rows]
    classes = xp.arange(logits.shape[-1], device=labels.device)
    behind = (rivals < mine[:, None]) | ((rivals == mine[:, None]) & (classes > label[:, None]))
    # NaN lies behind nothing, so that a probe without finite logits finds no row
    found[probes, rows] = xp.count_nonzero(behind, axis=-1) >= enough
    return found
