"""Moments of rows: sums that add and subtract, kept on disk."""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import (
    Array,
    HostField,
    add_upper,
    as_given,
    beside,
    mirror,
    on_device,
    panels,
    set_at_labels,
    to_host,
)
from featstore.probe.errors import DataError, FileError, MemoryBudgetError
from featstore.probe.memory import (
    Settings,
    all_sum,
    everywhere,
    moment_rows,
    multiplies_exactly,
    rank,
    share,
)
from featstore.probe.pieces import first_rows, gathered
from featstore.probe.results.files import load_arrays, save_arrays
from featstore.probe.rows import (
    LabelledRows,
    RowBlocks,
    groups_of,
    has_targets,
    validation_of,
    views_of,
)
from featstore.probe.splits import (
    Parts,
    RowRange,
    RowSubset,
    WithValidation,
    every_view,
    grouped_parts,
    stratified_parts,
)

# mean squares below this are of features whose products vanish in float32, or lose their digits
_VANISHING = 2.0**-100
# a variance below this share of the squared distance from the shift has few digits in float32
_AWAY = 1e-4
# share of the memory granted under which sums stay on a device
_STAY = 1 / 32

# relative to the squared distance from the shift, a variance below this is float32 rounding
RESOLUTION = {"float32": 1e-6, "float64": 1e-14}
# relative to the squares before a subtraction, what rounding leaves of squares that were all taken
# away: sums of 4096 rows in float32 were seen to be off by 4e-5
_LEFT_OVER = {"float32": 2e-4, "float64": 1e-12}


