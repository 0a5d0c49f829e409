"""Saved probes, and what they predict of other rows."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash
from safetensors import safe_open

from featstore.probe import statuses
from featstore.probe.errors import DataError, FileError, ProbeError, UsageError
from featstore.probe.memory import Progress, parse as parse_memory, silent
from featstore.probe.pieces import raise_non_finite
from featstore.probe.predicted import Predictions, room_of_classes, scores_of_labels
from featstore.probe.result import ProbeResult, unscored, with_columns
from featstore.probe.results.files import (
    as_computed,
    as_json,
    check_values,
    digest_of,
    from_json,
    opened,
    written_whole,
)
from featstore.probe.rows import (
    RowBlocks,
    Rows,
    as_blocks,
    check_labels,
    has_several_labels,
    has_targets,
)
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.weights import Weights, n_outputs, n_targets
from featstore.probe.subsets import FEATURES

SUFFIX = ".safetensors"
FORMAT = "featstore probes 1"
FIELDS = ("features", "coef", "intercept", "mean", "scale")


def save_weights(
    result: ProbeResult,
    path: str | Path,
    rows: Sequence[int] | None = None,
    *,
    source: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write solved probes to a .safetensors file, whole or not at all.

    Each probe is five tensors, "<number>.<field>" with the fields of
    `featstore.probe.solvers.weights.Weights`: features int64 (k,), coef float64 (k, C), intercept
    float64 (C,), mean and scale float64 (k,), such that x[features] @ coef + intercept are the
    logits of a raw row x. They are written one after another, so that no more than one is in
    memory. The header holds the rows of the result's
    table; rows of the same probe, as the whole layer of every seed, share its tensors. Probes
    that failed are left out. The header has a digest of its own texts and one of each probe's
    tensors, against which `load_weights` and every probe that is read are held.

    Arguments:
        result: from `probe.fit` or `probe.sweep`.
        path: ends in .safetensors.
        rows: numbers of the table's rows to save; by default all.
        source: names and values that identify the features, for `predict` to hold against.
        classes: names of the C classes, or of the L labels.

    Raises:
        UsageError: the name ends in something else, there is no such row, no row is left, or a
            probe was read from a results file.
    """
    path = _checked(path)
    if not SOLVERS[result.solver].affine:
        raise UsageError(
            f"solver {result.solver} has no weights to save: save predictions, or take another"
        )
    wanted = _usable(result, rows)
    probes, tensors = np.unique(result.probes[wanted], return_inverse=True)
    first = [int(wanted[np.flatnonzero(tensors == number)[0]]) for number in range(len(probes))]
    table = result.table.iloc[wanted]
    metadata = {
        "format": FORMAT,
        "n_features": str(result.fitted.n_features),
        "n_classes": str(n_outputs(result.fitted)),
        "n_targets": str(n_targets(result.fitted)),
        "source": json.dumps(dict(source or {})),
        "classes": json.dumps(list(classes) if classes is not None else None),
        "above": json.dumps(result.above),
        "table": as_json(table),
        "tensors": json.dumps(tensors.tolist()),
    }
    sizes = [_reads(result, row) for row in first]

    def header(digests: list[str]) -> bytes:
        told = {**metadata, "digests": json.dumps(digests)}
        return _header(sizes, n_outputs(result.fitted), {**told, "digest": _digest_of(told)})

    digests = ["0" * 32] * len(first)
    with written_whole(path) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(header(digests))) + header(digests))
        for number, row in enumerate(first):
            arrays = dict(zip(FIELDS, _arrays(result.weights(row)), strict=True))
            digests[number] = digest_of(arrays)
            for array in arrays.values():
                file.write(array.tobytes())
        file.seek(8)
        file.write(header(digests))  # as long as before


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"{path.name!r} does not end in {SUFFIX}: name it so")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    return path


def _usable(result: ProbeResult, rows: Sequence[int] | None) -> np.ndarray:
    """Return the row numbers to save, int64."""
    wanted = np.arange(len(result)) if rows is None else np.atleast_1d(np.asarray(rows, np.int64))
    for row in wanted:
        if not 0 <= row < len(result):
            raise UsageError(f"there is no probe {row}: the table has rows 0 to {len(result) - 1}")
    status = result.table["status"].iloc[wanted]
    usable = wanted[~statuses.has(status, statuses.UNUSABLE)]
    if not len(usable):
        raise UsageError(f"no probe to save: {len(wanted)} were asked for and none was solved")
    return usable


