"""Softmax probes in lockstep against scikit-learn's and torch's L-BFGS, a probe at a time.

python -m benchmarks.bench_logistic --sizes small
python -m benchmarks.bench_logistic --store features.zarr --json results.json

scikit-learn stops at its default tolerance, on all cores. Ours then stop at the loosest of
`TOLERANCES` at which every probe's objective is at scikit-learn's or below, up to 1e-6, and torch's
where that is so. scikit-learn's loop is timed on all probes of `--loop-seeds` seeds, and scaled to
all seeds. Without a store the features are synthetic, with a decaying spectrum.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

import featstore
import probe
from benchmarks import machine
from probe.chains import Chain, random_chain

L2 = 1e-4
FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8)
SLACK = 1 + 1e-6
TOLERANCES = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
# probes of torch's loop: one of each of these prefixes of the first seed
TORCH_PREFIXES = (2, 5, 8)


@dataclass(frozen=True)
class Sizes:
    """How large the synthetic problem is, and how many seeds are swept."""

    n_rows: int
    n_features: int
    n_classes: int
    seeds: int


SIZES = {"small": Sizes(600, 256, 5, 2), "full": Sizes(24_000, 1_280, 10, 5)}


def synthetic(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 (N, D) whose spectrum decays as 1/i, and labels int64 (N,)."""
    random = np.random.default_rng(0)
    labels = np.arange(sizes.n_rows) % sizes.n_classes
    latent = random.normal(size=(sizes.n_rows, sizes.n_features))
    latent += random.normal(size=(sizes.n_classes, sizes.n_features))[labels]
    latent /= np.sqrt(np.arange(1, sizes.n_features + 1))
    mixing = np.linalg.qr(random.normal(size=(sizes.n_features,) * 2))[0]
    return (latent @ mixing).astype(np.float32), labels


def stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the train features float32 (N, D) and labels (N,) of a store's first tap."""
    store = featstore.open(path)
    name = store.spec.taps[0].name
    return store.load("train", name).astype(np.float32), store.labels("train")


def objective(weights: np.ndarray, intercept: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Return mean cross-entropy + (l2/2) ||W||^2 in float64; weights (k, C), x (N, k)."""
    logits = x.astype(np.float64) @ weights + intercept
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(losses.mean() + L2 / 2 * (weights**2).sum())


def scikit_learn(x: np.ndarray, y: np.ndarray) -> float:
    """Return the objective of a probe at scikit-learn's default tolerance."""
    model = LogisticRegression(C=1 / (len(y) * L2), max_iter=10_000).fit(x, y)
    return objective(model.coef_.T.astype(np.float64), model.intercept_, x, y)


def torch_lbfgs(x: np.ndarray, y: np.ndarray, goal: float) -> float:
    """Return the objective of a probe that torch's L-BFGS takes to `goal`."""
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], int(y.max()) + 1, requires_grad=True)
    intercept = torch.zeros(weights.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, intercept], max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(features @ weights + intercept, labels)
        loss = loss + L2 / 2 * (weights**2).sum()
        loss.backward()
        return loss

    value = float("inf")
    for _ in range(50):
        optimizer.step(closure)
        value = float(closure().detach())
        if value <= goal * SLACK:
            break
    return value


def columns(x: np.ndarray, chains: list[Chain], seeds: int) -> Iterator[np.ndarray]:
    """Yield the standardised columns of each probe of the first seeds, then the whole layer's."""
    for chain in chains[:seeds]:
        for size in chain.sizes:
            yield np.ascontiguousarray(x[:, chain.order[:size]])
    yield x


