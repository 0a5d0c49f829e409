"""Probes as scikit-learn's estimators: in pipelines, grid searches and cross-validation.

They are the solvers of `featstore.probe.fit`, with the habits of scikit-learn: labels of any kind,
`classes_`, `coef_` (1, D) for two classes, parameters that `clone` and `GridSearchCV` read.
Rows have no weights here, so that `fit` has no argument `sample_weight`. scikit-learn, of the extra
`sklearn`, is imported with this module, and with nothing else of `featstore.probe`.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax

from featstore.probe.errors import INSTALL, UsageError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import StratifiedKFold
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"the estimators need scikit-learn 1.6 or newer ({error}): {INSTALL.format('sklearn')}"
    ) from None

from featstore.probe.redundancy import diffused_redundancy
from featstore.probe.result import ProbeResult
from featstore.probe.results.views import summary
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import AUTO, L2, LDA, Logistic, Options, Ridge
from featstore.probe.subsets import subset_chain
from featstore.probe.sweeps import fit, sweep


class _Probe(ClassifierMixin, BaseEstimator):
    """Base of all estimators: labels to classes, logits to answers.

    Attributes:
        classes_: (C,), the sorted labels.
        features_: int64 (k,), the columns that the probe reads.
        coef_: float64 (C, D), or (1, D) for two classes, per unit of each feature; 0 where the
            probe does not read it.
        intercept_: float64 (C,), or (1,).
        l2_: the penalty, where it was chosen the one that was.
        n_features_in_: D.
    """

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return features float64 (N, D) and classes int64 (N,), and take note of the labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of two classes or more, and the data have "
                f"{len(self.classes_)} class"
            )
        return X, codes.astype(np.int64)

    def _solved(
        self, X: np.ndarray, codes: np.ndarray, features: np.ndarray, solver: Options
    ) -> ProbeResult:
        """Fit one probe of some features to all rows, and keep its affine map."""
        rows = ArrayBlocks(X, codes, n_classes=len(self.classes_))
        chain = subset_chain(features, X.shape[1])
        result = fit(
            rows,
            [chain],
            solver=solver,
            standardize=self.standardize,
            device=self.device,
            progress=False,
        ).raise_if_failed()
        weights, self.l2_ = result.weights(0), float(result.table["l2"].iloc[0])
        self.features_ = weights.features
        coef = np.zeros((len(self.classes_), X.shape[1]))
        coef[:, weights.features] = weights.coef.T
        self._coef, self._intercept = coef, weights.intercept
        two = len(self.classes_) == 2
        self.coef_ = coef[1:] - coef[:1] if two else coef
        self.intercept_ = np.diff(weights.intercept) if two else weights.intercept
        return result

    def _logits(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X[:, self.features_] @ self._coef[:, self.features_].T + self._intercept

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the logits, float64 (n, C), or of two classes the second's less the first's (n,).

        Arguments:
            X: (n, D).
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the label of the largest logit, (n,); of equal ones the first.

        Arguments:
            X: (n, D).
        """
        largest = self._logits(X).argmax(1)
        return self.classes_[largest]


class _WithProbabilities(_Probe):
    """A probe whose logits are log-probabilities."""

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return softmax of the logits, float64 (n, C).

        Arguments:
            X: (n, D).
        """
        return softmax(self._logits(X), axis=1)

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the logarithms of `predict_proba`, float64 (n, C)."""
        return log_softmax(self._logits(X), axis=1)


