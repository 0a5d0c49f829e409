"""Blocks on their way to the store: gathered batch by batch, written by a thread meanwhile.

One block is written while one may wait: what computes waits for the disk where both are taken.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch

from featstore.contract import Store
from featstore.errors import FeatureError
from featstore.finite import first_nonfinite_row
from featstore.writer import Writer


class FilledBlock:
    """One block of a store, all views and taps, in the store's dtype and in host memory."""

    def __init__(self, store: Store, split: str, block: int, pinned: bool, modality: str = "image"):
        self.split, self.block, self._modality = split, block, modality
        self._spec = store.spec
        self.n_rows = len(store.rows_of(split, block))
        n_views = store.spec.split(split).views
        kind = {"dtype": getattr(torch, store.spec.dtype), "pin_memory": pinned}
        self._taps = {
            tap.name: torch.empty((n_views, self.n_rows, tap.dim), **kind)
            for tap in store.spec.taps
        }
        self._filled: torch.cuda.Event | None = None
        # By tap, of each row of each view, how many values are not 0, and which of them became 0.
        self._values = {
            tap.name: torch.zeros((2, n_views, self.n_rows), dtype=torch.int32, pin_memory=pinned)
            for tap in store.spec.taps
            if store.spec.dtype == "float16"
        }

    def put(self, view: int, first: int, outputs: Mapping[str, torch.Tensor]) -> None:
        """Take features {tap: (b, D)} of a view's rows from `first` on, counted in the block.

        What is on a CUDA device is converted there, and copied without waiting for it.
        """
        for name, kept in self._taps.items():
            features = outputs[name]
            place = kept[view, first : first + len(features)]
            stored = features.to(kept.dtype)
            if name in self._values:
                counts = torch.stack(
                    [(x != 0).sum(1, dtype=torch.int32) for x in (features, stored)]
                )
                there = self._values[name][:, view, first : first + len(features)]
                there.copy_(counts, non_blocking=features.device.type == "cuda")
            if features.device.type == "cuda":
                features = stored
                place.copy_(features, non_blocking=True)
                self._filled = torch.cuda.current_stream(features.device).record_event()
            else:
                place.copy_(stored)

    @property
    def pending(self) -> bool:
        """Whether a device may still be computing or copying what was put."""
        return self._filled is not None

    def wait(self) -> None:
        """Return when everything that was put is there."""
        if self._filled is not None:
            self._filled.synchronize()

    def features(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Each tap (rows, D), or (views, rows, D) where there are several.

        Raises `FeatureError` naming the row of a feature that cannot be stored.
        """
        found = {}
        for name, kept in self._taps.items():
            self._check_vanished(name)
            array = kept.numpy()
            for view in array:
                self._check(name, view, ids)
            found[name] = array[0] if len(array) == 1 else array
        return found

    @property
    def seen(self) -> dict[str, int]:
        """How many rows, in their first view, each of `notices.REMARKS` is true of."""
        tiny = np.zeros(self.n_rows, bool)
        for values in self._values.values():
            before, after = values.numpy()[:, 0]
            tiny |= before - after > before / 100
        return {"tiny": int(tiny.sum())} if tiny.any() else {}

    def _check_vanished(self, tap: str) -> None:
        """Raise `FeatureError` where most values of a tap are too small for float16."""
        if tap not in self._values:
            return
        before, after = self._values[tap].numpy().reshape(2, -1).sum(1, dtype=np.int64)
        if after < before / 2:
            raise FeatureError(
                f"{1 - after / before:.0%} of the features at {tap} that are not 0 are too small"
                " for float16, in which they become 0: store float32 with --dtype float32"
            )

    def _check(self, tap: str, features: np.ndarray, ids: Sequence[str]) -> None:
        row = first_nonfinite_row(features)
        if row is None:
            return
        if self._spec.dtype == "float16" and not np.isnan(features[row]).any():
            raise FeatureError(
                f"{self._modality} {ids[row]} has a feature at {tap} that is too large for float16,"
                " which ends at 65504: store float32 with --dtype float32"
            )
        computed = self._spec.precision
        remedy = f"check the weights and the {self._modality}"
        if computed == "float16":
            remedy = "float16 may have overflowed: compute with --precision bfloat16 or float32"
        raise FeatureError(
            f"{self._modality} {ids[row]} has a feature at {tap} that is not finite; {remedy}"
        )


class Handover:
    """Writes blocks in a thread of its own, in the order in which they were put.

    What fails there is raised by the next `put`, or when the context is left; what was put before
    it is in the store. `waited` is for how many seconds `put` had to wait for the disk.
    """

    def __init__(self, writer: Writer):
        self.waited = 0.0
        self._writer = writer
        self._queue: queue.Queue = queue.Queue(1)
        self._latest: tuple | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="featstore-handover")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.flush()
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def put(
        self,
        block: FilledBlock,
        labels: np.ndarray,
        ids: Sequence[str],
        seen: Mapping[str, int] | None = None,
    ) -> None:
        """Hand over a block, as `Writer.write` takes it; waits while another one waits already.

        A block that a device is still filling is held back until the next one has been given to
        the device, which so never idles, and its time is not taken for the disk's.
        """
        self.flush()
        if self._failure is not None:
            raise self._failure
        if block.pending:
            self._latest = (block, labels, ids, seen)
        else:
            self._pass_on((block, labels, ids, seen))

    def flush(self) -> None:
        """Pass on the block that was held back, when the device is done with it."""
        held, self._latest = self._latest, None
        if held is not None:
            held[0].wait()
            self._pass_on(held)

    def _pass_on(self, put: tuple) -> None:
        began = time.perf_counter()
        self._queue.put(put)
        self.waited += time.perf_counter() - began

    def _write_all(self) -> None:
        while (got := self._queue.get()) is not None:
            if self._failure is not None:
                continue
            block, labels, ids, seen = got
            try:
                features = block.features(ids)
                seen = {**(seen or {}), **block.seen}
                self._writer.write(block.split, block.block, features, labels, ids, seen)
            except BaseException as error:
                self._failure = error
