"""Results of probes: the long table, predictions, classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd

from featstore.probe import statuses
from featstore.probe.arrays import own_settings
from featstore.probe.errors import MemoryBudgetError, ProbeFailed, UsageError
from featstore.probe.memory import least, parse, share, text
from featstore.probe.metrics import METRICS, OF_RANKS, Scores, metrics_of
from featstore.probe.predicted import (
    Given,
    Predicted,
    Predictions,
    Probabilities,
    room_of_classes,
    scores_of_labels,
)
from featstore.probe.ranking import means, ranked
from featstore.probe.results import called, is_score, score_of
from featstore.probe.results.evidence import MOST, RowScores, room
from featstore.probe.results.reading import save_with_rows
from featstore.probe.results.sentences import sentence
from featstore.probe.results.views import sweep_as_html
from featstore.probe.rows import LabelledRows, Rows, as_blocks, check_test, has_several_labels
from featstore.probe.selection import Penalties
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.weights import Fitted, Weights, n_outputs, n_targets, n_train
from featstore.probe.statuses import Status
from featstore.probe.subsets import Axes


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
        by_row: what each test row says of the scores of each of P probes; None before it was
            counted, and where it was not kept.
        several: whether they were fitted on rows of several labels at once.
    """

    table: pd.DataFrame
    fitted: Fitted
    probes: np.ndarray
    solver: str
    by_class: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_row: RowScores | None = None
    several: bool = False

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

        Of a table that is summed up by another score than accuracy it is float32 (rows, n), the
        parts of rows in that one: `evidence` of it. It is None where it was not kept.
        """
        return self.evidence()

    def evidence(self, score: str | None = None) -> np.ndarray | None:
        """Return the parts of test rows in a score, (rows, n), of which it is the mean.

        Their variance over n is that of the score over test rows. It is None where it was not kept.

        Arguments:
            score: a column of the table; by default the one that it is summed up by.
        """
        if self.by_row is None:
            return None
        return self.by_row.of(self.probes, score or score_of(self.table))

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
            row_bytes: what may be taken by what rows say of each probe: of accuracy and top<k> a
                bit each, of F1 and kappa the predicted class, of R^2, AUROC and average precision 4
                bytes. Where it needs more it is not kept, with a warning; 0 keeps nothing.
            rank_bytes: what may be taken by scores that are ranked, for `auroc` and
                `average_precision`; the rows are read again for those that find no room.

        Raises:
            DataError: the rows do not fit the probes.
            UsageError: there is no metric of some name for such labels.
            MemoryBudgetError: the scores of one class take more than `rank_bytes`.
        """
        blocks = self._checked(test)
        names = metrics_of(metrics, n_targets(self.fitted) > 0, has_several_labels(blocks))
        keep = bool(row_bytes and any(map(is_score, names)))
        rows = room(blocks, len(self.fitted.axes), row_bytes, names) if keep else None
        return self.scored(blocks, names, rows, rank_bytes)

    def scored(
        self, test: Rows, metrics: tuple[str, ...], rows: RowScores | None, rank_bytes: int = MOST
    ) -> "ProbeResult":
        """Return what `score` returns, with facts of rows in room that is there.

        Arguments:
            test: as of `score`.
            metrics: as of `score`, all named.
            rows: room for P probes; None where nothing is kept.
            rank_bytes: as of `score`.

        Raises:
            DataError, MemoryBudgetError: as `score`.
        """
        blocks, n_probes = self._checked(test), len(self.fitted.axes)
        several, mine = has_several_labels(blocks), share(blocks)
        start = 0 if mine is blocks else mine.start
        probabilities = SOLVERS[self.solver].probabilities
        counts = None if n_targets(self.fitted) else self.fitted.class_counts
        # logits of a label are those of a probability, or estimates of its 0 or 1
        above = (0.0 if probabilities else 0.5) if several else None
        scores = Scores(
            *(n_probes, n_outputs(self.fitted), metrics, probabilities, rows, start, counts, above)
        )
        areas = {}
        with own_settings():
            if set(metrics) & set(OF_RANKS):
                labels, memory = blocks.labels(), least(rank_bytes)
                areas = ranked(
                    self.fitted, mine, scores, labels, start, probabilities, memory, rows
                )
            else:
                self.fitted.score(mine, scores)
            scores.gather()
        if rows is not None:
            rows.known[:] = True
        areas = {k: np.where(scores.not_finite[:, None], np.nan, v) for k, v in areas.items()}
        columns: dict[str, object] = {"n_test": np.full(len(self), blocks.n_rows)}
        if blocks.groups is not None:
            columns["n_groups"] = np.full(len(self), len(np.unique(blocks.groups)))
        if counts is not None:
            columns |= without_features(counts, blocks.labels())
        elif several:
            columns |= without_labels(blocks.labels())
        known = scores.columns() | means(areas, metrics)
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
        """Return the class that each probe predicts for each row, or the labels that it gives it.

        Arguments:
            rows: row blocks, or (features, labels): their labels say how often probes are right.
                Or features alone, (n, D), of which the numbers of classes (n, rows of the table)
                are returned, or bool (n, rows of the table, L) of several labels.
            memory: what predictions may take, as "4GiB" or bytes.

        Raises:
            DataError: the rows do not fit the probes.
            UsageError: the probes predict numbers.
            MemoryBudgetError: the predictions take more than `memory`.
        """
        if isinstance(rows, np.ndarray):
            # labels that no probe looks at
            labels = np.zeros((len(rows), n_outputs(self.fitted)), np.uint8)
            if len(self.fitted.class_counts):
                labels = np.full(len(rows), int(np.argmax(self.fitted.class_counts > 0)))
            return self.predict((rows, labels), memory).classes
        if n_targets(self.fitted) and self.above is None:
            raise UsageError(
                "these probes predict numbers, and predictions are kept of classes and labels: "
                "take `weights(row).logits(features)`"
            )
        blocks, n_probes = self._checked(rows), len(self.fitted.axes)
        names, labels = tuple(blocks.classes), blocks.labels()
        n_classes = n_outputs(self.fitted)
        several = self.above is not None
        room = room_of_classes(blocks.n_rows, n_probes, n_classes, parse(memory), several)
        predicted = Given(room, self.above) if several else Predicted(room)
        with own_settings():
            self.fitted.score(blocks, predicted)
        columns: dict[str, object] = {"n_test": blocks.n_rows}
        if several:
            known = scores_of_labels(room, labels)
            columns |= without_labels(labels)
        else:
            known = {"accuracy": (room == labels[:, None]).mean(0)}
            columns |= without_features(self.fitted.class_counts, labels)
        for name, values in known.items():
            columns[name] = np.where(predicted.not_finite, np.nan, values)[self.probes]
        status = self._status_after(predicted.not_finite)
        table = with_columns(unscored(self.table).assign(status=status), columns)
        return Predictions(table, labels, room, self.probes, names, names)

    @property
    def above(self) -> float | None:
        """The score above which one of several labels is given; None of classes and numbers."""
        entry = SOLVERS[self.solver]
        # a table of results says by its chance level that they are no numbers
        if not n_targets(self.fitted) or not (self.several or "chance" in self.table):
            return None
        return 0.0 if entry.probabilities else 0.5

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
        kept = Probabilities(len(features), len(self.fitted.axes), n_classes)
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


def unscored(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of results without the scores, which were of other rows."""
    scores = [name for name in table if is_score(str(name)) or name in METRICS]
    return table.drop(columns=scores)


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
