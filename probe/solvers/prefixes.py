"""Every prefix of a chain from one factor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    Factors,
    HostField,
    as_given,
    beside,
    cholesky,
    factorise,
    full_precision,
    on_device,
    solve_lower,
    taken,
    to_host,
    within,
)
from featstore.probe.kernels import permuted_blocks
from featstore.probe.memory import Settings, SolvePlan, SystemSize, everywhere, solve_plan
from featstore.probe.metrics import LogitSink, PassingSink, Scores
from featstore.probe.moments import Moments
from featstore.probe.pieces import gathered
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers.weights import Fitted, Weights
from featstore.probe.subsets import (
    FEATURES,
    Axes,
    Basis,
    Frame,
    congruent,
    congruent_of_root,
    directions,
    variances,
)
from featstore.probe.substitution import (
    Forward,
    Room,
    add_logits,
    folded,
    forward,
    logits_of,
)


@dataclass(frozen=True)
class Batch:
    """Systems, each a (chain, penalty), whose chains have one basis and the same prefix sizes.

    On a device chains of one prefix each share a batch whatever its size, which `lengths` has, and
    `sizes` the largest; the others are filled up with rows of the unit matrix.
    """

    systems: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    basis: Basis = FEATURES
    lengths: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """The number of features of the largest prefix."""
        return self.sizes[-1]


def grouped(
    axes: Axes, plan: SolvePlan, largest: SystemSize, pads: bool = False
) -> list[list[Batch]]:
    """Return all systems in batches, and the batches in groups whose factors are held together.

    Chains on other bases never share a batch, nor do chains of other prefix sizes; but with `pads`
    those of one prefix do, the longest first.
    """
    alike: dict[tuple[Basis, tuple[int, ...]], list[tuple[int, int]]] = {}
    for number, chain in enumerate(axes.chains):
        systems = [(number, penalty) for penalty in range(len(axes.penalties))]
        ragged = pads and len(chain.sizes) == 1 and chain.basis == FEATURES
        alike.setdefault((chain.basis, () if ragged else chain.sizes), []).extend(systems)
    groups: list[list[Batch]] = [[]]
    held = 0
    for (basis, sizes), systems in alike.items():
        width = largest.width if basis != FEATURES else 0
        lengths = [axes.chains[chain].length for chain, _ in systems]
        longest_first = (
            np.argsort(lengths, kind="stable")[::-1] if not sizes else range(len(lengths))
        )
        systems, lengths = ([array[i] for i in longest_first] for array in (systems, lengths))
        start = 0
        while start < len(systems):
            own = sizes or (lengths[start],)
            size = replace(largest, length=own[-1], n_prefixes=len(own), width=width)
            stop = start + _batch_size(size, plan)
            uneven = lengths[start:stop] if len(set(lengths[start:stop])) > 1 else []
            batch = Batch(tuple(systems[start:stop]), own, basis, tuple(uneven))
            start, needed = stop, len(batch.systems) * size.held
            if groups[-1] and held + needed > plan.held:
                groups.append([])
                held = 0
            groups[-1].append(batch)
            held += needed
    return groups


def _batch_size(size: SystemSize, plan: SolvePlan) -> int:
    by_factor = plan.transient // size.transient
    by_rows = plan.working // (plan.rows * size.row)
    return max(1, min(by_factor, by_rows, plan.held // size.held))


@dataclass(frozen=True)
class _Direct:
    """Coefficients of every prefix of S systems.

    Attributes:
        order: (S, m) int64, the features of each system.
        coefficients: one (S, k, C) for each prefix, in the precision of the rows.
        priors: (C,), the intercept of every probe.
    """

    order: Array
    coefficients: tuple[Array, ...]
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: the prefix sizes.
        """
        x = taken(rows, self.order)
        for prefix, (size, coefficients) in enumerate(zip(sizes, self.coefficients, strict=True)):
            logits = logits_of(self.priors, len(x), rows)
            add_logits(logits, x[:, :size], coefficients)
            yield prefix, logits


