"""Ridge and LDA, and their exact leave-one-out scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    at_labels,
    beside,
    full_precision,
    like,
    set_at_labels,
    to_host,
)
from featstore.probe.memory import Settings
from featstore.probe.metrics import LogitSink, PassingSink
from featstore.probe.moments import Moments, cached_moments
from featstore.probe.rows import RowBlocks, has_targets
from featstore.probe.solvers.prefixes import Batch, Normal, PrefixFit, System, refined
from featstore.probe.solvers.weights import Weights
from featstore.probe.subsets import Axes, Chain, Frame
from featstore.probe.substitution import Forward

UNDETERMINED = 1000
"""Units of rounding under which what a row leaves of S (1 less its leverage) says nothing."""


def fit_ridge(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> PrefixFit:
    """Return every ridge probe, the minimisers of mean ||y - W'x - b||^2 / 2 + (l2/2) ||W||^2.

    Here x are the centred, scaled features of the probe's prefix and y its one-hot label, or the
    numbers to be predicted, so that W = (G_kk/N + l2 I)^-1 B_k/N and b is the mean of y.
    Scikit-learn's `Ridge(alpha=N * l2)` on
    the same x and y has the same solution.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one system fits into `settings.memory`.
    """
    return ridge_from_moments(cached_moments(train, settings), chains, penalties, settings)


def ridge_from_moments(
    train: Moments, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> PrefixFit:
    """Return every ridge probe of rows of which only the moments are known."""
    return PrefixFit(Axes(tuple(chains), tuple(penalties)), equations(train, settings), settings)


def equations(train: Moments, settings: Settings) -> Normal:
    """Return (X'X/N + l2 I) W = X'(Y - mean Y)/N of the centred, scaled features."""
    standardize = settings.standardize
    return train.once(("ridge", standardize), lambda: _ridge_equations(train, standardize))


def _ridge_equations(train: Moments, standardize: bool) -> Normal:
    return Normal(
        matrix=train.covariance_there(standardize),
        right=train.cross_there(standardize),
        start=train.priors,
        mean=train.mean,
        scale=train.scale(standardize),
        n_rows=train.n,
        counts=train.class_counts,
        frame=Frame(len(train.sums), lambda: train, standardize),
        of_covariance=True,
        precision=train.precision,
        squares=train.squares(standardize),
        products=train.products,
        refined=lambda: refined(train, lambda better: _ridge_equations(better, standardize)),
    )


def fit_lda(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LdaFit | LdaOfLabels":
    """Return every probe whose logits are the log-densities of classes, up to a common term.

    With m_c the class means and S the pooled covariance within classes (divisor N) of the centred,
    scaled features of a prefix, A = S + l2 I, and q_c the share of class c among the train rows,

        logits_c = x' A^-1 m_c - m_c' A^-1 m_c / 2 + log q_c.

    A class without train rows has the logit -inf. For l2 = 0 these are the decision values of
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr")` up to a term common to all classes.
    Its `shrinkage=s` stands for (1 - s) S + s t I, where t is the mean variance within classes
    over the features: that is (1 - s) A with l2 = s t / (1 - s), so that its decision values
    without log q_c are ours divided by 1 - s. Of several labels at once each has two classes of
    its own, the rows that have it and those that do not: see `LdaOfLabels`.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one system fits into `settings.memory`.

    Reference:
        Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", section 4.3.
    """
    moments = cached_moments(train, settings)
    if has_targets(train):
        axes = Axes(tuple(chains), tuple(penalties))
        return LdaOfLabels(axes, equations(moments, settings), settings)
    return lda_from_moments(moments, chains, penalties, settings)


def lda_from_moments(
    train: Moments, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LdaFit":
    """Return every LDA probe of rows of which only the moments are known."""
    return LdaFit(Axes(tuple(chains), tuple(penalties)), lda_equations(train, settings), settings)


def lda_equations(train: Moments, settings: Settings) -> Normal:
    """Return (S + l2 I) W = M, S the pooled covariance within classes and M the class means."""
    standardize = settings.standardize
    return train.once(("lda", standardize), lambda: _lda_equations(train, standardize))


def _lda_equations(train: Moments, standardize: bool) -> Normal:
    cross = train.cross_there(standardize)
    means = cross / beside(np.where(train.counts > 0, train.priors, 1.0), cross)
    return Normal(
        # what varies is what varies within the classes and what varies between their means
        matrix=train.covariance_there(standardize) - cross @ means.T,
        right=means,
        start=np.zeros(len(train.counts)),
        mean=train.mean,
        scale=train.scale(standardize),
        n_rows=train.n,
        counts=train.counts,
        frame=Frame(len(train.sums), lambda: train, standardize),
        precision=train.precision,
        squares=train.squares(standardize),
        products=train.products,
        refined=lambda: refined(train, lambda better: _lda_equations(better, standardize)),
    )


class LdaFit(PrefixFit):
    """LDA probes of all chains and penalties.

    With z = L^-1 M the quadratic term of a prefix, m_c' A^-1 m_c = sum_{j<=k} z_jc^2, is a running
    sum as the logits are.

    Attributes:
        offsets: float64 (P, C), log q_c - m_c' A^-1 m_c / 2 of each probe.
    """

    def __init__(self, axes: Axes, normal: Normal, settings: Settings):
        with np.errstate(divide="ignore"):
            log_priors = np.log(normal.counts / normal.counts.sum())
        self._log_priors = log_priors
        self.offsets = np.empty((len(axes), len(log_priors)))
        super().__init__(axes, normal, settings)

    def seen(self, batch: Batch, z: Array) -> None:
        """Sum the squares of z up to each prefix."""
        xp = array_namespace(z)
        squares, done = 0.0, 0
        for prefix, size in enumerate(batch.sizes):
            squares = squares + to_host(xp.sum(z[:, done:size] ** 2, axis=1))
            probes = [self.axes.prefixes(*system)[prefix] for system in batch.systems]
            self.offsets[probes] = self._log_priors - squares / 2
            done = size

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        super().score(test, _Offset(scores, self.offsets))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        linear = super().weights(probe)
        coef, intercept = linear.standardized
        return Weights.from_standardized(
            linear.features, coef, intercept + self.offsets[probe], linear.mean, linear.scale
        )


class LdaOfLabels(PrefixFit):
    """LDA probes of L labels at once, of which each row has any number.

    Label by label rows that have it and rows that do not are two classes. With p and q = 1 - p
    their shares, d the difference of their means and T = X'X/N + l2 I, of which the label's own
    A = S + l2 I is T - p q d d', the log-odds are

        logit = x' A^-1 d + (p - q) d' A^-1 d / 2 + log(p / q),
        A^-1 d = T^-1 d / (1 - p q d' T^-1 d).

    So all labels share one factor, that of ridge, whose coefficients are p q T^-1 d; and
    d' T^-1 d of a prefix is a running sum as in `LdaFit`.

    Attributes:
        factors, offsets: float64 (P, L), by what ridge's predictions, less the labels' means, are
            multiplied, and what is added to them then.

    Reference:
        Golub, Van Loan, "Matrix Computations", section 2.1.4, for the inverse of T - g d d'.
    """

    def __init__(self, axes: Axes, normal: Normal, settings: Settings):
        self.factors, self.offsets = np.empty((2, len(axes), len(normal.start)))
        super().__init__(axes, normal, settings)

    def seen(self, batch: Batch, z: Array) -> None:
        """Sum the squares of z, p q L^-1 d in units, up to each prefix."""
        xp, p = array_namespace(z), self._normal.start
        spread, log_odds = p * (1 - p), np.log(p) - np.log1p(-p)
        squares, done = 0.0, 0
        for prefix, size in enumerate(batch.sizes):
            squares = squares + to_host(xp.sum(z[:, done:size] ** 2, axis=1))
            between = squares * self._unit**2 / spread  # p q d' T^-1 d
            # 0 where rows are told apart without any error, and nothing is left within
            within = np.maximum(1 - between, np.finfo(np.float64).eps)
            probes = [self.axes.prefixes(*system)[prefix] for system in batch.systems]
            self.factors[probes] = 1 / (spread * within)
            self.offsets[probes] = log_odds + (2 * p - 1) * between / (2 * spread * within)
            done = size

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the log-odds of every label, probe and test row to `scores`."""
        into = _LogOdds(scores, self.factors, self.offsets, self._normal.start)
        self._score(test, self._in_units(into))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        linear = super().weights(probe)
        coef, _ = linear.standardized
        return Weights.from_standardized(
            linear.features,
            coef * self.factors[probe],
            self.offsets[probe],
            linear.mean,
            linear.scale,
        )


class _LogOdds(PassingSink):
    """Scores of log-odds, of which predictions and labels come less the labels' means."""

    def __init__(
        self, scores: LogitSink, factors: np.ndarray, offsets: np.ndarray, means: np.ndarray
    ):
        super().__init__(scores)
        self._factors, self._offsets, self._means = factors, offsets, means

    def add(self, probes: np.ndarray, predicted: Array, labels: Array) -> None:
        """Take predictions (p, rows, L), and labels (rows, L)."""
        factors, offsets, means = (
            beside(each, predicted)
            for each in (self._factors[probes, None], self._offsets[probes, None], self._means)
        )
        self._scores.add(probes, predicted * factors + offsets, labels + means)


class _Offset(PassingSink):
    """Scores of logits to which each probe's offsets are still to be added."""

    def __init__(self, scores: LogitSink, offsets: np.ndarray):
        super().__init__(scores)
        self._offsets = offsets

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        offsets = beside(self._offsets[probes, None], logits, logits.dtype)
        self._scores.add(probes, logits + offsets, labels)


def leave_one_out(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LdaLeaveOneOut":
    """Return LDA probes that `score` on their own train rows by leaving each one out.

    A row x of class c, one of n_c, that is taken out moves its class mean by -(x - m_c)/(n_c - 1),
    takes g (x - m_c)(x - m_c)' with g = n_c/(n_c - 1) from the scatter N S, and leaves n_c - 1 of
    N - 1 rows. With t = L^-1 x, u_j = L^-1 m_j and e = t - u_c, where L L' = S + l2 I, the
    logits without it are, up to a term common to all classes,

        logits_j = log n_j - (N - 1)/(2N) (|t - u_j|^2 + (g/N) ((t - u_j)'e)^2 / (1 - (g/N) |e|^2)),
        logits_c = log (n_c - 1) - (N - 1)/(2N) g^2 |e|^2 / (1 - (g/N) |e|^2).

    All of that is running sums along the chain. The fit without the row keeps the scale of the
    features, and N l2, what is added to the scatter.

    Raises:
        DataError, MemoryBudgetError: as `fit`.

    Reference:
        Golub, Van Loan, "Matrix Computations", section 2.1.4, for the inverse of A - g e e'.
    """
    normal = lda_equations(cached_moments(train, settings), settings)
    return LdaLeaveOneOut(Axes(tuple(chains), tuple(penalties)), normal, settings)


class LdaLeaveOneOut(PrefixFit):
    """LDA probes of all chains and penalties, to be scored on the rows that they were fitted on.

    The logits of the only row of a class, which leaves no class behind, and of a row that decides
    about S by itself, are the logarithms of the classes' shares, whatever the penalty.
    """

    logits_held, pads = 6, False

    def _ready(self, system: System, sizes: tuple[int, ...]) -> Forward:
        return self._substituted(system)

    def _score_piece(self, rows: Array, labels: Array, scores: LogitSink) -> None:
        number, forwards = self._held
        for batch, held in zip(self._groups[number], forwards, strict=True):
            probes = np.array([self.axes.prefixes(*system) for system in batch.systems])
            with full_precision():
                for prefix, logits in self._left_out(held, rows, labels, batch.sizes):
                    scores.add(probes[:, prefix], logits, labels)
            scores.finish(labels)

    def _left_out(
        self, held: Forward, rows: Array, labels: Array, sizes: tuple[int, ...]
    ) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) of rows (D, r), each without itself."""
        xp, means = array_namespace(rows), held.targets
        systems, classes = len(means), means.shape[2]
        along = xp.zeros((systems, rows.shape[1], classes), **like(rows))  # e'u_j
        squares = xp.zeros((systems, rows.shape[1]), **like(rows))  # |e|^2
        gram = xp.zeros((systems, classes, classes), dtype=xp.float64, device=rows.device)
        for prefix, start, t in held.eliminated(rows, sizes):
            strip = means[:, start : start + t.shape[1]]
            e = t - xp.take(strip, labels, axis=2)
            along += xp.permute_dims(e, (0, 2, 1)) @ strip
            squares += xp.sum(e * e, axis=1)
            wide = xp.astype(strip, xp.float64)
            gram += xp.permute_dims(wide, (0, 2, 1)) @ wide
            if prefix is not None:
                yield prefix, self._logits(along, squares[..., None], gram, labels)

    def _logits(self, along: Array, squares: Array, gram: Array, labels: Array) -> Array:
        """Return logits (S, r, C) from e'u_j, |e|^2 (S, r, 1) and u_i'u_j (S, C, C)."""
        xp, n = array_namespace(along), self.n_train
        lengths = xp.linalg.diagonal(gram)
        between = lengths[:, :, None] + lengths[:, None, :] - 2 * gram  # |u_i - u_j|^2
        counts = self.class_counts.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares, without = np.log(counts), np.log(counts - 1)
            gains = np.where(counts > 1, counts / (counts - 1), 1.0)
        put = self._settings.backend.put
        dtype = "float64" if along.dtype == xp.float64 else "float32"
        g = put(gains, dtype)[labels][None, :, None]
        to_others = at_labels(along, labels)[..., None] - along  # e'(u_c - u_j)
        product = squares + to_others
        distance = (
            squares + 2 * to_others + xp.take(xp.astype(between, along.dtype), labels, axis=1)
        )
        free = 1 - (g / n) * squares
        alone = put(counts == 1)[labels][None, :, None]
        known = (free > UNDETERMINED * xp.finfo(along.dtype).eps) & ~alone
        free = xp.where(known, free, xp.ones_like(free))
        quadratic = distance + (g / n) * product * product / free
        set_at_labels(quadratic, labels, (g * g * squares / free)[..., 0])
        logits = xp.zeros_like(along)
        logits += put(shares, dtype)
        own = xp.where(alone[..., 0], put(shares, dtype)[labels], put(without, dtype)[labels])
        own = xp.broadcast_to(own, logits.shape[:2])
        set_at_labels(logits, labels, own)
        return xp.where(known, logits - (n - 1) / (2 * n) * quadratic, logits)


def fit_left_out(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LeaveOneOut":
    """Return ridge probes that `score` on their own train rows by leaving each one out.

    With the logits f_i of a row under the fit of all N rows, its one-hot label (or targets) y_i,
    and its leverage h_i on the prefix, the logits of a fit without that row are

        y_i - (y_i - f_i) / (1 - h_i),    h_i = (1 + t_1^2 + ... + t_k^2) / N,    t = L^-1 x_i,

    where L L' = X'X/N + l2 I: h is a running sum along the chain as f is. The 1 is the
    intercept's. The fit without the row keeps the scale of the features, and the penalty N l2 of
    the *sum* of losses.

    Raises:
        DataError, MemoryBudgetError: as `featstore.probe.solvers.closed_form.fit`.

    Reference:
        Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge
        parameter", Technometrics 1979.
    """
    normal = equations(cached_moments(train, settings), settings)
    return LeaveOneOut(Axes(tuple(chains), tuple(penalties)), normal, settings)


class LeaveOneOut(PrefixFit):
    """Ridge probes of all chains and penalties, to be scored on the rows that they were fitted on.

    Where a probe fits a row whatever its label is (a leverage of 1, up to rounding), what it says
    without the row is undetermined. It then says of it what a probe without features does, the
    mean of the other rows' y, so that the same rows count for every penalty and interpolating them
    wins nothing.
    """

    logits_held, pads = 3, False

    def score(self, train: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every train row, that row left out, to `scores`."""
        # in the units in which rows meet the targets, as `_start` is
        start = to_host(self._start)
        self._score(train, _LeftOut(self._in_units(scores), self.n_train, start))

    def _ready(self, system: System, sizes: tuple[int, ...]) -> "Leverages":
        return Leverages(self._substituted(system))


@dataclass(frozen=True)
class Leverages:
    """Logits and the squared length of t, by the same forward substitution."""

    held: Forward

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, (S, r, C + 1)): the logits, and t_1^2 + ... + t_k^2 behind them.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes.
        """
        xp = array_namespace(rows)
        shape = len(self.held.order), rows.shape[1], len(self.held.priors)
        both = xp.zeros((*shape[:2], shape[2] + 1), **like(rows))
        both[..., : shape[2]] = self.held.priors
        for prefix, start, t in self.held.eliminated(rows, sizes):
            columns = xp.permute_dims(t, (0, 2, 1))
            both[..., : shape[2]] += columns @ self.held.targets[:, start : start + t.shape[1]]
            both[..., shape[2]] += xp.sum(t * t, axis=1)
            if prefix is not None:
                yield prefix, both


class _LeftOut(PassingSink):
    """Scores that are given logits and squared lengths, and pass on the left-out logits."""

    def __init__(self, scores: LogitSink, n_rows: int, mean: np.ndarray):
        super().__init__(scores)
        self._n_rows, self._mean = n_rows, mean

    def add(self, probes: np.ndarray, both: Array, labels: Array) -> None:
        xp = array_namespace(both)
        leverage = (1 + both[..., -1:]) / self._n_rows
        logits = xp.asarray(both[..., :-1], copy=True)
        _subtract_targets(logits, leverage, labels)
        free = 1 - leverage
        known = free > UNDETERMINED * xp.finfo(both.dtype).eps
        logits /= xp.where(known, free, xp.ones_like(free))
        if not bool(xp.all(known)):
            others = xp.zeros_like(logits[:1])
            others += beside(self._mean, logits, logits.dtype)
            _subtract_targets(others, xp.full_like(leverage[:1], 1 / self._n_rows), labels)
            logits = xp.where(known, logits, others * (self._n_rows / (self._n_rows - 1)))
        self._scores.add(probes, logits, labels)


def _subtract_targets(logits: Array, shares: Array, labels: Array) -> None:
    """Subtract shares (p, r, 1) of y, one-hot or targets, from logits (p, r, C), in place."""
    xp = array_namespace(logits)
    if xp.isdtype(labels.dtype, "integral"):
        set_at_labels(logits, labels, at_labels(logits, labels) - shares[..., 0])
    else:
        targets = xp.reshape(labels, (1, *logits.shape[1:]))
        logits -= shares * xp.astype(targets, logits.dtype)
