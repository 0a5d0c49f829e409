"""The simulation of coverage: its truths, a small run, and what the kept page says."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import (
    ACCURACIES,
    FRACTIONS,
    NAMES,
    OF_SCORES,
    TENTH,
    drawn,
    equal_losses,
    main,
)
from featstore.probe.results import score_name

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page: lists of rows of cells, without headings."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("| "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def test_probes_that_are_made_up_are_as_accurate_as_is_said():
    sample = drawn(80, 4000, np.random.default_rng(0))
    assert sample.random.mean() == pytest.approx(ACCURACIES, abs=0.02)
    gain = sample.mode.mean()[0] - sample.random.mean()[TENTH]
    assert gain == pytest.approx(sample.truths["mode - random"], abs=0.02)
    gain = sample.solver.mean()[0] - sample.random.mean()[TENTH]
    assert gain == pytest.approx(sample.truths["solver - solver"], abs=0.005)
    # of one seed the truth is that seed's own
    one = drawn(1, 100_000, np.random.default_rng(1))
    assert one.random.mean()[TENTH] == pytest.approx(one.truths["accuracy"], abs=0.006)
    assert 1 - one.truths["DR(0.9)"] > FRACTIONS[TENTH]


def test_equal_losses_are_equal():
    part, full, labels = equal_losses(4, 20_000, 2, 0.1, np.random.default_rng(2))
    lost = [(full[:, labels == c].mean() - part[:, labels == c].mean()) for c in range(4)]
    assert lost == pytest.approx([0.15] * 4, abs=0.05)


def test_it_writes_a_page(tmp_path):
    main(["--repeats", "3", "--former", "2", "--sizes", "small", "--out", str(tmp_path / "c.md")])
    text = (tmp_path / "c.md").read_text()
    intervals, classes, scores, degrading = tables(text)
    assert [row[0] for row in scores][::2] == [score_name(name) for name in OF_SCORES]
    assert list(dict.fromkeys(row[0] for row in intervals)) == list(NAMES)
    assert "There were 3 repeats" in text.replace("\n", " ")
    assert len(classes) == 3
    assert all(0 <= float(row[-1]) <= 1 for row in [*classes, *degrading])


def test_the_kept_page_holds_what_is_promised():
    """From 93 to 97 %, and from .03 to .06, but for half a point or .005 that are chance.

    Degrading features are named by chance in .03 to .07 of the tables. Of other scores than
    accuracy intervals hold from 92 to 98 %, but for the average precision of few rows, which is too
    high itself.
    """
    intervals, classes, scores, degrading = tables(PAGE.read_text())
    for row in scores:
        least = 89 if row[0] == "average precision" and row[2] == "300" else 92
        assert all(least <= float(cell.rstrip("%")) <= 98 for cell in (row[3], row[5])), row
    assert {(row[1], row[2]) for row in intervals} >= {
        (seeds, rows) for seeds in ("3", "5", "10") for rows in ("500", "3,000", "10,000")
    }
    for row in intervals:
        assert 92.5 <= float(row[3].rstrip("%")) <= 97.5, row
    for row in classes:
        assert 0.025 <= float(row[3]) <= 0.065, row
    for row in degrading:
        assert 0.03 <= float(row[3]) <= 0.07, row
