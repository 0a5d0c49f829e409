"""Batches of decoded rows, prepared by threads or processes while the model computes.

Pillow and the tokenizers give up the interpreter lock while they work, so that threads run in
parallel; what Python does between takes the lock, and beside many cores and a GPU that fed from it
is what limits them. Processes have a lock each.
"""

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from featstore.data.augment import Views
from featstore.data.rows import Part, Rows
from featstore.errors import DatasetError, FeatstoreError
from featstore.extraction.decoding import Begun, Decoder, Processes
from featstore.extraction.inference import Batch
from featstore.models.network import CHUNKS, WORDS, Backbone
from featstore.models.texts import TooLong
from featstore.models.transforms import light

# Rows that one thread or process decodes at a time: a batch is ready sooner when several share it.
PIECE = 8
# Batches that are ready or nearly so, beyond those that keep every worker busy.
AHEAD = 2
# Rows from which processes are worth their start, half a second each.
MANY = 2048
_MOST_WORKERS = 32


@dataclass(frozen=True)
class Job:
    """One batch: which rows of which split, and which augmented view of them, None for clean.

    Images are read in runs of rows; texts may come in any order. Of rows that are pieces, `rows`
    are the items, and `pieces` says which pieces of these are wanted.

    When it is done, `seen` says how many of its rows each of `notices.REMARKS` is true of.
    """

    rows: Rows
    numbers: range | np.ndarray
    view: int | None = None
    pieces: slice | None = None
    seen: Counter[str] = field(default_factory=Counter, compare=False)

    def parts(self) -> list[Part]:
        """The batch in pieces."""
        return [self.rows.part(numbers) for numbers in batches(self.numbers, PIECE)]


@dataclass(frozen=True)
class Encoder:
    """From jobs to what the backbone takes; texts are held to have at least `least` tokens.

    With `words` each token of a batch of texts comes with the word that it is of; it is what these
    are called, "word" or "span".
    """

    backbone: Backbone
    views: Views | None = None
    least: int = 1
    words: str = ""

    @cached_property
    def decoder(self) -> Decoder:
        """Return what turns images into pixels, in this process or another."""
        return Decoder(light(self.backbone.transform.geometry), self.views)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Pixels of one image: (H, W, 3)."""
        return self.backbone.transform.pixels(Image.new("RGB", (64, 64))).shape

    def empty(self, n_rows: int, pinned: bool = False) -> torch.Tensor:
        """Memory for a batch of pixels, uint8 (b, H, W, 3)."""
        return torch.empty((n_rows, *self.shape), dtype=torch.uint8, pin_memory=pinned)

    def tokens(self, job: Job) -> dict[str, torch.Tensor]:
        """Token tensors (b, L) by name, of a batch of texts."""
        part = job.rows.part(job.numbers)
        texts = []
        for place in range(len(part)):
            text, remarks = part.met(place)
            texts.append(text)
            job.seen.update(remarks)
        if self.words:
            tokens, remarks = self._words(job, texts)
        else:
            try:
                tokens, remarks = self.backbone.transform.met(texts)
            except TooLong as error:
                raise DatasetError(
                    f"row {part.ids[error.place]} of {part.whence} has more than the"
                    f" {self.backbone.transform.max_length} tokens that {self.backbone.name} takes;"
                    " part it, or take --long-texts chunk, or truncate"
                ) from None
        job.seen.update(remarks)
        counts = tokens["attention_mask"].sum(1)
        if CHUNKS in tokens:
            counts = counts.new_zeros(len(texts)).index_add(0, tokens[CHUNKS], counts)
        short = (counts < self.least).nonzero().flatten().tolist()
        if short:
            row, count = job.numbers[short[0]], int(counts[short[0]])
            made = f"{count} tokens, and a tap takes one of {self.least}" if count else "no token"
            raise DatasetError(
                f"row {job.rows.ids[row]} of the {job.rows.split} split of {job.rows.dataset} is"
                f" the text {texts[short[0]][:20]!r}, of which {self.backbone.name} makes {made};"
                " take the row out"
            )
        return tokens

    def _words(self, job: Job, texts: list[Any]) -> tuple[dict[str, torch.Tensor], Counter[str]]:
        """The tokens of texts and their words; `DatasetError` names a word without a token."""
        tokens, remarks = self.backbone.transform.words(texts)
        for text, words, row in zip(texts, tokens[WORDS].numpy(), job.numbers, strict=True):
            absent = np.setdiff1d(np.arange(len(text.spans)), words)
            if absent.size:
                raise DatasetError(
                    f"{self.words} {absent[0]} of row {job.rows.ids[row]} of the {job.rows.split}"
                    f" split of {job.rows.dataset} has no token: the text is longer than"
                    f" {self.backbone.transform.max_length} tokens, or the {self.words} is none to"
                    f" {self.backbone.name}; part the text, or take the {self.words} out"
                )
        return tokens, remarks

    def tensors(self, job: Job) -> Batch:
        """The tensors (b, ...) of a batch of rows of one's own, one or several by name."""
        part, made = job.rows.part(job.numbers), []
        for place in range(len(part)):
            item, remarks = part.met(place)
            job.seen.update(remarks)
            try:
                made.append(self.backbone.transform.batch([item]))
            except (MemoryError, FeatstoreError):
                raise
            except Exception as error:
                raise DatasetError(
                    f"{part.what} {part.ids[place]} of {part.whence} cannot be given to"
                    f" {self.backbone.name}: {error}; mend the row, or the transform"
                ) from error
        if isinstance(made[0], dict):
            return {name: torch.cat([one[name] for one in made]) for name in made[0]}
        return torch.cat(made)

    def whole(self, job: Job) -> Batch:
        """A batch of texts or tensors, made by one thread."""
        return self.tokens(job) if self.backbone.modality == "text" else self.tensors(job)

    def __call__(self, job: Job) -> Batch:
        """A batch, made here and now."""
        if self.backbone.modality != "image":
            return self.whole(job)
        batch = self.empty(len(job.numbers))
        job.seen.update(self.decoder.decode(job.rows.part(job.numbers), job.view, batch.numpy()))
        return batch


