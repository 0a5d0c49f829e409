"""The curves of a report: what each is called, and its numbers, few enough to draw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.curve import Evidence
from probe.curve import over_of as over_of_rows
from probe.curve_names import shared_and_own
from probe.summaries import CURVE, Answer, answers, as_curves, summary, with_ratio

DRAWN = 240
"""Points of one curve that are drawn at most; a sweep of every k has thousands."""

LEVEL = 0.95

ASKED = 0.1
"""The fraction that is spoken of; the nearest that was probed is taken."""


@dataclass(frozen=True)
class Curve:
    """One line of accuracy against fraction.

    Attributes:
        key: the values of `CURVE`, NaN as None.
        label: the words that tell it apart from the others of the report.
        probes: its rows of `with_ratio`, one a probe.
        points: its rows of `summary`, one a fraction; intervals are over seeds and, where it is
            known who is right on which, test rows, and NaN where a long curve is not drawn.
        answer: what it says.
    """

    key: tuple
    label: str
    probes: pd.DataFrame
    points: pd.DataFrame
    answer: Answer

    @property
    def mode(self) -> str:
        """Which features it takes."""
        return str(self.points["mode"].iloc[0])

    @property
    def full(self) -> pd.Series | None:
        """The point of the whole layer; None if it was not probed."""
        whole = self.points[self.points["fraction"] == 1]
        return None if whole.empty else whole.iloc[0]


def curves_of(
    table: pd.DataFrame, correct: Evidence = None, fraction: float = ASKED
) -> list[Curve]:
    """Return the curves of a table of probes, in the order in which the table has them.

    Arguments:
        table: of probes.
        correct: which test rows each has right, as `probe.curve.curves` takes it.
        fraction: the one that answers are about.
    """
    probes = with_ratio(table)
    points = summary(table)
    shown, of_shown = _drawn(table, points, correct)
    of_key = dict(by_curve(_with_intervals(points, summary(shown, of_shown, LEVEL))))
    keys = [key for key, _ in by_curve(probes, sort=False)]
    labels = _labels([of_key[key] for key in keys])
    of_curve = dict(by_curve(probes))
    said = answers(shown, fraction, of_shown, LEVEL)
    return [
        Curve(key, label, of_curve[key], of_key[key], answer)
        for key, label, answer in zip(keys, labels, said, strict=True)
    ]


def curve_labels(table: pd.DataFrame, curves: Sequence[Curve]) -> dict[tuple, str]:
    """Return what each curve of another table is called: as in `curves` where it is there."""
    parts = dict(by_curve(table))
    known = {curve.key: curve.label for curve in curves}
    own = dict(zip(parts, _labels(list(parts.values())), strict=True))
    return own | {key: label for key, label in known.items() if key in parts}


def by_curve(table: pd.DataFrame, sort: bool = True) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Yield the key of each curve of a table that has the columns `CURVE`, and its rows."""
    for names, rows in table.groupby(CURVE, dropna=False, sort=sort):
        yield _key(names), rows


def thinned(rows: pd.DataFrame, most: int = DRAWN) -> pd.DataFrame:
    """Return at most so many rows, evenly spaced in log k, the first and the last among them.

    >>> thinned(pd.DataFrame({"k": range(1, 1001)}), 4)["k"].tolist()
    [1, 10, 100, 1000]
    """
    if len(rows) <= most:
        return rows
    k = rows["k"].to_numpy(np.float64)
    wanted = np.geomspace(k[0], k[-1], most)
    places = np.searchsorted(k, wanted * (1 - 1e-9)).clip(0, len(k) - 1)
    return rows.iloc[np.unique([*places, len(k) - 1])]


def _key(names: tuple) -> tuple:
    return tuple(None if pd.isna(name) else name for name in names)


def _drawn(
    table: pd.DataFrame, points: pd.DataFrame, correct: Evidence
) -> tuple[pd.DataFrame, Evidence]:
    """Return the probes at the points that are drawn, and which test rows these have right."""
    chosen = pd.concat([thinned(rows) for _, rows in by_curve(points)])[[*CURVE, "fraction"]]
    curves = as_curves(table.assign(place=np.arange(len(table))))
    places = curves.merge(chosen, on=[*CURVE, "fraction"])["place"].sort_values()
    known = None if correct is None else [correct[place] for place in places]
    return table.iloc[places].reset_index(drop=True), known


def _with_intervals(points: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Return all points with the intervals of those that are drawn."""
    ends = [name for name in drawn if name.endswith(("_low", "_high"))] + ["over"]
    drawn = drawn[[*CURVE, "fraction", *ends]]
    # the full layer is all of itself, whatever is drawn
    drawn.loc[drawn["fraction"] == 1, ["ratio_low", "ratio_high"]] = np.nan
    kept = points.drop(columns=ends)
    return kept.merge(drawn, on=[*CURVE, "fraction"], how="left", validate="one_to_one")


def _labels(curves: Sequence[pd.DataFrame]) -> list[str]:
    """Return of each curve the words in which not all are the same; its mode if it is alone."""
    _, own = shared_and_own(curves)
    return [words or str(curve["mode"].iloc[0]) for words, curve in zip(own, curves, strict=True)]


def over_of(curves: Sequence[Curve]) -> str:
    """Say what the intervals of curves are over, as "seeds and test rows"; empty for none."""
    return over_of_rows(pd.concat([curve.points for curve in curves]))


def title_of(curves: Sequence[Curve]) -> str:
    """Name the store that all curves share, or say how many there are."""
    stores = dict.fromkeys(curve.key[0] for curve in curves)
    if len(stores) > 1:
        return f"{len(stores)} stores"
    return shared_and_own([curves[0].points])[0][0]
