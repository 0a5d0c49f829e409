"""Every feature left out once: the time of `probe.drop_one`, and its table against refits.

python -m benchmarks.bench_attribution --sizes small
python -m benchmarks.bench_attribution --sizes full --json results.json

Refits are of random features, in float64, from normal equations that NumPy makes of all train rows
once: the row and column of the feature are deleted, what is left is solved, and all test rows are
scored. Nothing of the inverse that `drop_one` takes stands behind them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_softmax

from benchmarks import stages
from featstore import bench, measurements, probe
from featstore.bench import Pair, SweepSizes
from featstore.measurements import Report

L2 = 0.1
SECONDS = 20
# rows that may be judged otherwise, where two classes tie, and error of a change of the loss,
# relative to the largest change
TIES, ERROR = bench.TIES, 1e-4
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

# matrix (D, D), right-hand side (D, C) and what is added to the logits, from its coefficients
Equations = tuple[np.ndarray, np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]


def equations(solver: str, x: np.ndarray, y: np.ndarray) -> Equations:
    """Return the normal equations A W = B of standardised features float64 (N, D), A with l2.

    Ridge has A = X'X/N + l2 I and B = X'Y/N of centred X, its logits are X W plus the shares of the
    classes. LDA has the covariance within classes in place of X'X/N, the means m_c of the classes
    as B, and the logits X W - m_c'W_c / 2 + log of the shares.
    """
    targets = np.eye(int(y.max()) + 1)[y]
    shares = targets.mean(0)
    gram, cross = x.T @ x / len(x), x.T @ targets / len(x)
    if solver == "ridge":
        return gram + L2 * np.eye(len(gram)), cross, lambda right, weights: shares
    means = cross / shares
    within = gram - (means * shares) @ means.T
    prior = np.log(shares)
    return (
        within + L2 * np.eye(len(gram)),
        means,
        lambda right, weights: prior - (right * weights).sum(0) / 2,
    )


def judged(
    solver: str, found: Equations, rows: Pair, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return hits and losses of all rows, of the probe of some columns, solved anew."""
    matrix, right, offset = found
    weights = np.zeros_like(right)
    weights[columns] = cho_solve(cho_factor(matrix[np.ix_(columns, columns)]), right[columns])
    added = offset(right, weights)
    hits, losses = [], []
    for first in range(0, len(rows[1]), _ROWS):
        x, y = (part[first : first + _ROWS] for part in rows)
        logits = x @ weights + added
        hits.append(logits.argmax(1) == y)
        if solver == "ridge":
            losses.append(((logits - np.eye(logits.shape[1])[y]) ** 2).sum(1))
        else:
            losses.append(-log_softmax(logits, axis=1)[np.arange(len(y)), y])
    return np.concatenate(hits), np.concatenate(losses)


def measure(sizes: AttributionSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared both solvers with refits."""
    train, test = bench.split(sizes, decay=0.5)
    mean, scale = (of(train[0], axis=0, dtype=np.float64) for of in (np.mean, np.std))
    x, rows = ((part[0].astype(np.float64) - mean) / scale for part in (train, test))
    rows_out = []
    for place, solver in enumerate(("ridge", "lda"), start=1):
        run = lambda solver=solver: probe.drop_one(  # noqa: E731
            train, test, solver, L2, **setup.arguments
        )
        spent, held, table = measurements.measured(run, sizes.repeats, setup.backend)
        agreement = compared(solver, equations(solver, x, train[1]), (rows, test[1]), table, sizes)
        rows_out.append(
            {
                "solver": solver,
                "features": sizes.features,
                "seconds": spent,
                "target": f"<= {SECONDS} s",
                "peak MiB": round(held / 2**20),
                **agreement,
            }
        )
        setup.progress("solvers", place, 2)
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
    solver: str, found: Equations, rows: Pair, table: Any, sizes: AttributionSizes
) -> dict[str, Any]:
    """Return how far `refits` random features of a table are from fresh probes without them.

    Raises:
        Disagreement: they are not the same.
    """
    every = np.arange(sizes.features)
    hits, losses = judged(solver, found, rows, every)
    drawn = np.random.default_rng(0).choice(every, min(sizes.refits, len(every)), replace=False)
    off, error = 0, 0.0
    for feature in drawn.tolist():
        without, loss = judged(solver, found, rows, np.delete(every, feature))
        row, change = table.loc[feature], int(without.sum()) - int(hits.sum())
        off = max(off, round(abs(row["change"] * len(hits) - change)))
        error = max(error, abs(row["loss_change"] - (loss - losses).mean()))
    error /= float(table["loss_change"].abs().max())
    if off > TIES or not error <= ERROR:
        raise bench.Disagreement(
            f"attribution: {solver} without a feature is {off} rows and {error:.1e} of its loss "
            "off from a refit"
        )
    return {"refits": len(drawn), "rows off": off, "loss": f"{error:.0e}"}


if __name__ == "__main__":
    stages.main("attribution")
