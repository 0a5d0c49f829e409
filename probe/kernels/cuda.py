"""The CUDA kernels, compiled by NVRTC through CuPy, for arrays of CuPy and of torch.

Arrays are shared by DLPack, never copied, and kernels run on the stream that their library uses at
the time. What a kernel writes is allocated by that library too, so that one memory pool holds all.
CuPy is imported when it is used: the module can be read without it. Steps that are taken again and
again are recorded here too, as a graph.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import Array
from featstore.probe.errors import DeviceWarning

OPTIONS = ("--std=c++17",)
# threads of a block; and where there are many classes, so that fewer blocks share the L2 cache
THREADS, MANY_THREADS, MANY_CLASSES = 256, 1024, 256
_WARP = 32
# classes of a row that a thread takes at least before the row is given to more threads
_CLASSES_A_THREAD = 8


@cache
def kernel(source: str, name: str) -> Any:
    """Return a kernel of one of the sources, compiled on each device where it is first launched."""
    import cupy

    code = files("featstore.probe.kernels").joinpath("sources", f"{source}.cu").read_text()
    return cupy.RawModule(code=code, options=OPTIONS).get_function(name)


def residuals(logits: Array, labels: Array, scale: float = 1.0) -> Array:
    """Return what `featstore.probe.kernels.residuals` is to return."""
    with current(logits):
        view = shared(logits)
        launch = Launch(view)
        losses = empty(logits, (*logits.shape[:-2], launch.tiles), "float64")
        factor = view.dtype.type(scale)
        launch(
            f"residuals_{view.dtype.name}",
            (view, contiguous(labels), shared(losses), factor),
            2 * view.dtype.itemsize,
        )
    return array_namespace(losses).sum(losses, axis=-1)


def judged(logits: Array, labels: Array) -> "Ranked":
    """Return what `featstore.probe.kernels.judged` is to return."""
    shape = logits.shape[:2]
    with current(logits):
        view = shared(logits).swapaxes(1, 2)
        launch = Launch(view)
        found = Ranked(
            logits,
            empty(logits, shape, "int32"),
            *(empty(logits, shape, "float64") for _ in range(2)),
        )
        outputs = map(shared, (found.ranks, found.surprise, found.confidence))
        launch(
            f"judged_{view.dtype.name}",
            (view, contiguous(labels), *outputs),
            2 * view.dtype.itemsize,
        )
    return found


class Ranked:
    """Rank of each row's label: see `featstore.probe.kernels.Judged`.

    Arguments:
        logits: (P, r, C), of any strides.
        ranks: int32 (P, r), how many classes come before the label.
        surprise: float64 (P, r).
        confidence: float64 (P, r).
    """

    def __init__(self, logits: Array, ranks: Array, surprise: Array, confidence: Array):
        self._logits = logits
        self.ranks, self.surprise, self.confidence = ranks, surprise, confidence
        self.n_rows = ranks.shape[1]

    @property
    def finite(self) -> Array:
        """Return whether the largest logit of every row is a finite number, bool (P,)."""
        xp = array_namespace(self.confidence)
        return xp.all(xp.isfinite(self.confidence), axis=1)

    @property
    def predicted(self) -> Array:
        """The class of the largest logit, int64 (P, r)."""
        return array_namespace(self._logits).argmax(self._logits, axis=-1)

    def among_first(self, first: int) -> Array:
        """Return whether fewer than `first` classes come before the label, bool (P, r)."""
        return self.ranks < first


def permuted_blocks(matrix: Array, orders: Array, penalties: Array) -> Array:
    """Return what `featstore.probe.kernels.permuted_blocks` is to return."""
    systems, length = orders.shape
    blocks = empty(matrix, (systems, length, length), "float64")
    with current(matrix):
        arrays = *map(contiguous, (matrix, orders, penalties)), shared(blocks)
        sizes = np.int64(len(matrix)), np.int64(length)
        run = kernel("blocks", "permuted_blocks")
        run((systems * length,), (THREADS,), (*arrays, *sizes))
    return blocks


class Launch:
    """Launch of a kernel of softmax.cu on logits (P, C, r) or (S, G, C, r) shared with CuPy.

    Attributes:
        tiles: blocks that share the rows of a probe.
    """

    def __init__(self, view: Any):
        *probes, classes, rows = view.shape
        *outer, class_stride, row_stride = (stride // view.itemsize for stride in view.strides)
        threads = MANY_THREADS if classes > MANY_CLASSES else THREADS
        rows_fast = abs(row_stride) <= abs(class_stride)
        if rows_fast:
            lanes = _power_of_two(classes // _CLASSES_A_THREAD, threads // _WARP)
        else:
            lanes = _power_of_two(2 * classes - 1, _WARP)
        self.tiles = -(-rows // (threads // lanes))
        self._grid, self._threads = self.tiles * int(np.prod(probes)), threads
        inner, strides = (probes[1], outer) if len(probes) == 2 else (1, (*outer, 0))
        layout = rows, classes, inner, *strides, row_stride, class_stride, lanes, rows_fast
        self._layout = tuple(map(np.int64, layout))

    def __call__(self, name: str, arguments: tuple, bytes_a_thread: int) -> None:
        """Run a kernel whose first arguments, and shared memory, are these."""
        run = kernel("softmax", name)
        run(
            (self._grid,),
            (self._threads,),
            (*arguments, *self._layout),
            shared_mem=bytes_a_thread * self._threads,
        )


def _power_of_two(wanted: int, most: int) -> int:
    """Return the largest power of two that is at most `wanted` and `most`, but at least 1."""
    return 1 << (max(1, min(wanted, most)).bit_length() - 1)


@contextmanager
def current(array: Array) -> Iterator[None]:
    """Make CuPy use the device of an array, and the stream that its library uses there."""
    if not is_torch_array(array):
        with array.device:
            yield
        return
    import cupy

    handle = torch.cuda.current_stream(array.device).cuda_stream
    index = array.device.index
    with torch.cuda.device(index), cupy.cuda.Device(index), stream(handle):
        yield


@dataclass(frozen=True)
class _Handle:
    """A stream of another library, in the protocol by which CuPy is told of one."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        """Return the protocol's version, and the address of the stream."""
        return 0, self.address


