"""Arrays of any library: what the solvers need beyond the array API standard, and Cholesky factors.

`array_api_compat` gives NumPy, torch and CuPy one set of names; the namespace is that of the array
in hand, never a global. Here is the rest: getting host blocks onto a device, triangular solves,
factors of prefixes, sums of products in place, and lookups along the classes.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
import torch
from array_api_compat import array_namespace, is_cupy_array, is_torch_array

from featstore.probe import statuses
from featstore.probe.errors import UsageError
from featstore.probe.statuses import Status

# rows of the triangular factor that are eliminated at once: on a host, and on a device
FORWARD_WIDTH = (128, 512)

Array: TypeAlias = Any
"""An array of NumPy, torch or CuPy."""

BACKENDS = ("torch", "numpy", "cupy")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Backend:
    """Array module and device that host blocks are computed with.

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

    def put(self, host: Array, dtype: str | None = None) -> Array:
        """Return a host array on the device, cast there; on a CPU it may share memory.

        One that is there already stays.
        """
        if (
            on_device(host)
            and self.device == "cuda"
            and is_cupy_array(host) == (self.name == "cupy")
        ):
            return host if dtype is None else self.xp.astype(host, getattr(self.xp, dtype))
        host = to_host(host)
        if self.name == "torch":
            array = torch.from_numpy(_writable(host))
            if self.device == "cuda":
                array = _sent(array)
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


PINNED = 64 << 20
"""Bytes of host memory that are page-locked at a time, for copies that the host does not wait for.

To lock pages takes time itself, and they are kept for later.
"""


def _sent(array: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the host on the CUDA device; the host waits for large ones alone."""
    if 0 < array.nbytes <= PINNED:
        return array.pin_memory().to("cuda", non_blocking=True)
    return array.to("cuda")


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


def beside(host: np.ndarray, array: Array, dtype: Any = None) -> Array:
    """Return a host array on the device of another one, cast to a dtype of its library."""
    if not is_torch_array(array):
        return array_namespace(array).asarray(host, dtype=dtype, device=array.device)
    found = torch.as_tensor(_writable(host), dtype=dtype)
    return _sent(found) if array.is_cuda else found


def to_host(array: Array) -> np.ndarray:
    """Return the array as a NumPy array."""
    if is_torch_array(array):
        return array.detach().cpu().numpy()
    return array.get() if is_cupy_array(array) else np.asarray(array)


def on_device(array: Array) -> bool:
    """Return whether the array lives on an accelerator."""
    return array.is_cuda if is_torch_array(array) else is_cupy_array(array)


class HostField:
    """Field of a dataclass that is given as an array of any place, and read as one of the host.

    It is copied when it is first read; `as_given` returns it where it lies.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, record: Any, owner: type | None = None) -> np.ndarray:
        if record is None:  # so that a dataclass finds no default
            raise AttributeError(self._name)
        held, given = vars(record), vars(record)[self._name]
        if isinstance(given, np.ndarray):
            return given
        copied = f"{self._name} on the host"
        if copied not in held:
            held[copied] = to_host(given)
        return held[copied]

    def __set__(self, record: Any, value: Array) -> None:
        vars(record)[self._name] = value


def as_given(record: Any, name: str) -> Array:
    """Return the array that a `HostField` was given, where it lies."""
    return vars(record)[name]


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
            # where it is off it stays off unasked: to ask loads torch's compiler, 2 s of imports
            if deterministic:
                torch.use_deterministic_algorithms(False)
            yield
        finally:
            torch.set_default_dtype(dtype)
            if deterministic:
                torch.use_deterministic_algorithms(True, warn_only=only_warns)


Precision: TypeAlias = Callable[[], AbstractContextManager[None]]
"""In what precision products are computed: `full_precision` or `reduced_precision`."""


def add_product(total: Array, a: Array, b: Array) -> None:
    """Add the (batched) product a @ b to `total`, in place."""
    if is_torch_array(total):
        total.baddbmm_(a, b) if total.ndim == 3 else total.addmm_(a, b)
    else:
        total += a @ b


def set_product(out: Array, a: Array, b: Array) -> None:
    """Write the product a @ b of matrices to `out`, whatever it holds."""
    if is_torch_array(out):
        torch.mm(a, b, out=out)
    else:
        out[...] = a @ b


_PANELS = 8
# where launches count: 2/3 of all entries, of which the panels above are a part
_DEVICE_PANELS = 3
_MIN_PANEL = 128