@dataclass(frozen=True)
class Workers:
    """Number of processes that decode, or, if none do, of threads of this one."""

    processes: int
    threads: int

    @classmethod
    def chosen(
        cls, asked: int | None, device: str, modality: str, passes: int, sharing: int = 1
    ) -> "Workers":
        """`asked` processes, none where that is 0; or what suits the device.

        Beside a CUDA device all cores but one decode, each in a process, where there are many rows.
        Beside a model on the CPU, which has the cores' time itself, and for texts, whose tokenizers
        need no interpreter lock, threads do; one thread alone, unless more are asked for, where
        data sets are objects of the user. `sharing` processes of a job share the machine.
        """
        threads = cores(sharing)
        if os.name == "nt":  # descriptors of memory cannot be handed to a process there
            one = modality == "tensor" and asked is None
            return cls(processes=0, threads=1 if one else asked or threads)
        if asked is None and modality != "tensor":
            fed = device == "cuda" and modality == "image" and passes >= MANY
            return cls(processes=threads - 1 if fed else 0, threads=threads)
        if modality == "text":
            return cls(processes=0, threads=asked or threads)
        if modality == "tensor":
            return cls(processes=0, threads=asked or 1)
        return cls(processes=asked, threads=threads)


def cores(sharing: int = 1) -> int:
    """Cores of this machine for each of `sharing` processes, 1 to 32."""
    affine = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if affine else os.cpu_count()
    return min(_MOST_WORKERS, max(1, (count or 1) // sharing))


Run = TypeVar("Run", range, np.ndarray)


def batches(rows: Run, batch_size: int) -> list[Run]:
    """Consecutive runs of at most `batch_size` rows.

    >>> batches(range(32, 42), 4)
    [range(32, 36), range(36, 40), range(40, 42)]
    """
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def decoded(
    jobs: Iterable[Job], encode: Encoder, workers: Workers, batch_size: int, pinned: bool = False
) -> Iterator[Batch]:
    """The batch of each job, in order, in page-locked memory where `pinned`.

    Pixels are uint8 (b, H, W, 3), texts token tensors (b, L) by name. A batch holds until the next
    one is asked for. In memory are at most two batches, and two pieces for each worker.
    A row that cannot be read raises here, after the batches before it.
    """
    count = workers.processes or workers.threads
    ahead = AHEAD + math.ceil(2 * count * min(1, PIECE / batch_size))
    pool: _Pool
    if encode.backbone.modality != "image":
        pool = _WholeThreads(encode, count, pinned)
    elif workers.processes:
        pool = _ImageProcesses(encode, count, batch_size, ahead, pinned)
    else:
        pool = _ImageThreads(encode, count, pinned)
    pending: deque = deque()
    try:
        for job in jobs:
            pending.append(pool.begin(job))
            if len(pending) >= ahead:
                yield pool.finish(pending.popleft())
        while pending:
            yield pool.finish(pending.popleft())
    finally:
        pool.close()


class _Pool(Protocol):
    """Makes batches: begun in order, and finished in that order."""

    def begin(self, job: Job) -> Any: ...

    def finish(self, begun: Any) -> Batch: ...

    def close(self) -> None: ...


class _WholeThreads:
    """Batches of texts or tensors, each made by a thread."""

    def __init__(self, encode: Encoder, count: int, pinned: bool):
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="featstore-tokenize")
        self._encode, self._pinned = encode, pinned

    def begin(self, job: Job) -> Future:
        return self._pool.submit(self._encode.whole, job)

    def finish(self, begun: Future) -> Batch:
        batch = begun.result()
        if not self._pinned:
            return batch
        if isinstance(batch, torch.Tensor):
            return batch.pin_memory()
        return {name: ids.pin_memory() for name, ids in batch.items()}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _ImageThreads:
    """Batches of pixels, each in pieces by threads of this process."""

    def __init__(self, encode: Encoder, count: int, pinned: bool):
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="featstore-decode")
        self._encode, self._pinned = encode, pinned

    def begin(self, job: Job) -> tuple[Job, torch.Tensor, list[Future]]:
        batch = self._encode.empty(len(job.numbers), self._pinned)
        pixels, first, pieces = batch.numpy(), 0, []
        for part in job.parts():
            place = pixels[first : first + len(part)]
            pieces.append(self._pool.submit(self._encode.decoder.decode, part, job.view, place))
            first += len(part)
        return job, batch, pieces

    def finish(self, begun: tuple[Job, torch.Tensor, list[Future]]) -> Batch:
        job, batch, pieces = begun
        for piece in pieces:
            job.seen.update(piece.result())
        return batch

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _ImageProcesses:
    """Batches of pixels, each in pieces by processes, in memory that they share with this one."""

    def __init__(self, encode: Encoder, count: int, batch_size: int, ahead: int, pinned: bool):
        self._processes = Processes(encode.decoder, encode.shape, batch_size, ahead, count)
        self._pinned = pinned

    def begin(self, job: Job) -> tuple[Job, Begun]:
        return job, self._processes.begin(job.parts(), job.view)

    def finish(self, begun: tuple[Job, Begun]) -> Batch:
        job, ordered = begun
        batch = torch.from_numpy(self._processes.finish(ordered))
        job.seen.update(ordered.seen)
        return batch.pin_memory() if self._pinned else batch

    def close(self) -> None:
        self._processes.close()
