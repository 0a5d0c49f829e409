"""Numbers and tables in the form that the page's script reads: JSON without NaN, in columns."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

DIGITS = 7


@dataclass(frozen=True)
class Column:
    """One column of a table of the page.

    Attributes:
        title: what stands above it.
        kind: how the script writes a value: "text", "count", "share" (a fraction as per cent),
            "score" (three decimals), "kept" (a ratio as per cent, one decimal), "number".
        values: a value a row.
        spread: ± of each value, or None.
        ends: low and high of each value, shown in place of the spread, or None.
    """

    title: str
    kind: str
    values: Iterable[Any]
    spread: Iterable[Any] | None = None
    ends: tuple[Iterable[Any], Iterable[Any]] | None = None


def intervals(kind: str, of: pd.Series, low: pd.Series, high: pd.Series) -> list[Column]:
    """Return the column of 95 % intervals of some values, or nothing where none is known."""
    return [Column("95 % interval", kind, of, ends=(low, high))] if low.notna().any() else []


def table(columns: Sequence[Column]) -> dict[str, Any]:
    """Return a table as the script reads it; texts as their distinct values and places in them."""
    return {"columns": [_column(column) for column in columns]}


def _column(column: Column) -> dict[str, Any]:
    held: dict[str, Any] = {"title": column.title, "kind": column.kind}
    if column.kind == "text":
        codes, levels = pd.factorize(pd.Series(column.values, dtype=object).fillna("").astype(str))
        return held | {"levels": levels.tolist(), "codes": codes.tolist()}
    held["values"] = numbers(column.values)
    if column.spread is not None:
        held["spread"] = numbers(column.spread)
    if column.ends is not None:
        held["low"], held["high"] = map(numbers, column.ends)
    return held


def numbers(values: Iterable[Any]) -> list[float | int | None]:
    """Return numbers for JSON: seven digits, None for what is not known or not finite.

    >>> numbers([1 / 3, float("nan"), 3, float("inf"), pd.NA])
    [0.3333333, None, 3, None, None]
    """
    return [number(value) for value in values]


def number(value: Any) -> float | int | None:
    """Return one number as `numbers` does."""
    if value is None or value is pd.NA or not math.isfinite(value):
        return None
    if float(value).is_integer() and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{DIGITS}g}")


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a `<script>` element, whatever its texts say.

    >>> script_json(["</script>", "&"])
    '["\\\\u003c/script\\\\u003e","\\\\u0026"]'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
