"""Saved probes applied to rows: predicted classes, and accuracy where labels tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from probe import budget
from probe.blocks import RowBlocks, Rows, as_blocks, has_targets
from probe.checks import check_labels
from probe.errors import DataError, UsageError
from probe.predictions import Predictions, room
from probe.rows import raise_non_finite
from probe.settings import Progress, silent
from probe.weights import Weights
from probe.weights_file import SavedWeights, load_weights


def predict(
    weights: SavedWeights | str | Path,
    rows: Rows,
    *,
    source: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    memory: str | int = "4GiB",
    progress: Progress = silent,
) -> Predictions:
    """Return what every saved probe predicts for every row, argmax of x[features] @ coef + b.

    Rows are read once for as many probes as fit into memory together; logits are float64.

    Arguments:
        weights: from `load_weights`, or the path of the file.
        rows: row blocks, or (features (N, D), labels (N,)).
        source: what identifies the features of these rows: names that the file has too must have
            the values that they have there.
        classes: names of these rows' classes. If they are not the file's, labels say nothing
            about the predictions, and accuracy is NaN.
        memory: what arrays may take, as "4GiB" or bytes.
        progress: callback.

    Raises:
        FileError: the file holds no probes.
        UsageError: the probes predict numbers, not classes.
        DataError: the features are not those that the probes were fitted on, or not finite, or so
            large that a probe has no finite largest logit.
        MemoryBudgetError: predictions or a probe take more than `memory`.
    """
    saved = weights if isinstance(weights, SavedWeights) else load_weights(weights)
    blocks = as_blocks(rows)
    check_features(saved, blocks, source or {})
    if saved.n_targets:
        raise UsageError(
            f"the probes of {saved.path.name} predict numbers, and predictions are kept of classes "
            "alone: take `load_weights(path).weights(row).logits(features)`"
        )
    labels = blocks.labels()
    comparable = classes is None or saved.classes is None or list(classes) == saved.classes
    comparable &= not has_targets(blocks)
    if comparable:
        check_labels(labels, saved.n_classes, "these rows")
    numbers = np.arange(saved.tensors.max() + 1)
    limit = budget.parse(memory)
    by_probe = room(blocks.n_rows, len(numbers), saved.n_classes, limit)
    for together in _groups(saved, limit // 2):
        _fill(by_probe, blocks, {n: saved.probe(n) for n in together}, saved.path.name, progress)
    hits = (by_probe == labels[:, None]).mean(0) if comparable else np.full(len(numbers), np.nan)
    table = saved.table.assign(n_test=blocks.n_rows, accuracy=hits[saved.tensors])
    # of the rows that the probes were tested on, and not of these
    table = table.drop(columns="majority", errors="ignore")
    names = tuple(getattr(blocks, "classes", ()) if classes is None else classes)
    predicted = tuple(saved.classes or (names if comparable else ()))
    return Predictions(table, labels, by_probe, saved.tensors, predicted, names)


def check_features(saved: SavedWeights, rows: RowBlocks, source: Mapping[str, str]) -> None:
    """Raise DataError unless the rows have the features that the probes were fitted on."""
    for name, theirs in saved.source.items():
        if name in source and source[name] != theirs:
            raise DataError(
                f"the probes of {saved.path.name} are for features of {name} {theirs}, "
                f"and these are of {name} {source[name]}: extract with the same, or fit anew"
            )
    if rows.n_features != saved.n_features:
        raise DataError(
            f"the probes of {saved.path.name} are for {saved.n_features} features, and these rows "
            f"have {rows.n_features}: take the layer that the probes were fitted on"
        )
    if rows.n_rows < 1:
        raise DataError("there is no row to predict for")


def _groups(saved: SavedWeights, limit: int) -> list[list[int]]:
    """Return the numbers of the file's probes in groups of at most `limit` bytes, or of one."""
    groups: list[list[int]] = [[]]
    held = 0
    for number in range(saved.tensors.max() + 1):
        size = 8 * saved.reads(number) * (saved.n_classes + 3)
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += size
    return groups


def _fill(
    by_probe: np.ndarray, rows: RowBlocks, probes: Mapping[int, Weights], file: str,
    progress: Progress,
) -> None:  # fmt: skip
    done = 0
    for features, labels in rows:
        raise_non_finite(features, done, "these rows")
        wide = features.astype(np.float64)
        for number, weights in probes.items():
            with np.errstate(over="ignore", invalid="ignore"):
                logits = weights.logits(wide)
            largest = logits.max(1)  # NaN if one is; classes without train rows have -inf
            wrong = np.flatnonzero(~np.isfinite(largest))
            if len(wrong):
                raise DataError(
                    f"probe {number} of {file} has {largest[wrong[0]]} as the largest logit of row "
                    f"{done + wrong[0]}: the features are far larger than those it was fitted on: "
                    "give rows in the same units, or fit anew"
                )
            by_probe[done : done + len(labels), number] = logits.argmax(1)
        done += len(labels)
        progress("rows", done, rows.n_rows)
