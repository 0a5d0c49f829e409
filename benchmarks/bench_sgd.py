"""The paper's SGD protocol: all probes in the same steps, against a torch loop of one by one.

python -m benchmarks.bench_sgd --sizes small

Every epoch costs the same, so a few of them, with the rate falling after each, stand for the 100 of
the protocol: the ratio is that of any number. The loop is a brisk one: each probe's columns are
gathered once, and minibatches are index lookups, without a DataLoader.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import loops, stages
from benchmarks.floors import floor_row
from featstore import bench, measurements, probe
from featstore.bench import EpochSizes, Pair, grown
from featstore.measurements import Report
from featstore.probe.solvers.sgd import orders
from featstore.probe.splits import Parts, random_parts
from featstore.probe.subsets import Chain, random_chain

WORST_LOSS = 1e-4
# a coefficient is read for the logits; its velocity is read and written, and so is itself
TOUCHES = 5

SIZES = {
    "small": EpochSizes(1_000, 128, 10, 3, 2, loop_probes=2, repeats=1, points=2),
    "medium": EpochSizes(10_000, 512, 10, 10, 3, loop_probes=4, repeats=2),
    "full": EpochSizes(50_000, 2_048, 10, 20, 5, loop_probes=6, repeats=1),
}


def problem(sizes: EpochSizes) -> Pair:
    """Return clouds about class centres, cut off at 0 as after a ReLU, and labels."""
    features, labels = bench.clouds(sizes.rows, sizes.features, sizes.classes, apart=6.0)
    return (0.1 * np.maximum(features, 0)).astype(np.float32), labels


def chains(sizes: EpochSizes) -> list[Chain]:
    shares = [(i + 1) / sizes.fractions for i in range(sizes.fractions)]
    return [random_chain(sizes.features, shares, seed) for seed in range(1, sizes.seeds + 1)]


def fit(train: Pair, sizes: EpochSizes, setup: stages.Setup, epochs: int) -> probe.ProbeResult:
    solver = probe.SGD(epochs=epochs, step_every=1, validate_every=1, one_start=False)
    return probe.fit(train, chains(sizes), solver=solver, **setup.arguments)


def measure(sizes: EpochSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the losses."""
    train = problem(sizes)
    fit(train, sizes, setup, 1)  # warms up
    found = measurements.facts(setup.backend)
    with measurements.PeakMemory(setup.backend) as peak:
        runs = [measurements.seconds(lambda: fit(train, sizes, setup, sizes.epochs))]
    times = range(sizes.repeats - 1)
    runs += [measurements.seconds(lambda: fit(train, sizes, setup, sizes.epochs)) for _ in times]
    spent, result = min(runs, key=lambda pair: pair[0])
    one = min(
        measurements.seconds(lambda: fit(train, sizes, setup, 1))[0] for _ in range(sizes.repeats)
    )
    probes, more = len(result), sizes.epochs - 1
    each = (spent - one) / more if more else spent
    return Report(
        "sgd",
        asdict(sizes),
        found,
        {
            "stages": [epoch(sizes, result, each, found)],
            "loops": [
                loops.compared("all together", probes, spent, spent),
                *against(train, chains(sizes)[0], sizes, setup, result, spent),
            ],
            "memory": [{"what": "peak MiB", "value": round(peak.bytes / 2**20)}],
        },
        grown(sizes, lambda point: solved(train, point, setup)),
        [
            f"Times are of {sizes.epochs} epochs; every epoch costs the same. The probes that the "
            "loop has run are of one seed; time is taken as a power of k between them.",
            "Growth: one epoch.",
        ],
    )


def epoch(sizes: EpochSizes, result, seconds: float, rates) -> dict[str, Any]:
    """Return the row of an epoch: 4 N C sum(k) operations, the coefficients' bytes each step."""
    rows = sizes.rows - int(0.1 * sizes.rows)
    entries = float((1 + result.table["k"].to_numpy()).sum()) * sizes.classes
    steps = -(-rows // probe.SGD.batch_size)
    moved = steps * entries * 4 * TOUCHES + 4.0 * rows * sizes.features
    return floor_row("one epoch", seconds, (4 * rows * entries, moved), rates)


def against(
    train: Pair, chain: Chain, sizes: EpochSizes, setup: stages.Setup, result, spent: float
) -> list[dict]:
    """Return a row for the loop, if it is asked for, whose losses have been compared.

    `result` took `spent` seconds for all seeds, of which `chain` is the first.
    """
    if "torch-loop" not in setup.against:
        return []
    recipe = probe.SGD(epochs=sizes.epochs, step_every=1)
    device = setup.backend.device
    features, labels = (torch.from_numpy(array).to(device) for array in train)
    parts = random_parts(len(labels), recipe.val_fraction, recipe.split_seed)

    def one(place: int) -> np.ndarray:
        x = features[:, torch.from_numpy(chain.order[: chain.sizes[place]]).to(device)]
        torch.manual_seed(chain.seed)
        layer = torch.nn.Linear(x.shape[1], int(labels.max()) + 1).to(device)
        return np.array(descended(layer, x, labels, parts, recipe))

    places = loops.picks(len(chain.sizes), sizes.loop_probes)
    timed = loops.timed("torch-loop", list(chain.sizes) * sizes.seeds, places, one)
    ours = result.fitted.losses[:, places].T
    error = float(np.abs(ours / np.array(timed.answers) - 1).max())
    if error > WORST_LOSS:
        raise bench.Disagreement(f"sgd: losses differ by {error:.1e} of themselves from the loop's")
    return [timed.row(spent, f"loss {error:.0e}")]


def descended(
    layer: torch.nn.Linear, x: torch.Tensor, labels: torch.Tensor, parts: Parts, recipe: probe.SGD
) -> list[float]:
    """Train one probe, keeping its best epoch as the protocol does; return each epoch's loss."""
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.l2
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_every, recipe.gamma)
    rows, held = parts.train, torch.from_numpy(parts.validation).to(x.device)
    losses, accuracies, best = [], [], None
    for order in orders(recipe, len(rows)):
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for batch in torch.from_numpy(rows[order]).to(x.device).split(recipe.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(layer(x[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        scheduler.step()
        losses.append(float(total) / len(rows))
        with torch.no_grad():
            hits = layer(x[held]).argmax(1) == labels[held]
        accuracies.append(float(hits.double().mean()))
        if accuracies[-1] == max(accuracies):
            best = {name: value.clone() for name, value in layer.state_dict().items()}
    assert best
    return losses


def solved(train: Pair, point: EpochSizes, setup: stages.Setup) -> tuple[float, int, int]:
    """Return seconds, peak bytes and probes of one epoch of a training of some sizes."""
    own = bench.part(train, point)
    run = lambda: fit(own, point, setup, 1)  # noqa: E731
    spent, held, result = measurements.measured(run, point.repeats, setup.backend)
    return spent, held, len(result)


if __name__ == "__main__":
    stages.main("sgd")
