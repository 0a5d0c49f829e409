"""ImageNet-21k on 64 accelerators, on paper: operations, traffic, memory and time of stages."""

from collections.abc import Mapping
from typing import Any

from benchmarks.ridge_stages import Work
from benchmarks.sheet import H200
from featstore.measurements import Report, Row
from featstore.probe.solvers.logistic import VECTORS
from featstore.probe.solvers.logistic.lbfgs import PAIRS

ROWS, TESTED, FEATURES, CLASSES, DEVICES = 14_000_000, 500_000, 4_096, 21_000, 64
FRACTIONS, SEEDS = 20, 5
# softmax probes: passes until they have converged
PASSES = 200
PIECE = 4_096  # rows that are multiplied at once
HALF, SINGLE, DOUBLE = 2, 4, 8  # bytes

Reports = Mapping[str, Report]


def lengths() -> list[int]:
    """Return k of one seed's probes: 5 %, 10 %, ... of the features, the whole layer last."""
    return [int(FEATURES * (i + 1) / FRACTIONS) for i in range(FRACTIONS)]


def widths() -> float:
    """Return the sum of 1 + k over all probes.

    Example:
        >>> len(lengths()) * SEEDS, widths()
        (100, 215100.0)
    """
    return float(SEEDS * (sum(lengths()) + FRACTIONS))


def work(image: float) -> dict[str, tuple[float, float, str]]:
    """Return operations, bytes and precision of each stage; of extraction, `image` operations each.

    The bytes of extraction are those of the images at 224 px, a byte a value.
    """
    whole = Work(ROWS, FEATURES, CLASSES, TESTED, [FEATURES] * SEEDS)
    labels, sums = 2.0 * ROWS * FEATURES * CLASSES, 1.0 * ROWS * FEATURES
    logits = SINGLE * TESTED * CLASSES * FRACTIONS * SEEDS
    one_pass = 4.0 * ROWS * CLASSES * widths()
    return {
        "extraction, ResNet50": (ROWS * image, 3.0 * 224**2 * ROWS, "float32"),
        "X'X, upper half": (whole.moments()[0] - sums, SINGLE * ROWS * FEATURES, "float32"),
        "X'Y, as a product": (labels, SINGLE * ROWS * (FEATURES + CLASSES), "float32"),
        "X'Y, by adding rows": (sums, 3 * SINGLE * ROWS * FEATURES, "float32"),
        "5 Cholesky factors": (*whole.factors(), "float64"),
        "substitution, test rows": (whole.substitution()[0], 2 * logits, "float32"),
        "softmax, one pass": (one_pass, SINGLE * ROWS * FEATURES, "float32"),
        f"softmax, {PASSES} passes": (
            PASSES * one_pass,
            PASSES * SINGLE * ROWS * FEATURES,
            "float32",
        ),
    }


def times(reports: Reports) -> list[Row]:
    """Return the floor of each stage's time: here, as measured, and on 64 H200 by data sheet."""
    machine = reports["ridge"].machine
    image = next(row for row in reports["extract"].tables["images"] if row["model"] == "resnet50")
    here = {
        "float32": machine["matmul_gflops"] * 1e9,
        "float64": machine["matmul64_gflops"] * 1e9,
        "bandwidth": machine["copy_gbs"] * 1e9,
    }
    rows = []
    for what, (operations, moved, dtype) in work(image["GFLOP"] * 1e9).items():
        # chains are shared out, so that no more than one a seed is factorised at once
        devices = SEEDS if "Cholesky" in what else DEVICES
        rows.append(
            {
                "stage": what,
                "FLOP": f"{operations:.2g}",
                "GB": moved / 1e9,
                "hours, this machine": _floor(operations, moved, here, dtype) / 3600,
                "seconds, 64 H200": _floor(operations, moved, H200, dtype) / devices,
            }
        )
    return rows


def _floor(operations: float, moved: float, rates: Mapping[str, float], dtype: str) -> float:
    return max(operations / rates[dtype], moved / rates["bandwidth"])


def memory() -> list[Row]:
    """Return what is held: whole, and on each device where it can be shared out."""
    state = SINGLE * CLASSES * widths() * (2 * PAIRS + VECTORS)
    largest = SINGLE * CLASSES * (1 + FEATURES) * (2 * PAIRS + VECTORS)
    held = {
        "features, float16": (HALF * ROWS * FEATURES, DEVICES),
        "X'X and X'Y, float64": (DOUBLE * FEATURES * (FEATURES + CLASSES), 1),
        "a piece of rows with one-hot columns": (SINGLE * PIECE * (FEATURES + CLASSES), 1),
        "factor and targets of a chain": (SINGLE * FEATURES * (FEATURES + CLASSES), 1),
        "softmax: state of the largest probe": (largest, 1),
        "softmax: state of all 100 probes": (state, DEVICES),
    }
    return [
        {"what": what, "GB": whole / 1e9, "GB a device": whole / share / 1e9}
        for what, (whole, share) in held.items()
    ]


def traffic() -> list[Row]:
    """Return what crosses the network, and how long that takes one adapter a device.

    A sum over devices sends and takes each byte about twice.
    """
    gradients = SINGLE * CLASSES * widths()
    crossing: dict[str, Any] = {
        "sum of X'X and X'Y, once": 2 * DOUBLE * FEATURES * (FEATURES + CLASSES),
        "rows shared out: sum of gradients, a pass": 2 * gradients,
        "probes shared out: all rows to all, a pass": HALF * ROWS * FEATURES,
    }
    return [
        {"what": what, "GB": moved / 1e9, "seconds": moved / H200["network"]}
        for what, moved in crossing.items()
    ]
