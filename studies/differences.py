"""Probes against each other: solver against solver, and every mode against random features."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import pandas as pd

from probe.curve import Curve, curves, difference
from studies.held import Held


def differences(sweeps: Sequence[Held], level: float) -> pd.DataFrame:
    """Return differences between probes on the same features, and between modes and random.

    `what` is "solver" (`probe` minus `other`, of one mode) or "mode" (`mode` minus `other`, of one
    probe), in accuracy or R^2. Test rows are paired, and seeds where both have the same. `error` is
    the standard error, `low` and `high` are of coverage `level`, and `over` says of what: test rows
    are known where the study keeps predictions.
    """
    rows: list[dict] = []
    held = [_Curves.of(each) for each in sweeps]
    for one, other in combinations(held, 2):
        if one.store != other.store:
            continue
        for mode in one.by_mode:
            if mode in other.by_mode:
                pair = one.by_mode[mode], other.by_mode[mode]
                rows += one.compared(*pair, "solver", other.probe, level)
    for each in held:
        random = each.by_mode.get("random")
        for mode, curve in each.by_mode.items():
            if random is not None and mode != "random":
                rows += each.compared(curve, random, "mode", "random", level)
    return pd.DataFrame(rows)


class _Curves:
    """The curves of a sweep by mode; of several penalties none, since it is not said which counts.

    Attributes:
        store: the sweep's store.
        probe: its probe's name.
        by_mode: its curves.
    """

    def __init__(self, store: str, probe: str, found: Sequence[Curve]):
        self.store, self.probe = store, probe
        modes = [curve.names["mode"] for curve in found]
        self.by_mode: dict[str, Curve] = {
            str(mode): curve
            for mode, curve in zip(modes, found, strict=True)
            if modes.count(mode) == 1
        }

    @classmethod
    def of(cls, each: Held) -> "_Curves":
        table, rows = each.grid()
        known = each.correct()
        found = curves(table, None if known is None else known[1][rows])
        return cls(table["store"].iloc[0], each.probe, found)

    def compared(
        self, one: Curve, other: Curve, what: str, against: str, level: float
    ) -> Iterator[dict]:
        """Yield a row for each fraction that both curves have; of two modes for parts alone."""
        places = {float(fraction): place for place, fraction in enumerate(other.fractions)}
        if one.score != other.score:
            return
        for place, fraction in enumerate(one.fractions.tolist()):
            if fraction not in places or (what == "mode" and fraction == 1):
                continue
            found = difference(one, other, place, places[fraction])
            low, high = found.interval(level)
            names = {"store": self.store, "tap": one.names["tap"], "what": what}
            names |= {"probe": self.probe, "mode": one.names["mode"], "fraction": fraction}
            names |= {"k": int(one.sizes[place]), "other": against}
            means = {"mean": one.mean()[place], "other_mean": other.mean()[places[fraction]]}
            gap = {"difference": found.value, "error": found.error, "low": low, "high": high}
            yield names | means | gap | {"paired": found.paired, "over": found.variance.over[0]}
