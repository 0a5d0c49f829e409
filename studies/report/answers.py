"""The answer in a sentence: how much of the full layer's accuracy a part of it keeps."""

from collections.abc import Sequence

import pandas as pd

from probe.curve_names import shared_and_own
from probe.summaries import NAMES, percent, score_of
from studies.report.curves import LEVEL, Curve

ASKED = 0.1
"""The fraction that is spoken of; the nearest that was probed is taken."""


def answer(curves: Sequence[Curve]) -> list[str]:
    """Return the answer, a sentence a paragraph, as plain text.

    One curve is spoken of by itself. Of several, those of random features count, or else those of
    the first mode: the lowest and the highest are named.
    """
    spoken = [curve for curve in curves if _near(curve) is not None]
    if not spoken:
        return [_reach(curve) for curve in curves[:1]]
    modes = [curve.mode for curve in spoken]
    mode = "random" if "random" in modes else modes[0]
    chosen = [curve for curve in spoken if curve.mode == mode]
    if len(chosen) == 1:
        return [_of_one(chosen[0], mode, len(curves) > 1)]
    return [_of_several(chosen, mode)]


def _of_one(curve: Curve, mode: str, among_others: bool) -> str:
    near, full, score = _near(curve), curve.full, score_of(curve.points)
    return (
        f"{_features(near, mode, among_others)} keep {_kept(near)} of the full layer's "
        f"{NAMES[score]} ({_details(near)}): {near[score]:.3f} of {full[score]:.3f}."
    )


def _of_several(curves: Sequence[Curve], mode: str) -> str:
    points = [_near(curve) for curve in curves]
    _, names = shared_and_own([curve.points for curve in curves])
    in_order = sorted(range(len(curves)), key=lambda place: points[place]["ratio"])
    (low, least), (high, most) = (
        (names[place], points[place]) for place in (in_order[0], in_order[-1])
    )
    fractions = {point["fraction"] for point in points}
    share = percent(fractions.pop()) if len(fractions) == 1 else f"about {percent(ASKED)}"
    return (
        f"{_share_of(share, mode, True)} keep between {_kept(least)} ({low}; "
        f"{_details(least)}) and {_kept(most)} ({high}; {_details(most)}) of the full "
        f"layer's {NAMES[score_of(curves[0].points)]}, in {len(curves)} curves."
    )


def _features(near: pd.Series, mode: str, among_others: bool) -> str:
    return _share_of(percent(near["fraction"]), mode, among_others)


def _share_of(share: str, mode: str, among_others: bool) -> str:
    drawn = ", drawn at random," if mode == "random" else f" by mode {mode}" if among_others else ""
    return f"{share} of the features{drawn}"


def _kept(near: pd.Series) -> str:
    return f"{100 * near['ratio']:.1f} %"


def _details(near: pd.Series) -> str:
    count = int(near["probes"])
    seeds = "1 probe" if count == 1 else f"{count} seeds"
    if pd.isna(near["ratio_low"]):
        return f"{seeds}, so no interval" if count == 1 else seeds
    ends = f"{100 * near['ratio_low']:.1f} to {100 * near['ratio_high']:.1f} %"
    return f"{100 * LEVEL:.0f} % interval {ends}, {seeds}"


def _near(curve: Curve) -> pd.Series | None:
    """Return the point nearest `ASKED` with a share of the full layer; None if there is none."""
    parts = curve.points[(curve.points["fraction"] < 1) & curve.points["ratio"].notna()]
    return None if parts.empty else parts.loc[(parts["fraction"] - ASKED).abs().idxmin()]


def _reach(curve: Curve) -> str:
    score = score_of(curve.points)
    known = curve.points[curve.points[score].notna()]
    if known.empty:
        return "No probe of these results has a score."
    last = known.iloc[-1]
    return (
        f"{int(last['k']):,} features reach an {NAMES[score]} of {last[score]:.3f}; without parts "
        "and the whole of a layer, nothing is said of what a part keeps."
    )
