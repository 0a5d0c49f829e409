"""Results of probes: the long table, predictions, classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from array_api_compat import array_namespace
from scipy.special import softmax

from featstore.probe import statuses
from featstore.probe.arrays import Array, own_settings, to_host
from featstore.probe.errors import MemoryBudgetError, ProbeFailed, UsageError, visible
from featstore.probe.memory import least, parse, share, text
from featstore.probe.metrics import OF_RANKS, LogitSink, Scores, metrics_of
from featstore.probe.ranking import means, ranked
from featstore.probe.results import called, score_of
from featstore.probe.results.files import escaped_texts, save_arrays, writable, written_with_digest
from featstore.probe.results.reading import MOST, RowScores, room, save_with_rows
from featstore.probe.results.sentences import sentence
from featstore.probe.results.views import sweep_as_html
from featstore.probe.rows import LabelledRows, Rows, as_blocks, check_test, has_several_labels
from featstore.probe.selection import Penalties
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.weights import Fitted, Weights, n_outputs, n_targets, n_train
from featstore.probe.statuses import Status
from featstore.probe.subsets import Axes

SUFFIXES = (".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class Predictions:
    """The classes that probes predict for rows.

    Attributes:
        table: one row a probe, with `accuracy` on these rows; NaN where their labels are of other
            classes.
        labels: int64 (N,), of the rows.
        by_probe: unsigned (N, P), the class that each distinct probe predicts for each row; of
            equal logits the first class.
        probes: int64 (rows of the table,), which column of `by_probe` each row means.
        class_names: what the predicted classes are called, C of them; () where they have numbers.
        label_names: what the classes of `labels` are called; other rows may have others.
    """

    table: pd.DataFrame
    labels: np.ndarray
    by_probe: np.ndarray
    probes: np.ndarray
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        known = self.table["accuracy"].dropna()
        told = f", accuracy {known.min():.3f} to {known.max():.3f}" if len(known) else ""
        return f"<Predictions of {len(self.labels):,} rows by {len(self.table):,} probes{told}>"

    def _repr_html_(self) -> str:
        shown = ["mode", "solver", "l2", "seed", "fraction", "k", "n_test", "accuracy"]
        table = self.table[[name for name in shown if name in self.table]]
        shown = table.to_html(index=False, border=0, max_rows=20)
        return visible(f"<p>{escape(repr(self))}</p>{shown}")

    @property
    def classes(self) -> np.ndarray:
        """The classes predicted by the probe of each row of the table, (N, rows of the table)."""
        return self.by_probe[:, self.probes]

    @property
    def correct(self) -> np.ndarray | None:
        """Return whether each probe of the table has each row right, bool (rows of the table, N).

        None where the rows are of other classes than the probes.
        """
        if self.table["accuracy"].isna().all():
            return None
        return np.ascontiguousarray((self.classes == self.labels[:, None]).T)

    def save(self, path: str | Path) -> None:
        """Write to a .csv, .parquet or .npz file, whole or not at all.

        Tables have a line a row: its label, and a column "probe_<n>" for each row of the results,
        counted from 0. Both are names of classes where they have names, and the label's number is
        a column of its own, "label_number". In .npz are labels (N,) and classes (N, probes), in the
        same order and as numbers, and what is called so in `class_names` and `label_names`. An
        .npz file holds its own digest; that of a table lies beside it (see
        `featstore.probe.results.files`).

        Raises:
            UsageError: the name ends in something else.
        """
        path = writable(path, SUFFIXES)
        if path.suffix.lower() == ".npz":
            names = {"class_names": self.class_names, "label_names": self.label_names}
            called = {key: np.array(value, str) for key, value in names.items() if value}
            save_arrays(path, {"labels": self.labels, "classes": self.classes, **called})
            return
        is_text = path.suffix.lower() == ".csv"
        with written_with_digest(path) as aside:
            named = bool(self.class_names and self.label_names) and not (
                _are_numbers(self.class_names) and _are_numbers(self.label_names)
            )
            columns = {"row": np.arange(len(self.labels)), "label": self.labels}
            if named:
                class_names, label_names = (
                    escaped_texts(names) if is_text else names
                    for names in (self.class_names, self.label_names)
                )
                columns["label"] = pd.Categorical.from_codes(*_coded(self.labels, label_names))
                columns["label_number"] = self.labels
            for row, probe in enumerate(self.probes):
                predicted = self.by_probe[:, probe]
                if named:
                    predicted = pd.Categorical.from_codes(*_coded(predicted, class_names))
                columns[f"probe_{row}"] = predicted
            table = pd.DataFrame(columns)
            if is_text:
                table.to_csv(aside, index=False)
            else:
                table.to_parquet(aside, index=False)


def _are_numbers(names: Sequence[str]) -> bool:
    """Return whether each class is called by its number."""
    return list(names) == [str(number) for number in range(len(names))]


def _coded(numbers: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes and categories: of two classes with one name both are that category."""
    categories = list(dict.fromkeys(names))
    place = {name: code for code, name in enumerate(categories)}
    return np.array([place[name] for name in names])[numbers], categories


