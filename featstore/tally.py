"""How far the other ranks of a job are, told by the blocks that they have committed."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from featstore.contract import Block, Store
from featstore.errors import FeatstoreError

# Seconds between two looks: at files, and at objects beyond this machine, one request each.
EVERY, EVERY_REMOTE = 5.0, 60.0


class Tally:
    """Counts the rows of other ranks' `blocks` that are committed; a thread looks now and then.

    Ranks do not speak to each other while they work: what the store says is what is known. A rank
    that died commits no more, and its blocks are not counted.
    """

    def __init__(self, store: Store, blocks: Sequence[Block], every: float | None = None):
        self.rows = 0
        self._store, self._blocks = store, set(blocks)
        local = isinstance(store.path, Path)
        self._every = every or (EVERY if local else EVERY_REMOTE)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="featstore-tally", daemon=True)

    def __enter__(self) -> Self:
        if self._blocks:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._blocks:
            self._thread.join()

    def look(self) -> None:
        """Count anew."""
        store, found = self._store, 0
        for split in {split for split, _ in self._blocks}:
            views = store.spec.split(split).views
            for block, record in enumerate(store.records(split)):
                if record is not None and (split, block) in self._blocks:
                    found += len(store.rows_of(split, block)) * views
        self.rows = found

    def _look_on(self) -> None:
        while not self._done.wait(self._every):
            try:
                self.look()
            except (FeatstoreError, OSError):
                # A storage that is silent for a while: the last count stands until the next look.
                continue
