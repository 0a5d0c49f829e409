"""A pretend CUDA device for torch: the host's numbers, a device's rules, and a log of its costs.

`with installed() as log:` lets torch find one CUDA device. A tensor there holds its numbers on the
host, and behaves as one on a device does:

* it never meets a tensor of the host in an operation, but for a number, an index, or a copy;
* it never becomes a NumPy array unless it is copied to the host first;
* every operation is a launch, views apart, and every copy to or from the host, or question about a
  value, makes the host wait, but for copies from page-locked memory that are not to block.

All of that is noted with the line of the package that asked for it. Launches are operations of
torch, some of which are several kernels on a device: they are counted and not timed.

A CUDA graph records operations without doing them, refuses what would let the host wait, and is one
launch each time it is replayed. Products of which torch may round the factors to TF32 have them
rounded.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from featstore.probe import kernels
from featstore.probe.kernels import reference

CUDA = torch.device("cuda", 0)
LAUNCH, COPY_IN, COPY_OUT, WAIT = "launch", "copy in", "copy out", "wait"
RECORDED = "recorded"
PRODUCTS = frozenset({"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"})

# what a device answers only when all that is under way is over
ANSWERS = frozenset(
    {
        "nonzero",
        "masked_select",
        "unique2",
        "_unique2",
        "bincount",
        "equal",
        "linalg_eigh",
        "_linalg_eigh",
        "repeat_interleave",
        "_local_scalar_dense",
    }
)
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
# neither computed nor moved
FREE = frozenset({"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty"})
# modules that compute on behalf of others, which are the ones to be named
VOCABULARY = ("probe/arrays.py", "probe/kernels/__init__.py", "probe/kernels/reference.py")


@dataclass(frozen=True)
class Event:
    """One thing that a device was asked for.

    Attributes:
        kind: "launch", "copy in", "copy out", "wait" or, of a graph, "recorded".
        name: of torch's operation.
        site: file and line of the package that asked.
        blocks: whether the host waits.
    """

    kind: str
    name: str
    site: str
    blocks: bool


@dataclass
class Log:
    """Record of the calls to a device, in order.

    Attributes:
        events: all of it.
    """

    events: list[Event] = field(default_factory=list)

    def note(self, kind: str, name: str, blocks: bool = False) -> None:
        """Note one thing, and who asked for it.

        Raises:
            RuntimeError: the host would have to wait while a graph is recorded.
        """
        if _recorder.on:
            if blocks:
                raise RuntimeError(f"{name} is not permitted when a stream is capturing")
            kind = RECORDED
        if not _recorder.replaying:
            self.events.append(Event(kind, name, _site(), blocks))

    @property
    def launches(self) -> int:
        """Operations on the device."""
        return sum(event.kind == LAUNCH for event in self.events)

    @property
    def waits(self) -> int:
        """Number of times that the host waited for the device."""
        return sum(event.blocks for event in self.events)

    @property
    def copies(self) -> int:
        """Copies between host and device."""
        return sum(event.kind in (COPY_IN, COPY_OUT) for event in self.events)

    def named(self, *names: str) -> int:
        """Return how many operations had one of these names."""
        return sum(event.name in names for event in self.events)

    def sites(self, blocking: bool = False) -> list[tuple[int, str, str]]:
        """Return (count, site, name), the most frequent first, of all or of what blocks."""
        chosen = [event for event in self.events if event.blocks or not blocking]
        counted = Counter((event.site, event.name) for event in chosen)
        return [(count, *what) for what, count in counted.most_common()]


class _Recorder:
    """Recording of a graph: each operation is done, to learn of its results, and then undone."""

    def __init__(self):
        self.on = self.replaying = False
        self.calls: list[Callable[[], None]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def begin(self) -> None:
        """Begin to record."""
        self.on, self.calls, self._before = True, [], {}

    def end(self) -> list[Callable[[], None]]:
        """Return what has been recorded, with all numbers as they were before."""
        self.on = False
        for storage, before in self._before.values():
            storage.copy_(before)
        return self.calls

    def take(self, run: Callable[[], Any], arguments: Any) -> Any:
        """Return what an operation on some arguments gives, and record it."""
        for leaf in tree_leaves(arguments):
            if isinstance(leaf, torch.Tensor):
                storage = _bare(leaf).untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        first = run()

        def again() -> None:
            for old, new in zip(tree_leaves(first), tree_leaves(run()), strict=True):
                if isinstance(old, torch.Tensor):
                    old, new = _bare(old), _bare(new)
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)

        self.calls.append(again)
        return first


_log, _recorder = Log(), _Recorder()
_pinned: set[int] = set()


def _site() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/featstore/" in path and not path.endswith(VOCABULARY):
            return f"{path.rsplit('/featstore/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class DeviceTensor(torch.Tensor):
    """A tensor on the device; `held` has its numbers, on the host."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        """Return a tensor on the device that shares the memory of `held`."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """Compute as the device does."""
        return _dispatched(function, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        """Return the number of the device."""
        return 0

    def cpu(self) -> torch.Tensor:
        """Return a copy on the host, which waits for it."""
        _log.note(COPY_OUT, "cpu", blocks=True)
        return self.held.clone()

    def to(self, *args, **kwargs):
        """Return the tensor in another dtype, or on the host."""
        places = [a for a in (*args, kwargs.get("device")) if isinstance(a, str | torch.device)]
        args = [a for a in args if not isinstance(a, str | torch.device)]
        kwargs = {n: v for n, v in kwargs.items() if n not in ("device", "non_blocking")}
        if any(torch.device(place).type == "cpu" for place in places):
            return self.cpu().to(*args, **kwargs) if args or kwargs else self.cpu()
        return super().to(*args, **kwargs) if args or kwargs else self

    def item(self):
        """Return the one number, when the device has come to it."""
        _log.note(COPY_OUT, "item", blocks=True)
        return self.held.item()

    def tolist(self):
        """Return lists of numbers, when the device has come to them."""
        _log.note(COPY_OUT, "tolist", blocks=True)
        return self.held.tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def numpy(self, *args, **kwargs):
        """Refuse: what is on a device is copied first."""
        raise TypeError(
            "a tensor on cuda:0 is no NumPy array: copy it to the host with cpu() first"
        )

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def __repr__(self, **kwargs) -> str:
        return f"DeviceTensor({self.held!r})"


def _of_device(place: Any) -> bool:
    return place is not None and torch.device(place).type == "cuda"


def _blocks(source: torch.Tensor, non_blocking: bool) -> bool:
    """Return whether the host waits for a copy of `source`, which it has, to the device."""
    return not (non_blocking and source.untyped_storage().data_ptr() in _pinned)


def _brought(source: torch.Tensor, non_blocking: bool = False) -> DeviceTensor:
    _log.note(COPY_IN, "copy", _blocks(source, non_blocking))
    return DeviceTensor(source.clone())


def _made(function, args: tuple, kwargs: dict) -> Any:
    """Return what an operation on tensors of the host alone makes, on the device if told so."""
    if not _of_device(kwargs.get("device")):
        if kwargs.pop("pin_memory", False):
            made = function(*args, **kwargs)
            _pinned.add(made.untyped_storage().data_ptr())
            return made
        return function(*args, **kwargs)
    kwargs = {n: v for n, v in kwargs.items() if n not in ("pin_memory", "non_blocking")}
    made = function(*args, **kwargs | {"device": "cpu"})
    name = function.overloadpacket.__name__
    if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))):
        return _brought(made)
    if name not in FREE:
        _log.note(LAUNCH, name)
    return DeviceTensor(made)


def _copied(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    here, there = isinstance(source, DeviceTensor), isinstance(target, DeviceTensor)
    kind = LAUNCH if here and there else COPY_IN if there else COPY_OUT
    _log.note(
        kind, "copy_", kind == COPY_OUT or (kind == COPY_IN and _blocks(source, non_blocking))
    )
    _bare(target).copy_(_bare(source))
    return target


def _bare(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def _check_together(name: str, args: tuple, kwargs: dict) -> None:
    """Raise where tensors of the host meet those of the device, but as numbers or indices."""
    foreign = [
        leaf
        for leaf in tree_leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DeviceTensor)
    ]
    if name in INDEXED and isinstance(args[0], DeviceTensor):
        for index in tree_leaves(args[1]):
            if not isinstance(index, torch.Tensor):
                continue
            if index.dtype in (torch.bool, torch.uint8):
                _log.note(WAIT, "nonzero", blocks=True)
            if not isinstance(index, DeviceTensor):
                _log.note(COPY_IN, "index", blocks=True)
        indices = {id(index) for index in tree_leaves(args[1])}
        foreign = [leaf for leaf in foreign if id(leaf) not in indices]
    if any(leaf.ndim for leaf in foreign):
        shapes = [tuple(leaf.shape) for leaf in foreign]
        raise RuntimeError(
            f"expected all tensors on one device: {name} meets {shapes} of the host, for {_site()}"
        )


def _dispatched(function, args: tuple, kwargs: dict) -> Any:
    ours = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, DeviceTensor)]
    if _recorder.on and (ours or _of_device(kwargs.get("device"))):
        return _recorder.take(lambda: _done(function, args, kwargs, ours), (args, kwargs))
    return _done(function, args, kwargs, ours)


def _as_tf32(value: Any) -> Any:
    """Return a float32 tensor rounded to the 11 bits that TF32 has of a mantissa."""
    if not (isinstance(value, torch.Tensor) and value.dtype == torch.float32):
        return value
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _done(function, args: tuple, kwargs: dict, ours: list[DeviceTensor]) -> Any:
    name = function.overloadpacket.__name__
    if not ours:
        return _made(function, args, dict(kwargs))
    if name == "copy_":
        return _copied(*args, **kwargs)
    if name == "_to_copy":
        asked = kwargs.get("device")
        kwargs = {n: v for n, v in kwargs.items() if n in ("dtype", "memory_format", "layout")}
        out = function(args[0].held, **kwargs)
        if asked is not None and not _of_device(asked):
            _log.note(COPY_OUT, name, blocks=True)
            return out
        _log.note(LAUNCH, name)
        return DeviceTensor(out)
    _check_together(name, args, kwargs)
    if _of_device(kwargs.get("device")):
        kwargs = kwargs | {"device": "cpu"}
    bare, named = tree_map(_bare, args), tree_map(_bare, kwargs)
    if name in PRODUCTS and getattr(torch.backends.cuda.matmul, "fp32_precision", "") == "tf32":
        sums = int("add" in name)
        bare = (*bare[:sums], *map(_as_tf32, bare[sums:]))
    out = function(*bare, **named)
    if name in ANSWERS:
        _log.note(WAIT, name, blocks=True)
    elif not (function.is_view or name in FREE):
        _log.note(LAUNCH, name)
    if name == "_local_scalar_dense":
        return out
    known = {id(tensor.held): tensor for tensor in ours}

    def there(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        # an operation in place returns the tensor that it was given
        return known[id(leaf)] if id(leaf) in known else DeviceTensor(leaf)

    return tree_map(there, out)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _dispatched(function, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Takes the calls that torch answers by asking the driver."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.asarray, torch.as_tensor, torch.tensor):
            return self._array(function, args, kwargs)
        if function is torch.Tensor.to and not isinstance(args[0], DeviceTensor):
            places = (*args[1:], kwargs.get("device"))
            if any(isinstance(p, str | torch.device) and _of_device(p) for p in places):
                rest = [a for a in args[1:] if not isinstance(a, str | torch.device)]
                non_blocking = kwargs.pop("non_blocking", False)
                kwargs.pop("device", None)
                source = args[0].to(*rest, **kwargs) if rest or kwargs else args[0]
                return _brought(source, non_blocking)
        if function is torch.Tensor.pin_memory:
            made = args[0].clone()
            _pinned.add(made.untyped_storage().data_ptr())
            return made
        return function(*args, **kwargs)

    def _array(self, function, args: tuple, kwargs: dict) -> torch.Tensor:
        if isinstance(args[0], DeviceTensor):
            dtype, copy = kwargs.get("dtype"), kwargs.get("copy")
            if dtype is not None and dtype != args[0].dtype:
                return args[0].to(dtype)
            return args[0].clone() if copy else args[0]
        if not _of_device(kwargs.get("device")):
            return function(*args, **kwargs)
        return _brought(function(*args, **kwargs | {"device": "cpu"}))


class _Stream:
    """A stream: what is on it is done at once."""

    cuda_stream = 0

    def __init__(self, device: Any = None, **kwargs):
        self.device = device

    def record_event(self, event: Any = None) -> "_Event":
        """Return a mark of what has been asked for until now."""
        return event or _Event()

    def wait_event(self, event: "_Event") -> None:
        """Let the stream wait: the host goes on."""

    wait_stream = wait_event

    def synchronize(self) -> None:
        """Let the host wait for the stream."""
        _log.note(WAIT, "synchronize", blocks=True)


class _Event:
    def __init__(self, **kwargs):
        self.recorded = False

    def record(self, stream: Any = None) -> None:
        self.recorded = True

    def wait(self, stream: Any = None) -> None:
        """Let a stream wait: the host goes on."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Let the host wait for what came before the mark: it is long over where it is asked."""