def _reads(result: ProbeResult, row: int) -> int:
    """Return how many stored features a probe reads: k, or all of them for directions."""
    probe, axes = int(result.probes[row]), result.fitted.axes
    if axes.chains[axes.chain[probe]].basis != FEATURES:
        return result.fitted.n_features
    return int(axes.size[probe])


def _shapes(size: int, n_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "features": ("I64", (size,)),
        "coef": ("F64", (size, n_classes)),
        "intercept": ("F64", (n_classes,)),
        "mean": ("F64", (size,)),
        "scale": ("F64", (size,)),
    }


def _header(sizes: Sequence[int], n_classes: int, metadata: Mapping[str, str]) -> bytes:
    """Return the JSON header of the safetensors format, padded to a multiple of 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for number, size in enumerate(sizes):
        for field, (dtype, shape) in _shapes(size, n_classes).items():
            stop = start + 8 * int(np.prod(shape))
            entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
            entries[f"{number}.{field}"] = entry
            start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _digest_of(metadata: Mapping[str, str]) -> str:
    """Return 32 hex digits for the texts of a header, without their own digest."""
    told = {name: text for name, text in metadata.items() if name != "digest"}
    return xxhash.xxh3_128_hexdigest(json.dumps(told, sort_keys=True).encode())


def _arrays(weights: Weights) -> Iterator[np.ndarray]:
    for field in FIELDS:
        dtype = "<i8" if field == "features" else "<f8"
        yield np.ascontiguousarray(getattr(weights, field), dtype)


@dataclass(frozen=True)
class SavedWeights:
    """Probes in a file, read one at a time.

    Attributes:
        path: the file.
        table: the rows of the table that they were saved from.
        tensors: int64 (rows,), which probe of the file each row is.
        n_features: D of the layer.
        n_classes: C.
        source: what identifies the features.
        classes: names of the classes; None if they were not given.
        n_targets: T, if the probes predict numbers, and not classes; then C = T.
        digests: of the tensors of each probe; () in files of before they were written.
        above: the score above which one of T labels is given; None for classes, for numbers, and
            in files of before it was written.
    """

    path: Path
    table: pd.DataFrame
    tensors: np.ndarray
    n_features: int
    n_classes: int
    source: dict[str, str]
    classes: list[str] | None
    n_targets: int = 0
    digests: tuple[str, ...] = ()
    above: float | None = None

    def __len__(self) -> int:
        return len(self.table)

    def weights(self, row: int) -> Weights:
        """Return the affine map of the probe in one row of the table."""
        return self.probe(int(self.tensors[row]))

    def reads(self, number: int) -> int:
        """Return how many stored features a probe of the file reads."""
        with _damage_said(self.path), safe_open(self.path, framework="np") as file:
            return file.get_slice(f"{number}.features").get_shape()[0]

    def probe(self, number: int) -> Weights:
        """Return one probe of the file.

        Raises:
            FileError: its tensors are not those that were written.
        """
        with _damage_said(self.path), safe_open(self.path, framework="np") as file:
            fields = {field: file.get_tensor(f"{number}.{field}") for field in FIELDS}
            self._check(number, fields)
        return Weights(**fields)

    def _check(self, number: int, fields: dict[str, np.ndarray]) -> None:
        if self.digests and digest_of(fields) != self.digests[number]:
            raise FileError(
                f"{self.path} is damaged: probe {number} has another digest than was written; "
                "save the probes again"
            )
        read = fields["features"]
        for field, (dtype, shape) in _shapes(len(read), self.n_classes).items():
            if fields[field].shape != shape or fields[field].dtype.kind != dtype[0].lower():
                raise ValueError(f"{number}.{field} is {fields[field].dtype} {fields[field].shape}")
        if len(read) and not 0 <= read.min() <= read.max() < self.n_features:
            raise ValueError(f"probe {number} reads features beyond {self.n_features}")


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes its parsers raise into a FileError."""
    try:
        yield
    except ProbeError:
        raise
    # safetensors, NumPy, JSON and pandas raise a dozen kinds between them
    except Exception as error:
        first = (str(error) or type(error).__name__).partition("\n")[0]
        raise FileError(
            f"{path} is damaged, or cannot be read as safetensors ({first}): name a file that "
            "--save-weights or probe.save_weights wrote"
        ) from None


