"""Cost of the published probes, theirs and ours: image passes, operations and hours.

Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023, train a linear
layer anew for each (fraction, seed) with the backbone inside the training loop. Rates are those of
this machine's reports, and of a data sheet where that is said.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.ridge_stages import Work
from benchmarks.sheet import H200
from featstore.measurements import Report, Row
from featstore.probe.subsets import sizes

EPOCHS, TRAIN, TEST, SEEDS = 100, 50_000, 10_000, 5
FEATURES, CLASSES = 2_048, 10
FRACTIONS = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9)
# the whole layer is the same for every seed: one training
FIGURE = len(FRACTIONS) * SEEDS + 1
# of the paper as a whole: distinct trainings, and images through a backbone for all of them
TRAININGS, PASSES = 14_413, 7.4e10
VALIDATION = 0.1

Reports = Mapping[str, Report]


def passes(reports: Reports) -> list[Row]:
    """Return images through a backbone: theirs once an epoch and training, ours once in all.

    Of the whole paper the backbones differ; ResNet50 stands for all, and 71 trainings for each pair
    of a backbone's layer and a data set of 60,000 images.

    Example:
        >>> FIGURE, FIGURE * EPOCHS * TRAIN, round(TRAININGS / FIGURE)
        (71, 355000000, 203)
    """
    images = next(row for row in reports["extract"].tables["images"] if row["model"] == "resnet50")
    pairs = round(TRAININGS / FIGURE)
    counts = {
        "one figure, theirs": FIGURE * EPOCHS * TRAIN,
        "one figure, ours": TRAIN + TEST,
        "all of it, theirs": PASSES,
        "all of it, ours": pairs * (TRAIN + TEST),
    }
    rows = []
    for what, count in counts.items():
        rate = images["extract/s"] if what.endswith("ours") else images["bare/s"]
        operations = count * images["GFLOP"] * 1e9
        rows.append(
            {
                "what": what,
                "image passes": f"{count:,.0f}" if count < 1e9 else f"{count:.2g}",
                "FLOP": f"{operations:.2g}",
                "hours, this machine": count / rate / 3600,
                "hours, H200 sheet": operations / (H200["float32"] * 3600),
            }
        )
    return rows


def shape() -> tuple[list[int], float]:
    """Return k of one seed's probes below the whole layer, and the sum of 1 + k of all 71.

    Example:
        >>> shape()[0][-3:], shape()[1]
        ([1024, 1638, 1843], 31544.0)
    """
    k = list(sizes(FEATURES, FRACTIONS))
    return k, float(SEEDS * (sum(k) + len(k)) + 1 + FEATURES)


def probes(reports: Reports) -> list[Row]:
    """Return what solving the figure's 71 probes takes on stored features, by each solver.

    Operations are those of the figure's own shapes; rates are those that the stages were measured
    at, and so is the number of passes of softmax regression.
    """
    k, width = shape()
    work = Work(TRAIN, FEATURES, CLASSES, TEST, [*[k[-1]] * SEEDS, FEATURES])
    ridge = _rates(reports["ridge"])
    direct = {
        "moments": work.moments()[0],
        "Cholesky": work.factors()[0],
        "substitution": work.substitution()[0],
    }
    convergence = {row["what"]: row["value"] for row in reports["logistic"].tables["convergence"]}
    softmax = 4.0 * TRAIN * CLASSES * width * convergence["passes over the rows"]
    epochs = EPOCHS * 4.0 * TRAIN * (1 - VALIDATION) * CLASSES * width
    loop = next(
        row for row in reports["sgd"].tables["loops"] if row["what"].startswith("torch-loop")
    )
    a_pass, an_epoch = _first_rate(reports["logistic"]), _first_rate(reports["sgd"])
    timed = {
        "ridge": (sum(direct.values()), sum(direct[name] / ridge[name] for name in direct) / 1e9),
        f"softmax, {convergence['passes over the rows']} passes": (softmax, softmax / a_pass / 1e9),
        f"sgd, {EPOCHS} epochs": (epochs, epochs / an_epoch / 1e9),
        "sgd, one probe at a time": (epochs, epochs / an_epoch / 1e9 * loop["of ours"]),
    }
    return [_solver(what, *found) for what, found in timed.items()]


def _solver(what: str, operations: float, seconds: float) -> dict[str, Any]:
    return {
        "71 probes by": what,
        "FLOP": f"{operations:.2g}",
        "GFLOP/s": operations / seconds / 1e9,
        "seconds": seconds,
        "hours for 14,413": seconds * TRAININGS / FIGURE / 3600,
    }


def _rates(report: Report) -> dict[str, float]:
    return {row["what"]: row["GFLOP/s"] for row in report.tables["stages"]}


def _first_rate(report: Report) -> float:
    return report.tables["stages"][0]["GFLOP/s"]