class _Graph:
    """A CUDA graph: what was recorded is done again, as one launch."""

    def __init__(self):
        self.calls: list[Callable[[], None]] = []

    def replay(self) -> None:
        """Do again what was recorded."""
        _log.note(LAUNCH, "graph")
        _recorder.replaying = True
        try:
            for call in self.calls:
                call()
        finally:
            _recorder.replaying = False


@contextmanager
def _recording(graph: _Graph, **kwargs) -> Iterator[None]:
    _log.note(WAIT, "graph", blocks=True)
    _recorder.begin()
    try:
        yield
    finally:
        graph.calls = _recorder.end()


def _unable(graph: _Graph, **kwargs) -> None:
    raise RuntimeError("operation not supported")


def _kernel(run: Callable[[], Any], *arguments: Any) -> Any:
    """Return what a kernel gives, which a graph may be recording."""
    return _recorder.take(run, arguments) if _recorder.on else run()


class _Judged:
    """Results of the reference, computed on the host, as arrays of the device."""

    def __init__(self, found: Any):
        self._found = found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._found, name)
        if callable(value):
            return lambda *args: DeviceTensor(value(*args))
        return DeviceTensor(value) if isinstance(value, torch.Tensor) else value


class Fused:
    """Kernels as CuPy would compile them, each one launch; the numbers are the reference's."""

    @staticmethod
    def residuals(logits: DeviceTensor, labels: DeviceTensor, scale: float = 1.0) -> DeviceTensor:
        """Return what `featstore.probe.kernels.residuals` is to return."""
        _log.note(LAUNCH, "residuals")
        _log.note(LAUNCH, "sum")  # of the blocks' losses
        return _kernel(
            lambda: DeviceTensor(reference.residuals(logits.held, labels.held, scale)),
            logits,
            labels,
        )

    @staticmethod
    def judged(logits: DeviceTensor, labels: DeviceTensor) -> Any:
        """Return what `featstore.probe.kernels.judged` is to return."""
        _log.note(LAUNCH, "judged")
        return _Judged(reference.judged(logits.held, labels.held))

    @staticmethod
    def permuted_blocks(matrix: Any, orders: Any, penalties: Any) -> DeviceTensor:
        """Return what `featstore.probe.kernels.permuted_blocks` is to return."""
        _log.note(LAUNCH, "permuted_blocks")
        return DeviceTensor(reference.permuted_blocks(matrix.held, orders.held, penalties.held))


