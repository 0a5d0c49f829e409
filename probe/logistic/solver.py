"""Exact softmax regression for every chain, prefix and penalty, in lockstep, with a certificate."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, full_precision
from probe.axes import Axes
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.errors import UsageError
from probe.forward import like
from probe.kernels import permuted_blocks
from probe.logistic.lockstep import Descent, Running, Solution, Standing, minimise
from probe.logistic.lockstep_plan import lockstep_plan
from probe.logistic.passes import add_up_logits
from probe.logistic.sheets import Sheet, lay_out
from probe.logistic.stages import stages
from probe.logistic.tiles import Tiles
from probe.logistic.whitening import LARGEST, Whitening
from probe.metrics import Scores
from probe.moments import Moments
from probe.moments_cache import cached_moments
from probe.ranks import share
from probe.settings import Settings
from probe.weights import Weights

REMEDIES = {
    "max_iter": "the steps allowed did not suffice: give a larger max_iter, tol or l2",
    "line_search": "rounding hides any further decrease: give a larger tol or l2, or float64 "
    "features",
    "separable": "without a penalty the weights of separated classes grow for ever: give an l2 "
    "above 0",
}

UNFINISHED = ("max_iter", "line_search")

TOL = 1e-4
MAX_ITER = 2000
# first trial, in gradients, from zero and from the solution of another penalty
COLD_STEP, WARM_STEP = 4.0, 1.0


def fit(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    fast: bool = False,
) -> "LogisticFit":
    """Return every softmax probe, the minimisers of

        f(W, b) = mean over rows of -log softmax(W'x + b)[y] + (l2/2) ||W||^2,

    where x are the centred, scaled features of the probe's prefix; b is free. With three classes
    or more scikit-learn's `LogisticRegression(C=1 / (N * l2))` has the same solution; with two,
    where it penalises one vector w = W_1 - W_0 in place of two, `C=2 / (N * l2)`.

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

    With `fast` the first steps on a CUDA device, down to a norm of 1e-3, are of products whose
    factors are rounded to TF32. The steps after them, and all that is reported, are of full
    precision, so that `tol` means the same.

    Raises:
        UsageError: tol or max_iter cannot be used.
        DataError: train cannot be probed.
        MemoryBudgetError: not even one probe fits into `settings.memory`.
    """
    if not (np.isfinite(tol) and tol > 0):
        raise UsageError(f"tol is {tol}: a positive number is wanted, 1e-4 is usual")
    if not isinstance(max_iter, int | np.integer) or max_iter < 1:
        raise UsageError(f"max_iter is {max_iter}: at least one step is wanted, 2000 is usual")
    axes = Axes(tuple(chains), tuple(penalties))
    return LogisticFit(train, axes, settings, float(tol), int(max_iter), fast=fast)


class LogisticFit:
    """Softmax probes and the certificate of each.

    Arguments:
        goals: by probe number, an objective at which its run may end before `tol` is reached, so
            that it can be compared with a solver that ends there; None for none.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class.
        facts: "status", (P,) as in `fit`; "objective", float64 (P,), f in nats; "gradient_norm",
            float64 (P,), sqrt(g'H g / f), what `tol` bounds; "iterations", int64 (P,).
        passes: passes over the train rows, all penalties and groups together.
    """

    def __init__(
        self, train: RowBlocks, axes: Axes, settings: Settings, tol: float, max_iter: int,
        goals: Mapping[int, float] | None = None, fast: bool = False,
    ):  # fmt: skip
        self.axes, self.n_features, self.passes = axes, train.n_features, 0
        self._settings, self._tol, self._max_iter = settings, tol, max_iter
        self._goals = goals or {}
        moments = cached_moments(train, settings)
        self.class_counts = moments.counts
        self._present = np.flatnonzero(moments.counts)
        self._mean, self._scale = moments.mean, moments.scale(settings.standardize)
        # features are solved at unit variance, raw ones with a penalty each, so that no scale
        # decides about steps or their end; one that never changes becomes 0
        self._unit = np.where(moments.variance == 0, np.inf, moments.scale())
        self._ratio = self._scale / self._unit
        self._dtype = moments.precision
        self._stages = stages(fast, settings.backend, self._dtype)
        self._plan = lockstep_plan(settings, axes, self.n_features, len(self._present), self._dtype)
        self._solutions: dict[int, Solution] = {}
        self._solve(train, moments)
        in_order = [self._solutions[probe] for probe in range(len(axes))]
        self.facts = {
            "status": np.array([s.status for s in in_order]),
            "objective": np.array([s.objective for s in in_order]),
            "gradient_norm": np.array([s.gradient_norm for s in in_order]),
            "iterations": np.array([s.iterations for s in in_order]),
        }

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        backend = self._settings.backend
        tiles = self._tiles(test, "test", self._plan.kept if len(self._plan.scored) > 1 else 0)
        for numbers in self._plan.scored:
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
                        add_up_logits([sheet], [weights], tile, logits, [place])
                    by_row = backend.xp.permute_dims(self._with_absent(logits), (0, 2, 1))
                    scores.add(sheet.numbers, by_row, labels)
                scores.finish(labels)
                done += len(labels)
                self._settings.progress("test rows", done, test.n_rows)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        held = self._solutions[probe].coefficients.astype(np.float64)
        features, classes = self.axes.features(probe), len(self.class_counts)
        coef = np.zeros((len(features), classes))
        intercept = np.full(classes, -np.inf)
        coef[:, self._present] = held[:, 1:].T * self._ratio[features, None]
        intercept[self._present] = held[:, 0]
        mean, scale = self._mean[features], self._scale[features]
        return Weights.from_standardized(features, coef, intercept, mean, scale)

    def _solve(self, train: RowBlocks, moments: Moments) -> None:
        axes = self.axes
        lookup = np.cumsum(moments.counts > 0) - 1
        tiles = self._tiles(share(train), "train", self._plan.kept, lookup)
        correlation = self._settings.backend.put(moments.covariance())
        largest_first = np.argsort(axes.penalties)[::-1].tolist()
        for group in self._plan.groups:
            before = None
            for penalty in largest_first:
                numbers = np.array([axes.prefixes(c, penalty)[p] for c, p in group])
                running = self._running(numbers, correlation, penalty, before)
                self._solutions |= minimise(tiles, running, self._reporter())
                before = penalty

    def _running(
        self, numbers: np.ndarray, correlation: Array, penalty: int, before: int | None
    ) -> list[Running]:
        """Return the probes of one penalty, each where the penalty `before` ended."""
        l2, n_rows = self.axes.penalties[penalty], int(self.class_counts.sum())
        whitenings = self._whitenings(numbers, correlation, l2)
        first_step = COLD_STEP if before is None else WARM_STEP
        descent = Descent(l2, self._tol, self._max_iter, first_step, self._goals, self._stages)
        running = []
        for sheet in self._sheets(numbers):
            start = self._start(sheet) if before is None else self._ended(sheet, before)
            running.append(Running(sheet, whitenings, start, n_rows, descent))
        return running

    def _whitenings(
        self, numbers: np.ndarray, correlation: Array, l2: float
    ) -> dict[int, Whitening]:
        xp, chain, size = array_namespace(correlation), self.axes.chain, self.axes.size
        with np.errstate(over="ignore"):  # of features of unit variance, which raw ones are not
            penalties = np.minimum(l2 * self._ratio**2, LARGEST)
        whitenings = {}
        for number in np.unique(chain[numbers]).tolist():
            longest = int(size[numbers[chain[numbers] == number]].max())
            features = self.axes.chains[number].order[:longest]
            order, penalty = map(self._settings.backend.put, (features, penalties[features]))
            own = permuted_blocks(correlation, order[None], xp.zeros_like(correlation[0, :1]))[0]
            whitenings[number] = Whitening(own, penalty, self._dtype)
        return whitenings

    def _start(self, sheet: Sheet) -> np.ndarray:
        """Return coefficients (P, C, 1 + m) of probes that see no feature: the log priors."""
        start = np.zeros((len(sheet), len(self._present), sheet.length))
        priors = np.log(self.class_counts[self._present])
        start[:, :, 0] = priors - priors.mean()
        return start

    def _ended(self, sheet: Sheet, penalty: int) -> np.ndarray:
        """Return the solutions (P, C, 1 + m) of the sheet's probes, but for another penalty."""
        axes = self.axes
        places = zip(axes.chain[sheet.numbers], axes.prefix[sheet.numbers], strict=True)
        return self._stacked(sheet, [axes.prefixes(c, penalty)[p] for c, p in places])

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
        if len(self._present) == len(self.class_counts):
            return logits
        shape = (len(logits), len(self.class_counts), logits.shape[2])
        out = xp.full(shape, -xp.inf, **like(logits))
        out[:, self._settings.backend.put(self._present)] = logits
        return out

    def _tiles(
        self, blocks: RowBlocks, split: str, kept: int, lookup: np.ndarray | None = None
    ) -> Tiles:
        return Tiles(
            blocks, self._plan.rows, self._mean, self._unit, self._dtype,
            self._settings.backend, split, kept, lookup,
        )  # fmt: skip

    def _sheets(self, numbers: np.ndarray) -> list[Sheet]:
        backend, classes = self._settings.backend, len(self._present)
        return lay_out(self.axes, numbers, self.n_features, classes, backend)

    def _reporter(self) -> Callable[[Standing], None]:
        done = len(self._solutions)

        def report(standing: Standing) -> None:
            self.passes += 1
            self._settings.progress(
                "probes", done + int(standing.worth), len(self.axes),
                converged=done + standing.solved, passes=self.passes,
                objective=f"{standing.objective:.4f}",
            )  # fmt: skip

        return report
