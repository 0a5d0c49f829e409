"""Rules that choose a penalty on train rows, held against the best penalty on test rows.

    python -m benchmarks.penalty_rules measure STORE... --resamples 6
    python -m benchmarks.penalty_rules cost STORE...
    python -m benchmarks.penalty_rules table

The first writes what each penalty reaches on test rows, and on the train rows that a rule looks at,
to `benchmarks/results/penalty_rules.csv`; the second what choosing costs, to `penalty_cost.csv`
beside it; the third prints the tables of `docs/penalties.md`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import featstore
from benchmarks import bench_logistic, stages
from featstore.probe import ArrayBlocks, arrays
from featstore.probe.memory import Settings, silent
from featstore.probe.metrics import Losses, Scores
from featstore.probe.selection import LADDER
from featstore.probe.solvers import logistic
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.routes import solve, solve_left_out
from featstore.probe.splits import stratified_parts
from featstore.probe.subsets import Chain, random_chain, subset_chain

RESULTS = Path(__file__).parent / "results" / "penalty_rules.csv"
COST = RESULTS.with_name("penalty_cost.csv")
ROWS, TEST_ROWS, FEATURES, FOLDS = 1000, 3000, 128, 5
FROM, TO = 1e-3, 10.0
COLUMNS = ["task", "resample", "solver", "k", "rows", "l2", "n", "accuracy", "loss"]

RULES = {
    ("logistic", "accuracy on a tenth"): (["tenth"], "accuracy"),
    ("logistic", "log loss on a tenth"): (["tenth"], "loss"),
    ("logistic", "log loss on a fifth"): (["fold 0"], "loss"),
    ("logistic", "accuracy in five folds"): ([f"fold {n}" for n in range(FOLDS)], "accuracy"),
    ("logistic", "log loss in five folds"): ([f"fold {n}" for n in range(FOLDS)], "loss"),
    ("logistic", "the same, one standard error"): ([f"fold {n}" for n in range(FOLDS)], "error"),
    ("ridge", "leave-one-out, squared error"): (["left out"], "loss"),
    ("ridge", "leave-one-out, accuracy"): (["left out"], "accuracy"),
    ("lda", "leave-one-out, log loss"): (["left out"], "loss"),
    ("lda", "leave-one-out, accuracy"): (["left out"], "accuracy"),
}
"""By solver and name: the rows that a rule looks at, and by what."""


def measure(stores: Sequence[str], resamples: int, out: Path) -> None:
    """Add what is not there yet to the results, task by task and resample by resample."""
    kept = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=COLUMNS)
    for resample in range(resamples):
        for path in stores:
            task = Path(path).stem
            if ((kept["task"] == task) & (kept["resample"] == resample)).any():
                continue
            rows = [[task, resample, *row] for row in measured(path, resample)]
            kept = pd.concat([kept, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)
            kept.to_csv(out, index=False, float_format="%.6g")
            print(f"{task}, resample {resample}", flush=True)


def measured(path: str, resample: int) -> Iterator[list]:
    """Yield rows of results, without task and resample."""
    store = featstore.open(path)
    tap = store.spec.taps[0].name
    splits = []
    for split, most in (("train", ROWS), ("test", TEST_ROWS)):
        every = store.tap(split, tap)
        labels = every.labels()
        rows = np.random.default_rng(resample).permutation(len(labels))[:most]
        features = np.concatenate([block for block, _ in every]).astype(np.float32)
        splits.append((features[rows], labels[rows]))
    (x, y), (x_test, y_test) = splits
    classes = int(max(y.max(), y_test.max())) + 1
    known = np.isin(y_test, y)
    width = x.shape[1]
    chains = [random_chain(width, [FEATURES / width], resample), subset_chain(range(width), width)]
    test = ArrayBlocks(x_test[known], y_test[known], classes)
    for solver in ("ridge", "lda"):
        yield from left_out(solver, ArrayBlocks(x, y, classes), test, chains)
    yield from on_parts(x, y, classes, test, chains, resample)


def left_out(
    solver: str, train: ArrayBlocks, test: ArrayBlocks, chains: Sequence[Chain]
) -> Iterator[list]:
    """Yield what ridge or LDA reaches on test rows, and on train rows that are left out."""
    entry, settings = SOLVERS[solver], Settings()
    penalties = [l2 for l2 in LADDER if 10 * FROM <= l2 <= 10 * TO]
    for rows, fitted, scored in (
        ("test", solve(entry, train, chains, penalties, settings, {}), test),
        ("left out", solve_left_out(entry, train, chains, penalties, settings, {}), train),
    ):
        losses = Losses(len(fitted.axes), train.n_classes, entry.loss, np.ones(train.n_classes))
        losses.score(fitted, scored)
        yield from _rows(solver, fitted.axes, rows, scored.n_rows, losses.scores(), losses.means())


def on_parts(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    test: ArrayBlocks,
    chains: Sequence[Chain],
    seed: int,
) -> Iterator[list]:
    """Yield what softmax probes reach on test rows, and on parts of train that are held out."""
    every = np.arange(len(y))
    parts = [("test", every, None)]
    parts += [("tenth", p.train, p.validation) for p in stratified_parts(y, 0.1, seed + 99)]
    folds = stratified_parts(y, 1 / FOLDS, seed, FOLDS)
    parts += [(f"fold {n}", p.train, p.validation) for n, p in enumerate(folds)]
    penalties = [l2 for l2 in LADDER if FROM <= l2 <= TO]
    metrics, paths = logistic.Metrics(), []
    for _, rows, held in parts:
        held_out = test if held is None else ArrayBlocks(x[held], y[held], classes)
        train = ArrayBlocks(x[rows], y[rows], classes)
        path = logistic.path(train, chains, penalties, Settings(), loosely=True, metrics=metrics)
        paths.append((path, held_out, Scores(len(path.axes), classes, ("accuracy", "nll"))))
    for number in reversed(range(len(penalties))):
        for path, held_out, scores in paths:
            path.solve(np.flatnonzero(path.axes.penalty == number))
            path.score(held_out, scores)
    for (name, _, _), (path, held_out, scores) in zip(parts, paths, strict=True):
        found = scores.columns()
        count = held_out.n_rows
        yield from _rows("logistic", path.axes, name, count, found["accuracy"], found["nll"])


def _rows(solver, axes, rows, count, accuracy, loss) -> Iterator[list]:
    for probe, (k, penalty) in enumerate(zip(axes.size, axes.penalty, strict=True)):
        l2 = axes.penalties[penalty]
        yield [solver, int(k), rows, l2, count, float(accuracy[probe]), float(loss[probe])]


def chosen(table: pd.DataFrame, rows: Sequence[str], by: str) -> float:
    """Return the penalty that a rule takes, of one probe's results; the largest of equals."""
    seen = table[table["rows"].isin(rows)]
    value = "accuracy" if by == "accuracy" else "loss"
    weighted = (seen[value] * seen["n"]).groupby(seen["l2"]).sum()
    score = (weighted / seen["n"].groupby(seen["l2"]).sum()).sort_index(ascending=False)
    score = -score if value == "accuracy" else score
    if by != "error":
        return float(score.idxmin())
    spread = seen.groupby("l2")["loss"].std() / np.sqrt(len(rows))
    within = score[score <= score.min() + spread[score.idxmin()]]
    return float(within.index.max())


