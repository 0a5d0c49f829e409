"""Modes and groups from elsewhere: directions of other stores and of probes, orders, tables."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.errors import BadStudy, UsageError
from featstore.probe import load_weights
from featstore.probe.arrays import Backend
from featstore.probe.geometry import universality
from featstore.probe.memory import Progress, Settings, silent
from featstore.probe.modes import Directions, Mode, Order
from featstore.probe.moments import cached_moments
from featstore.probe.plans import Shape, Wanted, forecast
from featstore.probe.solvers.registry import Chosen
from featstore.store.store import Store
from featstore.study.layers import Layer, check_same_rows, layers_of

BASIS, UNIVERSALITY = "basis", "universality"
SPECTRUM = 1e-8
"""Share of the largest singular value from which on a direction counts."""


def is_outside(mode: Mode) -> bool:
    """Return whether a mode is of another store, or of saved probes.

    >>> is_outside("basis:vit.zarr#last"), is_outside("basis:mine.npy"), is_outside("pca")
    (True, False, False)
    """
    if not isinstance(mode, str):
        return False
    kind, colon, place = mode.partition(":")
    return bool(colon) and kind in (BASIS, UNIVERSALITY) and not place.endswith(".npy")


def each_mode(mode: Mode | Sequence[Mode]) -> Sequence[Mode]:
    """Return the modes that are given, one or several.

    >>> each_mode("pca"), each_mode(["pca", "random"])
    (['pca'], ['pca', 'random'])
    """
    return [mode] if isinstance(mode, str | Directions | Order) else mode


def forecasts(shapes: Iterable[Shape], wanted: Wanted, how: Chosen, where: Backend) -> list[float]:
    """Return about how many seconds a sweep of each layer takes, without modes from elsewhere.

    Raises as `featstore.probe.plans.forecast`.
    """
    known = [mode for mode in each_mode(wanted.mode) if not is_outside(mode)]
    wanted = replace(wanted, mode=known or "random")
    return [forecast(wanted, how, shape, where) for shape in shapes]


def resolved(
    modes: Sequence[Mode],
    store: Store,
    tap: str,
    standardize: bool = True,
    progress: Progress = silent,
) -> list[Mode]:
    """Return modes for `probe.sweep`, those from elsewhere as directions or orders.

    * "basis:STORE#TAP@SPLIT": principal components of that layer, by default of its train rows: of
      its correlations, or without `standardize` of its covariance, as of mode pca.
    * "basis:FILE.safetensors": left singular vectors of the coefficients of all saved probes side
      by side, of features in units of their deviation.
    * "universality:STORE#TAP": features of this layer in the order in which ridge regression on the
      features of that one predicts them, on the train rows of both
      (`featstore.probe.geometry.universality`).

    Arguments:
        modes: as of `probe.sweep`, and these.
        store: whose features are probed.
        tap: which of them.
        standardize: as of `probe.sweep`.
        progress: callback.

    Raises:
        UsageError: a mode names nothing that can be read.
        RowsDiffer: the two layers of an order by another are not of the same rows.
    """
    return [
        _made(mode, Layer(tap, store, tap), standardize, progress) if is_outside(mode) else mode
        for mode in modes
    ]


def identity(mode: str) -> str:
    """Return what decides about a mode from elsewhere, for a study's records."""
    place = _place(mode)[0]
    if place.endswith(".safetensors"):
        return " ".join(load_weights(place).digests)
    return str([each.store.spec.digest() for each in layers_of([place])])


def _place(mode: str) -> tuple[str, str]:
    """Part the place of a mode from the split behind its last @."""
    place = mode.partition(":")[2]
    head, at, split = place.rpartition("@")
    return (head, split) if at and not Path(place).exists() else (place, "train")


