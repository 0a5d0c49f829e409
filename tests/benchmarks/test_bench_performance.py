"""docs/performance.md holds what benchmarks/results says, and its arithmetic is right."""

import re
from dataclasses import replace

import pytest

from benchmarks import paper, performance, plan, speed
from benchmarks.sheet import H200
from benchmarks.stages import STAGES
from featstore.probe.errors import FileError

TEXT = performance.DOCUMENT.read_text()


@pytest.fixture(scope="module")
def found():
    """The committed reports."""
    return performance.reports()


def test_the_document_holds_what_the_reports_say(found):
    assert performance.filled(TEXT, found) == TEXT, "run python -m benchmarks.performance"


def test_every_table_of_every_stage_is_shown(found):
    shown = set(performance.BLOCK.findall(TEXT))
    tables = {(stage, title) for stage in found if stage in STAGES for title in found[stage].tables}
    tables |= {(stage, "growth") for stage in found if stage in STAGES and found[stage].growth}
    assert tables - shown == set()
    computed = {(stage, title) for stage, of in performance.COMPUTED.items() for title in of}
    assert computed - shown == set()


def test_a_changed_number_and_a_missing_report_are_seen(found):
    row = {**found["ridge"].tables["sweep"][0], "seconds": 12.25}
    changed = replace(found["ridge"], tables={**found["ridge"].tables, "sweep": [row]})
    below = TEXT[TEXT.index("## How to read it") :]
    assert "12.2" in performance.filled(below, {**found, "ridge": changed})
    with pytest.raises(FileError, match=r"no report of ridge: run .*bench_ridge`"):
        performance.filled("<!-- ridge: sweep -->\n<!-- end -->\n", {})
    with pytest.raises(FileError, match="no table 'speed'"):
        performance.filled("<!-- ridge: speed -->\n<!-- end -->\n", found)


def test_the_readme_s_speeds_are_the_reports(found):
    measured = {row["what"].split(",")[0]: row["measured"] for row in speed.table(found)}
    loops = {row["what"].split(",")[0]: row for row in found["ridge"].tables["loops"]}
    assert measured["scikit-learn's `Ridge`"] == (
        f"{loops['sklearn']['seconds']:.0f} s, {loops['sklearn']['of ours']:.2g} times as long"
    )
    without = {**found["ridge"].tables, "loops": [loops["all together"]]}
    with pytest.raises(FileError, match="the report of ridge has no row 'sklearn' in its table"):
        speed.table({**found, "ridge": replace(found["ridge"], tables=without)})


def test_pictures_of_the_document_exist():
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert len(named) == sum(map(len, performance.DRAWN.values()))
    assert [path for path in named if not (performance.DOCUMENT.parent / path).exists()] == []


def test_the_prose_has_the_numbers_that_are_worked_out():
    trainings, images = paper.FIGURE, paper.FIGURE * paper.EPOCHS * paper.TRAIN
    assert f"71 x 100 x 50,000 = {images:,} image\npasses" in TEXT
    assert f"14,413 / {trainings} = {round(paper.TRAININGS / trainings)} pairs" in TEXT
    assert f"is {paper.shape()[1]:,.0f}, with" in TEXT
    assert f"sum(1 + k) = {plan.widths():,.0f}." in TEXT
    assert f"the {H200['float32'] / 1e12:.0f} TFLOP/s of float32" in TEXT


def test_ours_pass_each_image_once(found):
    rows = {row["what"]: row for row in paper.passes(found)}
    assert rows["one figure, ours"]["image passes"] == "60,000"
    theirs, ours = rows["one figure, theirs"], rows["one figure, ours"]
    assert theirs["hours, H200 sheet"] / ours["hours, H200 sheet"] == pytest.approx(355e6 / 60e3)


def test_what_breaks_first_does(found):
    work = plan.work(8e9)
    ratio = work["X'Y, as a product"][0] / work["X'X, upper half"][0]
    assert round(ratio) == 10  # "ten times the Gram's own operations"
    held = {row["what"]: row for row in plan.memory()}
    state = held["softmax: state of all 100 probes"]
    assert state["GB a device"] * 1e9 < H200["memory"] < state["GB"] * 1e9 / 3
    seconds = {row["stage"]: row["seconds, 64 H200"] for row in plan.times(found)}
    crossing = {row["what"]: row["seconds"] for row in plan.traffic()}
    assert crossing["rows shared out: sum of gradients, a pass"] < seconds["softmax, one pass"]
