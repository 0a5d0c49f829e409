"""The tables of a study: what its probes say, in files that pages quote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from probe.redundancy import DELTAS
from probe.settings import Progress, silent
from probe.tables import save_table
from studies.differences import differences
from studies.held import Held
from studies.made import VERSION, Made, content, digest
from studies.readings import READINGS
from studies.spec import Analyses, Study, several

READ = 2
"""Of how tables are read off results; a higher one makes tables anew, and no result."""

KEY = ["store", "tap", "probe", "mode"]
"""Columns that name a curve of a study: `store` is the feature, `probe` the study's probe."""


@dataclass(frozen=True)
class Context:
    """What tables are made of."""

    study: Study
    sweeps: Sequence[Held]
    folder: Path


def _at_deltas(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    return table[_among(table["delta"], asked.deltas)]


def _along_deltas(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    first = table["rule"] == several(asked.rules)[0]
    return table[first & _among(table["delta"], DELTAS)]


def _all(table: pd.DataFrame, asked: Analyses) -> pd.DataFrame:
    return table


Part = Callable[[pd.DataFrame, Analyses], pd.DataFrame]
OF_SWEEPS: dict[str, tuple[str, Part]] = {
    "accuracy": ("accuracy", _all),
    "redundancy": ("redundancy", _at_deltas),
    "redundancy_curve": ("redundancy", _along_deltas),
    "classes": ("classes", _all),
    "inequality": ("inequality", _all),
    "affected": ("affected", _all),
    "cka": ("cka", _all),
}
"""Tables that join a reading of every sweep, and which of its rows."""

TABLES = (*OF_SWEEPS, "differences")


def make(context: Context, name: str, made: Made, progress: Progress = silent) -> bool:
    """Write a table if it is not there, or something that it is of has changed; say whether."""
    asked = context.study.analyses
    inputs = [content(path) for each in context.sweeps for path in each.files]
    names = [each.sweep.name for each in context.sweeps]
    fingerprint = digest([VERSION, READ, name, names, inputs, asked.model_dump()])
    part, path = f"tables/{name}", context.folder / "tables" / f"{name}.csv"
    if made.fresh(part, fingerprint):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "differences":
        table = differences(context.sweeps, asked.level)
    else:
        table = _joined(context, name, made, progress)
    save_table(table if len(table.columns) else pd.DataFrame(columns=KEY), path)
    made.write(part, fingerprint, [path])
    return True


def _joined(context: Context, name: str, made: Made, progress: Progress) -> pd.DataFrame:
    reading, part_of = OF_SWEEPS[name]
    tables = []
    for number, each in enumerate(context.sweeps):
        progress(name, number, len(context.sweeps), of=each.sweep.name)
        table = _reading(each, reading, context.study.analyses, made)
        if not table.empty:
            tables.append(part_of(table, context.study.analyses))
    if not tables:
        return pd.DataFrame()
    joined = pd.concat(tables, ignore_index=True)
    return joined[[*KEY, *(column for column in joined if column not in KEY)]]


def _reading(each: Held, name: str, asked: Analyses, made: Made) -> pd.DataFrame:
    """Return a reading of one sweep, from the file that it was kept in if it is still true."""
    part = f"readings/{each.sweep.name}.{name}"
    path = made.folder / ".made" / f"{part}.parquet"
    fingerprint = digest(
        [VERSION, READ, [content(file) for file in each.files], asked.model_dump()]
    )
    if not made.fresh(part, fingerprint):
        table = READINGS[name](each, asked)
        if not table.empty:
            source = each.sweep.source
            table = table.assign(store=source.name, tap=source.tap, probe=each.probe)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_table(table if len(table.columns) else pd.DataFrame(columns=KEY), path)
        made.write(part, fingerprint, [path])
    return pd.read_parquet(path)


def _among(values: pd.Series, known: Sequence[float]) -> np.ndarray:
    return np.isclose(values.to_numpy(float)[:, None], list(known)).any(1)
