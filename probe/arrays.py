"""The array vocabulary: what the solvers need beyond the array API standard.

`array_api_compat` gives NumPy, torch and CuPy one set of names; the namespace is that of the array
in hand, never a global. Here is the rest: getting host blocks onto a device, triangular solves,
Cholesky that reports instead of raising, sums of products in place, and lookups along the classes.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
import torch
from array_api_compat import array_namespace, is_cupy_array, is_torch_array

from featstore.probe.errors import UsageError

Array: TypeAlias = Any
"""An array of NumPy, torch or CuPy."""

BACKENDS = ("torch", "numpy", "cupy")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Backend:
    """Where host blocks go to be computed on: an array module and a device.

    Attributes:
        name: "torch", "numpy" or "cupy".
        device: "cpu" or "cuda".
    """

    name: str = "torch"
    device: str = "cpu"

    @property
    def xp(self) -> Any:
        """The array API namespace."""
        return importlib.import_module(f"array_api_compat.{self.name}")

    def put(self, host: np.ndarray, dtype: str | None = None) -> Array:
        """Return a host array on the device, cast there; on a CPU it may share memory."""
        if self.name == "torch":
            array = torch.from_numpy(_writable(host)).to(self.device)
            return array if dtype is None else array.to(getattr(torch, dtype))
        array = self.xp.asarray(host)
        return array if dtype is None else array.astype(dtype, copy=False)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an uninitialised array."""
        if self.name == "torch":
            return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
        return self.xp.empty(shape, dtype=dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array of zeros."""
        array = self.empty(shape, dtype)
        array[...] = 0
        return array


def _writable(host: np.ndarray) -> np.ndarray:
    # torch cannot express read-only memory (a mapped file, say) and warns about it
    host = np.ascontiguousarray(host)
    return host if host.flags.writeable else host.copy()


def backend(name: str = "torch", device: str = "auto") -> Backend:
    """Return the backend of that name and device, if this machine has it.

    Raises:
        UsageError: the name is unknown, the package is not installed, or there is no such device.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend is called {name!r}: there are {', '.join(BACKENDS)}")
    if device not in DEVICES:
        raise UsageError(f"no device is called {device!r}: there are {', '.join(DEVICES)}")
    if name == "numpy":
        if device == "cuda":
            raise UsageError("backend numpy computes on the CPU: for cuda take torch or cupy")
        return Backend("numpy", "cpu")
    if name == "cupy":
        return _cupy_backend(device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device cuda was asked for, but torch sees no CUDA device: use cpu or auto"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Backend("torch", device)


def _cupy_backend(device: str) -> Backend:
    if importlib.util.find_spec("cupy") is None:
        raise UsageError(
            "backend cupy is not installed: pip install cupy-cuda13x, or the wheel of your CUDA,"
            " or use torch or numpy"
        )
    if device == "cpu":
        raise UsageError("backend cupy computes on CUDA devices: for the CPU take torch or numpy")
    import cupy

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UsageError(f"backend cupy found no CUDA device ({error}): use torch") from None
    return Backend("cupy", "cuda")


def to_host(array: Array) -> np.ndarray:
    """Return the array as a NumPy array."""
    if is_torch_array(array):
        return array.detach().cpu().numpy()
    return array.get() if is_cupy_array(array) else np.asarray(array)


def on_device(array: Array) -> bool:
    """Return whether the array lives on an accelerator."""
    return array.is_cuda if is_torch_array(array) else is_cupy_array(array)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from rounding the factors of float32 products, on a CPU or a CUDA device.

    The process's own setting is put back afterwards.
    """
    with _products(allow_tf32=False):
        yield


@contextmanager
def reduced_precision() -> Iterator[None]:
    """Let torch round the factors of float32 products on a CUDA device to TF32's 11 bits.

    Sums stay float32. Elsewhere nothing changes.
    """
    with _products(allow_tf32=True):
        yield


@contextmanager
def _products(allow_tf32: bool) -> Iterator[None]:
    cuda, on_cpu = torch.backends.cuda.matmul, torch.backends.mkldnn
    if not hasattr(on_cpu, "matmul"):  # before torch 2.9 there is one setting for both
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    # torch's older settings raise where the newer ones were used, and never the other way round
    wanted = {cuda: "tf32" if allow_tf32 else "ieee", on_cpu.matmul: "ieee"}
    before = {place: place.fp32_precision for place in wanted}
    try:
        for place, value in wanted.items():
            place.fp32_precision = value
        yield
    finally:
        for place, value in before.items():
            # "none" stands for what a wider setting says, which is how the process may have had it
            place.fp32_precision = "none"
            if place.fp32_precision != value:
                place.fp32_precision = value


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute in the same way whatever torch has been told in this process.

    Products are of full precision, without autocast, outside autograd and inference mode; new
    arrays are float32 on the CPU unless they say otherwise; torch's deterministic mode, which
    refuses some operations that here give the same bits in any case, is off. Afterwards everything
    is as it was.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(full_precision())
        try:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)


Precision: TypeAlias = Callable[[], AbstractContextManager[None]]
"""In what precision products are computed: `full_precision` or `reduced_precision`."""


def add_product(total: Array, a: Array, b: Array) -> None:
    """Add the (batched) product a @ b to `total`, in place."""
    if is_torch_array(total):
        total.baddbmm_(a, b) if total.ndim == 3 else total.addmm_(a, b)
    else:
        total += a @ b


def take_into(out: Array, array: Array, rows: Array) -> None:
    """Write array[rows] to `out`, which has that shape and is contiguous."""
    if is_torch_array(array):
        torch.index_select(array, 0, rows, out=out)
    else:
        array_namespace(array).take(array, rows, axis=0, out=out)


def difference_into(out: Array, a: Array, b: Array) -> Array:
    """Write a - b to `out`, computed and rounded in the type of `out` if that is the wider one."""
    xp = torch if is_torch_array(out) else array_namespace(out)
    return xp.subtract(a, b, out=out)


def add_to_diagonal(matrix: Array, value: float) -> None:
    """Add `value` to the diagonal of a contiguous square matrix (n, n), in place."""
    array_namespace(matrix).reshape(matrix, (-1,))[:: len(matrix) + 1] += value


def cholesky(matrix: Array) -> tuple[Array, np.ndarray]:
    """Return the lower Cholesky factors of (S, n, n) matrices, and which of them exist, (S,) bool.

    A factor that does not exist has undefined entries.
    """
    if is_torch_array(matrix):
        factor, info = torch.linalg.cholesky_ex(matrix)
        return factor, to_host(info) == 0
    xp = array_namespace(matrix)
    factors = [_cholesky_or_nan(one) for one in matrix]
    return xp.stack(factors), np.array([bool(xp.all(xp.isfinite(one))) for one in factors])


def _cholesky_or_nan(matrix: Array) -> Array:
    xp = array_namespace(matrix)
    try:
        return xp.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:  # CuPy returns NaN instead, and may raise this one too
        return xp.full_like(matrix, xp.nan)


def solve_lower(factor: Array, right: Array, *, transpose: bool = False) -> Array:
    """Return L^-1 B, or L^-T B if `transpose`, for lower L (S, n, n) and B (S, n, m)."""
    if is_torch_array(factor):
        triangle = factor.mT if transpose else factor
        return torch.linalg.solve_triangular(triangle, right, upper=transpose)
    if is_cupy_array(factor):
        from cupyx.scipy.linalg import solve_triangular
    else:
        solve_triangular = scipy.linalg.solve_triangular
    # one system at a time: CuPy's batched solvers were wrong for several right-hand sides
    solved = [
        solve_triangular(one, columns, lower=True, trans=int(transpose), check_finite=False)
        for one, columns in zip(factor, right, strict=True)
    ]
    return array_namespace(factor).stack(solved)


def at_labels(logits: Array, labels: Array) -> Array:
    """Return logits[p, r, labels[r]], (P, rows), of logits (P, rows, C)."""
    index = labels[None, :, None]
    if is_torch_array(logits):
        return logits.gather(2, index.expand(len(logits), -1, 1))[..., 0]
    return array_namespace(logits).take_along_axis(logits, index, axis=2)[..., 0]


def set_at_labels(logits: Array, labels: Array, values: Array) -> None:
    """Write values (P, rows) to logits[p, r, labels[r]], in place."""
    if is_torch_array(logits):
        index = labels[None, :, None].expand(len(logits), -1, 1)
        logits.scatter_(2, index, values[..., None])
    else:
        rows = array_namespace(logits).arange(len(labels))
        logits[:, rows, labels] = values