def table(results: pd.DataFrame) -> str:
    """Return the Markdown table: a row a rule, means over tasks and resamples.

    For each probe (128 features, and all) the accuracy that the chosen penalty reaches on test
    rows is less than the best penalty's by a `loss`; the ratio is of both probes' accuracies, each
    at its own penalty, against that of the best ones.
    """
    lines = [
        "| solver | rule | accuracy lost, 128 features | all | ratio's bias | its spread "
        "| log10 l2's spread |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (solver, name), (rows, by) in RULES.items():
        found = [
            _of_rule(own, rows, by)
            for _, own in results[results["solver"] == solver].groupby(["task", "resample"])
        ]
        tasks = [
            task
            for task, _ in results[results["solver"] == solver].groupby(["task", "resample"]).groups
        ]
        frame = pd.DataFrame(found, columns=["small", "large", "bias", "l2"]).assign(task=tasks)
        spread = frame.groupby("task")[["bias", "l2"]].std().mean()
        means = frame[["small", "large", "bias"]].mean()
        lines.append(
            f"| {solver} | {name} | {100 * means.small:.2f} | {100 * means.large:.2f} "
            f"| {100 * means.bias:+.2f} | {100 * spread.bias:.2f} | {spread.l2:.2f} |"
        )
    return "\n".join(lines)


def _of_rule(own: pd.DataFrame, rows: Sequence[str], by: str) -> list[float]:
    """Return accuracies lost at k and D, the ratio's error, and log10 of l2 of all features."""
    lost, best, reached = [], [], []
    for _, probe in own.groupby("k"):
        l2 = chosen(probe, rows, by)
        test = probe[probe["rows"] == "test"].set_index("l2")["accuracy"]
        best.append(test.max())
        reached.append(test[l2])
        lost.append(best[-1] - reached[-1])
    return [*lost, reached[0] / reached[1] - best[0] / best[1], float(np.log10(l2))]


def cost(stores: Sequence[str], repeats: int, out: Path) -> None:
    """Measure what choosing penalties costs on the train rows of stores, in pairs."""
    setup = stages.Setup(arrays.backend("torch", "cpu"), stages.DEFAULT_MEMORY, silent, (), None)
    rows = []
    for path in stores:
        train = bench_logistic.stored(Path(path))
        n_rows, n_features = train[0].shape
        sizes = replace(bench_logistic.SIZES["full"], features=n_features, repeats=repeats)
        (found,) = bench_logistic.choosing(train, sizes, setup)
        rows.append({"task": Path(path).stem, "rows": n_rows, "features": n_features, **found})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


def cost_table(results: pd.DataFrame) -> str:
    """Return the Markdown table of what choosing costs: a row a store."""
    lines = [
        f"| features | rows x features | probes | l2 = {bench_logistic.FIXED:g}, s | chosen, s "
        "| times |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in results.to_dict("records"):
        lines.append(
            f"| {row['task']} | {row['rows']:,} x {row['features']:,} | {row['probes']} "
            f"| {row['fixed, s']:.1f} | {row['chosen, s']:.1f} | {row['times']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["measure", "cost", "table"])
    parser.add_argument("stores", nargs="*")
    parser.add_argument("--resamples", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3, help="pairs to take the fastest of")
    given = parser.parse_args()
    if given.what == "measure":
        measure(given.stores, given.resamples, RESULTS)
    elif given.what == "cost":
        cost(given.stores, given.repeats, COST)
    else:
        print(table(pd.read_csv(RESULTS)), cost_table(pd.read_csv(COST)), sep="\n\n")


if __name__ == "__main__":
    main()
