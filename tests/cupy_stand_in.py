"""A package `cupy` whose device is the host: NumPy behind CuPy's own refusals.

What CuPy refuses, this refuses: an array never becomes a NumPy array unless `get` is called, never
meets one in an operation, an index or an assignment, and has no scalars, only arrays without axes.
`RawModule` compiles the CUDA source for the host. So all of the CuPy path, kernels included, runs
on a machine without a device.

Not collected: a module of helpers that the tests import.
"""

import operator
import sys
import warnings
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import scipy.linalg
from host_kernels import HostModule

from featstore.probe import kernels
from featstore.probe.kernels import cuda as cuda_kernels

REFLECTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or")
BINARY = (*REFLECTED, "lt", "le", "gt", "ge", "eq", "ne")


class ndarray:
    """An array that only CuPy's own functions take."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, host):
        self._host = np.asarray(host)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def get(self):
        return self._host.copy()

    def item(self):
        return self._host.item()

    def __dlpack__(self, **kwargs):
        return self._host.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._host.__dlpack_device__()

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return map(wrapped, self._host)

    def __bool__(self):
        return bool(self._host)

    def __int__(self):
        return int(self._host)

    def __float__(self):
        return float(self._host)

    def __neg__(self):
        return wrapped(-self._host)

    def __invert__(self):
        return wrapped(~self._host)

    def __getitem__(self, index):
        return wrapped(self._host[bare(index)])

    def __setitem__(self, index, value):
        self._host[bare(index)] = bare(value)

    def astype(self, dtype, copy=True):
        cast = self._host.astype(dtype, copy=copy)
        return self if cast is self._host else wrapped(cast)

    def swapaxes(self, a, b):
        return wrapped(self._host.swapaxes(a, b))

    @property
    def T(self):
        return wrapped(self._host.T)

    @property
    def data(self):
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def device(self):
        return Device(0)

    def __getattr__(self, name):
        if name in ("shape", "ndim", "size", "dtype", "strides", "itemsize", "nbytes", "flags"):
            return getattr(self._host, name)
        raise AttributeError(f"the stand-in for CuPy has no {name}")


def _operator(name):
    apply = getattr(operator, f"{name}_" if name in ("and", "or") else name)
    return lambda self, other: wrapped(apply(self._host, bare(other)))


def _reflected(name):
    apply = getattr(operator, f"{name}_" if name in ("and", "or") else name)
    return lambda self, other: wrapped(apply(bare(other), self._host))


def _in_place(name):
    apply = getattr(operator, f"i{name}")

    def change(self, other):
        apply(self._host, bare(other))
        return self

    return change


for _name in BINARY:
    setattr(ndarray, f"__{_name}__", _operator(_name))
for _name in REFLECTED:
    setattr(ndarray, f"__r{_name}__", _reflected(_name))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _in_place(_name))


def bare(value):
    """Return a value with NumPy's arrays in the place of ours; refuse NumPy's own."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, tuple | list):
        return type(value)(map(bare, value))
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def wrapped(value):
    """Return a result with our arrays in the place of NumPy's arrays and scalars."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(value)
    if isinstance(value, list):
        return [wrapped(one) for one in value]
    if isinstance(value, tuple):  # a named one as a plain one, as CuPy returns it
        return tuple(map(wrapped, value))
    return value


def _function(apply):
    def function(*args, **kwargs):
        taken = {name: bare(value) for name, value in kwargs.items()}
        return wrapped(apply(*map(bare, args), **taken))

    function.__name__ = getattr(apply, "__name__", "function")
    return function


def _asarray(obj, dtype=None, copy=None, **kwargs):
    """Host arrays may be brought over: this is the one way in."""
    host = obj._host if isinstance(obj, ndarray) else obj
    made = np.array(host, dtype=dtype, copy=copy if isinstance(obj, ndarray) else True)
    return obj if isinstance(obj, ndarray) and made is host else ndarray(made)


def _mirror(name, source, **own):
    """Return a module with the public names of a NumPy module, each function ours."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    for public in dir(source):
        value = getattr(source, public)
        if public.startswith("_") or isinstance(value, ModuleType):
            continue
        plain = isinstance(value, type) or not callable(value)
        setattr(module, public, value if plain else _function(value))
    for public, value in own.items():
        setattr(module, public, value)
    return module


class Device:
    """The one device there is."""

    def __init__(self, device=None):
        self.id = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def __eq__(self, other):
        return isinstance(other, Device)

    __hash__ = None


class CUDARuntimeError(RuntimeError):
    """CuPy's error of that name."""


class OutOfMemoryError(MemoryError):
    """CuPy's error of that name."""


def _solve_triangular(a, b, trans=0, lower=False, check_finite=True):
    solved = scipy.linalg.solve_triangular(bare(a), bare(b), trans=trans, lower=lower)
    return wrapped(solved)


class Stream:
    """CuPy 14's stream; `entered` says which streams of others were made current, in turn."""

    entered: ClassVar[list[int]] = []

    @classmethod
    def from_external(cls, stream):
        """Return a stream that another library has made, and tells by a version and an address."""
        version, address = stream.__cuda_stream__()
        assert version == 0
        cls.entered.append(address)
        return nullcontext()


def _external_stream(address):
    warnings.warn("ExternalStream is deprecated: use Stream.from_external", DeprecationWarning, 2)
    return nullcontext()


@contextmanager
def installed(free=1 << 33):
    """Let `import cupy` find the stand-in, whose device has `free` bytes."""
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        memGetInfo=lambda: (free, 2 * free),
        CUDARuntimeError=CUDARuntimeError,
    )
    pool = SimpleNamespace(free_all_blocks=lambda: None, free_bytes=lambda: 0)
    nothing = ModuleType("nothing")
    cuda = _mirror(
        "cupy.cuda", nothing, runtime=runtime, Device=Device, Stream=Stream,
        ExternalStream=_external_stream,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        device=_mirror("cupy.cuda.device", nothing, Device=Device),
    )  # fmt: skip
    cupy = _mirror(
        "cupy", np, ndarray=ndarray, asarray=_asarray, array=_asarray, cuda=cuda,
        RawModule=HostModule, get_default_memory_pool=lambda: pool,
        from_dlpack=lambda array: ndarray(np.from_dlpack(array)),
        linalg=_mirror("cupy.linalg", np.linalg), fft=_mirror("cupy.fft", np.fft),
    )  # fmt: skip
    cupy.__version__ = "14.0"
    parts = (cupy, cupy.linalg, cupy.fft, cuda, cuda.device)
    ours = {part.__name__: part for part in parts}
    for name in ("cupyx", "cupyx.scipy", "cupyx.scipy.linalg"):
        ours[name] = _mirror(name, nothing)
    ours["cupyx.scipy.linalg"].solve_triangular = _solve_triangular

    def of_cupy():
        names = (*ours, "array_api_compat.cupy")
        return [name for name in sys.modules if name.startswith(names)]

    # what has been compiled and checked is of the one package or of the other
    forget = cuda_kernels.kernel.cache_clear, kernels.on_cuda.cache_clear
    before = {name: sys.modules.pop(name) for name in of_cupy()}
    sys.modules.update(ours)
    try:
        for one in forget:
            one()
        yield cupy
    finally:
        for one in forget:
            one()
        for name in of_cupy():
            del sys.modules[name]
        sys.modules.update(before)