def direct(
    order: Array, lower: Array, z: Array, priors: Array, sizes: Sequence[int], dtype: str
) -> _Direct:
    """Return W_k = L_k^-T z_k of every prefix, for L (S, m, m) and z (S, m, C), in `dtype`."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    coefficients = tuple(
        xp.astype(solve_lower(lower[:, :k, :k], z[:, :k], transpose=True), rounded) for k in sizes
    )
    return _Direct(order, coefficients, xp.astype(priors, rounded))


@dataclass(frozen=True)
class _FoldedDirect:
    """Coefficients of every prefix of S systems on a basis, of all features.

    Attributes:
        coefficients: (S, D, P C), prefix by prefix, in the precision of the rows.
        priors: (C,), the intercept of every probe.
    """

    coefficients: Array
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first, by one product."""
        xp, systems, classes = array_namespace(rows), len(self.coefficients), len(self.priors)
        together = logits_of(xp.concat([self.priors] * len(sizes)), systems, rows)
        add_logits(together, xp.broadcast_to(rows, (systems, *rows.shape)), self.coefficients)
        for prefix in range(len(sizes)):
            yield prefix, together[..., prefix * classes : (prefix + 1) * classes]


def _folded_direct(
    order: Array,
    lower: Array,
    z: Array,
    priors: Array,
    sizes: Sequence[int],
    dtype: str,
    found: Array,
) -> _FoldedDirect:
    """Return R_k W_k of every prefix, for directions `found` (D, count), in `dtype`."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    # rounded before the products, as rows are before theirs: it is they that take the time
    columns = xp.stack([xp.take(xp.astype(found, rounded), one, axis=1) for one in order])
    parts = [
        columns[..., :k]
        @ xp.astype(solve_lower(lower[:, :k, :k], z[:, :k], transpose=True), rounded)
        for k in sizes
    ]
    return _FoldedDirect(xp.concat(parts, axis=2), xp.astype(priors, rounded))


def folded_direct_is_cheaper(sizes: Sequence[int], n_classes: int, n_features: int) -> bool:
    """Return whether coefficients of all features take fewer multiplications a row.

    It is D C P for P prefixes, against D m for m directions and C m for the running sum.

    Example:
        >>> folded_direct_is_cheaper([20, 102, 204, 1945], 10, 2048)
        True
    """
    return n_classes * len(sizes) * n_features < sizes[-1] * (n_features + n_classes)


def direct_is_cheaper(sizes: Sequence[int], n_classes: int) -> bool:
    """Return whether coefficients take far fewer multiplications a row than substitution.

    By coefficients it is C sum(k); by substitution m^2 / 2 and C m for the running sum. Half of
    that is asked for, since the coefficients cost a back substitution each before any row.

    Example:
        >>> direct_is_cheaper([20, 102, 204, 2048], 10), direct_is_cheaper(range(10, 2048, 10), 10)
        (True, False)
    """
    length = sizes[-1]
    return n_classes * sum(sizes) < (length**2 / 2 + n_classes * length) / 2


_Ready: TypeAlias = Forward | _Direct | _FoldedDirect

_SHALLOW = 1e-6
"""Shares of its squares in a system's weakest direction below which float32 rows blur a probe."""


@dataclass(frozen=True)
class Normal:
    """Normal equations over all D features: on a prefix, (M_kk + l2 I) W_k = R_k.

    M and R lie where the moments do, and are copied when somebody reads them on the host.

    Attributes:
        matrix: float64 (D, D), M, symmetric and positive semi-definite.
        right: float64 (D, C), R; for T targets (D, T), and so on below.
        start: float64 (C,), the logits of a probe that sees no feature.
        mean: float64 (D,), subtracted from each feature.
        scale: float64 (D,), by which each centred feature is divided.
        n_rows: N of train.
        counts: int64 (C,), train rows of each class; empty for targets.
        frame: the train rows, for bases.
        of_covariance: whether M is their covariance.
        precision: "float32" or "float64", in which rows are scored.
        squares: float64 (D,), the sums of squares a row of which rounding of M is a share.
        products: "float32" or "float64", in which the entries of M were summed.
        refined: returns the equations with products in float64; None where they cannot be had.
    """

    start: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    n_rows: int
    counts: np.ndarray
    frame: Frame
    matrix: HostField = HostField()  # noqa: RUF009
    right: HostField = HostField()  # noqa: RUF009
    of_covariance: bool = False
    precision: str = "float32"
    squares: np.ndarray | None = None
    products: str = "float64"
    refined: Callable[[], "Normal | None"] = lambda: None

    @property
    def unit(self) -> np.ndarray:
        """A power of two near what features say of each column of R, float64 (C,)."""
        matrix = as_given(self, "matrix")
        variance = to_host(array_namespace(matrix).linalg.diagonal(matrix))[:, None]
        known = np.sqrt(np.where(variance > 0, variance, np.inf))
        most = (np.abs(self.right) / known).max(0)
        return np.exp2(np.round(np.log2(np.where(most > 0, most, 1.0))))


