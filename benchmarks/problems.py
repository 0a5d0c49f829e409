"""Labelled rows to probe whose classes overlap: made up, the same for the same sizes."""

import numpy as np
import torch

from benchmarks.sizes import ProbeSizes, SweepSizes

Pair = tuple[np.ndarray, np.ndarray]


def clouds(
    n_rows: int, n_features: int, n_classes: int, *, apart: float = 3.0, decay: float = 0.0
) -> Pair:
    """Return Gaussian clouds about class centres, float32 (N, D), and labels int64 (N,).

    Arguments:
        n_rows: N.
        n_features: D.
        n_classes: C; classes take turns.
        apart: how far centres lie from their mean, in deviations within a class. With 3, one of
            ten classes is told in nine of ten rows at best.
        decay: direction i, counted from 1, is scaled by i^-decay, and the directions are mixed;
            0 leaves all alike. Features of a backbone have such a spectrum.
    """
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(n_classes, n_features, generator=random) * apart / n_features**0.5
    labels = torch.arange(n_rows) % n_classes
    features = torch.randn(n_rows, n_features, generator=random)
    features += centres[labels]
    if decay:
        scales = torch.arange(1, n_features + 1) ** -decay
        mixing, _ = torch.linalg.qr(torch.randn(n_features, n_features, generator=random))
        features = features @ (scales[:, None] * mixing)
    return features.numpy(), labels.numpy()


def split(sizes: SweepSizes, **how: float) -> tuple[Pair, Pair]:
    """Return train and test of one `clouds`."""
    features, labels = clouds(sizes.rows + sizes.test_rows, sizes.features, sizes.classes, **how)
    cut = sizes.rows
    return (features[:cut], labels[:cut]), (features[cut:], labels[cut:])


def part(rows: Pair, sizes: ProbeSizes, count: int | None = None) -> Pair:
    """Return the first rows and features of a problem, its classes merged to as many as asked."""
    features, labels = rows
    count = sizes.rows if count is None else count
    kept = np.ascontiguousarray(features[:count, : sizes.features])
    return kept, labels[:count] % sizes.classes


def standardised(train: Pair, *others: Pair) -> list[np.ndarray]:
    """Return features of train, then of the others, less train's mean and by its deviation."""
    mean = train[0].mean(0, dtype=np.float64)
    deviation = train[0].std(0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1)
    return [((x - mean) / scale).astype(np.float32) for x, _ in (train, *others)]