def load_weights(path: str | Path) -> SavedWeights:
    """Return the probes that `save_weights` wrote; nothing is unpickled.

    Raises:
        FileError: the file is not there, is damaged, or holds something else.
    """
    path = Path(path)
    with opened(path):
        pass  # it is there, and a file
    with _damage_said(path), safe_open(path, framework="np") as file:
        return _saved(path, file.metadata() or {}, set(file.keys()))


def _saved(path: Path, metadata: dict[str, str], names: set[str]) -> SavedWeights:
    if metadata.get("format") != FORMAT:
        raise FileError(
            f"{path} holds no probes of this version ({metadata.get('format', 'unmarked')}): "
            "name a file that --save-weights or probe.save_weights wrote"
        )
    if metadata.get("digest", _digest_of(metadata)) != _digest_of(metadata):
        raise FileError(f"{path} is damaged: its header is not what was written; save them again")
    table = as_computed(from_json(metadata["table"]))
    tensors = np.array(json.loads(metadata["tensors"]), np.int64)
    n_probes = len(names) // len(FIELDS)
    if tensors.shape != (len(table),) or not set(tensors.tolist()) == set(range(n_probes)):
        raise FileError(f"{path} lacks some of its probes' tensors: save them again")
    if names != {f"{n}.{field}" for n in range(n_probes) for field in FIELDS}:
        raise FileError(f"{path} lacks some of its probes' tensors: save them again")
    check_values(table, path)
    return SavedWeights(
        path,
        table,
        tensors,
        int(metadata["n_features"]),
        int(metadata["n_classes"]),
        json.loads(metadata["source"]),
        json.loads(metadata["classes"]),
        int(metadata.get("n_targets", 0)),
        tuple(json.loads(metadata.get("digests", "[]"))),
        json.loads(metadata.get("above", "null")),
    )


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

    Of several labels at once it is which of these scores are above `SavedWeights.above`.
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
    several = saved.above is not None
    if saved.n_targets and not several:
        raise UsageError(
            f"the probes of {saved.path.name} predict numbers, or were saved before predictions of "
            "several labels were kept: take `load_weights(path).weights(row).logits(features)`"
        )
    labels = blocks.labels()
    comparable = classes is None or saved.classes is None or list(classes) == saved.classes
    if several:
        comparable &= has_several_labels(blocks) and labels.shape[1] == saved.n_classes
    else:
        comparable &= not has_targets(blocks)
    if comparable and not several:
        check_labels(labels, saved.n_classes, "these rows")
    numbers = np.arange(saved.tensors.max() + 1)
    limit = parse_memory(memory)
    by_probe = room_of_classes(blocks.n_rows, len(numbers), saved.n_classes, limit, several)
    for together in _groups(saved, limit // 2):
        probes = {n: saved.probe(n) for n in together}
        _fill(by_probe, blocks, probes, saved.path.name, progress, saved.above)
    if not comparable:
        known = {"label_accuracy" if several else "accuracy": np.full(len(numbers), np.nan)}
    elif several:
        known = scores_of_labels(by_probe, labels)
    else:
        known = {"accuracy": (by_probe == labels[:, None]).mean(0)}
    # what else was scored is of the rows that the probes were tested on, and not of these
    table = unscored(saved.table).drop(columns="majority", errors="ignore")
    known = {name: values[saved.tensors] for name, values in known.items()}
    table = with_columns(table.assign(n_test=blocks.n_rows), known)
    names = tuple(blocks.classes if classes is None else classes)
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
    by_probe: np.ndarray,
    rows: RowBlocks,
    probes: Mapping[int, Weights],
    file: str,
    progress: Progress,
    above: float | None,
) -> None:
    done = 0
    for features, labels in rows:
        raise_non_finite(features, done, "these rows")
        wide = features.astype(np.float64)
        for number, weights in probes.items():
            with np.errstate(over="ignore", invalid="ignore"):
                logits = weights.logits(wide)
            # NaN if one is; classes without train rows have -inf, and of several labels none has
            largest = logits.max(1) if above is None else np.abs(logits).max(1)
            wrong = np.flatnonzero(~np.isfinite(largest))
            if len(wrong):
                raise DataError(
                    f"probe {number} of {file} has {largest[wrong[0]]} as the largest logit of row "
                    f"{done + wrong[0]}: the features are far larger than those it was fitted on: "
                    "give rows in the same units, or fit anew"
                )
            told = logits.argmax(1) if above is None else logits > above
            by_probe[done : done + len(labels), number] = told
        done += len(labels)
        progress("rows", done, rows.n_rows)