def reached(train: tuple, chains: list[Chain], goals: np.ndarray) -> tuple[float, float, object]:
    """Return (tol, seconds, result) of the loosest tolerance that reaches every goal."""
    for tol in TOLERANCES:
        spent, result = machine.seconds(
            lambda tol=tol: probe.fit(train, chains, solver="logistic", l2=L2, tol=tol)
        )
        mine = result.table["objective"].to_numpy()
        known = np.r_[mine[: len(goals) - 1], mine[-1]]
        if (known <= goals * SLACK).all():
            return tol, spent, result
    raise AssertionError("no tolerance reaches scikit-learn's objectives")


def measure(train: tuple, seeds: int, loop_seeds: int) -> list[dict]:
    """Return the rows of the table, having compared the objectives."""
    features, labels = train
    chains = [random_chain(features.shape[1], FRACTIONS, s) for s in range(1, seeds + 1)]
    whole = Chain(np.arange(features.shape[1]), (features.shape[1],), (1.0,), "random")
    x = features - features.mean(0, dtype=np.float64).astype(np.float32)
    deviation = x.std(0, dtype=np.float64)
    x /= np.where(deviation > 0, deviation, 1).astype(np.float32)
    goals, times = [], []
    for part in columns(x, chains, loop_seeds):
        spent, goal = machine.seconds(lambda part=part: scikit_learn(part, labels))
        goals.append(goal)
        times.append(spent)
    # the loop it replaces fits the whole layer of every seed
    loop = (sum(times[:-1]) / loop_seeds + times[-1]) * seeds
    tol, spent, result = reached(train, [*chains, whole], np.array(goals))
    ours = result.table["objective"].to_numpy()
    torch_time, sklearn_time = 0.0, 0.0
    for number, part in enumerate(columns(x, chains[:1], 1)):
        if number in TORCH_PREFIXES or number == len(FRACTIONS):
            place = number if number < len(FRACTIONS) else -1
            one, _ = machine.seconds(lambda p=part, g=goals[place]: torch_lbfgs(p, labels, g))
            torch_time += one
            sklearn_time += times[place]
    torch_loop = loop * torch_time / sklearn_time
    passes, n_probes = result.fitted.passes, len(ours)
    steps = result.table["iterations"].to_numpy() * result.table["k"].to_numpy()
    work = 4 * len(labels) * (int(labels.max()) + 1) * float(steps.sum()) / 1e9
    best = probe.fit(train, [*chains, whole], solver="logistic", l2=L2)
    gap = float((ours / best.table["objective"].to_numpy() - 1).max())
    done = int((best.table["status"] == "converged").sum())
    return [
        _row(f"{n_probes} probes together, tol {tol:g}", spent, 1.0, ""),
        _row(f"scikit-learn loop ({loop_seeds} of {seeds} seeds run)", loop, loop / spent, ">= 12"),
        _row(f"torch L-BFGS loop ({len(TORCH_PREFIXES) + 1} probes run)", torch_loop,
             torch_loop / spent, ">= 5"),
        _row("passes over the rows", "", passes, ""),
        _row("GFLOP/s of all passes, moments included", "", work / spent, ""),
        _row("worst objective above the default tol's", "", gap, ""),
        _row(f"converged at the default tol, of {n_probes}", "", done, ""),
    ]  # fmt: skip


def _row(what: str, seconds: float | str, ratio: float | int, target: str) -> dict:
    return {"what": what, "seconds": seconds, "ratio": ratio, "target": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=SIZES, default="full")
    parser.add_argument("--store", type=Path, help="real features: the train split of a store")
    parser.add_argument("--loop-seeds", type=int, default=1, help="seeds of scikit-learn's loop")
    parser.add_argument("--json", type=Path, help="write machine, sizes and results here")
    options = parser.parse_args()
    sizes = SIZES[options.sizes]
    train = stored(options.store) if options.store else synthetic(sizes)
    rows = measure(train, sizes.seeds, options.loop_seeds)
    source = options.store.name if options.store else "synthetic"
    title = f"logistic, {len(train[1])} rows x {train[0].shape[1]} features, {source}"
    machine.report(title, options.sizes, rows, options.json)


if __name__ == "__main__":
    main()
