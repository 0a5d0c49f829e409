"""A store: its blocks, read as taps and written by one writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from featstore import durable, places
from featstore.store import locks, reading
from featstore.store.base import BlockStore
from featstore.store.reading import JoinedTaps, TapBlocks
from featstore.store.writer import Writer


class Store(BlockStore):
    """A store in one format: what `BlockStore` says, and what users read and write."""

    def __repr__(self) -> str:
        told = "; ".join(f"{name} {value}" for name, value in self._told().items())
        return f"<{type(self).__name__} {self.path}: {told}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in self._told().items()
        )
        return f"<table><caption>{escape(str(self.path))}</caption>{rows}</table>"

    def _told(self) -> dict[str, str]:
        """Return the facts of a store that a person wants first."""
        spec = self.spec
        kind = "labels" if spec.binary else "targets"
        labels = f"{spec.n_classes:,} classes" if spec.classes else f"{len(spec.targets)} {kind}"
        return {
            "features": f"of {spec.backbone}",
            "data": f"{spec.dataset}, {labels}",
            "splits": ", ".join(f"{each.name} ({each.n_rows:,} rows)" for each in spec.splits),
            "taps": ", ".join(f"{each.name} ({each.dim:,})" for each in spec.taps),
            "dtype": spec.dtype,
            **({"columns": ", ".join(one.name for one in spec.columns)} if spec.columns else {}),
        }

    def tap(
        self, split: str, name: str, *, view: int | None = None, verify: bool = True
    ) -> TapBlocks:
        """A tap of a complete split as re-iterable blocks of rows, read ahead while they are used.

        The rows of all views come one view after another, or of one `view` alone. Of "a+b" the
        features of both taps stand side by side, as those of one layer. Raises `StoreIncomplete`,
        `UsageError`, and while iterating with `verify` `StoreDamaged`.
        """
        names = self.spec.tap(name).name.split("+")
        if len(names) > 1:
            return JoinedTaps(self, split, names, view=view, verify=verify)
        return TapBlocks(self, split, self.spec.tap(name).name, view=view, verify=verify)

    def to_numpy(self, split: str, tap: str, *, mmap: bool = False) -> np.ndarray:
        """A tap as a NumPy array, loaded or mapped: see `featstore.store.reading.to_numpy`."""
        return reading.to_numpy(self, split, tap, mmap=mmap)

    def to_dask(self, split: str, tap: str, *, verify: bool = True) -> Any:
        """A tap as a dask array with a chunk a block: see `featstore.store.reading.to_dask`."""
        return reading.to_dask(self, split, tap, verify=verify)

    def to_torch_dataset(self, split: str, tap: str, *, view: int = 0) -> Any:
        """A tap as a data set of torch's: see `featstore.store.reading.to_torch_dataset`."""
        return reading.to_torch_dataset(self, split, tap, view=view)

    @contextmanager
    def writer(self, job: str | None = None) -> Iterator[Writer]:
        """The one writer of the store, which commits what it was given before the context is left.

        Processes that name the same `job`, such as the ranks of one, write at once; no block may be
        written by two of them. Raises `WriterBusy` while another living process or job writes,
        `DiskFull` where there is no room.
        """
        place = places.replaced(self.path)
        with locks.locked(place, job) as hold:
            if isinstance(self.path, Path):
                durable.clear_asides(self.path)
            with self.staged(hold), Writer(self, hold.check) as writer:
                yield writer