def room_of_classes(n_rows: int, n_probes: int, n_classes: int, memory: int) -> np.ndarray:
    """Return an unsigned array (N, P) for predicted classes.

    Raises:
        MemoryBudgetError: it takes more than half of `memory`.
    """
    dtype = np.min_scalar_type(max(0, n_classes - 1))
    needed = 2 * n_rows * n_probes * dtype.itemsize
    if needed > memory:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for {n_probes} predictions of {n_rows} rows: "
            f"allow {text(needed)}, or take fewer probes"
        )
    return np.zeros((n_rows, n_probes), dtype)


class Predicted(LogitSink):
    """Stands where scores stand, and keeps the class of the largest logit.

    Attributes:
        by_probe: (N, P), filled as the rows go by.
        not_finite: bool (P,), probes with a row whose largest logit is no finite number.
    """

    def __init__(self, by_probe: np.ndarray):
        self.by_probe = by_probe
        self.not_finite = np.zeros(by_probe.shape[1], bool)
        self._done = np.zeros(by_probe.shape[1], np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C) of these probes on the rows that follow those before."""
        xp = array_namespace(logits)
        largest = to_host(xp.argmax(logits, axis=-1))
        told = xp.all(xp.isfinite(xp.max(logits, axis=-1)), axis=1)
        self.not_finite[probes] |= ~to_host(told)
        for probe, classes in zip(probes, largest, strict=True):
            start = self._done[probe]
            self.by_probe[start : start + len(classes), probe] = classes
            self._done[probe] = start + len(classes)

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


class _Probabilities(LogitSink):
    """Stands where scores stand, and keeps softmax of the logits, float64 (N, P, C)."""

    def __init__(self, n_rows: int, n_probes: int, n_classes: int):
        self.by_probe = np.zeros((n_rows, n_probes, n_classes))
        self._done = np.zeros(n_probes, np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C) of these probes on the rows that follow those before."""
        for probe, own in zip(probes, to_host(logits).astype(np.float64), strict=True):
            start = self._done[probe]
            self._done[probe] = start + len(own)
            self.by_probe[start : start + len(own), probe] = softmax(own, axis=1)

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


