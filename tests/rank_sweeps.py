"""Job of every process of a launch in test_ranks; rank 0 writes what came out."""

import numpy as np

from featstore import probe
from featstore.probe import memory, subsets
from featstore.probe.errors import UsageError
from featstore.probe.modes import MODES
from featstore.probe.rows import ArrayBlocks

N, D = 600, 24


def rows(n: int, seed: int, dtype=np.float64) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = random.normal(size=(n, D)) + np.random.default_rng(0).normal(size=(3, D))[labels] / 2
    return x.astype(dtype), labels


def sweeps(folder: str) -> dict[str, np.ndarray]:
    """Every sweep's numbers, by name."""
    train, test = (ArrayBlocks(*rows(n, s), block_rows=37) for n, s in ((N, 1), (200, 2)))
    numbers = tuple(
        (x, x[:, :2] @ [[1.0], [2]] + y[:, None]) for x, y in (rows(N, 1), rows(200, 2))
    )
    wide = tuple((np.tile(x[:40], 5) ** 2, y[:40]) for x, y in (rows(N, 1), rows(200, 2)))
    # products of float32 pieces are the same numbers in any process
    single = (ArrayBlocks(*rows(n, s, np.float32), block_rows=37) for n, s in ((N, 1), (200, 2)))
    kinds = {
        "ridge": (*single, {"l2": [0.01, 1]}),
        "lda": (train, test, {"l2": 0.1, "metrics": ["accuracy", "nll"]}),
        "logistic": (train, test, {"solver": probe.Logistic(l2=0.01, tol=1e-7)}),
        "validation": (train, test, {"l2": [0.01, 1], "select": "validation"}),
        "loo": (train, test, {"l2": [0.01, 1], "select": "loo"}),
        "chosen": (train, test, {}),
        "lda chosen": (train, test, {}),
        "logistic chosen": (train, test, {"solver": probe.Logistic(tol=1e-7)}),
        "numbers": (*numbers, {"l2": 0.1}),
        "dual": (*wide, {"l2": 0.1}),
        "modes": (train, test, {"l2": 0.1, "mode": [*MODES], "cka": True}),
        "logistic modes": (
            train,
            test,
            {"solver": probe.Logistic(l2=0.1, tol=1e-7), "mode": ["pca", "random-projection"]},
        ),
    }
    found = {}
    for name, (one, other, arguments) in kinds.items():
        first = name.split()[0]
        solver = first if first in ("lda", "logistic") else "ridge"
        out = f"{folder}/{name}.csv" if name == "ridge" else None
        result = probe.sweep(
            one, other, fractions=[0.3, 0.7], seeds=[1, 2], device="cpu", out=out,
            **{"solver": solver, **arguments},
        )  # fmt: skip
        score = "r2" if name == "numbers" else "accuracy"
        found[f"{name} {score}"] = result.table[score].to_numpy()
        found[f"{name} l2"] = result.table["l2"].to_numpy()
        weights = [result.weights(row) for row in range(len(result))]
        found[f"{name} weights"] = np.concatenate([one.coef.ravel() for one in weights])
        found[f"{name} rows"] = result.correct.astype(float)
        if "cka" in result.table:
            found[f"{name} cka"] = result.table["cka"].to_numpy()
        if name == "lda":
            found["lda nll"] = result.table["nll"].to_numpy()
    return found


def refusal() -> str:
    """Return what sgd says."""
    try:
        probe.fit(rows(N, 1), [subsets.first_chain(D, [0.5])], solver=probe.SGD(epochs=1))
    except UsageError as error:
        return str(error)
    return "nothing"


def main(folder: str, out: str) -> None:
    """Write the numbers of every sweep to `out`, and a results file into `folder`."""
    memory.MOMENT_ROWS = 64  # so that every process has some
    with memory.joined():
        found = sweeps(folder)
        shares = np.zeros(memory.world(), np.int64)
        shares[memory.rank()] = memory.share(ArrayBlocks(*rows(N, 1)), 64).n_rows
        memory.all_sum(shares)
        said = refusal() if memory.world() > 1 else ""
        if memory.rank() == 0:
            np.savez(out, shares=shares, said=np.array(said), **found)
