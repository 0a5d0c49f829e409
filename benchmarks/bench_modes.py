"""Modes: every way to choose k features or directions in one sweep, against random ones alone.

python -m benchmarks.bench_modes --sizes small
"""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from benchmarks import stages
from benchmarks.bench_ridge import grid
from featstore import bench, measurements, probe
from featstore.bench import Disagreement, SweepSizes
from featstore.measurements import Report
from featstore.probe import arrays
from featstore.probe.memory import Settings
from featstore.probe.modes import MODES
from featstore.probe.moments import Remembered, moments
from featstore.probe.rows import as_blocks
from featstore.probe.subsets import FEATURES, Frame, directions

L2 = 1e-3
# what a sweep of every mode may take, in sweeps of random ones
TARGET = 5
# of W, relative to float64
WORST_ERROR = 1e-5
# a fresh draw for each probe shares nothing, forward selection takes its steps one by one, and
# orders of attribution are worked out before the sweep
APART = ("independent", "greedy", "drop-one", "shapley")
TOGETHER = [name for name in MODES if name not in APART]
EVERY_K_CLASSES = 10

SIZES = {
    "small": SweepSizes(1_000, 96, 5, 4, 2, repeats=1, test_rows=300),
    "medium": SweepSizes(20_000, 512, 20, 20, 5, repeats=2, test_rows=4_000),
    "full": SweepSizes(50_000, 2_048, 100, 20, 5, repeats=1, test_rows=10_000),
}


def sweep(train, test, sizes: SweepSizes, setup: stages.Setup, mode, **how) -> probe.ProbeResult:
    fractions = None if how.get("every_k") else grid(sizes.fractions)
    return probe.sweep(
        train,
        test,
        fractions=fractions,
        seeds=range(1, sizes.seeds + 1),
        solver="ridge",
        l2=L2,
        mode=mode,
        **how,
        **setup.arguments | {"progress": setup.progress},
    )


def measure(sizes: SweepSizes, setup: stages.Setup) -> Report:
    """Return the report, having checked the probes of every mode."""
    train, test = bench.split(sizes, decay=0.5)
    found = measurements.facts(setup.backend)
    together, result = against_random(train, test, sizes, setup)
    error = worst_error(train, result, setup)
    if error > WORST_ERROR:
        raise Disagreement(f"modes: W is off by {error:.1e} of itself from float64's")
    return Report(
        "modes",
        asdict(sizes),
        found,
        {
            "together": together,
            "each, moments known": each(train, test, sizes, setup),
            "every k": every_k(train, test, sizes, setup),
        },
        [],
        [
            "Together: every mode but " + " and ".join(APART) + ". The sweeps of both lines have "
            "the column cka; moments are counted in.",
            f"One probe of each mode was solved again in float64: W within {error:.0e}. Every k: "
            f"{EVERY_K_CLASSES} classes.",
        ],
    )


def against_random(train, test, sizes: SweepSizes, setup: stages.Setup):
    """Return rows for random subsets alone and for all modes, and the result of the latter."""
    run = lambda mode: sweep(train, test, sizes, setup, mode, cka=True)  # noqa: E731
    sweep(train, test, replace(sizes, seeds=1, fractions=2), setup, "random")
    times, results = {"random": [], "all": []}, {}
    for _ in range(sizes.repeats):  # in turn, so that a busy moment hits both
        for name, mode in (("random", "random"), ("all", TOGETHER)):
            with measurements.PeakMemory(setup.backend) as peak:
                seconds, results[name] = measurements.seconds(lambda mode=mode: run(mode))
            times[name].append(seconds)
    alone, every = min(times["random"]), min(times["all"])
    rows = [
        ("random alone", len(results["random"]), alone, "", "", ""),
        (
            f"{len(TOGETHER)} modes",
            len(results["all"]),
            every,
            every / alone,
            f"<= {TARGET}",
            round(peak.bytes / 2**20),
        ),
    ]
    names = ("what", "rows", "seconds", "of random", "target", "peak MiB")
    return [dict(zip(names, row, strict=True)) for row in rows], results["all"]


def each(train, test, sizes: SweepSizes, setup: stages.Setup) -> list[dict[str, Any]]:
    """Return a row for every mode alone, where the moments of train and test are there."""
    known = [Remembered(as_blocks(rows)) for rows in (train, test)]
    for rows in known:
        rows.moments(Settings(backend=setup.backend))
    rows = []
    for mode in MODES:
        how = {} if mode in APART else {"cka": True}
        seconds, result = measurements.seconds(
            lambda mode=mode, how=how: sweep(*known, sizes, setup, mode, **how)
        )
        counted = len(set(result.probes.tolist())) - 1
        rows.append(
            {"mode": mode, "probes": counted, "seconds": seconds, "cka": "yes" if how else ""}
        )
    return rows


def every_k(train, test, sizes: SweepSizes, setup: stages.Setup) -> list[dict[str, Any]]:
    """Return rows for some fractions and for every k, of fewer classes."""
    own = replace(sizes, classes=min(EVERY_K_CLASSES, sizes.classes))
    pair = bench.part(train, own), bench.part(test, own, own.test_rows)
    rows = []
    for what, how in ((f"{own.fractions} fractions", {}), ("every k", {"every_k": True})):
        with measurements.PeakMemory(setup.backend) as peak:
            seconds, result = measurements.seconds(
                lambda how=how: sweep(*pair, own, setup, "random", **how)
            )
        rows.append(
            {
                "what": what,
                "probes": len(result),
                "seconds": seconds,
                "peak MiB": round(peak.bytes / 2**20),
            }
        )
    return rows


def worst_error(train, result: probe.ProbeResult, setup: stages.Setup) -> float:
    """Return the largest relative error of W of each mode's first probe, against float64."""
    covariance, cross = float64(train)
    gathered = moments(as_blocks(train), Settings(backend=setup.backend))
    frame = Frame(len(covariance), lambda: gathered)
    worst = 0.0
    for row in map(int, result.table.groupby("mode").head(1).index):
        number = int(result.probes[row])
        axes = result.fitted.axes
        chain, features = axes.chains[axes.chain[number]], axes.features(number)
        seen = torch.eye(len(covariance), dtype=torch.float64)
        if chain.basis != FEATURES:
            count = int(features.max()) + 1
            seen = directions(chain.basis, count, frame, arrays.backend("torch", "cpu"))
        seen = seen[:, features.copy()]
        system = seen.T @ covariance @ seen + L2 * torch.eye(len(features), dtype=torch.float64)
        exact = seen @ torch.linalg.solve(system, seen.T @ cross)
        weights, ours = result.weights(row), torch.zeros_like(exact)
        ours[weights.features.copy()] = torch.from_numpy(weights.standardized[0])
        worst = max(worst, float((ours - exact).norm() / exact.norm()))
    return worst


def float64(train: bench.Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Return X'X/N and X'Y/N of standardised features and centred one-hot labels."""
    x, y = torch.from_numpy(train[0]), train[1]
    mean, width = x.mean(0, dtype=torch.float64), x.shape[1]
    targets = torch.from_numpy(np.eye(y.max() + 1)[y])
    targets -= targets.mean(0)
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, targets.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(x)).split(4096):
        centred = x[rows].double() - mean
        gram += centred.T @ centred
        cross += centred.T @ targets[rows]
    scale = (gram.diagonal() / len(x)).sqrt()
    return gram / torch.outer(scale, scale) / len(x), cross / scale[:, None] / len(x)


if __name__ == "__main__":
    stages.main("modes")
