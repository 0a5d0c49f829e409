"""A page of results: how long it takes to make, and to open and draw in a browser.

python -m benchmarks.bench_report --sizes small
"""

import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import stages
from featstore import measurements
from featstore.measurements import Report
from featstore.probe.results.files import save_table
from featstore.report.page import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

MARKS = ("script", "shown", "drawn")
"""Marks of the page: its own script begins, tables and figures stand, all is drawn."""


@dataclass(frozen=True)
class ReportSizes:
    """Number of probes in the results: curves x seeds x sizes of subsets."""

    curves: int
    seeds: int
    prefixes: int
    repeats: int


SIZES = {
    "small": ReportSizes(2, 3, 20, 1),
    "medium": ReportSizes(8, 5, 250, 3),
    "full": ReportSizes(8, 5, 250, 7),
}


def results(sizes: ReportSizes) -> pd.DataFrame:
    """Return a table of probes, one row each, with an accuracy for every prefix size."""
    random = np.random.default_rng(0)
    axes = pd.MultiIndex.from_product(
        [range(sizes.curves), range(1, sizes.seeds + 1), range(1, sizes.prefixes + 1)],
        names=["mode", "seed", "k"],
    )
    table = axes.to_frame(index=False)
    accuracy = 0.9 - 0.8 / np.sqrt(table["k"]) - 0.01 * table["mode"]
    accuracy += 0.01 * random.standard_normal(len(table)) * (table["k"] < sizes.prefixes)
    return table.assign(
        store="made-up.zarr",
        tap="penultimate",
        solver="ridge",
        l2=0.01,
        l2_choice="given",
        mode="mode " + table["mode"].astype(str),
        fraction=table["k"] / sizes.prefixes,
        n_train=1_000,
        n_test=1_000,
        accuracy=accuracy,
        status="ok",
        options="",
    )


def measure(sizes: ReportSizes, setup: stages.Setup) -> Report:
    """Return the report; without a browser, of the making alone, and it says so."""
    found = measurements.facts(setup.backend)
    with tempfile.TemporaryDirectory() as folder:
        table, page = results(sizes), Path(folder) / "page.html"
        save_table(table, Path(folder) / "results.csv")
        making, _ = measurements.seconds(lambda: write([Path(folder) / "results.csv"], page))
        row = {"rows": len(table), "MB": page.stat().st_size / 1e6, "made, s": making}
        browser, missing = _browser()
        tables: dict[str, Any] = {"page": [row]}
        if browser:
            tables["in a browser"] = _opened(browser, page, len(table), sizes)
    note = "Times in the browser are from the start of navigation; the shortest of each counts."
    return Report("report", asdict(sizes), found, tables, notes=[missing or note])


def _browser() -> tuple[str | None, str]:
    """Return the browser's path, or None and why there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        return None, "No Chromium is on PATH, so that the page was made and not opened."
    if find_spec("playwright") is None:
        return (
            None,
            'The page was not opened: pip install "featstore-probe[bench]" brings playwright.',
        )
    return path, ""


def _opened(browser: str, page: Path, rows: int, sizes: ReportSizes) -> list[dict[str, Any]]:
    """Return the times of opening the page, having looked whether all of it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--disable-gpu"])
        # the first start of a browser reads it from the disk
        times = [_times(chromium, page, rows, sizes) for _ in range(sizes.repeats + 1)][1:]
        version = chromium.version
        chromium.close()
    best = {mark: min(each[mark] for each in times) for mark in MARKS}
    return [
        {
            "browser": f"Chromium {version.split('.')[0]}",
            "library read, s": best["script"],
            "tables shown, s": best["shown"],
            "all drawn, s": best["drawn"],
        }
    ]


def _times(chromium: Any, page: Path, rows: int, sizes: ReportSizes) -> dict[str, float]:
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    opened.goto(page.as_uri())
    opened.wait_for_selector("html[data-drawn=yes]")
    lines = opened.locator("#accuracy .legend button").count()
    text = opened.locator("#table-probes .pager output").inner_text() if rows > 50 else f"{rows}"
    if lines != sizes.curves or f"{rows:,}" not in text:
        raise RuntimeError(f"the page shows {lines} curves and {text}, not {sizes.curves}, {rows}")
    marks = "performance.getEntriesByType('mark').map(mark => [mark.name, mark.startTime / 1000])"
    found = dict(opened.evaluate(marks))
    context.close()
    return found


if __name__ == "__main__":
    stages.main("report")
