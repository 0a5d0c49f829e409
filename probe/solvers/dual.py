"""Probes of more features than rows, solved in the dual from Gram matrices of rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    TRUSTED,
    Array,
    add_upper,
    beside,
    factorise,
    full_precision,
    mirror,
    solve_lower,
    to_host,
)
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.memory import Settings, silent, spared, text
from featstore.probe.metrics import LogitSink
from featstore.probe.moments import target_means, target_units
from featstore.probe.pieces import first_rows, gathered, standardized
from featstore.probe.rows import ArrayBlocks, RowBlocks, as_blocks, targets_of
from featstore.probe.solvers.weights import Fitted, Weights
from featstore.probe.splits import ColumnSubset, gathered_columns
from featstore.probe.statuses import Status, combined, jitter
from featstore.probe.subsets import Axes, Chain

PIECE = 4096
"""Features multiplied at once: their products are float32, the sums of these float64."""


@dataclass(frozen=True)
class Scaling:
    """Mean and scale of the features of a chain.

    Attributes:
        mean: float64 (m,), in the order of the chain.
        scale: float64 (m,); 1 for a feature that never changes, or without scaling.
    """

    mean: np.ndarray
    scale: np.ndarray


def _grams(
    train: RowBlocks, chain: Chain, tile: int, dtype: str, settings: Settings, scaling: Scaling
) -> Iterator[tuple[int, Array]]:
    """Yield every prefix of a chain and X X' of its centred, scaled features, smallest first.

    The features are read in tiles, in the order of the chain, one pass over the rows for each.

    Arguments:
        train: N rows.
        chain: whose prefixes.
        tile: features of a tile; all rows of a tile are held.
        dtype: of products, "float32" or "float64".
        settings: where to compute.
        scaling: filled as the tiles go by.

    Yields:
        the number of the prefix.
        float64 (N, N), of which only panels on and above the diagonal are kept; the next step
            changes it.

    Raises:
        DataError: a feature is not finite.
    """
    backend = settings.backend
    total = backend.zeros((train.n_rows, train.n_rows), "float64")
    done, prefix, sizes = 0, 0, chain.sizes
    for start in range(0, chain.length, tile):
        columns = chain.order[start : min(start + tile, chain.length)]
        features = gathered_columns(train, columns, "train")
        settings.progress("features", start + len(columns), chain.length)
        while done < start + len(columns):
            stop = min(done + PIECE, start + len(columns), sizes[prefix])
            span = slice(done, stop)
            x, scaling.mean[span], scaling.scale[span] = standardized(
                features[:, done - start : stop - start], backend, dtype, settings.standardize
            )
            add_upper(total, x.T, train.n_rows)
            done = stop
            while prefix < len(sizes) and sizes[prefix] == done:
                yield prefix, total
                prefix += 1


@dataclass(frozen=True)
class _Rotation:
    """Features Z (N, N - 1) with Z Z' = X X', for centred features X (N, k), k >= N.

    X X' has the eigenvector 1 with eigenvalue 0. A Householder reflection P = I - 2 v v' takes it
    to the first axis; with H the other rows of P and H X X' H' = L L',

        Z = H' L,    X = Z Q',   Q = X' H' L^-T with orthonormal columns.

    A probe that knows its weights by ||W||^2 and x'W alone is the same in z = Q'x, so that its
    weights A there are W = Q A = X' B with B = H' L^-T A here.

    Attributes:
        lower: float64 (N - 1, N - 1), L.
        axis: float64 (N,), v.
        jitter: what was added to the diagonal of H X X' H' for L to exist; NaN where nothing
            helped.
        least: about the smallest eigenvalue of H X X' H'; 0 where that had no factor.
        rounding: about what rounding of X X' may change it by.
    """

    lower: Array
    axis: Array
    jitter: float
    least: float = 0.0
    rounding: float = 0.0

    def doubtful(self, added: float) -> bool:
        """Return whether rounding of X X' decides about X X' + added I in some direction."""
        return not self.rounding <= TRUSTED * (self.least + added)

    def features(self) -> np.ndarray:
        """Return Z, float64 (N, N - 1)."""
        return to_host(self._lifted(self.lower))

    def row_weights(self, coef: np.ndarray) -> np.ndarray:
        """Return B, float64 (N, C), for weights A (N - 1, C) of Z."""
        a = beside(coef, self.lower)
        return to_host(self._lifted(solve_lower(self.lower[None], a[None], transpose=True)[0]))

    def _lifted(self, rows: Array) -> Array:
        """Return H' M, (N, n), for M (N - 1, n)."""
        xp = array_namespace(rows)
        nothing = xp.zeros((1, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        out = xp.concat([nothing, rows], axis=0)
        out -= 2 * self.axis[:, None] * (self.axis[1:] @ rows)
        return out


def rotation(gram: Array, products: str = "float64") -> _Rotation:
    """Return the rotation for X X', float64 (N, N) of centred features; the matrix is used up.

    `products` is the dtype in which its entries were computed. Rows that are
    equal, or fewer than N - 1 independent features, leave no factor without jitter.
    """
    xp = array_namespace(gram)
    n = len(gram)
    axis = xp.full((n,), n**-0.5, dtype=gram.dtype, device=gram.device)
    axis[0] += 1.0
    axis /= xp.sqrt(xp.sum(axis * axis))
    along = gram @ axis
    half = 2 * along - 2 * (axis @ along) * axis
    # (I - 2 v v') K (I - 2 v v') = K - v h' - h v', h = 2 K v - 2 (v'K v) v
    gram -= axis[:, None] * half
    gram -= half[:, None] * axis
    inner = xp.asarray(gram[None, 1:, 1:], copy=True)
    factors = factorise(inner, products=products)
    mean, jitter = float(xp.mean(xp.linalg.diagonal(inner))), float(factors.jitter[0])
    least = mean * float(factors.least[0]) if jitter == 0 else 0.0
    return _Rotation(factors.lower[0], axis, jitter, least, mean * float(factors.rounding[0]))


_WORTH = 4.0
"""How many times fewer operations another way must take than the moments of all features."""

LEAST_TILE = 4096
"""Features of all rows that are at least held at once."""


@dataclass(frozen=True)
class Problem:
    """Sizes of the problem that is to be solved.

    Attributes:
        n_rows: N.
        n_features: D.
        n_outputs: C, or T.
        penalties: R.
        memory: bytes that arrays may take where they are computed with.
        dual: whether the solver can be solved in the dual.
        reading: bytes that wide blocks take while they are read, and orders of all features.
        host: bytes that arrays may take on the host, beside a device; None for `memory`.
        logits: whether what is given for several labels are logits, and not their 0 or 1.
    """

    n_rows: int
    n_features: int
    n_outputs: int
    penalties: int
    memory: int
    dual: bool = True
    reading: int = 0
    host: int | None = None
    logits: bool = False

    @property
    def free(self) -> int:
        """Bytes beside what reading takes."""
        return self.memory - self.reading

    def primal_bytes(self, union: int, longest: int) -> int:
        """Bytes for moments of `union` features, and factors of a chain of `longest`."""
        moments = 8 * union * (3 * union + 3 * self.n_outputs)
        return spared(moments + 8 * longest * (5 * longest + 2 * self.n_outputs))

    def dual_bytes(self, longest: int) -> int:
        """Bytes for X X', its rotation, the probes on that, the narrowest tile, and one probe."""
        n, width = self.n_rows, min(LEAST_TILE, self.n_features)
        matrices = self.primal_bytes(n, n) + 8 * 5 * n * n
        return matrices + 24 * n * width + spared(8 * longest * (self.n_outputs + 4))

    def tile(self, longest: int, itemsize: int) -> int:
        """Features of all rows, of so many bytes each, that fit on the host beside `dual_bytes`."""
        granted = self.memory if self.host is None else self.host
        free = max(0, granted - self.reading - self.dual_bytes(longest)) * 7 // 8
        return min(self.n_features, LEAST_TILE + free // (itemsize * self.n_rows))

    def primal_work(self, union: int, lengths: Sequence[int]) -> float:
        """Multiplications for moments of `union` features, and one factor a chain and penalty."""
        factors = sum(float(length) ** 3 for length in lengths) / 3
        return self.n_rows * float(union) ** 2 + self.penalties * factors

    def dual_work(self, lengths: Sequence[int], n_prefixes: int) -> float:
        """Multiplications for X X' along the chains, and one problem in N a prefix."""
        n = float(self.n_rows)
        return n * n * sum(lengths) + n_prefixes * n**3 * (2 + self.penalties / 3)


@dataclass(frozen=True)
class Cut:
    """Some prefixes of a chain.

    Attributes:
        number: which chain.
        chain: the whole of it.
        prefixes: int64 (p,), which prefixes, rising; at least one.
    """

    number: int
    chain: Chain
    prefixes: np.ndarray

    @property
    def length(self) -> int:
        """The features of the largest of them."""
        return self.chain.sizes[self.prefixes[-1]]

    def made(self) -> Chain:
        """Return these prefixes as a chain."""
        return replace(
            self.chain,
            order=self.chain.order[: self.length],
            sizes=tuple(self.chain.sizes[p] for p in self.prefixes),
            fractions=tuple(self.chain.fractions[p] for p in self.prefixes),
        )


@dataclass(frozen=True)
class _WidePart:
    """Prefixes that are solved together.

    Attributes:
        cuts: which.
        dual: whether in the dual; else with the moments of the features that they touch.
    """

    cuts: list[Cut]
    dual: bool


Plan = list[_WidePart] | None
"""None: all at once, with the moments of all features."""


def wide_plan(problem: Problem, chains: Sequence[Chain]) -> Plan:
    """Return how to solve the prefixes of these chains with the fewest multiplications that fit.

    The moments of all features, shared by all chains, are the rule. Where they do not fit into
    memory, or another way is much less work, prefixes of at most t features are solved with the
    moments of the features that their chains touch, as many chains at a time as fit, and longer
    ones in the dual; t is the size with the least work.

    Raises:
        MemoryBudgetError: some prefix fits neither way; the message says what would do.
    """
    lengths = [chain.length for chain in chains]
    whole = problem.primal_bytes(problem.n_features, max(lengths)) <= problem.memory
    if not problem.dual or (whole and problem.n_features <= problem.n_rows):
        return None
    sizes = sorted({size for chain in chains for size in chain.sizes})
    limits = [s for s in sizes if problem.primal_bytes(s, s) <= problem.free]
    options = [_parts(problem, chains, limit) for limit in [0, *limits]]
    works = [np.inf if parts is None else _work(problem, parts) for parts in options]
    best = int(np.argmin(works))
    if whole and problem.primal_work(problem.n_features, lengths) <= _WORTH * works[best]:
        return None
    if options[best] is None:
        if problem.n_features <= problem.n_rows:
            return None  # the solver's own arithmetic says exactly what would do
        raise _too_little(problem, sizes[-1])
    return options[best]


def touched(cuts: Sequence[Cut], n_features: int) -> np.ndarray:
    """Return which features the prefixes touch, bool (D,)."""
    mask = np.zeros(n_features, bool)
    for cut in cuts:
        mask[cut.chain.order[: cut.length]] = True
    return mask


def _parts(problem: Problem, chains: Sequence[Chain], limit: int) -> list[_WidePart] | None:
    """Return the parts if prefixes up to `limit` features are primal; None if one does not fit."""
    short, long = _cuts(chains, 0, limit), _cuts(chains, limit, np.inf)
    if long and problem.dual_bytes(max(cut.length for cut in long)) > problem.free:
        return None
    groups: list[list[Cut]] = []
    for cut in short:
        if groups and _fits(problem, [*groups[-1], cut]):
            groups[-1].append(cut)
        elif _fits(problem, [cut]):
            groups.append([cut])
        else:
            return None
    parts = [_WidePart(group, dual=False) for group in groups]
    return [*parts, _WidePart(long, dual=True)] if long else parts


def _cuts(chains: Sequence[Chain], above: float, limit: float) -> list[Cut]:
    """Return the prefixes of each chain whose sizes lie in (above, limit], if it has any."""
    kept = [np.flatnonzero([above < size <= limit for size in chain.sizes]) for chain in chains]
    return [
        Cut(number, chain, own)
        for number, (chain, own) in enumerate(zip(chains, kept, strict=True))
        if own.size
    ]


def _fits(problem: Problem, cuts: Sequence[Cut]) -> bool:
    longest = max(cut.length for cut in cuts)
    union = int(touched(cuts, problem.n_features).sum())
    return problem.primal_bytes(union, longest) <= problem.free


def _work(problem: Problem, parts: Sequence[_WidePart]) -> float:
    work = 0.0
    for part in parts:
        lengths = [cut.length for cut in part.cuts]
        if part.dual:
            work += problem.dual_work(lengths, sum(len(cut.prefixes) for cut in part.cuts))
        else:
            work += problem.primal_work(int(touched(part.cuts, problem.n_features).sum()), lengths)
    return work


def _too_little(problem: Problem, largest: int) -> MemoryBudgetError:
    features, rows = problem.primal_bytes(largest, largest), problem.dual_bytes(largest)
    return MemoryBudgetError(
        f"{text(problem.memory)} of memory is too little for probes on {largest} features of "
        f"{problem.n_rows} rows, which need a matrix of either by itself: allow at least "
        f"{text(min(features, rows) + problem.reading)}, or take smaller fractions"
        + (" or fewer rows" if rows < features else "")
    )


_STEEP = 1e3
"""Lengths of a class's coefficients, per deviation of its targets, that float32 rows would blur."""

_NEGLIGIBLE = 1e-3
"""Share of a penalty by which it may be larger without a remark."""

MAX_ROWS = 2048
"""Rows gathered at once where weights are made or rows are scored."""


class DualFit(Fitted):
    """Probes of chains whose prefixes are solved in the N x N dual.

    Probes with the penalty (l2/2) ||W||^2 have weights W = X'B, combinations of the train rows, and
    know of the features only the inner products X X'. So each prefix is rotated to N - 1 features
    with the same inner products (`featstore.probe.solvers.dual`), and the solver does the rest: the
    probes
    are exactly those of the k features. What is kept of each is B (N, C) and the intercept.

    Arguments:
        solve: the solver's own fit.
        train: N rows.
        axes: which probe is which.
        settings: how to solve.
        options: the solver's own.
        problem: of these rows, for the memory that it leaves to tiles.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: the matrices do not fit into `settings.memory`.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class; empty for targets.
        n_train: N.
        n_targets: T, or 0.
        facts: the solver's own; where more on the diagonal of X X' was needed than l2 puts there,
            "jitter=<value>", by how much l2 is larger for it, is part of the status.
    """

    def __init__(
        self,
        solve: Callable[..., Any],
        train: RowBlocks,
        axes: Axes,
        settings: Settings,
        options: Mapping[str, Any],
        problem: Problem,
    ):
        self.axes, self.n_features, self.n_train = axes, train.n_features, train.n_rows
        self.n_targets, self._labels = targets_of(train), train.labels()
        self._train, self._settings, self._dtype = train, settings, first_rows(train)[1]
        self._dtypes = [self._dtype] * len(axes.chains)
        self._steepness: dict[int, float] = {}
        # logits of labels are not near them, as predicted numbers are
        numbers = self.n_targets and not problem.logits
        self._centre = target_means(train) if numbers else np.zeros(max(self.n_targets, 1))
        self._units = target_units(train) if numbers else np.ones(1)
        self._solve, self._options = solve, options
        stored = next(iter(train))[0].dtype.itemsize
        self._tile = problem.tile(max(chain.length for chain in axes.chains), stored)
        self._held = 3 * 8 * self.n_train**2 + stored * self.n_train * self._tile
        self._rows: dict[int, np.ndarray] = {}
        self._intercepts: dict[int, np.ndarray] = {}
        self._scalings = [
            Scaling(np.zeros(chain.length), np.ones(chain.length)) for chain in axes.chains
        ]
        self._known: dict[int, dict[str, Any]] = {}
        self._asked = np.arange(len(axes))
        self._begin()

    def _begin(self) -> None:
        self._chains(self._asked)

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """The solver's facts of each probe."""
        some = next(iter(self._known.values()), {"status": ""})
        nothing = {name: "" if isinstance(value, str) else np.nan for name, value in some.items()}
        found = [self._known.get(probe, nothing) for probe in range(len(self.axes))]
        return {name: np.array([facts[name] for facts in found]) for name in some}

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every row to `scores`, as many probes as fit a pass."""
        for number, probes in self._scored():
            dtype = self._dtypes[number]
            coefficients = self._coefficients(number, probes, dtype)
            done = 0
            for x, labels in self._standardized(test, number, "test", dtype):
                for probe, coef in zip(probes, coefficients, strict=True):
                    with full_precision():
                        logits = x[:, : len(coef)] @ coef
                    self._give(scores, probe, logits, labels)
                scores.finish(labels)
                done += len(labels)
                self._settings.progress("test rows", done, test.n_rows)

    def _give(self, scores: LogitSink, probe: int, logits: Array, labels: Array) -> None:
        """Feed logits (r, C) without intercept to `scores`, or predictions (r, T) in units."""
        xp = array_namespace(logits)
        intercept = self._intercepts[probe]
        if self.n_targets:
            less, unit = (beside(a, logits) for a in (self._centre, self._units))
            logits = xp.astype(logits, xp.float64) * unit
            logits += beside(intercept - self._centre, logits)
            labels = xp.reshape(labels, (-1, self.n_targets)) - less
        else:
            logits += beside(intercept, logits, logits.dtype)
        scores.add(np.array([probe]), logits[None], labels)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, by one pass over the train rows."""
        number, features = int(self.axes.chain[probe]), self.axes.features(probe)
        coef = to_host(self._coefficients(number, [probe], "float64")[0])
        scaling, k = self._scalings[number], len(features)
        return Weights.from_standardized(
            features,
            coef * self._units,
            self._intercepts[probe],
            scaling.mean[:k],
            scaling.scale[:k],
        )

    def _chains(self, probes: np.ndarray) -> None:
        """Solve some probes, chain by chain; keep the facts of each."""
        axes, done = self.axes, 0
        of_chain = axes.chain[probes]
        for number in range(len(axes.chains)):
            own = probes[of_chain == number]
            if own.size:
                self._chain(number, own)
                done += len(own)
                self._settings.progress("probes", done, len(probes))

    def _chain(self, number: int, probes: np.ndarray) -> None:
        """Solve some probes of a chain.

        Where rounding of float32 products decides about some prefix, all are solved with float64
        ones.
        """
        for dtype in dict.fromkeys((self._dtype, "float64")):
            facts = self._in_precision(number, probes, dtype)
            if facts is not None:
                steep = max(self._steepness[probe] for probe in facts)
                self._dtypes[number] = "float64" if steep > _STEEP else dtype
                self._known |= facts
                return
        raise AssertionError("float64 products are never refused")

    def _in_precision(
        self, number: int, probes: np.ndarray, dtype: str
    ) -> dict[int, dict[str, Any]] | None:
        """Return the facts of some probes of a chain; None if float64 products are needed."""
        axes, facts = self.axes, {}
        of_prefix, of_penalty = axes.prefix[probes], axes.penalty[probes]
        prefixes = np.unique(of_prefix)
        cut = Cut(number, axes.chains[number], prefixes).made()
        added = self.n_train * min(axes.penalties[penalty] for penalty in np.unique(of_penalty))
        scaling = self._scalings[number]
        for place, upper in _grams(self._train, cut, self._tile, dtype, self._settings, scaling):
            gram = array_namespace(upper).asarray(upper, copy=True)
            mirror(gram)
            turned = rotation(gram, dtype)
            if dtype == "float32" and turned.doubtful(added):
                return None
            facts |= self._prefix(probes[of_prefix == prefixes[place]].tolist(), turned)
        return facts

    def _prefix(self, probes: Sequence[int], turned: _Rotation) -> dict[int, dict[str, Any]]:
        """Solve one prefix for the penalties of these probes, on its rotated features."""
        z = ArrayBlocks(turned.features(), self._labels, self._train.n_classes or None)
        whole = Chain(np.arange(z.n_features), (z.n_features,), (1.0,), "rotated")
        own = replace(
            self._settings,
            standardize=False,
            memory=self._settings.memory - self._held,
            moments_cache=None,
            progress=silent,
        )
        penalties = tuple(self.axes.penalties[r] for r in self.axes.penalty[list(probes)])
        fitted = self._solved(z, whole, penalties, own)
        self.class_counts = fitted.class_counts
        self._keep(probes, fitted, turned, z)
        facts = {}
        for place, probe in enumerate(probes):
            facts[probe] = {name: values[place] for name, values in fitted.facts.items()}
            penalty = self.axes.penalties[self.axes.penalty[probe]]
            further = self._remark(turned.jitter / self.n_train, penalty)
            facts[probe]["status"] = combined(facts[probe]["status"], further)
        return facts

    def _remark(self, added: float, penalty: float) -> str:
        """Return the status for `added` on top of a penalty.

        With X X' + N added I in place of X X' every probe is one with so much more of a penalty.
        """
        if np.isnan(added):
            return Status.SINGULAR
        return jitter(added) if added > _NEGLIGIBLE * penalty else Status.OK

    def _solved(
        self, z: RowBlocks, whole: Chain, penalties: tuple[float, ...], settings: Settings
    ) -> Any:
        return self._solve(z, [whole], penalties, settings, **self._options)

    def _keep(self, probes: Sequence[int], fitted: Any, turned: _Rotation, z: RowBlocks) -> None:
        """Keep what these probes are made of again: B (N, C), and the intercept."""
        for place, probe in enumerate(probes):
            weights = fitted.weights(place)
            self._rows[probe] = turned.row_weights(weights.coef)
            self._intercepts[probe] = weights.intercept
            lengths = np.linalg.norm(weights.coef, axis=0)
            self._steepness[probe] = float((lengths / self._units).max())

    def _scored(self) -> Iterator[tuple[int, list[int]]]:
        """Yield a chain and probes of it whose coefficients fit into half of the memory."""
        item = 8 if self._dtype == "float64" else 4
        outputs = len(next(iter(self._intercepts.values())))
        axes = self.axes
        for number in range(len(axes.chains)):
            probes, held = [], 0
            for probe in self._asked[axes.chain[self._asked] == number].tolist():
                size = item * int(axes.size[probe]) * outputs
                if probes and held + size > self._settings.memory // 2:
                    yield number, probes
                    probes, held = [], 0
                probes.append(probe)
                held += size
            if probes:
                yield number, probes

    def _coefficients(self, number: int, probes: Sequence[int], dtype: str) -> list[Array]:
        """Return W = X'B (k, C) of probes of one chain, by one pass over the train rows.

        Those of predicted numbers are per unit of the targets.
        """
        backend = self._settings.backend
        contributions = [backend.put(self._rows[probe] / self._units, dtype) for probe in probes]
        shapes = [(int(self.axes.size[p]), self._rows[p].shape[1]) for p in probes]
        totals = [backend.zeros(shape, dtype) for shape in shapes]
        done = 0
        for x, labels in self._standardized(self._train, number, "train", dtype):
            for total, rows in zip(totals, contributions, strict=True):
                with full_precision():
                    total += x[:, : len(total)].T @ rows[done : done + len(labels)]
            done += len(labels)
        return totals

    def _standardized(
        self, blocks: RowBlocks, number: int, split: str, dtype: str | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """Yield rows (r, m) of a chain's features, centred and scaled as train was, and labels."""
        dtype, backend = dtype or self._dtype, self._settings.backend
        chain, scaling = self.axes.chains[number], self._scalings[number]
        wide = ColumnSubset(blocks, chain.order[: chain.length])
        row = np.dtype(dtype).itemsize * chain.length
        rows = max(1, min(self._settings.memory // (8 * row), MAX_ROWS))
        yield from gathered(wide, rows, backend, dtype, scaling.mean, split, scale=scaling.scale)


class DualPath(DualFit):
    """Probes in the dual that are solved when they are asked for, each on its own."""

    def _begin(self) -> None:
        self.class_counts = np.zeros(0, np.int64)
        if not self.n_targets:
            self.class_counts = np.bincount(self._labels, minlength=self._train.n_classes)

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes; rotated features are other ones each time, and none is a start."""
        self._asked = np.asarray(probes, np.int64)
        self._chains(self._asked)

    def _solved(
        self, z: RowBlocks, whole: Chain, penalties: tuple[float, ...], settings: Settings
    ) -> Any:
        # rotated features of one part say nothing of those of another
        fitted = self._solve(z, [whole], penalties, settings, **self._options | {"metrics": None})
        fitted.solve(np.arange(len(penalties)))
        return fitted

    def solution(self, probe: int) -> None:
        """Return where a further one may start, which is nowhere."""
        return

    def forget(self, kept: np.ndarray) -> None:
        """Drop what is known of all but these probes."""
        for probe in set(self._rows) - set(np.asarray(kept).tolist()):
            del self._rows[probe], self._intercepts[probe]


class DualLeaveOneOut(DualFit):
    """Probes in the dual, to be scored on the rows that they were fitted on, each left out.

    What is kept of each is the left-out logits of every row; of numbers, less the targets' mean.
    """

    def score(self, train: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on train rows, that row left out, to `scores`."""
        start, put = as_blocks(train).start, self._settings.backend.put
        if not train.n_rows:
            return
        labels = train.labels()
        if self.n_targets:
            labels = labels.reshape(-1, self.n_targets) - self._centre
        labels = put(labels)
        for probe, logits in self._rows.items():
            own = logits[start : start + train.n_rows]
            scores.add(np.array([probe]), put(own[None]), labels)
        scores.finish(labels)

    def _keep(self, probes: Sequence[int], fitted: Any, turned: _Rotation, z: RowBlocks) -> None:
        self._steepness |= dict.fromkeys(probes, 0.0)
        kept = _Kept(len(probes))
        fitted.score(z, kept)
        self._rows |= dict(zip(probes, kept.logits(), strict=True))


class _Kept(LogitSink):
    """Stands where scores stand, and keeps every logit."""

    def __init__(self, n_probes: int):
        self._pieces: list[list[np.ndarray]] = [[] for _ in range(n_probes)]

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        for probe, own in zip(probes, to_host(logits), strict=True):
            self._pieces[probe].append(own.copy())

    def finish(self, labels: Array) -> None:
        pass

    def logits(self) -> list[np.ndarray]:
        return [np.concatenate(pieces) for pieces in self._pieces]
