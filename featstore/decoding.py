"""From rows of images to the pixels that a backbone sees, and the process that does nothing else.

What is imported here is imported by each such process: torch is not, nor anything of a store.
"""

import contextlib
import math
import mmap
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from featstore.datasets.rows import Part
from featstore.errors import FeatstoreError

if TYPE_CHECKING:
    from featstore.views import Views


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
    """What a caller may have set for Pillow, and decides about pixels."""

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
    """What a process is to decode: a part, of which view, to where in the shared memory.

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