def add_upper(total: Array, piece: Array, width: int) -> None:
    """Add U'[U V] to `total` (D, D + C), of U'U only panels on and above the diagonal.

    Arguments:
        total: float64 (D, D + C).
        piece: (r, D + C), U and V side by side.
        width: D.
    """
    with full_precision():
        if on_device(piece):
            for columns in panels(width, _DEVICE_PANELS):
                part = total[columns, columns.start :]
                left, right = piece[:, columns].T, piece[:, columns.start :]
                if piece.dtype == total.dtype:
                    add_product(part, left, right)
                else:
                    part += left @ right
            return
        beside = [(rows, slice(width, piece.shape[1])) for rows in panels(width)]
        parts = [*tiles(width), *(beside if piece.shape[1] > width else ())]
        shapes = [tuple(side.stop - side.start for side in part) for part in parts]
        # one place for all products, which pages that come and go would slow down
        room = array_namespace(piece).empty(max(map(math.prod, shapes)), **like(piece))
        for (rows, columns), shape in zip(parts, shapes, strict=True):
            product = array_namespace(piece).reshape(room[: math.prod(shape)], shape)
            set_product(product, piece[:, rows].T, piece[:, columns])
            total[rows, columns] += product


def mirror(gram: Array) -> None:
    """Copy the panels above the diagonal of (D, D) below it, in place: exactly symmetric."""
    xp = array_namespace(gram)
    # products of rounded numbers are symmetric to rounding only, and a factor's check is strict
    for columns in panels(len(gram)):
        gram[columns.stop :, columns] = gram[columns, columns.stop :].T
        corner = xp.triu(gram[columns, columns])
        gram[columns, columns] = corner + xp.triu(corner, k=1).T