class InUnits(PassingSink):
    """Scores of predicted numbers that are still to be multiplied by a unit, as the targets are.

    Both are given less the mean of the targets in train, which no error sees.
    """

    def __init__(self, scores: LogitSink, unit: np.ndarray):
        super().__init__(scores)
        self._unit = unit

    def add(self, probes: np.ndarray, predicted: Array, targets: Array) -> None:
        """Take predicted numbers (p, rows, T), and targets (rows, T)."""
        xp = array_namespace(predicted)
        unit = beside(self._unit, predicted)
        self._scores.add(probes, xp.astype(predicted, xp.float64) * unit, targets * unit)


def refined(train: Moments, make: Callable[[Moments], Normal]) -> Normal | None:
    """Return what `make` makes of the moments with float64 products, if these can be had."""
    better = train.refined()
    return None if better is None or better is train else make(better)


@dataclass(frozen=True)
class System:
    """A batch, factorised.

    Attributes:
        order: int64 (S, m), the features of each system, or the directions.
        factors: of A.
        z: L^-1 R, (S, m, C).
        found: the directions (D, count) that a basis has; None for the features themselves.
        padded: whether some systems are filled up with rows of the unit matrix.
    """

    order: Array
    factors: Factors
    z: Array
    found: Array | None = None
    padded: bool = False


