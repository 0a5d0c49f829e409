"""Layers of the same rows as one: their features side by side."""

from collections.abc import Iterator, Sequence

import numpy as np

from probe.blocks import RowBlocks
from probe.errors import DataError


class SideBySide:
    """Row blocks of the features of several layers, D_1 + D_2 + ... of them, all of one class.

    Every pass reads each layer once, in step, whatever the sizes of their blocks.

    Arguments:
        layers: row blocks of the same rows in the same order; their labels do not matter.

    Raises:
        DataError: the numbers of rows differ.

    Example:
        >>> from probe.blocks import ArrayBlocks
        >>> a = ArrayBlocks(np.arange(4.0)[:, None], [0, 1, 0, 1], block_rows=3)
        >>> b = ArrayBlocks(10 + np.arange(8.0).reshape(4, 2), [1, 0, 0, 1], block_rows=2)
        >>> [x.tolist() for x, _ in SideBySide([a, b])]
        [[[0.0, 10.0, 11.0], [1.0, 12.0, 13.0]], [[2.0, 14.0, 15.0]], [[3.0, 16.0, 17.0]]]
    """

    n_classes, fingerprint, n_views = 1, None, 1

    def __init__(self, layers: Sequence[RowBlocks]):
        counts = [layer.n_rows for layer in layers]
        if len(set(counts)) > 1:
            raise DataError(
                f"layers of {counts[0]} and {next(n for n in counts if n != counts[0])} rows: only "
                "features of the same rows can stand side by side"
            )
        self._layers = list(layers)
        self.n_rows, self.n_features = counts[0], sum(layer.n_features for layer in layers)
        self.block_rows = min(layer.block_rows for layer in layers)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        readers = [iter(layer) for layer in self._layers]
        held = [np.empty((0, layer.n_features)) for layer in self._layers]
        done = 0
        while done < self.n_rows:
            held = [
                rest if len(rest) else next(reader)[0]
                for rest, reader in zip(held, readers, strict=True)
            ]
            count = min(map(len, held))
            yield np.concatenate([rest[:count] for rest in held], 1), np.zeros(count, np.int64)
            held = [rest[count:] for rest in held]
            done += count

    def labels(self) -> np.ndarray:
        """Return zeros, int64 (N,)."""
        return np.zeros(self.n_rows, np.int64)

    @property
    def of_layers(self) -> list[np.ndarray]:
        """For each layer, which features of all are its own, int64 (D_i,)."""
        stops = np.cumsum([layer.n_features for layer in self._layers])
        return [
            np.arange(stop - layer.n_features, stop)
            for layer, stop in zip(self._layers, stops, strict=True)
        ]
