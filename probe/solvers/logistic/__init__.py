"""Softmax probes: every prefix of every chain, solved together by L-BFGS in lockstep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    full_precision,
    like,
)
from featstore.probe.kernels import permuted_blocks
from featstore.probe.memory import MIN_ROWS, Settings, rows_within, share
from featstore.probe.metrics import LogitSink
from featstore.probe.moments import cached_moments
from featstore.probe.rows import RowBlocks, targets_of
from featstore.probe.solvers import Logistic
from featstore.probe.solvers.logistic.descent import (
    MOST_CLASSES,
    Descent,
    Running,
    Solution,
    Standing,
    minimise,
)
from featstore.probe.solvers.logistic.lbfgs import PAIRS
from featstore.probe.solvers.logistic.metric import LARGEST, Whitening
from featstore.probe.solvers.logistic.products import (
    Sheet,
    Tiles,
    lay_out,
    set_logits,
    stages,
)
from featstore.probe.solvers.weights import Fitted, Weights, n_outputs
from featstore.probe.subsets import Axes, Chain

# rows of a tile: on a CPU between these, as such a working set holds, a few caches full: products
# of 2,048 rows run a fifth faster than of 384, which would fit into one; on an accelerator as many
# as fit
_CPU_ROWS = (128, 2048)
_CPU_BYTES = 128 << 20
_ACCELERATOR_ROWS = 16384
_ROW_STEP = 64
# vectors of a probe that live at once, besides its curvature pairs: points, directions, trials,
# gradients and their copies, some of them in float64
VECTORS = 16


@dataclass(frozen=True)
class _LockstepPlan:
    """Pieces that are held at once.

    Attributes:
        rows: rows of a tile.
        kept: bytes that tiles may occupy between passes.
        groups: for each group that is solved together its (chain, prefix) places, of any penalty.
        scored: for each group that is scored together its probes, int64.
    """

    rows: int
    kept: int
    groups: list[list[tuple[int, int]]]
    scored: list[np.ndarray]


def _lockstep_plan(
    settings: Settings, axes: Axes, n_features: int, n_classes: int, dtype: str, thrice: bool
) -> _LockstepPlan:
    """Return the plan; a third of what is free is for probes, the rest for tiles.

    Where products are made `thrice`, coefficients, features and logits of a pass are held split.

    Raises:
        MemoryBudgetError: the moments, one probe of the longest chain and a few rows do not fit.
    """
    item = 8 if dtype == "float64" else 4
    longest = max(chain.length for chain in axes.chains)
    # the Gram, the covariance and a copy; then a chain's part of it while it is factorised
    fixed = 8 * (3 * n_features**2 + 5 * longest**2)
    more = 3 * thrice
    one = _chain_bytes(longest, item, n_classes) + _probe_bytes(longest, n_classes, item, more)
    row = item * ((4 + more) * n_features + 2 * longest + (3 + more) * n_classes)
    rows_within(settings.memory, fixed + one, row, MIN_ROWS, "the probes of one chain")
    free = settings.memory - fixed - one - MIN_ROWS * row
    groups = _grouped(axes, n_classes, item, one + free // 3, more)
    widest = max(_row_bytes(axes, group, n_classes, item, more) for group in groups)
    rows = _rows(settings, row + widest, one, free // 6)
    kept = max(0, free - free // 3 - rows * (row + widest))
    return _LockstepPlan(rows, kept, groups, _scored(axes, n_classes, item, free // 8))


def _rows(settings: Settings, row: int, one: int, free: int) -> int:
    fitting = MIN_ROWS + free // row
    if settings.backend.device != "cpu":
        return int(min(fitting, _ACCELERATOR_ROWS))
    least, most = _CPU_ROWS
    cached = min(max(_CPU_BYTES // row, least), most)
    rows = min(fitting, cached)
    return int(rows if rows < _ROW_STEP else rows // _ROW_STEP * _ROW_STEP)


def _probe_bytes(size: int, n_classes: int, item: int, more: int) -> int:
    # between classes: moments, S, its inverse, and those of before
    between = 8 * 6 * n_classes**2 if n_classes <= MOST_CLASSES else 0
    return item * n_classes * (1 + size) * (2 * PAIRS + VECTORS + more) + between


def _chain_bytes(length: int, item: int, n_classes: int) -> int:
    # two triangles and the inverse of one, which is in the precision of the rows; of two classes
    # the weighted Gram, a copy, and such a triangle and inverse of it
    weighted = (24 + item) * (n_classes == 2)
    return (16 + item + weighted) * (1 + length) ** 2


def _row_bytes(
    axes: Axes, group: list[tuple[int, int]], n_classes: int, item: int, more: int
) -> int:
    """Return what one row takes in a pass: each chain's features, logits and their softmax."""
    chains = {chain for chain, _ in group}
    features = sum(1 + axes.chains[chain].length for chain in chains)
    features += 2 * max(1 + axes.chains[chain].length for chain in chains) * (n_classes == 2)
    return item * ((1 + more) * features + len(group) * ((1 + more) * n_classes + 6))


