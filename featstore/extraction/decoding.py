"""Rows decoded into pixels, in this process or in others."""

import contextlib
import math
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from featstore.data.rows import Part
from featstore.errors import FeatstoreError, UsageError

if TYPE_CHECKING:
    from featstore.data.augment import Views


@dataclass(frozen=True)
class Decoder:
    """Images to pixels: by `geometry` where they stay clean, by `views` where they do not."""

    geometry: Callable[[Image.Image], Image.Image]
    views: "Views | None" = None

    def decode(self, part: Part, view: int | None, pixels: np.ndarray) -> Counter[str]:
        """Put the pixels of some rows, augmented or clean, into `pixels`, uint8 (b, H, W, 3).

        Returns how many rows each of `notices.REMARKS` is true of, which the first view counts.
        Raises `DatasetError` naming a row that cannot be read.
        """
        seen: Counter[str] = Counter()
        # Image by image: a batch of large photographs would not fit into memory at full size.
        for place, row_id in enumerate(part.ids):
            image, remarks = part.met(place)
            if not view:
                seen.update(remarks)
            if view is None:
                pixels[place] = np.asarray(self.geometry(image))
            else:
                pixels[place] = self.views.pixels(image, row_id, view)
        return seen


@dataclass(frozen=True)
class Settings:
    """Settings of Pillow that decide about pixels and that a caller may have changed."""

    max_pixels: int | None
    truncated: bool

    @classmethod
    def here(cls) -> "Settings":
        """Those of this process."""
        return cls(Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)

    def take(self) -> None:
        """Make them those of this process."""
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.max_pixels, self.truncated


@dataclass(frozen=True)
class Order:
    """Order to a process: the part to decode, its view, and its place in the shared memory.

    `reader` is the number of a reader that was sent before, where the part has none of its own.
    """

    part: Part
    view: int | None
    offset: int
    shape: tuple[int, ...]
    reader: int | None = None


def serve(orders: int, memory: int) -> None:
    """Decode what comes by the pipe `orders` into the shared memory `memory`, both descriptors.

    First come `Settings` and a `Decoder`, then in any order `Order`s, each answered by the remarks
    on its rows or the exception that it met, and (number, reader) pairs. Ends with the other end of
    the pipe, hence with the process that holds it, whatever ends that.
    """
    # Ctrl-C reaches every process of a terminal: the one that gives the orders decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
    readers: dict[int, Callable] = {}
    with contextlib.suppress(EOFError, ConnectionError), Connection(orders) as pipe:
        pipe.recv().take()
        decoder = pipe.recv()
        while True:
            received = pipe.recv()
            if isinstance(received, Order):
                pipe.send(_met(decoder, received, readers, pixels))
            else:
                number, reader = received
                readers[number] = reader


def _met(
    decoder: Decoder, order: Order, readers: dict, pixels: np.ndarray
) -> Exception | Counter[str]:
    """Carry out an order; what it met, in a form that can be sent."""
    part = order.part
    if order.reader is not None:
        part = replace(part, read=readers[order.reader])
    place = pixels[order.offset :][: math.prod(order.shape)].reshape(order.shape)
    try:
        return decoder.decode(part, order.view, place)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return FeatstoreError(f"{type(error).__name__}: {error}")
        return error


# Before anything is imported: where the system can, it ends this process with the one that started
# it, whatever it is at; one that was ended before that was asked for is seen by another parent.
_START = """
import ctypes, os, signal, sys
orders, memory, parent = map(int, sys.argv[1:])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    os._exit(1)
from featstore.extraction.decoding import serve
serve(orders, memory)
"""


@dataclass(frozen=True)
class Begun:
    """A batch on its way: its place in the shared memory, and which process has which piece."""

    slot: int
    n_rows: int
    workers: Sequence["_Worker"]
    seen: Counter[str] = field(default_factory=Counter)