def _made(mode: str, layer: Layer, standardize: bool, progress: Progress) -> Mode:
    place, split = _place(mode)
    name = f"{Path(place).name}@{split}" if split != "train" else Path(place).name
    if place.endswith(".safetensors"):
        if mode.startswith(UNIVERSALITY):
            raise BadStudy(f"{mode!r} names saved probes: give a store of the same rows")
        return Directions(name, _of_probes(place))
    (other,) = layers_of([place])
    if mode.startswith(UNIVERSALITY):
        check_same_rows([layer, other], "train")
        found = universality((layer.rows("train"), other.rows("train")), progress=progress)
        return Order(f"{UNIVERSALITY}:{name}", found.sort_values("rank")["feature"].to_numpy())
    settings = Settings(moments_cache=other.store.moments_folder, progress=progress)
    total = cached_moments(other.rows(split), settings)
    values, vectors = np.linalg.eigh(total.covariance(standardize))
    kept = values > SPECTRUM**2 * values[-1]
    found = vectors[:, kept][:, ::-1]
    return Directions(name, found / total.scale(standardize)[:, None])


def _of_probes(path: str) -> np.ndarray:
    """Return singular vectors of saved probes, float64 (D, m), for features in their own units."""
    saved = load_weights(path)
    scale = np.ones(saved.n_features)
    gram = np.zeros((saved.n_features, saved.n_features))
    for number in range(int(saved.tensors.max()) + 1):
        weights = saved.probe(number)
        coefficients = np.zeros((saved.n_features, saved.n_classes))
        coefficients[weights.features] = weights.standardized[0]
        scale[weights.features] = weights.scale
        # what adds the same to all classes decides about none
        coefficients -= coefficients.mean(1, keepdims=True) if not saved.n_targets else 0
        gram += coefficients @ coefficients.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > SPECTRUM * values[-1]
    if not values[-1] > 0:
        raise BadStudy(f"the probes of {path} have no weights but 0: they give no direction")
    return vectors[:, kept][:, ::-1] / scale[:, None]


def groups_of(store: Store, split: str, how: str) -> np.ndarray:
    """Return which group each row of a split is of, texts or int64 (N,).

    `how` is a column that the store keeps, or else as of `groups_by`, of the rows' ids.

    Raises:
        UsageError: some row has no text in that column; or as `groups_by`.
    """
    kept = [column.name for column in store.spec.columns]
    if how not in kept:
        told = f" (a column of {store.path}: {', '.join(kept)})" if kept else ""
        return groups_by(store.ids(split), how, told)
    found = store.column(split, how)
    lacking = np.flatnonzero(found == "") if found.dtype.kind == "U" else []
    if len(lacking):
        raise UsageError(
            f"row {lacking[0]} of {split} in {store.path} has no {how}: give groups that every row "
            "is of"
        )
    return found


def groups_by(ids: Sequence[str], how: str, others: str = "") -> np.ndarray:
    """Return which group each row is of, texts (N,).

    Arguments:
        ids: of the rows.
        how: "id:PATTERN", a regular expression whose first group, or all of it, is found in each
            id; or "FILE:COLUMN", a .csv, .tsv or .parquet table with a row for each id, which
            stands in any other column.
        others: what else may be given, for a message.

    Raises:
        UsageError: the pattern is none, or is not in some id; the table or its column is not there,
            or no column of it has every id.

    Example:
        >>> groups_by(["p1/a.png", "p2/a.png", "p1/b.png"], "id:^[^/]+").tolist()
        ['p1', 'p2', 'p1']
    """
    kind, _, pattern = how.partition(":")
    if kind == "id":
        try:
            found = [re.search(pattern, one) for one in ids]
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression ({error}): mend it") from None
        if None in found:
            raise UsageError(
                f"{pattern!r} is not in the id {ids[found.index(None)]!r}: give a pattern that "
                "every id has"
            )
        return np.array([one[1 if one.re.groups else 0] for one in found])
    name, _, column = how.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"groups are {how!r}: give id:PATTERN, or FILE:COLUMN of a table there is{others}"
        )
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).astype(str)
    else:
        table = pd.read_csv(path, dtype=str, sep="\t" if path.suffix == ".tsv" else ",")
    if column not in table:
        raise UsageError(f"{path} has no column {column!r}: it has {', '.join(table)}")
    for key in table.columns.drop(column):
        own = table.drop_duplicates(key).set_index(key)[column].reindex(ids)
        if own.notna().all():
            return own.to_numpy(str)
    raise UsageError(
        f"no column of {path} has every row's id, such as {ids[0]!r}: add the missing rows"
    )
