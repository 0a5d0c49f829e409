"""Batches of decoded rows, prepared by threads or processes while the model computes.

Pillow and the tokenizers give up the interpreter lock while they work, so that threads run in
parallel; what Python does between takes the lock, and beside many cores and a GPU that fed from it
is what limits them. Processes have a lock each.
"""

import io
import math
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from featstore.data.augment import Views
from featstore.data.rows import Part, Rows
from featstore.errors import DatasetError, FeatstoreError, UsageError
from featstore.extraction.decoding import Begun, Decoder, Processes
from featstore.extraction.inference import Batch
from featstore.models.network import CHUNKS, WORDS, Backbone
from featstore.models.texts import TooLong
from featstore.models.transforms import ResizeAndCrop, light

# Rows that one thread or process decodes at a time: a batch is ready sooner when several share it.
PIECE = 8
# Images that a device holds at full size at a time.
TOGETHER = 32
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
    pieces: slice | np.ndarray | None = None
    seen: Counter[str] = field(default_factory=Counter, compare=False)

    def parts(self) -> list[Part]:
        """The batch in pieces."""
        return [self.rows.part(numbers) for numbers in batches(self.numbers, PIECE)]


@dataclass(frozen=True)
class Encoder:
    """From jobs to what the backbone takes; texts are held to have at least `least` tokens.

    With `words` each token of a batch of texts comes with the word that it is of; it is what these
    are called, "word" or "span". Images are decoded `there`, on a CUDA device, or None for here.
    """

    backbone: Backbone
    views: Views | None = None
    least: int = 1
    words: str = ""
    there: torch.device | None = None

    @cached_property
    def decoder(self) -> Decoder:
        """Return what turns images into pixels, in this process or another."""
        return Decoder(light(self.backbone.transform.geometry), self.views)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Pixels of one image: (H, W, 3)."""
        return (*self.backbone.transform.sides, 3)

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

    def tensors(self, job: Job, batch: Batch) -> Batch:
        """Fill a batch (b, ...), one or several by name, with the tensors of rows of one's own."""
        part = job.rows.part(job.numbers)
        for place in range(len(part)):
            item, remarks = part.met(place)
            job.seen.update(remarks)
            try:
                self.backbone.transform.put(item, batch, place)
            except (MemoryError, FeatstoreError):
                raise
            except Exception as error:
                raise DatasetError(
                    f"{part.what} {part.ids[place]} of {part.whence} cannot be given to"
                    f" {self.backbone.name}: {error}; mend the row, or the transform"
                ) from error
        return batch

    def __call__(self, job: Job) -> Batch:
        """A batch, made here and now."""
        if self.backbone.modality == "text":
            return self.tokens(job)
        if self.backbone.modality == "tensor":
            return self.tensors(job, self.backbone.transform.room(len(job.numbers)))
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
    elif encode.there is not None:
        pool = _DeviceImages(encode, encode.there, workers.threads)
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
        if self._encode.backbone.modality == "text":
            return self._pool.submit(self._tokens, job)
        room = self._encode.backbone.transform.room(len(job.numbers), self._pinned)
        return self._pool.submit(self._encode.tensors, job, room)

    def _tokens(self, job: Job) -> Batch:
        batch = self._encode.tokens(job)
        return {name: ids.pin_memory() for name, ids in batch.items()} if self._pinned else batch

    def finish(self, begun: Future) -> Batch:
        return begun.result()

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


def check_decoder(device: torch.device) -> None:
    """Raise `UsageError` where a device decodes no JPEG."""
    if device.type != "cuda":
        raise UsageError("a CUDA device decodes, and this is none; leave --decode out")
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG")
    try:
        (red,) = _of_jpegs([file.getvalue()], device)
        wrong = None if int(red[0].min()) > 200 else "it decodes red as another colour"
    except (RuntimeError, ImportError, AttributeError) as error:
        wrong = next(iter(str(error).splitlines()), type(error).__name__)
    if wrong:
        raise UsageError(f"torchvision decodes no JPEG on {device}: {wrong}; leave --decode out")


def _of_jpegs(files: list[bytes], device: torch.device) -> list[torch.Tensor]:
    """The pixels (3, H, W) uint8 of JPEG files, decoded on a device."""
    from torchvision.io import ImageReadMode, decode_jpeg

    tensors = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    with warnings.catch_warnings():
        # from 0.29 on torchvision says that a package of its own will do this one day
        warnings.simplefilter("ignore")
        return decode_jpeg(tensors, ImageReadMode.RGB, device=device)


class _DeviceImages:
    """Batches of pixels whose JPEGs a device decodes, and which it resizes.

    Threads read the files, and decode what is no JPEG of grey or RGB pixels.
    """

    def __init__(self, encode: Encoder, device: torch.device, count: int):
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="featstore-read")
        self._geometry = cast("ResizeAndCrop", encode.backbone.transform.geometry)
        self._device = device

    def begin(self, job: Job) -> tuple[Job, list[tuple[Part, Future]]]:
        parts = job.parts()
        return job, [(part, self._pool.submit(self._read, part)) for part in parts]

    def finish(self, begun: tuple[Job, list[tuple[Part, Future]]]) -> Batch:
        job, pieces = begun
        runs = batches(range(len(pieces)), TOGETHER // PIECE)
        cut = [one for run in runs for one in self._cut(pieces[run.start : run.stop], job)]
        return torch.stack(cut).permute(0, 2, 3, 1).contiguous()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _cut(self, pieces: list[tuple[Part, Future]], job: Job) -> list[torch.Tensor]:
        """The resized and cropped pixels (3, h, w) of some rows of a batch."""
        files, places, images = [], [], []
        for part, piece in pieces:
            for place, (found, remarks) in enumerate(piece.result()):
                job.seen.update(remarks)
                if isinstance(found, bytes):
                    files.append(found)
                    places.append((len(images), part, place))
                images.append(found)
        for (row, _, _), pixels in zip(places, self._decoded(files, places), strict=True):
            images[row] = pixels
        return [self._geometry.of_tensor(self._there(image)) for image in images]

    @staticmethod
    def _read(part: Part) -> list[tuple]:
        return [part.jpeg(place) or part.met(place) for place in range(len(part))]

    def _decoded(self, files: list[bytes], places: list[tuple[int, Part, int]]) -> list[Any]:
        """The pixels that the device makes of JPEGs, or Pillow of one that it does not take."""
        try:
            return _of_jpegs(files, self._device) if files else []
        except RuntimeError:
            if len(files) == 1:
                return [places[0][1][places[0][2]]]
        pairs = zip(files, places, strict=True)
        return [self._decoded([file], [place])[0] for file, place in pairs]

    def _there(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        if isinstance(image, torch.Tensor):
            return image
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(self._device)


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
