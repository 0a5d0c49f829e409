"""Accuracy on each class, as a table in long form."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe.errors import UsageError
from probe.result import ProbeResult

KEYS = ("store", "tap", "mode", "solver", "l2", "l2_choice", "seed", "fraction", "k")


def per_class_table(result: ProbeResult, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a row for each probe and class: the probe's columns `KEYS`, class, class_accuracy.

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
    return table.assign(**{"class": names * len(result), "class_accuracy": accuracy.ravel()})