def _grouped(
    axes: Axes, n_classes: int, item: int, memory: int, more: int
) -> list[list[tuple[int, int]]]:
    groups: list[list[tuple[int, int]]] = []
    used = 0
    for number, chain in enumerate(axes.chains):
        for prefix in range(len(chain)):
            # arrays are as long as the longest prefix of the chain that is with it
            probe = _probe_bytes(chain.length, n_classes, item, more)
            new = not groups or groups[-1][-1][0] != number
            needed = probe + (_chain_bytes(chain.length, item, n_classes) if new else 0)
            if not groups or used + needed > memory:
                groups.append([])
                used, needed = 0, probe + _chain_bytes(chain.length, item, n_classes)
            groups[-1].append((number, prefix))
            used += needed
    return groups


def _scored(axes: Axes, n_classes: int, item: int, memory: int) -> list[np.ndarray]:
    each = 4 * item * n_classes * (1 + max(chain.length for chain in axes.chains))
    count = max(1, memory // each)
    return [np.arange(s, min(len(axes), s + count)) for s in range(0, len(axes), count)]


# of probes that are compared with each other alone
_LOOSE_TOL = 2e-2
_UNSOLVED = Solution(np.zeros((0, 0)), np.nan, np.nan, 0, "")
# first trial, in gradients, from zero and from the solution of another penalty
COLD_STEP, WARM_STEP = 2.0, 1.0


def fit(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Logistic = Logistic(),  # noqa: B008
) -> "LogisticFit":
    """Return every softmax probe, the minimisers of

        f(W, b) = mean over rows of -log softmax(W'x + b)[y] + (l2/2) ||W||^2,

    where x are the centred, scaled features of the probe's prefix; b is free. With three classes
    or more scikit-learn's `LogisticRegression(C=1 / (N * l2))` has the same solution; with two,
    where it penalises one vector w = W_1 - W_0 in place of two, `C=2 / (N * l2)`.

    Of rows that have any number of L labels each label has a probe of its own, (w, b) with

        f(w, b) = mean over rows of log(1 + exp(-y (w'x + b))) + (l2/2) ||w||^2,   y = 1 or -1,

    which is `LogisticRegression(C=1 / (N * l2))` of that label; all L advance as one, and f is
    their sum.

    All prefixes of all chains advance together, by L-BFGS in the metric of Boehning's bound, so
    that each pass over the rows serves every probe. Penalties are taken from the largest down,
    each starting where the one before ended. A probe ends as

    * "converged": g'H g <= tol^2 f, with the gradient g and the inverse curvature H that the run
      has learnt; the last fifth of its steps gained at most 200 tol^2 of f; and g'A^-1 g is at
      most 3 tol^2 f, with Boehning's bound A, in which nothing is learnt. With tol = 1e-4 f is
      then within about 1e-6 of its minimum, whatever the features' scales;
    * "max_iter": it took that many steps before;
    * "line_search": no step decreases f beyond rounding;
    * "separable": l2 is 0 and the classes are separated, so that there is no solution.

    Classes without train rows have logits of minus infinity.

    The penalty is not that of `options`, but each of `penalties`. With `options.fast` the first
    steps on a CUDA device, down to a norm of 1e-3, are of products whose factors are rounded to
    TF32. The steps after them, and all that is reported, are of full precision, so that `tol`
    means the same; where the device shows that it comes to the same, each product is then made of
    three of TF32.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one probe fits into `settings.memory`.
    """
    axes = Axes(tuple(chains), tuple(penalties))
    return LogisticFit(train, axes, settings, options.tol, options.max_iter, fast=options.fast)


def path(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Logistic = Logistic(),  # noqa: B008
    *,
    loosely: bool = False,
    metrics: "Metrics | None" = None,
) -> "LogisticPath":
    """Return softmax probes that are solved when they are asked for, some penalties at a time.

    They are those of `fit`. With `loosely` they are only to be compared with each other, for which
    a `tol` of `_LOOSE_TOL` will do. Paths of much the same rows may share their `metrics`.

    Raises:
        DataError, MemoryBudgetError: as `fit`.
    """
    tol = max(options.tol, _LOOSE_TOL) if loosely else options.tol
    axes = Axes(tuple(chains), tuple(penalties))
    return LogisticPath(
        train, axes, settings, tol, options.max_iter, fast=options.fast, metrics=metrics
    )


class Metrics:
    """Whitenings of one penalty, which serve further parts of the same rows as well.

    A metric decides about the number of steps and not about where they end.
    """

    def __init__(self):
        self._penalty, self._made = np.nan, {}

    def __call__(self, key: tuple[Any, ...], make: Callable[[], Whitening]) -> Whitening:
        """Return the whitening of a key, whose last part is a penalty, made by the first to ask."""
        if key[-1] != self._penalty:
            self._penalty, self._made = key[-1], {}
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class LogisticPath(Fitted):
    """Softmax probes that are solved when they are asked for, and the certificate of each.

    A probe starts where the last penalty of its (chain, prefix) ended, unless it is told where.

    Arguments:
        goals: by probe number, an objective at which its run may end before `tol` is reached, so
            that it can be compared with a solver that ends there; None for none.
        metrics: shared with other paths, or None.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class; empty for several labels.
        n_train, n_targets: N, and L, or 0 for classes.
        facts: "status", (P,) as in `fit`, "" where a probe has not been solved; "objective",
            float64 (P,), f in nats; "gradient_norm", float64 (P,), sqrt(g'H g / f), what `tol`
            bounds; "iterations", int64 (P,).
        passes: passes over the train rows, all penalties and groups together.
    """

    def __init__(
        self,
        train: RowBlocks,
        axes: Axes,
        settings: Settings,
        tol: float,
        max_iter: int,
        goals: Mapping[int, float] | None = None,
        fast: bool = False,
        metrics: Metrics | None = None,
    ):
        self.axes, self.n_features, self.passes = axes, train.n_features, 0
        self._settings, self._tol, self._max_iter = settings, tol, max_iter
        self._goals = goals or {}
        moments = cached_moments(train, settings)
        self.class_counts = moments.class_counts
        self.n_train, self.n_targets = train.n_rows, targets_of(train)
        self._present = (
            np.arange(self.n_targets) if self.n_targets else np.flatnonzero(moments.counts)
        )
        self._mean, self._scale = moments.mean, moments.scale(settings.standardize)
        # features are solved at unit variance, raw ones with a penalty each, so that no scale
        # decides about steps or their end; one that never changes becomes 0
        self._unit = np.where(moments.variance == 0, np.inf, moments.scale())
        self._ratio = self._scale / self._unit
        self._dtype = moments.precision
        self._stages = stages(fast, settings.backend, self._dtype)
        thrice = any(stage.thrice for stage in self._stages)
        self._plan = _lockstep_plan(
            settings, axes, self.n_features, len(self._present), self._dtype, thrice
        )
        # of several groups, all metrics would be held at once; of raw features, a penalty is in
        # units of each part's own deviations
        shared = len(self._plan.groups) == 1 and settings.standardize
        self._metrics = metrics if shared else None
        self._solutions: dict[int, Solution] = {}
        self._latest: dict[tuple[int, int], np.ndarray] = {}
        self._asked = np.zeros(0, np.int64)
        self._train, self._moments = train, moments
        self._rows: Tiles | None = None
        self._before = self._whole = 0  # probes that were solved before, and all that are to be

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """Return what is known of each probe without test rows."""
        found = [self._solutions.get(probe, _UNSOLVED) for probe in range(len(self.axes))]
        return {
            "status": np.array([s.status for s in found]),
            "objective": np.array([s.objective for s in found]),
            "gradient_norm": np.array([s.gradient_norm for s in found]),
            "iterations": np.array([s.iterations for s in found]),
        }

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, of one penalty or of several, in passes that serve all of them.

        Arguments:
            probes: int64, their numbers.
            starts: by number, standardised coefficients (C, 1 + k) of present classes to start
                from, the intercept first, as `solution` has them.
        """
        self._asked, axes, starts = np.asarray(probes, np.int64), self.axes, starts or {}
        penalty, place = (
            axes.penalty,
            list(zip(axes.chain.tolist(), axes.prefix.tolist(), strict=True)),
        )
        wanted = set(self._asked.tolist())
        self._before = 0 if self._whole else len(self._solutions)
        for group in self._plan.groups:
            numbers = np.array(
                [n for c, p in group for n in self._numbers(c, p) if n in wanted], np.int64
            )
            running = []
            for one in np.unique(penalty[numbers])[::-1].tolist():
                running += self._running(numbers[penalty[numbers] == one], one, starts)
            if running:
                self._solutions |= minimise(self._train_tiles(), running, self._reporter())
        for number in self._asked.tolist():
            self._latest[place[number]] = self._solutions[number].coefficients

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where a probe has ended, standardised coefficients (C, 1 + k); None if nowhere."""
        return self._solutions[probe].coefficients if probe in self._solutions else None

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        known = set(np.asarray(kept).tolist())
        self._solutions = {n: found for n, found in self._solutions.items() if n in known}

    def release(self) -> None:
        """Let go of train rows, which are read again when a further probe is asked for."""
        self._rows = None

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of the probes that were asked for last, on every row, to `scores`."""
        backend = self._settings.backend
        groups = [np.intersect1d(numbers, self._asked) for numbers in self._plan.scored]
        groups = [numbers for numbers in groups if len(numbers)]
        tiles = self._tiles(test, "test", self._plan.kept if len(groups) > 1 else 0)
        for numbers in groups:
            sheets = self._sheets(numbers)
            arranged = [
                sheet.arranged(backend.put(self._stacked(sheet, sheet.numbers), self._dtype))
                for sheet in sheets
            ]
            places = [slice(0, len(sheet)) for sheet in sheets]
            done = 0
            for tile, labels in tiles:
                for sheet, weights, place in zip(sheets, arranged, places, strict=True):
                    shape = (len(sheet), len(self._present), tile.shape[1])
                    logits = backend.empty(shape, self._dtype)
                    with full_precision():
                        set_logits([sheet], [weights], [sheet.taken(tile)], logits, [place])
                    by_row = backend.xp.permute_dims(self._with_absent(logits), (0, 2, 1))
                    scores.add(sheet.numbers, by_row, labels)
                scores.finish(labels)
                done += len(labels)
                self._settings.progress("test rows", done, test.n_rows)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        held = self._solutions[probe].coefficients.astype(np.float64)
        features, classes = self.axes.features(probe), n_outputs(self)
        coef = np.zeros((len(features), classes))
        intercept = np.full(classes, -np.inf)
        coef[:, self._present] = held[:, 1:].T * self._ratio[features, None]
        intercept[self._present] = held[:, 0]
        mean, scale = self._mean[features], self._scale[features]
        return Weights.from_standardized(features, coef, intercept, mean, scale)

    def _numbers(self, chain: int, prefix: int) -> list[int]:
        """Return the probes of a (chain, prefix), one a penalty."""
        return [self.axes.prefixes(chain, r)[prefix] for r in range(len(self.axes.penalties))]

    def _train_tiles(self) -> Tiles:
        if self._rows is None:
            lookup = None if self.n_targets else np.cumsum(self.class_counts > 0) - 1
            self._rows = self._tiles(share(self._train), "train", self._plan.kept, lookup)
        return self._rows

    def _running(
        self, numbers: np.ndarray, penalty: int, starts: Mapping[int, np.ndarray]
    ) -> list[Running]:
        """Return the probes of one penalty, each where it is told to start."""
        l2, n_rows = self.axes.penalties[penalty], self.n_train
        correlation = self._settings.backend.put(
            self._moments.once("correlation", self._moments.covariance_there)
        )
        whitenings = self._whitenings(numbers, correlation, l2)
        axes, running = self.axes, []
        for sheet in self._sheets(numbers):
            places = zip(axes.chain[sheet.numbers], axes.prefix[sheet.numbers], strict=True)
            known = [
                starts.get(number, self._latest.get(place))
                for number, place in zip(sheet.numbers.tolist(), places, strict=True)
            ]
            warm = all(found is not None for found in known)
            descent = Descent(
                l2,
                self._tol,
                self._max_iter,
                WARM_STEP if warm else COLD_STEP,
                self._goals,
                self._stages,
                bool(self.n_targets),
            )
            start = self._start(sheet)
            for place, found in zip(start, known, strict=True):
                if found is not None:
                    place[:, : found.shape[1]] = found
            running.append(Running(sheet, whitenings, start, n_rows, descent))
        return running

    def _whitenings(
        self, numbers: np.ndarray, correlation: Array, l2: float
    ) -> dict[int, Whitening]:
        chain, size = self.axes.chain, self.axes.size
        with np.errstate(over="ignore"):  # of features of unit variance, which raw ones are not
            penalties = np.minimum(l2 * self._ratio**2, LARGEST)
        whitenings = {}
        for number in np.unique(chain[numbers]).tolist():
            own = self.axes.chains[number]
            longest = int(size[numbers[chain[numbers] == number]].max())
            features = own.order[:longest]
            make = partial(self._whitening, correlation, features, penalties[features])
            key = (own.mode, own.seed, features.tobytes(), l2)
            whitenings[number] = self._metrics(key, make) if self._metrics else make()
        return whitenings

    def _whitening(
        self, correlation: Array, features: np.ndarray, penalties: np.ndarray
    ) -> Whitening:
        xp, put = array_namespace(correlation), self._settings.backend.put
        nothing = xp.zeros_like(correlation[0, :1])
        own = permuted_blocks(correlation, put(features)[None], nothing)[0]
        return Whitening(own, put(penalties), self._dtype)

    def _start(self, sheet: Sheet) -> np.ndarray:
        """Return coefficients (P, C, 1 + m) of probes that see no feature: the log priors."""
        start = np.zeros((len(sheet), len(self._present), sheet.length))
        if self.n_targets:
            share = self._moments.counts / self.n_train
            start[:, :, 0] = np.log(share / (1 - share))
            return start
        priors = np.log(self.class_counts[self._present])
        start[:, :, 0] = priors - priors.mean()
        return start

    def _stacked(self, sheet: Sheet, numbers: Sequence[int]) -> np.ndarray:
        """Return the solutions of these probes, float64 (P, C, 1 + m), zero beyond prefixes."""
        stacked = np.zeros((len(sheet), len(self._present), sheet.length))
        for place, number in zip(stacked, numbers, strict=True):
            held = self._solutions[number].coefficients
            place[:, : held.shape[1]] = held
        return stacked

    def _with_absent(self, logits: Array) -> Array:
        """Return logits (P, C, r) of all classes, those without train rows minus infinity."""
        xp = array_namespace(logits)
        if len(self._present) == n_outputs(self):
            return logits
        shape = (len(logits), len(self.class_counts), logits.shape[2])
        out = xp.full(shape, -xp.inf, **like(logits))
        out[:, self._settings.backend.put(self._present)] = logits
        return out

    def _tiles(
        self, blocks: RowBlocks, split: str, kept: int, lookup: np.ndarray | None = None
    ) -> Tiles:
        return Tiles(
            blocks,
            self._plan.rows,
            self._mean,
            self._unit,
            self._dtype,
            self._settings.backend,
            split,
            kept,
            lookup,
        )

    def _sheets(self, numbers: np.ndarray) -> list[Sheet]:
        backend, classes = self._settings.backend, len(self._present)
        return lay_out(self.axes, numbers, self.n_features, classes, backend)

    def _reporter(self) -> Callable[[Standing], None]:
        done, whole = len(self._solutions) - self._before, self._whole or len(self._asked)

        def report(standing: Standing) -> None:
            self.passes += 1
            self._settings.progress(
                *("probes", done + int(standing.worth), whole),
                converged=done + standing.solved,
                passes=self.passes,
                objective=f"{standing.objective:.4f}",
            )

        return report


class LogisticFit(LogisticPath):
    """Softmax probes, all of them solved, from the largest penalty down.

    Arguments, attributes: as of `LogisticPath`.
    """

    def __init__(
        self,
        train: RowBlocks,
        axes: Axes,
        settings: Settings,
        tol: float,
        max_iter: int,
        goals: Mapping[int, float] | None = None,
        fast: bool = False,
    ):
        super().__init__(train, axes, settings, tol, max_iter, goals, fast)
        self._whole = len(axes)
        for penalty in np.argsort(axes.penalties)[::-1].tolist():
            self.solve(np.flatnonzero(axes.penalty == penalty))
        self.release()
        self._asked, self._latest = np.arange(len(axes)), {}
        self._train = self._moments = None
