"""What a benchmark finds: tables and growth, with the machine and the sizes they hold for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.growth import Growth
from featstore.probe.results.files import written_whole

WIDTH = 80

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The findings of one stage.

    Attributes:
        stage: its name.
        sizes: what was measured, by name.
        machine: as `machine.facts`.
        tables: rows by the table's title; the rows of a table have the same keys.
        growth: time and memory along one axis each.
        notes: what to know when reading the tables, a sentence each.
    """

    stage: str
    sizes: Mapping[str, Any]
    machine: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    growth: Sequence[Growth] = ()
    notes: Sequence[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the report as text of at most 80 columns."""
        parts = [*_head(self.stage, self.sizes, self.machine)]
        parts += ["\n" + table(rows, title) for title, rows in self.tables.items()]
        if self.growth:
            rows = [row for grown in self.growth for row in grown.rows()]
            parts.append("\n" + table(rows, "growth"))
        return "\n".join([*parts, *(["", *map(_wrapped, self.notes)] if self.notes else [])])

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        content = {
            "benchmark": self.stage,
            "sizes": dict(self.sizes),
            "machine": dict(self.machine),
            "tables": {title: [dict(row) for row in rows] for title, rows in self.tables.items()},
            "growth": [asdict(grown) for grown in self.growth],
            "notes": list(self.notes),
        }
        with written_whole(path) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")


def load(path: Path) -> Report:
    """Return the report that `Report.save` wrote."""
    content = json.loads(path.read_text())
    growth = [Growth(**grown) for grown in content["growth"]]
    return Report(
        content["benchmark"], content["sizes"], content["machine"], content["tables"], growth,
        content["notes"],
    )  # fmt: skip


def _head(stage: str, sizes: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    where = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return [
        _wrapped(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in sizes.items())),
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB{where}",
        f"{machine['matmul_gflops']} GFLOP/s float32 and {machine['matmul64_gflops']} float64 "
        f"matmul, {machine['copy_gbs']} GB/s copy",
    ]


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append("  " + word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def table(rows: Sequence[Row], title: str = "") -> str:
    """Return rows with the same keys as a text table of at most 80 columns.

    Numbers have four digits, or fewer where the table would be too wide; then the first column is
    cut.

    Example:
        >>> print(table([{"what": "a", "seconds": 1.23456}, {"what": "b", "seconds": ""}]))
        what  seconds
        -------------
        a       1.235
        b
    """
    for digits in (4, 3, 2):
        lines = _lines(rows, digits)
        if max(map(len, lines)) <= WIDTH:
            break
    over = max(map(len, lines)) - WIDTH
    if over > 0:
        lines = _lines(rows, digits, cut=over)
    rule = "-" * max(map(len, lines))
    return "\n".join([*([title] if title else []), lines[0], rule, *lines[1:]])


def _lines(rows: Sequence[Row], digits: int, cut: int = 0) -> list[str]:
    names = list(rows[0])
    cells = [names, *([cell(row[name], digits) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    widths[0] -= cut
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def cell(value: Any, digits: int = 4) -> str:
    """Write a value for a table: numbers to so many digits, large ones in full.

    Example:
        >>> cell(0.00012345), cell(12345.678), cell(3), cell(True), cell("")
        ('0.0001234', '12,346', '3', 'True', '')
    """
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = line[0][: widths[0]].ljust(widths[0])
    return [first, *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