class Processes:
    """`count` processes that decode batches into `n_slots` places of shared memory.

    A place holds `batch_size` images of `shape`, (H, W, 3) uint8. Orders are dealt out in turn, and
    answers awaited in that order.
    """

    def __init__(
        self, decoder: Decoder, shape: tuple[int, ...], batch_size: int, n_slots: int, count: int
    ):
        self._shape, self._slot_bytes = shape, batch_size * math.prod(shape)
        self._free = deque(range(n_slots))
        self._readers: list[Callable] = []
        self._workers: list[_Worker] = []
        with _anonymous_file(n_slots * self._slot_bytes) as memory:
            self._pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
            begin = [_pickled(Settings.here()), _pickled(decoder)]
            try:
                for number in range(count):
                    self._workers.append(_Worker(f"{number + 1} of {count}", memory))
                for worker in self._workers:
                    for message in begin:
                        worker.send(message)
            except BaseException:
                self.close()
                raise
        self._turn = 0

    def begin(self, parts: Sequence[Part], view: int | None) -> Begun:
        """Order a batch, in these parts; there has to be a free place."""
        slot, offset, workers = self._free.popleft(), 0, []
        for part in parts:
            worker = self._workers[self._turn % len(self._workers)]
            self._turn += 1
            shape = (len(part), *self._shape)
            reader = None
            if (cut := part.cut()) is None:
                reader, cut = self._number_of(part.read), replace(part, read=None)
            place = slot * self._slot_bytes + offset
            worker.send(_pickled(Order(cut, view, place, shape, reader)))
            workers.append(worker)
            offset += math.prod(shape)
        return Begun(slot, sum(map(len, parts)), workers)

    def finish(self, begun: Begun) -> np.ndarray:
        """The pixels (b, H, W, 3) of a batch, in its place; they hold until the next one begins.

        What was remarked on its rows is then in `begun.seen`.

        Raises what the first of its pieces met, and `FeatstoreError` where a process has died.
        """
        for met in [worker.receive() for worker in begun.workers]:
            if isinstance(met, Exception):
                raise met
            begun.seen.update(met)
        self._free.append(begun.slot)
        shape = (begun.n_rows, *self._shape)
        start = begun.slot * self._slot_bytes
        return self._pixels[start : start + math.prod(shape)].reshape(shape)

    def close(self) -> None:
        """End the processes, whatever they are at: what they hold is of no use any more."""
        for worker in self._workers:
            worker.end()

    def _number_of(self, reader: Callable) -> int:
        """The number of a reader that cannot be cut; every process gets it once."""
        for number, known in enumerate(self._readers):
            if known is reader:
                return number
        self._readers.append(reader)
        number = len(self._readers) - 1
        message = _pickled((number, reader))
        for worker in self._workers:
            worker.send(message)
        return number


class _Worker:
    """One process, and the pipe to it."""

    def __init__(self, name: str, memory: int):
        self._name = name
        self._pipe, theirs = Pipe()
        places = [os.path.abspath(place) for place in sys.path]
        # One thread each: torch, which some augmentations bring in, would start one a core.
        environment = {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-c",
                        _START,
                        str(theirs.fileno()),
                        str(memory),
                        str(os.getpid()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory),
                    env={**os.environ, **environment},
                )
            except OSError as error:
                self._pipe.close()
                raise FeatstoreError(
                    f"decoding process {name} cannot be started: {error}; give fewer --workers, or"
                    " --workers 0, which decodes in threads"
                ) from None

    def send(self, message: bytes) -> None:
        try:
            self._pipe.send_bytes(message)
        except ConnectionError:
            raise self._died() from None

    def receive(self) -> Exception | Counter[str]:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _died(self) -> FeatstoreError:
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = 0
        if status < 0:
            with contextlib.suppress(ValueError):
                status = signal.Signals(-status).name
            why = f"was killed ({status}), as systems do where memory runs out"
            remedy = "with fewer --workers or a smaller --batch-size"
        else:
            why = f"ended with status {status}"
            remedy = "with --workers 0, which decodes in threads"
        return FeatstoreError(
            f"decoding process {self._name} {why}; committed blocks are kept: run again, {remedy}"
        )


def _pickled(message: object) -> bytes:
    try:
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"what decodes cannot be sent to another process ({error}); give --workers 0, which"
            " decodes in threads"
        ) from None


@contextlib.contextmanager
def _anonymous_file(size: int):
    """The descriptor of memory that processes can share, gone with the last that has it open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("featstore-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.truncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)