@dataclass(frozen=True)
class Moments:
    """Sums over N rows of u = x - shift, and of what is to be predicted, y: Y'1, U'1, U'Y, U'U.

    With classes, y is the one-hot label; with targets, T numbers in place of C classes. Sums that
    were made on a device stay there, for those who compute there, and are copied when somebody
    reads them.

    Attributes:
        n: N.
        shift: float64 (D,).
        counts: Y'1: int64 (C,), rows of each class; or float64 (T,), the sums of the targets.
        sums: float64 (D,), U'1.
        class_sums: float64 (D, C), U'Y: with classes the sums of u over the rows of each.
        gram: float64 (D, D), U'U.
        precision: dtype in which solvers compute with these rows, "float32" or "float64".
        floor: float64 (D,) or 0, a variance below which is rounding: what a subtraction leaves
            of a feature that changes only in the rows taken away.
        products: dtype in which products of rows were computed; by default that of the rows.
        again: returns the moments of the same rows with products in float64; None where the rows
            are not at hand.
    """

    n: int
    shift: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    class_sums: HostField = HostField()  # noqa: RUF009
    gram: HostField = HostField()  # noqa: RUF009
    precision: str = "float32"
    floor: np.ndarray | float = 0.0
    products: str = ""
    again: Callable[[], "Moments"] | None = field(default=None, repr=False, compare=False)
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.products:
            object.__setattr__(self, "products", self.precision)

    @property
    def class_counts(self) -> np.ndarray:
        """Rows of each class, int64 (C,); of no class, (0,), where y are targets."""
        return self.counts if self.counts.dtype.kind == "i" else np.zeros(0, np.int64)

    @property
    def offset(self) -> np.ndarray:
        """Mean of u, float64 (D,): how far the mean lies from the shift."""
        return self.sums / self.n

    @property
    def mean(self) -> np.ndarray:
        """Mean of x, float64 (D,)."""
        return self.shift + self.offset

    @property
    def variance(self) -> np.ndarray:
        """Variance of x (divisor N), float64 (D,); exactly 0 for a feature that never changes."""
        squares, offset = self._diagonal / self.n, self.offset
        variance = squares - offset**2
        rounding = np.maximum(RESOLUTION[self.products] * offset**2, self.floor)
        return np.where(variance > rounding, variance, 0.0)

    def scale(self, standardize: bool = True) -> np.ndarray:
        """Standard deviation of x, float64 (D,); 1 for a constant feature or without scaling."""
        deviation = np.sqrt(self.variance)
        return np.where((deviation > 0) & standardize, deviation, 1.0)

    def squares(self, standardize: bool = True) -> np.ndarray:
        """Return U'U / N of each scaled feature, float64 (D,): what its rounding is relative to.

        It is 1 for features about their own mean, and more about a shift that lies elsewhere.
        """
        return self._diagonal / self.n / self.scale(standardize) ** 2

    @property
    def _diagonal(self) -> np.ndarray:
        gram = as_given(self, "gram")
        if isinstance(gram, np.ndarray):
            return np.diagonal(gram)
        return self.once("diagonal", lambda: to_host(array_namespace(gram).linalg.diagonal(gram)))

    @property
    def priors(self) -> np.ndarray:
        """The mean of y, float64 (C,): the share of each class, or the mean of each target."""
        return self.counts / self.n

    def covariance(self, standardize: bool = True) -> np.ndarray:
        """Return X'X / N of the centred, scaled features, float64 (D, D)."""
        return to_host(self.covariance_there(standardize))

    def covariance_there(self, standardize: bool = True) -> Array:
        """Return `covariance` where the sums lie, on the host or a device."""
        gram = as_given(self, "gram")
        scale, offset = beside(np.stack([self.scale(standardize), self.offset]), gram)
        covariance = array_namespace(gram).empty_like(gram)
        # in parts that stay in cache; on a device each would be a launch
        for rows in [slice(None)] if on_device(gram) else panels(len(gram), len(gram)):
            part = gram[rows] / self.n
            part -= offset[rows, None] * offset
            part /= scale
            part /= scale[rows, None]
            covariance[rows] = part
        constant = np.flatnonzero(self.variance == 0)
        if constant.size:
            constant = beside(constant, gram)
            covariance[constant] = 0.0
            covariance[:, constant] = 0.0
        return covariance

    def cross(self, standardize: bool = True) -> np.ndarray:
        """Return X'(Y - mean Y) / N of the centred, scaled features, float64 (D, C)."""
        return to_host(self.cross_there(standardize))

    def cross_there(self, standardize: bool = True) -> Array:
        """Return `cross` where the sums lie, on the host or a device."""
        sums = as_given(self, "class_sums")
        scale, offset = beside(np.stack([self.scale(standardize), self.offset])[..., None], sums)
        centred = sums / self.n - offset * beside(self.priors, sums)
        constant = np.flatnonzero(self.variance == 0)
        if constant.size:
            centred[beside(constant, sums)] = 0.0
        return centred / scale

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` makes of these moments, made when the key is first asked for.

        Fits of the same rows thus share their matrices instead of holding one each.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def refined(self) -> "Moments | None":
        """Return the moments of the same rows with products in float64, which are read once more.

        They are kept. None where the rows are not at hand, or the memory granted is too little.
        """
        if self.products == "float64":
            return self
        if self.again is None:
            return None

        def read() -> "Moments | None":
            try:
                return self.again()
            except MemoryBudgetError:
                return None

        return self.once("refined", read)

    def shifted_to(self, shift: np.ndarray) -> "Moments":
        """Return the same moments about another shift."""
        if np.array_equal(shift, self.shift):
            return self
        by = self.shift - shift  # x - shift = u + by
        gram, class_sums = (as_given(self, name) for name in ("gram", "class_sums"))
        cross = _outer(self.sums, by, gram)
        return Moments(
            self.n,
            shift,
            self.counts,
            self.sums + self.n * by,
            class_sums + _outer(by, self.counts, class_sums),
            gram + cross + cross.T + self.n * _outer(by, by, gram),
            self.precision,
            self.floor,
            self.products,
            None if self.again is None else lambda: self.again().shifted_to(shift),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together."""
        return self._combined(other, +1)

    def __sub__(self, other: "Moments") -> "Moments":
        """Return the moments of these rows without the other's, which must be among them."""
        if other.n > self.n or (other.class_counts > self.class_counts).any():
            raise DataError("moments of rows that are not part of these cannot be taken away")
        return self._combined(other, -1)

    def _combined(self, other: "Moments", sign: int) -> "Moments":
        if other.shift.shape != self.shift.shape or len(other.counts) != len(self.counts):
            raise DataError(
                f"moments of {len(other.shift)} features and {len(other.counts)} classes do not "
                f"go with those of {len(self.shift)} and {len(self.counts)}"
            )
        other = other.shifted_to(self.shift)
        grams, class_sums = (_together(self, other, name) for name in ("gram", "class_sums"))
        n = self.n + sign * other.n
        # "float32" sorts before "float64"
        precision = min(self.precision, other.precision)
        products, floor = min(self.products, other.products), self.floor
        if sign < 0:
            lost = _LEFT_OVER[products] * self._diagonal / n
            floor = np.maximum(floor, lost)

        def again() -> "Moments":
            ours, theirs = self.refined(), other.refined()
            if ours is None or theirs is None:
                raise MemoryBudgetError("the rows cannot be read once more")
            return ours._combined(theirs, sign)

        return Moments(
            n,
            self.shift,
            self.counts + sign * other.counts,
            self.sums + sign * other.sums,
            class_sums[0] + sign * class_sums[1],
            grams[0] + sign * grams[1],
            precision,
            floor,
            products,
            again,
        )


def _outer(a: np.ndarray, b: np.ndarray, like: Array) -> Array:
    """Return a b', beside an array."""
    a, b = (beside(vector, like) for vector in (a, b))
    return a[:, None] * b


def _together(one: Moments, other: Moments, name: str) -> list[Array]:
    """Return a sum of each where both lie: on a device if they are there, else on the host."""
    given = [as_given(moments, name) for moments in (one, other)]
    if len({type(array) for array in given}) == 1:
        return given
    return [getattr(moments, name) for moments in (one, other)]


def moments(
    blocks: RowBlocks,
    settings: Settings,
    split: str = "train",
    precise: bool = False,
    again: Callable[[], Moments] | None = None,
) -> Moments:
    """Return the moments of all rows, read once: in each process its share of them.

    Products of pieces of rows are computed in float32 (float64 for float64 features) and summed
    in float64. A constant 1 and the one-hot labels, or the targets, stand as further columns
    beside the features, so that one product gives U'U, U'1 and U'Y; of U'U only the upper triangle
    is computed, panel by panel. Targets are centred and scaled meanwhile.

    Rows are read again, with products in float64, where float32 shows to be too narrow for them:
    products overflow or vanish, or lie so far from the shift that they say little of the variance.
    On a device that multiplies float64 as fast, products are float64 from the first.

    Arguments:
        blocks: the rows.
        settings: memory, backend, progress.
        split: what to call the rows in errors.
        precise: compute products in float64 in any case.
        again: as of `Moments`; by default the rows are read once more.

    Raises:
        DataError: as `featstore.probe.pieces.gathered`; or products of features overflow or
        vanish.
        MemoryBudgetError: the matrices do not fit into `settings.memory`.
    """
    shift, dtype = first_rows(blocks)
    products = "float64" if precise or multiplies_exactly(settings.backend) else dtype
    total = _summed(blocks, settings, split, shift, products)
    edges = _edges(total)
    if products == "float32" and _too_narrow(*edges, blocks.n_rows):
        products = "float64"
        total = _summed(blocks, settings, split, shift, products)
        edges = _edges(total)
    # beside these moments, what is made of them and their successors
    held = 4 * 8 * len(shift) ** 2
    tight = replace(settings, memory=max(1, settings.memory - held))
    stays = on_device(total) and total.nbytes <= _STAY * settings.memory
    found = Moments(
        blocks.n_rows,
        shift,
        *_finished(total if stays else to_host(total), *edges, blocks, products),
        dtype,
        products=products,
        again=again or (lambda: moments(blocks, tight, split, precise=True)),
    )
    if stays:  # as is known already
        found.once("diagonal", lambda: edges[1])
    return found


def _summed(
    blocks: RowBlocks, settings: Settings, split: str, shift: np.ndarray, dtype: str
) -> Array:
    """Return U'[U 1 Y], float64 (D, D + 1 + C), of U'U only panels on and above the diagonal."""
    width, backend = blocks.n_features, settings.backend
    centre, unit = target_means(blocks), target_units(blocks)
    spare = 1 + (len(centre) or blocks.n_classes)
    rows = moment_rows(settings.memory, width, spare, dtype)
    own = share(blocks, rows)
    total, done = backend.zeros((width, width + spare), "float64"), 0
    bags = blocks.n_classes > 0 and is_torch_array(total) and not on_device(total)
    beside = 0 if bags else spare
    for piece, labels in gathered(own, rows, backend, dtype, shift, split, spare=beside):
        if bags:
            _add_class_sums(total[:, width:], piece, labels)
        else:
            _set_targets(piece[:, width:], labels, centre, unit)
        add_upper(total, piece, width)
        done += len(labels)
        settings.progress("rows", done, own.n_rows)
    all_sum(total)
    return total


def _edges(total: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return U'1 and the diagonal of U'U, float64 (D,), on the host, where one copy brings both."""
    xp, width = array_namespace(total), len(total)
    both = total[:, width], xp.linalg.diagonal(total)
    if on_device(total):
        sums, squares = to_host(xp.stack(both))
        return sums, squares
    return to_host(both[0]).copy(), to_host(both[1])


def _too_narrow(sums: np.ndarray, squares: np.ndarray, n_rows: int) -> bool:
    """Return whether float32 products say too little of some feature."""
    if not (np.isfinite(squares).all() and np.isfinite(sums).all()):
        return True
    # a feature that does not change has sums and squares of exactly 0 about its own value
    vanishing = (squares < n_rows * _VANISHING) & ((sums != 0) | (squares != 0))
    variance, off = squares / n_rows - (sums / n_rows) ** 2, (sums / n_rows) ** 2
    return bool((vanishing | (variance < _AWAY * off)).any())


def target_means(blocks: RowBlocks) -> np.ndarray:
    """Return the mean of each target, float64 (T,); of none, (0,), where labels are classes."""
    if not has_targets(blocks):
        return np.zeros(0)
    return blocks.labels().reshape(blocks.n_rows, -1).mean(0)


def target_units(blocks: RowBlocks) -> np.ndarray:
    """Return a power of two near the deviation of each target, float64 (T,).

    Targets of any size are thus computed with in any precision, without a rounding.
    """
    if not has_targets(blocks):
        return np.zeros(0)
    return units(blocks.labels().reshape(blocks.n_rows, -1))


def units(values: np.ndarray) -> np.ndarray:
    """Return a power of two near the deviation of each column of (N, T), float64 (T,)."""
    away = values - values.mean(0)
    largest = np.abs(away).max(0)
    largest = np.where(largest > 0, largest, 1.0)
    # of numbers up to 1, so that squares neither overflow nor vanish
    deviation = largest * np.sqrt(((away / largest) ** 2).mean(0))
    return np.exp2(np.round(np.log2(np.where(deviation > 0, deviation, 1.0))))


def _set_targets(columns: Array, labels: Array, centre: np.ndarray, unit: np.ndarray) -> None:
    """Write a constant 1 and, behind it, one-hot labels or scaled targets (r, C) to columns."""
    xp = array_namespace(columns)
    columns[:, 0] = 1
    if len(centre):
        minus, by = (beside(array, columns) for array in (centre, unit))
        columns[:, 1:] = (xp.reshape(labels, (-1, len(centre))) - minus) / by
        return
    columns[:, 1:] = 0
    set_at_labels(columns[None, :, 1:], labels, 1.0)


def _add_class_sums(total: Array, rows: Array, labels: Array) -> None:
    """Add U'1 and, behind it, U'Y of rows (r, D) and their classes to `total` (D, 1 + C).

    Sums over the rows of each class take a hundredth of the products with one-hot columns.
    """
    count = torch.bincount(labels, minlength=total.shape[1] - 1)
    starts = torch.cumsum(count, 0) - count
    order = torch.argsort(labels, stable=True)
    sums = torch.nn.functional.embedding_bag(order, rows, starts, mode="sum").T
    total[:, 0] += sums.sum(1, dtype=total.dtype)
    total[:, 1:] += sums


def _finished(
    total: Array, sums: np.ndarray, squares: np.ndarray, blocks: RowBlocks, dtype: str
) -> tuple[np.ndarray, np.ndarray, Array, Array]:
    """Return Y'1, U'1, U'Y and U'U, the latter two where `total` lies.

    Raises:
        DataError: products overflow or vanish.
    """
    width = len(total)
    gram, class_sums = total[:, :width], total[:, width + 1 :]
    for wrong, what, remedy in (
        (~np.isfinite(squares), "overflow", "divide"),
        ((squares == 0) & (sums != 0), "vanish in", "multiply"),
    ):
        if wrong.any():
            raise DataError(
                f"squares of feature {wrong.argmax()} {what} {dtype}: {remedy} the features by a "
                "constant"
            )
    if on_device(total):
        xp = array_namespace(total)
        upper = xp.triu(gram)
        gram, class_sums = upper + xp.triu(upper, k=1).T, xp.asarray(class_sums, copy=True)
    else:
        mirror(gram)
    centre, unit = target_means(blocks), target_units(blocks)
    if not len(centre):
        counts = np.bincount(blocks.labels(), minlength=blocks.n_classes)
        return counts, sums, class_sums, gram
    class_sums = class_sums * beside(unit, total) + _outer(sums, centre, total)
    return centre * blocks.n_rows, sums, class_sums, gram


VERSION = 4
ARRAYS = ("shift", "counts", "sums", "class_sums", "gram")


@runtime_checkable
class _KnowsMoments(Protocol):
    """Rows that can say what their moments are without being read once more."""

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of all rows."""


def cached_moments(
    blocks: RowBlocks, settings: Settings, split: str = "train", precise: bool = False
) -> Moments:
    """Return the moments of all rows, from `settings.moments_cache` if they are kept there.

    Rows that know their moments are asked for them. Without a cache folder, or of blocks without
    a fingerprint, they are computed and not kept. The file says by its key what made it: rows,
    backend, device and precision. One that is damaged, not finite, or has another key or other
    labels, is computed and written anew; a folder that cannot be written to is done without, since
    a cache only saves time. With `precise` products are computed in float64, and kept in a file
    beside.

    Raises:
        DataError, MemoryBudgetError: as `featstore.probe.moments.moments`.
    """
    if isinstance(blocks, _KnowsMoments):
        return blocks.moments(settings)
    if settings.moments_cache is None or blocks.fingerprint is None:
        return moments(blocks, settings, split, precise)
    key = cache_key(settings, blocks, precise)
    path = _cache_path(settings.moments_cache, key)

    def again() -> Moments:
        return cached_moments(blocks, settings, split, precise=True)

    kept = load(path, key)
    if everywhere(kept is not None and _fits(kept, blocks)):
        settings.progress("rows", blocks.n_rows, blocks.n_rows, cached=True)
        return replace(kept, again=again)
    computed = moments(blocks, settings, split, precise, again)
    if rank() > 0:
        return computed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(computed, path, key)
    except OSError as error:
        settings.progress("rows", blocks.n_rows, blocks.n_rows, not_cached=str(error))
    return computed


def cache_key(settings: Settings, blocks: RowBlocks, precise: bool = False) -> str:
    """Return what tells moments apart: the rows, and where and in what their products are made."""
    where = f"{settings.backend.name} {settings.backend.device}"
    products = "float64" if precise else "as rows"
    return (
        f"{VERSION} {blocks.fingerprint} {blocks.n_features} {blocks.n_classes} {where} {products}"
    )


def _cache_path(folder: Path, key: str) -> Path:
    """Return where the moments of a key are kept."""
    return Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def save(computed: Moments, path: Path, key: str) -> None:
    """Write moments to a .npz file with their key and a digest, whole or not at all."""
    arrays = {name: getattr(computed, name) for name in ARRAYS}
    facts = {"n": computed.n, "precision": computed.precision, "products": computed.products}
    save_arrays(path, {**arrays, **facts, "key": key})


def load(path: Path, key: str) -> Moments | None:
    """Return moments from a .npz file, or None if there is none that is whole and of this key."""
    try:
        held = load_arrays(path)
        if str(held["key"]) != key:
            return None
        arrays = {name: held[name] for name in ARRAYS}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return None
        dtypes = {name: str(held[name]) for name in ("precision", "products")}
        return Moments(int(held["n"]), **arrays, **dtypes)
    except (FileError, KeyError, TypeError, ValueError):
        return None


def _fits(kept: Moments, blocks: RowBlocks) -> bool:
    width, classes = blocks.n_features, blocks.n_classes
    outputs = classes or len(target_means(blocks))
    return (
        kept.n == blocks.n_rows
        and kept.shift.shape == kept.sums.shape == (width,)
        and kept.gram.shape == (width, width)
        and kept.class_counts.shape == (classes,)
        and kept.counts.shape == (outputs,)
        and kept.class_sums.shape == (width, outputs)
        and {kept.precision, kept.products} <= set(RESOLUTION)
        and all(getattr(kept, name).dtype == np.float64 for name in ARRAYS if name != "counts")
        and _of_labels(kept.counts, blocks)
    )


def _of_labels(counts: np.ndarray, blocks: RowBlocks) -> bool:
    """Return whether counts are those of the rows' labels, as far as these are known."""
    labels = blocks.labels()
    if labels.dtype.kind == "f" or labels.ndim > 1:
        sums = labels.reshape(len(labels), -1).sum(0, dtype=np.float64)
        rounding = 1e-9 * np.abs(labels).reshape(len(labels), -1).sum(0, dtype=np.float64)
        return bool((np.abs(counts - sums) <= rounding).all())
    return np.array_equal(counts, np.bincount(labels, minlength=blocks.n_classes))


class Remembered(LabelledRows):
    """Row blocks whose moments are gathered when first asked for, and then kept.

    Arguments:
        blocks: the rows.
        gather: how to come by their moments; by default one pass over the rows.
    """

    def __init__(self, blocks: RowBlocks, gather: Callable[[Settings], Moments] | None = None):
        self._blocks = blocks
        self._gather = gather or (lambda settings: cached_moments(blocks, settings))
        self._moments: Moments | None = None
        self._parts: dict[tuple[float, int, int], list[tuple[Remembered, RowSubset]]] = {}
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint, self.n_views = blocks.fingerprint, views_of(blocks)
        self.validation = validation_of(blocks)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self._blocks)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._blocks.labels()

    def part(self, start: int, stop: int) -> RowRange:
        """Return the rows from `start` up to `stop`."""
        return RowRange(self._blocks, start, stop)

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, or None."""
        return groups_of(self._blocks)

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of all rows."""
        if self._moments is None:
            self._moments = self._gather(settings)
        return self._moments

    def parts(
        self, share: float, seed: int, count: int = 1
    ) -> list[tuple["Remembered", RowSubset]]:
        """Return, for each of `count` draws, the rows without a held-out part, and that part.

        The parts are those of `featstore.probe.splits.stratified_parts`, or of groups those of
        `grouped_parts`. All views of an image are in the same part. The moments of the remainder
        are those of all rows less those of the part, so that one pass over the part is all that
        they cost.

        Raises:
            UsageError: `share` is outside (0, 1).
            DataError: no row can be held out.
        """
        if (share, seed, count) not in self._parts:
            images = self.n_rows // self.n_views
            labels, groups = self.labels()[:images], self.groups
            if groups is None:
                drawn = stratified_parts(labels, share, seed, count)
            else:
                drawn = grouped_parts(labels, groups[:images], share, seed, count)
            self._parts[share, seed, count] = [self._without(one) for one in drawn]
        return self._parts[share, seed, count]

    def _without(self, drawn: Parts) -> tuple["Remembered", RowSubset]:
        held_out = every_view(self._blocks, drawn.validation)
        kept = every_view(self._blocks, drawn.train)
        remainder = Remembered(
            kept if self.validation is None else WithValidation(kept, self.validation),
            lambda settings: self.moments(settings) - cached_moments(held_out, settings),
        )
        return remainder, held_out


def remembered(blocks: RowBlocks) -> Remembered:
    """Return the rows as ones that keep their moments; as they are if they do so already."""
    return blocks if isinstance(blocks, Remembered) else Remembered(blocks)
