"""The paper's SGD protocol: all probes in the same steps, against a torch loop of one by one.

python -m benchmarks.bench_sgd --sizes small

Every epoch costs the same, so a few of them, with the rate falling after each, stand for the 100 of
the protocol: the ratio is that of any number. The loop is a brisk one: each probe's columns are
gathered once, and minibatches are index lookups, without a DataLoader.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

import probe
from benchmarks import machine
from probe.chains import random_chain
from probe.sgd.recipe import Recipe
from probe.validation import random_parts

WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Sizes:
    """How large the problem is; a tenth of the rows is for validation."""

    n_rows: int
    n_features: int
    fractions: int
    seeds: int
    epochs: tuple[tuple[int, int], ...]  # classes, and epochs to time with so many


SIZES = {
    "small": Sizes(1_000, 128, 3, 2, ((10, 2),)),
    "full": Sizes(50_000, 2_048, 20, 5, ((10, 2), (100, 1))),
}


def problem(sizes: Sizes, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds about class centres, cut off at 0 as after a ReLU, float32, and labels."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(sizes.n_rows) % n_classes
    centres = 0.3 * torch.randn(n_classes, sizes.n_features, generator=random)
    features = torch.randn(sizes.n_rows, sizes.n_features, generator=random)
    features += centres[labels]
    return (0.1 * features.relu_()).numpy(), labels.numpy()


def one_by_one(
    train: tuple[np.ndarray, np.ndarray], chains: list, recipe: Recipe
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the losses and validation accuracies of each probe, trained by itself."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, labels = (torch.from_numpy(array).to(device) for array in train)
    parts = random_parts(len(labels), recipe.val_fraction, recipe.split_seed)
    held = torch.from_numpy(parts.validation).to(device)
    for chain in chains:
        for size in chain.sizes:
            x = features[:, torch.from_numpy(chain.order[:size]).to(device)]
            torch.manual_seed(chain.seed)
            layer = torch.nn.Linear(size, int(labels.max()) + 1).to(device)
            yield descended(layer, x, labels, parts.train, held, recipe)


def descended(
    layer: torch.nn.Linear,
    x: torch.Tensor,
    labels: torch.Tensor,
    rows: np.ndarray,
    held: torch.Tensor,
    recipe: Recipe,
) -> tuple[list[float], list[float]]:
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_every, recipe.gamma)
    losses, accuracies, best = [], [], None
    for order in recipe.orders(len(rows)):
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
    return losses, accuracies


def measure(sizes: Sizes, n_classes: int, epochs: int) -> list[dict]:
    """Return the rows of the table for one number of classes, having compared the losses."""
    train = problem(sizes, n_classes)
    fractions = [(i + 1) / sizes.fractions for i in range(sizes.fractions)]
    chains = [random_chain(sizes.n_features, fractions, s) for s in range(1, sizes.seeds + 1)]
    options = {"epochs": epochs, "step_every": 1}
    probe.fit(train, chains[:1], solver="sgd", epochs=1)  # warms up
    batched, result = machine.seconds(lambda: probe.fit(train, chains, solver="sgd", **options))
    loop, alone = machine.seconds(lambda: list(one_by_one(train, chains, Recipe(**options))))
    losses = np.array([losses for losses, _ in alone]).T
    accuracies = np.array([accuracies for _, accuracies in alone]).T
    error = float(np.abs(result.fitted.losses / losses - 1).max())
    assert error <= 1e-4, f"losses differ by {error}"
    rows = sizes.n_rows - int(0.1 * sizes.n_rows)
    entries = n_classes * sum(map(sum, (chain.sizes for chain in chains)))
    work = 4 * epochs * rows * entries / 1e9
    off = np.abs(result.fitted.val_accuracies - accuracies).max() * (sizes.n_rows - rows)
    name = f"{len(losses.T)} probes, {n_classes} classes, {epochs} epochs"
    return [
        _row(f"{name}: all", batched, work / batched, 1.0, ""),
        _row(f"{name}: single", loop, work / loop, loop / batched, ">= 5"),
        _row("   worst difference of losses", "", "", error, "<= 1e-4"),
        _row("   validation rows that differ", "", "", round(off), ""),
    ]


def _row(what: str, seconds: float | str, rate: float | str, ratio: float, target: str) -> dict:
    return {"what": what, "seconds": seconds, "GFLOP/s": rate, "ratio": ratio, "target": target}


def main() -> None:
    options = machine.arguments(__doc__.splitlines()[0])
    sizes = SIZES[options.sizes]
    rows = [row for pair in sizes.epochs for row in measure(sizes, *pair)]
    title = f"sgd, {sizes.n_rows - int(0.1 * sizes.n_rows)} rows x {sizes.n_features} features"
    machine.report(title, options.sizes, rows, options.json)


if __name__ == "__main__":
    main()
