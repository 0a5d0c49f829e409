"""Every feature left out once: the time of `probe.drop_one`, and its table against refits.

python -m benchmarks.bench_attribution --sizes small
python -m benchmarks.bench_attribution --sizes full --json results.json

Refits are of random features. Of ridge and LDA they are in float64, from normal equations that
NumPy makes of all train rows once: the row and column of the feature are deleted, and what is left
is solved. Nothing of the inverse that `drop_one` takes stands behind them. Softmax probes, of fewer
rows, features and classes, are scikit-learn's. All test rows are scored.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax

from benchmarks import stages
from benchmarks.softmax_loops import fitted
from featstore import bench, measurements, probe
from featstore.bench import Pair, SweepSizes
from featstore.measurements import Report

SOLVERS, L2 = ("ridge", "lda", "logistic"), 0.1
# rows that may be judged otherwise, where two classes tie, and error of a change of the loss,
# relative to the largest change
TIES, ERROR = bench.TIES, 1e-4
# the same where probes end within 1e-6 of their objective, and scikit-learn's tolerance
NEAR_TIES, NEAR = 10, 3e-2
TOL = 1e-8
_ROWS = 4096


@dataclass(frozen=True)
class AttributionSizes(SweepSizes):
    """Features of one probe to leave out, `refits` of them for a comparison as well."""

    refits: int = 10


SIZES = {
    "small": AttributionSizes(600, 48, 5, 1, 1, repeats=1, test_rows=300),
    "medium": AttributionSizes(5_000, 512, 20, 1, 1, repeats=1, test_rows=2_000),
    "full": AttributionSizes(20_000, 2_048, 100, 1, 1, repeats=1, test_rows=10_000, refits=50),
}

# from columns to W (D, C), 0 for other features, and b (C,)
Refit = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def refits(solver: str, x: np.ndarray, y: np.ndarray) -> Refit:
    """Return how a probe of some columns of standardised features float64 (N, D) is solved anew.

    Ridge has A W = B with A = X'X/N + l2 I, B = X'Y/N, and b the shares of the classes. LDA has the
    covariance within classes in place of X'X/N, the means m_c of the classes as B, and b_c the log
    of the share less m_c'W_c / 2. Softmax probes are scikit-learn's, to its tolerance of `TOL`.
    """
    targets = np.eye(int(y.max()) + 1)[y]
    shares = targets.mean(0)
    gram, right = x.T @ x / len(x), x.T @ targets / len(x)
    if solver == "lda":
        right /= shares
        gram -= (right * shares) @ right.T
    gram += L2 * np.eye(len(gram))

    def solved(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = np.zeros_like(right)
        if solver == "logistic":
            weights[columns], intercept = fitted("sklearn", x[:, columns], y, L2, TOL)
            return weights, intercept
        weights[columns] = cho_solve(cho_factor(gram[np.ix_(columns, columns)]), right[columns])
        lda = np.log(shares) - (right * weights).sum(0) / 2
        return weights, lda if solver == "lda" else shares

    return solved


def judged(
    solver: str, refit: Refit, rows: Pair, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return hits and losses of all rows, of the probe of some columns, solved anew."""
    weights, intercept = refit(columns)
    hits, losses = [], []
    for first in range(0, len(rows[1]), _ROWS):
        x, y = (part[first : first + _ROWS] for part in rows)
        logits = x @ weights + intercept
        hits.append(logits.argmax(1) == y)
        if solver == "ridge":
            losses.append(((logits - np.eye(logits.shape[1])[y]) ** 2).sum(1))
        else:
            losses.append(-log_softmax(logits, axis=1)[np.arange(len(y)), y])
    return np.concatenate(hits), np.concatenate(losses)


def measure(sizes: AttributionSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared every solver with refits."""
    train, test = bench.split(sizes, decay=0.5)
    rows_out = []
    for place, solver in enumerate(SOLVERS, start=1):
        own, known = (train, test), sizes
        if solver == "logistic":
            # a solve for each feature, and not one factor for all
            known = replace(sizes, rows=sizes.rows // 4, features=max(8, sizes.features // 16))
            known = replace(known, classes=max(3, sizes.classes // 10))
            own = bench.part(train, known), bench.part(test, known, known.test_rows)
        run = partial(probe.drop_one, *own, solver, L2, **setup.arguments)
        spent, held, table = measurements.measured(run, known.repeats, setup.backend)
        mean, scale = (of(own[0][0], axis=0, dtype=np.float64) for of in (np.mean, np.std))
        x, rows = ((part[0].astype(np.float64) - mean) / scale for part in own)
        found = refits(solver, x, own[0][1])
        agreement = compared(solver, found, (rows, own[1][1]), table, known)
        rows_out.append(
            {
                "solver": solver,
                "rows": known.rows,
                "features": known.features,
                "classes": known.classes,
                "seconds": spent,
                "MiB": round(held / 2**20),
                **agreement,
            }
        )
        setup.progress("solvers", place, len(SOLVERS))
    return Report(
        "attribution",
        asdict(sizes),
        measurements.facts(setup.backend),
        {"drop-one": rows_out},
        notes=[
            "Rows off: by how many test rows the accuracy without a feature differs from its "
            "refit's, at worst; loss: error of its change, relative to the largest change."
        ],
    )


def compared(
    solver: str, refit: Refit, rows: Pair, table: Any, sizes: AttributionSizes
) -> dict[str, Any]:
    """Return how far `refits` random features of a table are from fresh probes without them.

    Raises:
        Disagreement: they are not the same.
    """
    every = np.arange(sizes.features)
    hits, losses = judged(solver, refit, rows, every)
    drawn = np.random.default_rng(0).choice(every, min(sizes.refits, len(every)), replace=False)
    off, error = 0, 0.0
    for feature in drawn.tolist():
        without, loss = judged(solver, refit, rows, np.delete(every, feature))
        row, change = table.loc[feature], int(without.sum()) - int(hits.sum())
        off = max(off, round(abs(row["change"] * len(hits) - change)))
        error = max(error, abs(row["loss_change"] - (loss - losses).mean()))
    error /= float(table["loss_change"].abs().max())
    ties, most = (NEAR_TIES, NEAR) if solver == "logistic" else (TIES, ERROR)
    if off > ties or not error <= most:
        raise bench.Disagreement(
            f"attribution: {solver} without a feature is {off} rows and {error:.1e} of its loss "
            "off from a refit"
        )
    return {"refits": len(drawn), "rows off": off, "loss": f"{error:.0e}"}


if __name__ == "__main__":
    stages.main("attribution")
