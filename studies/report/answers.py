"""The answer in a sentence: how much of the full layer's accuracy a part of it keeps."""

from collections.abc import Sequence

import pandas as pd

from probe.curve_names import shared_and_own
from probe.summaries import NAMES, percent, score_of
from studies.report.curves import ASKED, LEVEL, Curve, over_of


def answer(curves: Sequence[Curve]) -> list[str]:
    """Return the answer, a sentence a paragraph, as plain text.

    One curve is spoken of by itself, with what stands against its number. Of several, those of
    random features count, or else those of the first mode: the lowest and the highest are named.
    """
    if len(curves) == 1:
        return [" ".join((curves[0].answer.text, *curves[0].answer.remarks))]
    spoken = [curve for curve in curves if _near(curve) is not None]
    if not spoken:
        return list(dict.fromkeys(curve.answer.text for curve in curves[:3]))
    modes = [curve.mode for curve in spoken]
    mode = "random" if "random" in modes else modes[0]
    chosen = [curve for curve in spoken if curve.mode == mode]
    return [chosen[0].answer.text if len(chosen) == 1 else _of_several(chosen, mode)]


def remarks(curves: Sequence[Curve]) -> list[str]:
    """Return what stands against the numbers of several curves, a line each.

    So does that a curve has no share, since its full layer is within noise of no feature at all.
    """
    if len(curves) == 1:
        return []
    lines = []
    for curve in curves:
        if curve.full is not None and _near(curve) is None and len(curve.points) > 1:
            lines.append(curve.answer.name + curve.answer.text)
        lines += [curve.answer.name + each for each in curve.answer.remarks]
    return lines


def _of_several(curves: Sequence[Curve], mode: str) -> str:
    points = [_near(curve) for curve in curves]
    _, names = shared_and_own([curve.points for curve in curves])
    in_order = sorted(range(len(curves)), key=lambda place: points[place]["ratio"])
    (low, least), (high, most) = (
        (names[place], points[place]) for place in (in_order[0], in_order[-1])
    )
    fractions = {point["fraction"] for point in points}
    share = percent(fractions.pop()) if len(fractions) == 1 else f"about {percent(ASKED)}"
    drawn = ", drawn at random," if mode == "random" else f" by mode {mode}"
    over = over_of(curves)
    told = f"; {percent(LEVEL)} intervals over {over}" if over else ""
    return (
        f"{share} of the features{drawn} keep between {_kept(least)} ({low}) and {_kept(most)} "
        f"({high}) of the full layer's {NAMES[score_of(curves[0].points)]}, in {len(curves)} "
        f"curves{told}."
    )


def _kept(near: pd.Series) -> str:
    kept = f"{100 * near['ratio']:.1f} %"
    if pd.isna(near["ratio_low"]):
        return kept
    return f"{kept} ({100 * near['ratio_low']:.1f} to {100 * near['ratio_high']:.1f})"


def _near(curve: Curve) -> pd.Series | None:
    """Return the point nearest `ASKED` with a share of the full layer; None if there is none."""
    parts = curve.points[(curve.points["fraction"] < 1) & curve.points["ratio"].notna()]
    return None if parts.empty else parts.loc[(parts["fraction"] - ASKED).abs().idxmin()]