class RidgeProbe(_Probe):
    """Least squares on one-hot labels: mean ||y - W'x - b||^2 / 2 + (l2/2) ||W||^2.

    Its logits are least-squares scores and no probabilities: there is no `predict_proba`.

    Arguments:
        l2: the penalty; "auto" chooses it by leave-one-out accuracy.
        standardize: divide each feature by its standard deviation.
        device: "auto", "cpu" or "cuda".

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> RidgeProbe(l2=0.01).fit(X, y).score(X, y)
        0.8466666666666667
    """

    def __init__(self, l2: L2 = AUTO, *, standardize: bool = True, device: str = "cpu"):
        self.l2 = l2
        self.standardize = standardize
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the probe.

        Arguments:
            X: (N, D), dense.
            y: (N,), labels of two classes or more, numbers or texts.

        Raises:
            ValueError: the data cannot be probed.
        """
        X, codes = self._checked(X, y)
        self._solved(X, codes, np.arange(X.shape[1]), Ridge(l2=self.l2))
        return self


class LDAProbe(_WithProbabilities):
    """Linear discriminant analysis: Gaussian classes with one covariance S + l2 I.

    Arguments:
        l2: the penalty; "auto" chooses it by leave-one-out accuracy.
        standardize: divide each feature by its standard deviation.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, l2: L2 = AUTO, *, standardize: bool = True, device: str = "cpu"):
        self.l2 = l2
        self.standardize = standardize
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the probe; arguments and errors as of `RidgeProbe.fit`."""
        X, codes = self._checked(X, y)
        self._solved(X, codes, np.arange(X.shape[1]), LDA(l2=self.l2))
        return self


class LogisticProbe(_WithProbabilities):
    """Softmax regression: mean -log softmax(W'x + b)[y] + (l2/2) ||W||^2.

    Arguments:
        l2: the penalty; "auto" chooses it on a held-out tenth of the rows.
        tol: when the fit has converged, as of `featstore.probe.Logistic`.
        max_iter: most iterations.
        standardize: divide each feature by its standard deviation.
        device: "auto", "cpu" or "cuda".

    Attributes:
        n_iter_: iterations that were taken.
    """

    def __init__(
        self,
        l2: L2 = AUTO,
        *,
        tol: float = 1e-4,
        max_iter: int = 2000,
        standardize: bool = True,
        device: str = "cpu",
    ):
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter
        self.standardize = standardize
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the probe; arguments and errors as of `RidgeProbe.fit`."""
        X, codes = self._checked(X, y)
        solver = Logistic(l2=self.l2, tol=self.tol, max_iter=self.max_iter)
        result = self._solved(X, codes, np.arange(X.shape[1]), solver)
        self.n_iter_ = max(1, int(result.table["iterations"].iloc[0]))
        return self


class SubsetSweep(_WithProbabilities):
    """The smallest random subset of the features that keeps a share of the full layer's accuracy.

    In each of some stratified folds every (fraction, seed) is probed at once. The fraction is the
    smallest whose accuracy, over folds and seeds, is at least `delta` of the full layer's; the
    probe of that size and the first seed is then fitted to all rows.

    Arguments:
        fractions: shares of the features, in (0, 1]; at least one feature is taken.
        seeds: what the subsets are drawn with; 5 stands for seeds 1 to 5.
        delta: the share of the full layer's accuracy to be kept.
        solver: "lda" or "logistic", whose logits are log-probabilities.
        l2: the penalty, or "auto".
        cv: folds; fewer where a class has fewer rows.
        standardize: divide each feature by its standard deviation.
        device: "auto", "cpu" or "cuda".

    Attributes:
        table_: the columns of `featstore.probe.summary`, a row a fraction, over folds and seeds.
        redundancy_: DR(delta), 1 less the interpolated fraction; NaN where delta is not reached.
        fraction_: the one that was taken.
    """

    def __init__(
        self,
        fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
        *,
        seeds: int | Sequence[int] = 3,
        delta: float = 0.9,
        solver: str = "lda",
        l2: L2 = AUTO,
        cv: int = 5,
        standardize: bool = True,
        device: str = "cpu",
    ):
        self.fractions = fractions
        self.seeds = seeds
        self.delta = delta
        self.solver = solver
        self.l2 = l2
        self.cv = cv
        self.standardize = standardize
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Sweep the folds, choose the fraction, and fit; arguments as of `RidgeProbe.fit`."""
        kinds = {"lda": LDA, "logistic": Logistic}
        if self.solver not in kinds:
            raise UsageError(f"solver is {self.solver!r}: choose {' or '.join(kinds)}")
        X, codes = self._checked(X, y)
        solver, width = kinds[self.solver](l2=self.l2), X.shape[1]
        sizes = sorted({max(1, int(share * width)) for share in np.atleast_1d(self.fractions)})
        shares = [min(1.0, np.nextafter(size / width, 1)) for size in sizes]
        folds = min(self.cv, int(np.bincount(codes).min()))
        self.fraction_, self.redundancy_, self.table_ = 1.0, float("nan"), None
        order = np.arange(width)
        if folds > 1:
            parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(X, codes)
            swept = [self._fold(X, codes, *rows, shares, solver) for rows in parts]
            # a draw of rows counts as a seed: none has the number of another fold's
            table = pd.concat(
                each.table.assign(seed=each.table["seed"] + 1_000_000 * fold)
                for fold, each in enumerate(swept)
            ).reset_index(drop=True)
            self.table_ = summary(table)
            kept = self.table_.loc[self.table_["ratio"] >= self.delta, "fraction"]
            self.fraction_ = float(kept.min()) if len(kept) else 1.0
            self.redundancy_ = float(diffused_redundancy(table, self.delta)["redundancy"].iloc[0])
            chain = swept[0].fitted.axes.chains[0]
            order = chain.order[: round(self.fraction_ * width)]
        self._solved(X, codes, np.asarray(order), solver)
        return self

    def _fold(self, X, codes, train, test, shares, solver) -> ProbeResult:
        count = len(self.classes_)
        rows = [ArrayBlocks(X[own], codes[own], n_classes=count) for own in (train, test)]
        return sweep(
            *rows,
            fractions=shares,
            seeds=self.seeds,
            solver=solver,
            standardize=self.standardize,
            device=self.device,
            progress=False,
        )
