"""Write into docs/install.md how much of the disk each part of an installation takes.

    pip install ".[extract,report]" && python packaging/sizes.py

Sizes are those of the files that pip noted of each distribution in this environment, and of all
that it requires in turn; what PyTorch brings by itself is left out, and so is compiled bytecode.
"""

from collections.abc import Collection, Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

OURS = "featstore-probe"
PAGE = Path(__file__).parents[1] / "docs/install.md"
START, END = "<!-- sizes -->\n", "<!-- end -->"
PARTS = {
    (): "probe arrays and stores, import, compare, keep stores; the Python of all of it",
    ("extract",): "and `extract`, `taps`, `bench`: torchvision, timm, Pillow, pyarrow",
    ("report",): "and `--plot`, `report`: matplotlib, plotly",
    ("extract", "report"): "and `study`: all but what is below",
}


def required(name: str, extras: Collection[str] = ()) -> Iterable[Requirement]:
    """Yield what a distribution requires here, with these extras."""
    for text in distribution(name).requires or ():
        found = Requirement(text)
        asked = [{"extra": extra} for extra in ("", *extras)]
        if found.marker is None or any(found.marker.evaluate(each) for each in asked):
            yield found


def closure(name: str, extras: Collection[str] = ()) -> set[str]:
    """Return the names of all that a distribution requires, and what that requires in turn."""
    found: set[str] = set()
    open_ = [*required(name, extras)]
    while open_:
        one = open_.pop()
        key = one.name.lower().replace("_", "-")
        if key != OURS and key not in found:
            found.add(key)
            open_ += required(one.name, one.extras)
    return found


def megabytes(names: Iterable[str]) -> int:
    """Return the size of the files of some distributions, in millions of bytes."""
    files = {Path(file.locate()) for name in names for file in distribution(name).files or ()}
    kept = (file for file in files if file.suffix != ".pyc" and file.is_file())
    return round(sum(file.stat().st_size for file in kept) / 1e6)


def table() -> str:
    """Return the sizes as a table."""
    torch = {"torch", *closure("torch")}
    core = closure(OURS) - torch
    lines = ["| `pip install` | what it can do | on the disk |", "|---|---|--:|"]
    for extras, what in PARTS.items():
        name = f'"{OURS}[{",".join(extras)}]"' if extras else OURS
        size = megabytes(closure(OURS, extras) - torch - core if extras else core)
        lines.append(f"| `{name}` | {what} | {'+ ' if extras else ''}{size} MB |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(before + START + table() + END + after, encoding="utf-8")