def panels(width: int, count: int = _PANELS) -> list[slice]:
    """Return about `count` column ranges of equal size; of 8 a product has 9/16 of all entries."""
    panel = max(_MIN_PANEL, -(-width // count))
    return [slice(left, min(width, left + panel)) for left in range(0, width, panel)]


def tiles(width: int) -> list[tuple[slice, slice]]:
    """Return rows and columns of tiles that have all entries on and above a diagonal, each once.

    Beside the diagonal they are squares, each half as wide as the one before: few and large, which
    products like, and 17/32 of all entries where the least is a sixteenth of the width. The
    largest is cut in two, so that no tile has more entries than a panel.
    """
    found, open_ranges = [], [(0, width)]
    while open_ranges:
        start, stop = open_ranges.pop()
        if stop - start <= _MIN_PANEL:
            found.append((slice(start, stop), slice(start, stop)))
            continue
        middle = (start + stop) // 2
        step = max(_MIN_PANEL, -(-width // 4))
        for top in range(start, middle, step):
            found.append((slice(top, min(middle, top + step)), slice(middle, stop)))
        open_ranges += [(middle, stop), (start, middle)]
    return found


def taken(array: Array, rows: Array) -> Array:
    """Return array[rows], for rows int64 of any shape, none of them negative."""
    xp = array_namespace(array)
    flat = xp.reshape(rows, (-1,))
    found = array.index_select(0, flat) if is_torch_array(array) else xp.take(array, flat, axis=0)
    return xp.reshape(found, (*rows.shape, *array.shape[1:]))


def take_into(out: Array, array: Array, rows: Array) -> None:
    """Write array[rows] to `out`, which has that shape and is contiguous."""
    if is_torch_array(array):
        torch.index_select(array, 0, rows, out=out)
    else:
        array_namespace(array).take(array, rows, axis=0, out=out)


def take_along_into(out: Array, array: Array, columns: Array) -> None:
    """Write array[:, columns] to `out`, which has that shape."""
    if is_torch_array(array):
        torch.gather(array, 1, columns.expand(len(array), -1), out=out)
    else:
        out[...] = array_namespace(array).take(array, columns, axis=1)


def difference_into(out: Array, a: Array, b: Array) -> Array:
    """Write a - b to `out`, computed and rounded in the type of `out` if that is the wider one."""
    xp = torch if is_torch_array(out) else array_namespace(out)
    return xp.subtract(a, b, out=out)


def add_to_diagonal(matrix: Array, value: float) -> None:
    """Add `value` to the diagonal of a contiguous square matrix (n, n), in place."""
    array_namespace(matrix).reshape(matrix, (-1,))[:: len(matrix) + 1] += value


def cholesky(matrix: Array) -> tuple[Array, Array]:
    """Return the lower Cholesky factors of (S, n, n) matrices, and which of them exist, (S,) bool.

    A factor that does not exist has undefined entries. On a device all are one call, and the host
    does not wait for what became of it.
    """
    if is_torch_array(matrix):
        factor, info = torch.linalg.cholesky_ex(matrix)
        return factor, info == 0
    xp = array_namespace(matrix)
    try:
        factor = xp.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:  # of one of them; CuPy returns NaN instead, or anything
        factor = xp.stack([_cholesky_or_nan(one) for one in matrix])
    return factor, xp.all(xp.isfinite(factor), axis=(1, 2))


def _cholesky_or_nan(matrix: Array) -> Array:
    xp = array_namespace(matrix)
    try:
        return xp.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return xp.full_like(matrix, xp.nan)


def solve_lower(factor: Array, right: Array, *, transpose: bool = False) -> Array:
    """Return L^-1 B, or L^-T B if `transpose`, for lower L (S, n, n) and B (S, n, m)."""
    if is_torch_array(factor):
        triangle = factor.mT if transpose else factor
        return torch.linalg.solve_triangular(triangle, right, upper=transpose)
    if is_cupy_array(factor):
        if len(factor) > 1 and torch.cuda.is_available():  # which solves all of them in one call
            import cupy

            both = map(torch.from_dlpack, (factor, right))
            return cupy.from_dlpack(solve_lower(*both, transpose=transpose))
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


def set_at_labels(logits: Array, labels: Array, values: Array | float) -> None:
    """Write values (P, rows), or one number, to logits[p, r, labels[r]], in place."""
    if is_torch_array(logits):
        index = labels[None, :, None].expand(len(logits), -1, 1)
        logits.scatter_(2, index, values if isinstance(values, float) else values[..., None])
    else:
        rows = array_namespace(logits).arange(len(labels))
        logits[:, rows, labels] = values


# tried in turn, as shares of the mean diagonal entry, on systems that do not factorise
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
# largest accepted |A x - v| / (trace(A) |x| + |v|), in float64; the trace bounds the norm of A
_RESIDUAL = 1e-12
# what rounding leaves of entries of a matrix of products, as a share of the squares behind them:
# root mean square, seen for normal, rectified, nearly collinear and shifted features
_ROUNDING = {"float32": 1e-7, "float64": 2e-16}
# share of the weakest direction of A that rounding may be: a hundredth of that in R^2 at most
TRUSTED = 0.02


@dataclass(frozen=True)
class Factors:
    """Lower factors of S symmetric systems.

    Attributes:
        lower: float64 (S, m, m), L with L L' = A + jitter I; upper triangle zero.
        jitter: float64 (S,), what was added to the diagonal; NaN where nothing helped.
        least: float64 (S,), about the smallest eigenvalue of A with a diagonal of 1.
        rounding: float64 (S,), about the largest that rounding of its entries may change it by.
        squares: float64 (S,), the largest of the squares as a share of A's own diagonal.
    """

    lower: Array
    jitter: np.ndarray
    least: np.ndarray
    rounding: np.ndarray
    squares: np.ndarray

    @property
    def depth(self) -> float:
        """The least share that A has, in any direction and system, of the squares behind it."""
        return float((self.least / np.maximum(1, self.squares)).min())

    @property
    def doubtful(self) -> np.ndarray:
        """Return which systems are decided by rounding of their entries, bool (S,)."""
        return ~(self.rounding <= TRUSTED * self.least)

    def status(self) -> list[str]:
        """Return for each system "ok", or what of "singular", "imprecise", "jitter" it is."""
        return [
            _status(value, doubt) for value, doubt in zip(self.jitter, self.doubtful, strict=True)
        ]


def _status(jitter: float, doubtful: bool) -> str:
    if np.isnan(jitter):
        return Status.SINGULAR
    added = statuses.jitter(jitter) if jitter > 0 else Status.OK
    return statuses.combined(added, Status.IMPRECISE if doubtful else Status.OK)


def factorise(
    matrices: Array,
    squares: Array | None = None,
    products: str = "float64",
    lengths: np.ndarray | None = None,
) -> Factors:
    """Return the Cholesky factors of A, (S, m, m) float64, symmetric.

    A system that has no factor, or whose factor does not solve it, is tried again with more and
    more added to its diagonal; one that never succeeds has a factor of NaN. So is one in which
    float64 rounding decides; of float32 products one is left as it is, for the caller to have them
    computed better.

    With s the squares, entries of A are off by about eps sqrt(s_i s_j), and by their norm so is the
    smallest eigenvalue: that of A with a diagonal of 1, since scales of features play no part.

    Arguments:
        matrices: A.
        squares: float64 (S, m), the sums of squares of which rounding is a share; by default the
            diagonal of A. They are 0 behind a system.
        products: dtype in which the entries were computed.
        lengths: int64 (S,), the rows and columns of each that are of a system; those behind are
            rows of the unit matrix, which decide nothing. None where all are.
    """
    xp = array_namespace(matrices)
    found = _checked(matrices, squares, products, lengths)
    lower, jitter, least, rounding = found.lower, found.jitter, found.least, found.rounding
    exact = products == "float64"
    if exact:
        jitter = np.where(found.doubtful, np.nan, jitter)
    for share in JITTERS:
        failed = np.flatnonzero(np.isnan(jitter))
        for system in failed:
            size = slice(None if lengths is None else int(lengths[system]))
            one = xp.asarray(matrices[system][size, size], copy=True)
            mean = float(xp.mean(xp.linalg.diagonal(one)))
            added = share * (mean if mean > 0 else 1.0)
            add_to_diagonal(one, added)
            own = None if squares is None else squares[system, size][None]
            again = _checked(one[None], own, products)
            if lengths is not None:  # of which nothing is known where there was no factor
                lower[system] = xp.eye(lower.shape[-1], **like(lower))
            lower[system, size, size] = again.lower[0]
            least[system], rounding[system] = again.least[0], again.rounding[0]
            good = again.jitter[0] == 0 and not (exact and again.doubtful[0])
            jitter[system] = added if good else np.nan
    for system in np.flatnonzero(np.isnan(jitter)):
        lower[system] = xp.nan
    return Factors(lower, jitter, least, rounding, found.squares)


def checked_cholesky(matrices: Array) -> tuple[Array, np.ndarray]:
    """Return the lower factors of (S, m, m) matrices, and which exist and solve them, (S,) bool.

    A library that cannot factorise may say so, or give NaN, or numbers that mean nothing.
    """
    found = _checked(matrices, None, "float64")
    return found.lower, found.jitter == 0


def _checked(
    matrices: Array, squares: Array | None, products: str, lengths: np.ndarray | None = None
) -> Factors:
    """Return factors, with a jitter of 0 where they solve the system and NaN where not."""
    xp = array_namespace(matrices)
    lower, exists = cholesky(matrices)
    # a fixed vector of varied entries, so that no column of the factor goes unseen
    steps = xp.arange(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    known = xp.broadcast_to(xp.cos(steps)[None, :, None], (*matrices.shape[:2], 1))
    diagonal = xp.linalg.diagonal(matrices)
    ones, own = xp.ones_like(diagonal), diagonal
    share = ones
    if lengths is not None:
        share = xp.astype(within(lengths, matrices), matrices.dtype)
        known, own = known * share[..., None], diagonal * share
    solution = _solved(lower, known)
    error = xp.max(xp.abs(matrices @ solution - known), axis=(1, 2))
    trace = xp.sum(own, axis=1)
    reach = trace * xp.max(xp.abs(solution), axis=(1, 2)) + 1.0
    good = exists & (error <= _RESIDUAL * reach)
    # two steps of inverse iteration with D^1/2 A^-1 D^1/2, where D is the diagonal
    root = xp.sqrt(xp.where(diagonal > 0, diagonal, ones))[..., None]
    vector = root * _solved(lower, root * known)
    vector = vector / xp.sqrt(xp.sum(vector * vector, axis=(1, 2), keepdims=True))
    vector = root * _solved(lower, root * vector)
    if squares is not None:
        share = squares / root[..., 0] ** 2
    # the norm of a symmetric matrix of independent errors of standard deviation eps u_i u_j
    largest = xp.max(share, axis=1)
    norm = xp.sqrt(largest * xp.sum(share, axis=1))
    length = xp.sum(vector * vector, axis=(1, 2))
    # all that decides in one copy, for which the host waits
    told = xp.stack([xp.astype(good, length.dtype), length, norm, largest])
    good, length, norm, largest = to_host(told)
    with np.errstate(invalid="ignore", divide="ignore"):
        least = np.nan_to_num(1 / np.sqrt(length))
    jitter = np.where(good > 0, 0.0, np.nan)
    return Factors(lower, jitter, least, 2 * _ROUNDING[products] * norm, largest)


def within(lengths: np.ndarray, matrices: Array) -> Array:
    """Return which of the positions of (S, m, ...) lie within each length, bool (S, m)."""
    xp, device = array_namespace(matrices), matrices.device
    sizes = beside(lengths[:, None], matrices)
    return xp.arange(matrices.shape[1], device=device)[None] < sizes


def _solved(lower: Array, right: Array) -> Array:
    return solve_lower(lower, solve_lower(lower, right), transpose=True)


def like(array: Array) -> dict[str, Any]:
    """Return the dtype and device of an array, to make another one with."""
    return {"dtype": array.dtype, "device": array.device}