def stream(address: int) -> Any:
    """Return CuPy's stream for one that another library has made, a context manager.

    From CuPy 14 on `Stream.from_external` makes it, and `ExternalStream` is deprecated.
    """
    import cupy

    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(address))
    return cupy.cuda.ExternalStream(address)


class Recorded:
    """A step of torch's that is taken again and again, each time as one launch: a CUDA graph.

    The first time it is taken as it is, so that whatever a library sets up is there; the second
    time it is recorded. Where it cannot be, one warning says so, and it is always taken as it is;
    so it is on other numbers of rows than the first.

    Arguments:
        possible: whether to record at all.
    """

    def __init__(self, possible: bool = True):
        self._possible = possible
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded, since the step has become another."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._count = 0

    def __call__(self, step: Callable[[torch.Tensor], None], rows: torch.Tensor) -> None:
        """Take the step on some rows.

        Arguments:
            step: is given the rows; all other arrays that it meets are the same each time, and it
                asks nothing of the host.
            rows: int64 (r,), on the device.
        """
        if self._possible and self._graph is None and len(rows) == self._count:
            self._record(step, rows)
        if self._graph is None or len(rows) != self._count:
            step(rows)
            self._count = self._count or len(rows)
            return
        self._rows.copy_(rows)
        self._graph.replay()

    def _record(self, step: Callable[[torch.Tensor], None], rows: torch.Tensor) -> None:
        self._rows, graph = rows.clone(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step(self._rows)
        except RuntimeError as error:
            cause = next(iter(str(error).splitlines()), "")
            warnings.warn(
                f"a step cannot be recorded as a CUDA graph ({type(error).__name__}: {cause}): "
                "steps are launched one operation after the other, more slowly",
                DeviceWarning,
                stacklevel=2,
            )
            self._possible = False
        else:
            self._graph = graph


def shared(array: Array) -> Any:
    """Return a CuPy array of the same memory."""
    if not is_torch_array(array):
        return array
    import cupy

    return cupy.from_dlpack(array)


def contiguous(array: Array) -> Any:
    """Return a contiguous CuPy array, of the same memory if it is so already."""
    import cupy

    return cupy.ascontiguousarray(shared(array))


def empty(like: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Return an uninitialised array of the same library and device."""
    xp = array_namespace(like)
    return xp.empty(shape, dtype=getattr(xp, dtype), device=like.device)