@dataclass(frozen=True)
class ProbeResult:
    """Solved probes and what is known of them, one row a probe.

    Attributes:
        table: columns store, tap, mode, solver, l2, seed, fraction, k, n_train, then n_test (and
            n_groups, where test rows are of groups), of accuracies `chance` and `majority` (see
            `without_features`), and a column for each metric once scored, then what the solver
            knows (status, ...).
        fitted: the solver's probes.
        probes: int64 (rows,), the probe of each row. Rows share a probe where they mean the
            same one, as the whole layer of every seed does.
        solver: name of the solver.
        by_class: what each probe reached on each class when last scored, float64 (P, C) each, by
            name: "accuracy", and as far as metrics of that kind were asked for "f1", "auroc" and
            "average_precision". Empty before, and where they predict numbers.
        by_row: the part of each test row in the score of each of P probes; None before it was
            counted, and where it was not kept.
    """

    table: pd.DataFrame
    fitted: Fitted
    probes: np.ndarray
    solver: str
    by_class: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_row: RowScores | None = None

    def __len__(self) -> int:
        return len(self.table)

    def to_pandas(self) -> pd.DataFrame:
        """Return a copy of the table."""
        return self.table.copy()

    def weights(self, row: int) -> Weights:
        """Return the affine map of the probe in one row of the table."""
        with own_settings():
            return self.fitted.weights(int(self.probes[row]))

    @property
    def correct(self) -> np.ndarray | None:
        """Return whether the probe of each row has each test row right, bool (rows, n).

        Of probes that predict numbers it is float32 (rows, n), values of which the mean is R^2 and
        the variance over n the variance of R^2 over test rows. It is None where it was not kept.
        """
        return None if self.by_row is None else self.by_row.of(self.probes)

    def without_rows(self) -> "ProbeResult":
        """Return the result without what is known of single test rows, which makes room."""
        return replace(self, by_row=None)

    def score(
        self,
        test: Rows,
        metrics: Sequence[str] | None = None,
        row_bytes: int = MOST,
        rank_bytes: int = MOST,
    ) -> "ProbeResult":
        """Return the result with n_test and the metrics on these rows.

        Arguments:
            test: row blocks, or (features, labels).
            metrics: keys of `featstore.probe.metrics.METRICS`, or top<k>; by default accuracy, or
                R^2 for targets.
            row_bytes: what may be taken by which rows each probe has right, a bit each (of numbers
                4 bytes). Where it needs more it is not kept, with a warning; 0 keeps nothing.
            rank_bytes: what may be taken by scores that are ranked, for `auroc` and
                `average_precision`; the rows are read again for those that find no room.

        Raises:
            DataError: the rows do not fit the probes.
            UsageError: there is no metric of some name for such labels.
            MemoryBudgetError: the scores of one class take more than `rank_bytes`.
        """
        blocks, n_probes = self._checked(test), len(self.fitted.axes)
        several, mine = has_several_labels(blocks), share(blocks)
        names = metrics_of(metrics, n_targets(self.fitted) > 0, several)
        keep = row_bytes and kept_by(names, several)
        rows = room(blocks, n_probes, row_bytes) if keep else None
        start = 0 if mine is blocks else mine.start
        probabilities = SOLVERS[self.solver].probabilities
        counts = None if n_targets(self.fitted) else self.fitted.class_counts
        # logits of a label are those of a probability, or estimates of its 0 or 1
        above = (0.0 if probabilities else 0.5) if several else None
        right = None if several else rows
        scores = Scores(
            *(n_probes, n_outputs(self.fitted), names, probabilities, right, start, counts, above)
        )
        areas = {}
        with own_settings():
            if set(names) & set(OF_RANKS):
                labels, memory = blocks.labels(), least(rank_bytes)
                of_rows = rows if several else None
                areas = ranked(
                    self.fitted, mine, scores, labels, start, probabilities, memory, of_rows
                )
            else:
                self.fitted.score(mine, scores)
            scores.gather()
        areas = {k: np.where(scores.not_finite[:, None], np.nan, v) for k, v in areas.items()}
        columns: dict[str, object] = {"n_test": np.full(len(self), blocks.n_rows)}
        if blocks.groups is not None:
            columns["n_groups"] = np.full(len(self), len(np.unique(blocks.groups)))
        if counts is not None:
            columns |= without_features(counts, blocks.labels())
        elif several:
            columns |= without_labels(blocks.labels())
        known = scores.columns() | means(areas, names)
        columns |= {name: values[self.probes] for name, values in known.items()}
        status = self._status_after(scores.not_finite)
        unusable = statuses.has(status, statuses.UNUSABLE)
        for name in known:
            columns[name] = np.where(unusable, np.nan, columns[name])
        table = with_columns(self.table.assign(status=status), columns)
        return replace(self, table=table, by_class=scores.per_class() | areas, by_row=rows)

    def per_class(self, name: str = "accuracy") -> np.ndarray:
        """Return what was reached on each class, float64 (rows, C).

        It is NaN for classes that test has no row of, and for probes read from a results file.

        Arguments:
            name: "accuracy", "f1", "auroc" or "average_precision", if it was scored.

        Raises:
            UsageError: the probes have not been scored by that, or predict numbers.
        """
        if n_targets(self.fitted) and not self.by_class:
            raise UsageError(
                "these probes predict numbers, and only classes have an accuracy each: ask for "
                "the metrics r2, mse or mae"
            )
        if name not in self.by_class:
            known = f"; there are {', '.join(self.by_class)}" if self.by_class else ""
            raise UsageError(
                f"no {name} of classes has been counted{known}: call score(test) with such a "
                "metric first"
            )
        return self.by_class[name][self.probes]

    @overload
    def predict(self, rows: np.ndarray, memory: str | int = "4GiB") -> np.ndarray: ...

    @overload
    def predict(self, rows: Rows, memory: str | int = "4GiB") -> Predictions: ...

    def predict(
        self, rows: Rows | np.ndarray, memory: str | int = "4GiB"
    ) -> Predictions | np.ndarray:
        """Return the class that each probe predicts for each row.

        Arguments:
            rows: row blocks, or (features, labels): their labels say how often probes are right.
                Or features alone, (n, D), of which the numbers of classes (n, rows of the table)
                are returned.
            memory: what predictions may take, as "4GiB" or bytes.

        Raises:
            DataError: the rows do not fit the probes.
            UsageError: the probes predict numbers.
            MemoryBudgetError: the predictions take more than `memory`.
        """
        if isinstance(rows, np.ndarray):
            # a label that no probe looks at
            rows = rows, np.full(len(rows), int(np.argmax(self.fitted.class_counts > 0)))
            return self.predict(rows, memory).classes
        blocks = self._checked(rows)
        if n_targets(self.fitted):
            raise UsageError(
                "these probes predict numbers or labels, and predictions are kept of classes: take "
                "`weights(row).logits(features)`"
            )
        n_probes, n_classes = len(self.fitted.axes), len(self.fitted.class_counts)
        predicted = Predicted(room_of_classes(blocks.n_rows, n_probes, n_classes, parse(memory)))
        with own_settings():
            self.fitted.score(blocks, predicted)
        hits = (predicted.by_probe == blocks.labels()[:, None]).mean(0)
        hits[predicted.not_finite] = np.nan
        columns = {"n_test": blocks.n_rows}
        columns |= without_features(self.fitted.class_counts, blocks.labels())
        columns |= {"accuracy": hits[self.probes]}
        columns |= {"status": self._status_after(predicted.not_finite)}
        table = self.table.assign(**columns)
        names = tuple(blocks.classes)
        return Predictions(table, blocks.labels(), predicted.by_probe, self.probes, names, names)

    def predict_proba(self, features: np.ndarray, memory: str | int = "4GiB") -> np.ndarray:
        """Return softmax of every probe's logits, float64 (n, rows of the table, C).

        Arguments:
            features: (n, D).
            memory: what they may take, as "4GiB" or bytes.

        Raises:
            DataError: the features do not fit the probes.
            UsageError: the logits of this solver are no log-probabilities.
            MemoryBudgetError: the probabilities take more than `memory`.
        """
        if n_targets(self.fitted) and SOLVERS[self.solver].probabilities:
            raise UsageError(
                "these probes give each row any number of labels, whose probabilities are "
                "1 / (1 + exp(-logit)): take `weights(row).logits(features)`"
            )
        if n_targets(self.fitted) or not SOLVERS[self.solver].probabilities:
            raise UsageError(
                f"the logits of {self.solver} probes are no log-probabilities: take predict, or "
                "solver logistic, lda or sgd"
            )
        n_classes = len(self.fitted.class_counts)
        needed = 8 * len(features) * (len(self) + len(self.fitted.axes)) * n_classes
        if needed > parse(memory):
            raise MemoryBudgetError(
                f"{text(parse(memory))} of memory is too little for probabilities of "
                f"{len(features):,} rows by {len(self)} probes: allow {text(needed)}, or take fewer"
            )
        labels = np.full(len(features), int(np.argmax(self.fitted.class_counts > 0)))
        kept = _Probabilities(len(features), len(self.fitted.axes), n_classes)
        with own_settings():
            self.fitted.score(self._checked((features, labels)), kept)
        return kept.by_probe[:, self.probes]

    def _checked(self, rows: Rows) -> LabelledRows:
        fitted, blocks = self.fitted, as_blocks(rows)
        check_test(blocks, fitted.n_features, fitted.class_counts, n_targets(fitted))
        return blocks

    def raise_if_failed(self) -> "ProbeResult":
        """Return the result itself if every probe was solved.

        Raises:
            ProbeFailed: some were not; the message names the first, the cause and the remedy.
        """
        failed = np.flatnonzero(statuses.has(self.table["status"], statuses.FAILED))
        if failed.size:
            first = self.table.iloc[failed[0]]
            kind = next(kind for kind in statuses.kinds(first.status) if kind.failed)
            raise ProbeFailed(
                f"{failed.size} of {len(self)} probes failed; the first (fraction "
                f"{first.fraction:g}, seed {first.seed}, {called(self.solver, first.l2)} "
                f"{first.l2:g}) is {first.status}: {kind.text}"
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the table to a .csv, .json or .parquet file, whole or not at all.

        Which test rows each probe has right, where that was kept, is written into a file beside it,
        `featstore.probe.results.reading.rows_path`.

        Raises:
            UsageError: the name ends in something else.
        """
        save_with_rows(self.table, Path(path), self.by_row, self.probes)

    def _status_after(self, not_finite: np.ndarray) -> np.ndarray:
        """Return the status of each row where some probes' logits are not finite, bool (P,).

        Of a probe that failed before nothing more is said.
        """
        known = self.fitted.facts["status"]
        new = not_finite & ~statuses.has(known, statuses.UNUSABLE)
        told = np.where(new, Status.NOT_FINITE, Status.OK)[self.probes]
        known = known[self.probes]
        return np.array(
            [statuses.combined(*pair) for pair in zip(known.tolist(), told.tolist(), strict=True)]
        )

    def __repr__(self) -> str:
        scored = score_of(self.table) in self.table and len(self)
        told = f": {sentence(self)}" if scored else ", not scored yet"
        return f"<ProbeResult of {len(self):,} {self.solver} probes{told}>"

    def _repr_html_(self) -> str:
        return sweep_as_html(self.table, self.correct)


def without_features(class_counts: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return what accuracies say that look at no feature: of a guess, and of one class for all.

    Arguments:
        class_counts: int (C,), train rows of each class.
        labels: int (n,), of the test rows.

    Returns:
        `chance`, 1/C of the C classes that train has rows of, and `majority`, the share of test
        rows of the class that most train rows have, of equally frequent ones the first.

    Example:
        >>> without_features(np.array([3, 5]), np.array([0, 1, 1, 1]))
        {'chance': 0.5, 'majority': 0.75}
    """
    commonest = int(np.argmax(class_counts))
    return {
        "chance": 1 / int(np.count_nonzero(class_counts)),
        "majority": float((labels == commonest).mean()),
    }


def kept_by(metrics: Sequence[str], several: bool) -> bool:
    """Return whether parts of rows are kept: of accuracy, R^2, or several labels' AUROC."""
    return "auroc" in metrics if several else bool({"accuracy", "r2"} & set(metrics))


def without_labels(labels: np.ndarray) -> dict[str, float]:
    """Return what is reached without any feature where each row has any number of L labels.

    Arguments:
        labels: (n, L), of the test rows, 0 or 1.

    Returns:
        `chance`, the mean over labels of the share of rows that have each, which is the average
        precision and F1 of guesses as frequent as the labels; and `majority`, the share of right
        ones where each label is given to all rows or to none, whichever is more often right.

    Example:
        >>> without_labels(np.array([[1, 0], [0, 0], [0, 0], [0, 1]]))
        {'chance': 0.25, 'majority': 0.75}
    """
    share = labels.mean(0)
    return {"chance": float(share.mean()), "majority": float(np.maximum(share, 1 - share).mean())}


def with_columns(table: pd.DataFrame, columns: dict[str, object]) -> pd.DataFrame:
    """Return the table with these columns, new ones standing before "status"."""
    table = table.drop(columns=[name for name in columns if name in table])
    place = table.columns.get_loc("status")
    return pd.concat(
        [table.iloc[:, :place], pd.DataFrame(columns, index=table.index), table.iloc[:, place:]],
        axis=1,
    )


def identity_table(
    axes: Axes, solver: str, penalties: Penalties, n_train: int, names: dict[str, str]
) -> pd.DataFrame:
    """Return one row a probe with what is known of it before it is solved.

    Arguments:
        axes: the probes.
        solver: its name.
        penalties: how they come about.
        n_train: train rows.
        names: columns to stand first, the same in every row.
    """
    chains = [axes.chains[c] for c in axes.chain]
    columns = dict(names)
    columns |= {
        "mode": [chain.mode for chain in chains],
        "solver": solver,
        "l2": np.asarray(axes.penalties)[axes.penalty],
        "l2_choice": [penalties.choice_of(chain.ranking) for chain in chains],
        "seed": pd.array([chain.seed for chain in chains], dtype="Int64"),
        "fraction": [c.fractions[p] for c, p in zip(chains, axes.prefix, strict=True)],
        "k": axes.size,
        "n_train": n_train,
    }
    return pd.DataFrame(columns, index=range(len(axes)))


def probe_table(
    fitted: Fitted, solver: str, penalties: Penalties, names: dict[str, str], options: str
) -> pd.DataFrame:
    """Return one row a probe with what is known before any test row is seen."""
    table = identity_table(fitted.axes, solver, penalties, n_train(fitted), names)
    # a solver that chose penalties says which; that column keeps its place
    return table.assign(**fitted.facts, options=options)


KEYS = ("store", "tap", "mode", "solver", "l2", "l2_choice", "seed", "fraction", "k")


def per_class_table(result: ProbeResult, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a row for each probe and class: the probe's columns `KEYS`, class, class_accuracy.

    Where they were scored, `class_f1`, `class_auroc` and `class_average_precision` follow.

    Arguments:
        result: scored probes, R rows.
        classes: names of the C classes; by default they are numbered.

    Returns:
        R * C rows; class_accuracy is in [0, 1], and NaN for classes that test has no row of.

    Raises:
        UsageError: the probes have not been scored by accuracy, or there are not C names.
    """
    accuracy = result.per_class()
    n_classes = accuracy.shape[1]
    if classes is not None and len(classes) != n_classes:
        raise UsageError(f"{len(classes)} class names given for {n_classes} classes")
    names = [str(number) for number in range(n_classes)] if classes is None else list(classes)
    rows = np.repeat(np.arange(len(result)), n_classes)
    table = result.table.iloc[rows][list(KEYS)].reset_index(drop=True)
    scored = {f"class_{name}": result.per_class(name).ravel() for name in result.by_class}
    return table.assign(**{"class": names * len(result)}, **scored)