def _answers(free: int, capability: tuple[int, int], graphs: bool) -> dict[str, Any]:
    """Return what `torch.cuda` says of the device, by name."""
    stream, (major, minor) = _Stream(CUDA), capability
    properties = SimpleNamespace(
        total_memory=free, multi_processor_count=132, major=major, minor=minor
    )
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "mem_get_info": lambda *place: (free, free),
        "memory_reserved": lambda *place: 0,
        "memory_allocated": lambda *place: 0,
        "max_memory_allocated": lambda *place: 0,
        "reset_peak_memory_stats": lambda *place: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *place: _log.note(WAIT, "synchronize", blocks=True),
        "get_device_name": lambda *place: "pretended",
        "get_device_properties": lambda *place: properties,
        "get_device_capability": lambda *place: capability,
        "CUDAGraph": _Graph,
        "graph": _recording if graphs else _unable,
        "current_stream": lambda *place: stream,
        "stream": lambda other: nullcontext(),
        "Stream": _Stream,
        "Event": _Event,
    }


@contextmanager
def installed(
    free: int = 80 << 30,
    fused: bool = False,
    capability: tuple[int, int] = (9, 0),
    graphs: bool = True,
) -> Iterator[Log]:
    """Let torch find a CUDA device with `free` bytes, and yield the log of it.

    Arguments:
        free: bytes of memory.
        fused: whether the kernels serve as with CuPy, each as one launch; else torch's own
            operations do.
        capability: CUDA's number for what the device can do.
        graphs: whether it can record graphs.
    """
    _log.events.clear()
    _pinned.clear()
    served = Fused if fused else reference
    with (
        mock.patch.multiple(torch.cuda, **_answers(free, capability, graphs)),
        mock.patch.object(kernels, "on_cuda", return_value=served),
        mock.patch.object(torch.Tensor, "record_stream", return_value=None),
        _Calls(),
        _Operations(),
    ):
        yield _log
