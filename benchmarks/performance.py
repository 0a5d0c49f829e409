"""The tables of docs/performance.md, made from the reports in benchmarks/results.

python -m benchmarks.performance

In a document a table stands between `<!-- STAGE: TABLE -->` and `<!-- end -->`. Run this in a
checkout after `python -m benchmarks.bench_STAGE --sizes full --json benchmarks/results/STAGE.json`.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import paper, plan, speed
from benchmarks.figures import growth_figures
from featstore.measurements import Growth, Report, Row, cell
from featstore.probe.errors import FileError
from featstore.probe.results.files import written_whole

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"
# the axes that are drawn in the document
DRAWN = {"ridge": ("fractions", "seeds")}
BLOCK = re.compile(r"<!-- (\w+): ([^>]+?) -->\n.*?<!-- end -->\n", re.DOTALL)

COMPUTED: dict[str, dict[str, Callable[[dict[str, Report]], list[Row]]]] = {
    "speed": {"table": speed.table},
    "paper": {"passes": paper.passes, "probes": paper.probes},
    "plan": {
        "times": plan.times,
        "memory": lambda reports: plan.memory(),
        "traffic": lambda reports: plan.traffic(),
    },
}


def load(path: Path) -> Report:
    """Return the report that `Report.save` wrote."""
    content = json.loads(path.read_text())
    growth = [Growth(**grown) for grown in content["growth"]]
    found = [content[name] for name in ("benchmark", "sizes", "machine", "tables")]
    return Report(*found, growth, content["notes"])


def reports(folder: Path = RESULTS) -> dict[str, Report]:
    """Return the reports of a folder by the names of their files."""
    return {path.stem: load(path) for path in sorted(folder.glob("*.json"))}


def filled(text: str, found: dict[str, Report]) -> str:
    """Return the document with every table made anew.

    Raises:
        FileError: it asks for a table that there is not.
    """

    def made(match: re.Match[str]) -> str:
        stage, title = match.groups()
        return f"<!-- {stage}: {title} -->\n{_block(stage, title, found)}<!-- end -->\n"

    return BLOCK.sub(made, text)


def _block(stage: str, title: str, found: dict[str, Report]) -> str:
    if stage == "machine":
        return markdown([_machine(*report) for report in found.items()])
    if (stage, title) == ("speed", "where"):
        return speed.where(found)
    if title in COMPUTED.get(stage, {}):
        return markdown(COMPUTED[stage][title](found))
    if stage not in found:
        raise FileError(
            f"there is no report of {stage}: run `python -m benchmarks.bench_{stage}` with --json"
        )
    if title == "growth":
        return markdown([row for grown in found[stage].growth for row in grown.rows()])
    if title == "sizes":
        sizes = found[stage].sizes.items()
        return ", ".join(f"{name} {_plain(value)}" for name, value in sizes) + ".\n"
    if title not in found[stage].tables:
        raise FileError(f"the report of {stage} has no table {title!r}")
    return markdown(found[stage].tables[title])


def _machine(stage: str, report: Report) -> Row:
    machine = report.machine
    return {
        "stage": stage,
        "date": machine["date"][:10],
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "device": machine["device"],
        "GFLOP/s float32": machine["matmul_gflops"],
        "float64": machine["matmul64_gflops"],
        "GB/s copy": machine["copy_gbs"],
    }


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(rows: Sequence[Row]) -> str:
    """Return rows with the same keys as a Markdown table, numbers to three digits.

    Example:
        >>> print(markdown([{"what": "a|b", "seconds": 1.23456}]), end="")
        | what | seconds |
        |---|---:|
        | a\\|b | 1.23 |
    """
    names = list(rows[0])
    lines = [names, ["---", *["---:"] * (len(names) - 1)]]
    lines += [[cell(row[name], 3).replace("|", r"\|") for name in names] for row in rows]
    head, rule, *body = lines
    text = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*text, *(f"| {' | '.join(line)} |" for line in body)]) + "\n"


def main() -> None:
    found = reports()
    text = filled(DOCUMENT.read_text(), found)
    with written_whole(DOCUMENT) as aside:
        aside.write_text(text)
    for stage, axes in DRAWN.items():
        for path in growth_figures(found[stage], FIGURES, axes):
            print(f"drew {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