class PrefixFit(Fitted):
    """The solutions of normal equations for all chains, prefixes and penalties.

    A *system* is one (chain, penalty): A = M + l2 I on the chain's features, A = L L'. The
    leading k x k block of L is the factor of the leading block of A, so with z = L^-1 R and
    t = L^-1 x the logits of the probe on the first k features are start + t[:k]' z[:k]: all
    prefixes cost one factorisation, one forward substitution on the rows, and a running sum.
    On a basis M is R'MR and R is folded into what meets the rows.

    Where rounding of float32 products decides about some system, since its features nearly depend
    on each other and l2 is small, the equations are asked for in float64, which takes one more pass
    over the train rows, and all is solved with those.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class; empty for targets.
        n_train: N of train.
        n_targets: T, or 0.
        facts: {"status": (P,) str}: "ok"; "jitter=<value>", what had to be added to l2 for the
            factorisation to exist; "imprecise", decided by rounding that nothing better is known
            of; or "singular".

    Raises:
        MemoryBudgetError: not even one system fits into `settings.memory`.
    """

    logits_held = 1
    """How many arrays of a row's logits scoring holds at once, for the memory plan."""

    pads = True
    """Whether systems that are filled up can be scored."""

    def __init__(self, axes: Axes, normal: Normal, settings: Settings):
        self.axes, self.class_counts = axes, normal.counts
        self.n_features, self.n_train = len(normal.mean), normal.n_rows
        self.n_targets = 0 if len(normal.counts) else len(normal.start)
        self._settings = settings
        self._take(normal, normal.precision)
        status = self._solved()
        if status is None:
            refined = normal.refined()
            self._take(normal if refined is None else refined, normal.precision, final=True)
            status = self._solved()
        if self._depth < _SHALLOW and self._dtype != "float64":
            self._take(self._normal, "float64", final=True)
            self._solved()
        self.facts: dict[str, np.ndarray] = {"status": status.astype(str)}

    def _take(self, normal: Normal, dtype: str, final: bool = False) -> None:
        """Take equations to solve, final if none better are to be had, and the rows' precision."""
        axes, settings = self.axes, self._settings
        self._normal, self._dtype = normal, dtype
        self._final = final or normal.products == "float64"
        put = settings.backend.put
        # numbers to be predicted have any size and any mean: rows meet them about 0, of about 1
        self._unit = normal.unit if self.n_targets else None
        start = np.zeros(self.n_targets) if self.n_targets else normal.start
        self._start = put(start)
        vars(self).pop("_root", None)
        self._matrix, self._right = (put(as_given(normal, name)) for name in ("matrix", "right"))
        if self.n_targets:
            self._right = self._right / put(self._unit)
        squares = np.ones(self.n_features) if normal.squares is None else normal.squares
        self._squares = put(squares)
        largest = SystemSize(
            max(chain.length for chain in axes.chains),
            self.logits_held * len(normal.start),
            max(map(len, axes.chains)),
            8 if dtype == "float64" else 4,
            self.n_features if any(chain.basis != FEATURES for chain in axes.chains) else 0,
        )
        there = on_device(self._matrix)
        self._plan = solve_plan(settings.memory, self.n_features, len(normal.start), largest, there)
        # one call for all of them there, where on a CPU filling up is work
        self._groups = grouped(axes, self._plan, largest, pads=there and self.pads)
        self._held: tuple[int, list[_Ready]] = (-1, [])
        self._room = Room()
        self._factored: tuple[Batch | None, System | None] = (None, None)
        self._depth = 1.0

    def _solved(self) -> np.ndarray | None:
        """Factorise all groups and return the status of each probe.

        Or None as soon as better products are needed of which nobody has said that they cannot be
        had.
        """
        status = np.full(len(self.axes), "", object)
        for number, group in enumerate(self._groups):
            found = self._hold(number)
            doubtful = any(factors.doubtful.any() for factors in found)
            if not self._final and not everywhere(not doubtful):
                self._held = (-1, [])
                return None
            for batch, factors in zip(group, found, strict=True):
                self._depth = min(self._depth, factors.depth)
                for system, text in zip(batch.systems, factors.status(), strict=True):
                    status[self.axes.prefixes(*system)] = text
        return status

    def seen(self, batch: Batch, z: Array) -> None:
        """Take note of z (S, m, C) of a batch while it is factorised; here there is nothing to."""

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`.

        Test rows are read once for all systems whose factors fit into memory together.
        """
        self._score(test, self._in_units(scores))

    def _in_units(self, scores: LogitSink) -> "Scores | InUnits":
        """Return what takes logits, and labels, as rows meet them, and gives them to `scores`."""
        return InUnits(scores, self._unit) if self.n_targets else scores

    def _score(self, test: RowBlocks, scores: LogitSink) -> None:
        # last group first: its factors are still there from the fit
        for number in reversed(range(len(self._groups))):
            if self._held[0] != number:
                self._hold(number)
            done = 0
            for rows, labels in self._standardized(test):
                self._score_piece(rows, labels, scores)
                done += len(labels)
                self._settings.progress("test rows", done, test.n_rows)
            self._room.clear()

    def release(self) -> None:
        """Let go of the factors; they are made again when they are needed."""
        self._held = (-1, [])
        self._factored = (None, None)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, W_k = L_k^-T z_k, by one back substitution."""
        axes = self.axes
        chain, penalty, k = axes.chain[probe], axes.penalty[probe], int(axes.size[probe])
        own = axes.chains[chain]
        batch = Batch(((int(chain), int(penalty)),), own.sizes, own.basis)
        if self._factored[0] != batch:
            self._factored = (batch, self._factorise(batch))
        system, features = self._factored[1], axes.features(probe)
        lower, z = system.factors.lower[:, :k, :k], system.z[:, :k]
        coef = solve_lower(lower, z, transpose=True)[0]
        if system.found is not None:
            taken = array_namespace(coef).take(system.found, system.order[0, :k], axis=1)
            coef, features = taken @ coef, np.arange(self.n_features)
        coef = to_host(coef) * self._unit if self.n_targets else to_host(coef)
        return Weights.from_standardized(
            features,
            coef,
            self._normal.start,
            self._normal.mean[features],
            self._normal.scale[features],
        )

    def _factorise(self, batch: Batch) -> System:
        """Return the systems of a batch, factorised."""
        xp, backend, length = array_namespace(self._matrix), self._settings.backend, batch.length
        matrix, right, found, squares = self._matrix, self._right, None, self._squares
        lengths = np.array(batch.lengths or [length] * len(batch.systems))
        orders = np.zeros((len(lengths), length), np.int64)
        for place, (chain, _), size in zip(orders, batch.systems, lengths, strict=True):
            place[:size] = self.axes.chains[chain].order[:size]
        order = backend.put(orders)
        penalties = np.array([self.axes.penalties[penalty] for _, penalty in batch.systems])
        if batch.basis != FEATURES:
            found = directions(batch.basis, int(orders.max()) + 1, self._normal.frame, backend)
            if self._settings.watch:
                self._settings.watch(batch.basis, found)
            matrix, right = self._turned(batch, found), found.T @ right
            squares = (found * found).T @ squares
        matrices = permuted_blocks(matrix, order, backend.put(penalties, "float64"))
        rights, own = taken(right, order), taken(squares, order)
        if batch.lengths:
            seen = xp.astype(within(lengths, matrices), matrices.dtype)
            matrices *= seen[:, :, None]
            matrices *= seen[:, None, :]
            diagonals = xp.reshape(matrices, (len(lengths), -1))[:, :: length + 1]
            diagonals += 1 - seen
            rights, own = rights * seen[..., None], own * seen
        factors = factorise(
            matrices, own, self._normal.products, lengths if batch.lengths else None
        )
        z = solve_lower(factors.lower, rights)
        return System(order, factors, z, found, padded=bool(batch.lengths))

    def _turned(self, batch: Batch, found: Array) -> Array:
        """Return R'MR for the directions of a batch."""
        if self._normal.of_covariance:
            count, frame = found.shape[1], self._normal.frame
            along = variances(batch.basis, count, frame, self._settings.backend)
            if along is not None:
                xp = array_namespace(along)
                return xp.eye(count, dtype=along.dtype, device=along.device) * along
        root = None if on_device(self._matrix) else self._root
        if root is None:
            return congruent(self._matrix, found)
        return congruent_of_root(root, found)

    @cached_property
    def _root(self) -> Array | None:
        """The lower factor of M, (D, D); None where M is singular."""
        lower, exists = cholesky(self._matrix[None])
        return lower[0] if bool(exists[0]) else None

    def _hold(self, number: int) -> list[Factors]:
        """Factorise a group, keep it in the form that meets rows, return what was found.

        The triangles of what is returned are not kept.
        """
        self._held = (-1, [])  # the group before makes room first
        forwards, found = [], []
        for batch in self._groups[number]:
            system = self._factorise(batch)
            forwards.append(self._ready(system, batch.sizes))
            found.append(replace(system.factors, lower=None))
            self.seen(batch, system.z)
            del system  # before the next batch makes its own
        self._held = (number, forwards)
        return found

    def _ready(self, system: System, sizes: tuple[int, ...]) -> _Ready:
        """Return the batch in the form whose products with the rows are fewer."""
        order, lower, z = system.order, system.factors.lower, system.z
        if system.found is not None:
            if folded_direct_is_cheaper(sizes, z.shape[2], self.n_features):
                return _folded_direct(
                    order, lower, z, self._start, sizes, self._dtype, system.found
                )
        elif system.padded or direct_is_cheaper(sizes, z.shape[2]):
            return direct(order, lower, z, self._start, sizes, self._dtype)
        return self._substituted(system)

    def _substituted(self, system: System) -> Forward:
        """Return the batch as a substitution, which gives every prefix its part of one sum."""
        order, lower, z = system.order, system.factors.lower, system.z
        if system.found is not None:
            return folded(order, lower, z, self._start, self._dtype, system.found, self._room)
        return forward(order, lower, z, self._start, self._dtype, self._room)

    def _standardized(self, test: RowBlocks) -> Iterator[tuple[Array, Array]]:
        """Yield test rows, centred and scaled as train was, transposed to (D, r), and labels."""
        backend, dtype, normal = self._settings.backend, self._dtype, self._normal
        pieces = gathered(
            test, self._plan.rows, backend, dtype, normal.mean, "test", scale=normal.scale
        )
        for piece, labels in pieces:
            rows = backend.empty((piece.shape[1], piece.shape[0]), dtype)
            rows[...] = piece.T
            if self.n_targets:
                less, unit = backend.put(normal.start), backend.put(self._unit)
                xp = array_namespace(labels)
                labels = (xp.reshape(labels, (-1, self.n_targets)) - less) / unit
            yield rows, labels

    def _score_piece(self, rows: Array, labels: Array, scores: LogitSink) -> None:
        number, forwards = self._held
        for batch, held in zip(self._groups[number], forwards, strict=True):
            probes = np.array([self.axes.prefixes(*system) for system in batch.systems])
            with full_precision():
                for prefix, logits in held.logits(rows, batch.sizes):
                    scores.add(probes[:, prefix], logits, labels)
            scores.finish(labels)
