"""Small stores with layers of known similarity, for the tests of commands that compare layers."""

import numpy as np

import featstore

N_TRAIN, N_TEST = 90, 60


def features(rows: int, split: str) -> dict[str, np.ndarray]:
    """Layers (rows, D): `low` (12), `high` a rotation of it, `wide` (20) with dead and repeated."""
    random = np.random.default_rng({"train": 1, "test": 2}.get(split, 3))
    labels = np.arange(rows) % 3
    low = random.normal(size=(rows, 12)) @ np.diag(np.linspace(0.5, 3, 12)) + labels[:, None]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    wide = random.normal(size=(rows, 20)) + 0.8 * low[:, :1] * np.linspace(0, 1, 20)
    wide[:, 4] = 0.25
    wide[:, 7] = 3 - 2 * wide[:, 2]
    every = {"low": low, "high": 2 * low @ turn, "wide": wide}
    return {name: values.astype(np.float32) for name, values in every.items()}


def made(path, taps=("low", "high"), ids=lambda split, row: f"{split}/{row}", labels=3, rows=None):
    """A complete store of some of these layers; the labels are row numbers modulo `labels`."""
    counts = {"train": N_TRAIN, "test": N_TEST} | (rows or {})
    drawn = {split: features(count, split) for split, count in counts.items()}
    spec = featstore.Spec(
        backbone=path.stem, weights="none", transform="none", dataset="drawn", dtype="float32",
        splits=[featstore.Split(name=split, n_rows=count, fingerprint=f"{split}-{path.name}")
                for split, count in counts.items()],
        taps=[featstore.Tap(name=tap, dim=drawn["test"][tap].shape[1], pooling="none")
              for tap in taps],
        classes=tuple("abc"[:labels]),
    )  # fmt: skip
    store = featstore.create(path, spec)
    with store.writer() as writer:
        for split, count in counts.items():
            for block in range(store.n_blocks(split)):
                span = store.rows_of(split, block)
                part = {tap: drawn[split][tap][span.start : span.stop] for tap in taps}
                names = [ids(split, row) for row in span]
                writer.write(split, block, part, np.arange(count)[list(span)] % labels, names)
    return store
