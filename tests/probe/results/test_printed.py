"""A sweep as text: the same cells in the terminal and in a notebook."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from test_summaries import table

from featstore import probe
from featstore.cli.screen import of_sweep
from featstore.probe.results.views import Column, View, as_html, printed, sweep_as_html

PROBES = [
    (seed, fraction, int(100 * fraction), accuracy + seed / 100)
    for seed in (1, 2, 3)
    for fraction, accuracy in ((0.1, 0.5), (0.5, 0.7))
]
FULL = [(seed, 1.0, 100, 0.8) for seed in (1, 2, 3)]
ONE = table(PROBES + FULL).assign(status="ok", n_train=1000, n_test=500)
PCA = ONE[ONE["seed"] == 1].assign(mode="pca", seed=pd.NA)
MODES = pd.concat([ONE, PCA])
VOID = {"br", "hr", "img"}


class Strict(HTMLParser):
    """Reads HTML, and fails where a tag is not closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        assert tag not in {"style", "script", "link"}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def texts(html: str) -> list[str]:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.texts


def shown(given: pd.DataFrame) -> list[str]:
    console = Console(width=80, file=None, markup=False, highlight=False)
    with console.capture() as captured:
        for thing in of_sweep(given):
            console.print(thing)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_one_curve_is_one_view_without_a_name():
    one = printed(ONE)
    assert (one.store, one.shared) == ("s", "t, random, ridge, l2 = 0.001")
    assert [view.title for view in one.views] == [""]
    cells = ("0.520 [0.495, 0.545]", "65.0 % [61.9, 68.1]")
    assert one.views[0].rows()[0] == ("10 %", "10", *cells, "3")
    assert one.views[0].rows()[-1] == ("100 %", "100", "0.800", "100.0 %", "1")  # one probe
    assert one.notes == ("[low, high]: 95 % intervals over seeds alone",)


def test_modes_come_in_their_order_and_share_one_whole_layer():
    both = printed(MODES)
    assert [view.title for view in both.views] == ["random", "pca", ""]
    assert [len(view.rows()) for view in both.views] == [2, 2, 1]
    assert both.views[1].rows()[0] == ("10 %", "10", "0.510", "63.7 %", "1")  # one seed, no spread
    assert both.views[2].rows() == [("100 %", "100", "0.800", "100.0 %", "1")]


def test_whole_layers_that_differ_stay_where_they_are():
    penalties = printed(pd.concat([ONE, ONE.assign(l2=0.1)]))
    assert [len(view.rows()) for view in penalties.views] == [3, 3]
    assert [view.title for view in penalties.views] == ["l2 = 0.001", "l2 = 0.1"]
    better = MODES.assign(accuracy=MODES["accuracy"].where(MODES["mode"] == "random", 0.9))
    assert [len(view.rows()) for view in printed(better).views] == [3, 3]
    unfinished = ONE[ONE["fraction"] < 1]
    both = printed(pd.concat([unfinished, unfinished.assign(mode="pca")]))
    assert [len(view.rows()) for view in both.views] == [2, 2]


def test_stores_of_one_name_are_told_apart_by_their_folders():
    both = printed(pd.concat([ONE.assign(store="a/x.zarr"), ONE.assign(store="b/x.zarr")]))
    assert [view.title for view in both.views] == ["a/x.zarr", "b/x.zarr"]
    assert both.store == ""


def test_every_k_shows_round_shares():
    k = np.arange(1, 2049)
    every = table([(1, size / 2048, size, 1 - 1 / size) for size in k.tolist()])
    rows = printed(every).views[0].rows()
    assert [row[1] for row in rows] == [
        "1",
        "2",
        "4",
        "10",
        "20",
        "41",
        "102",
        "205",
        "410",
        "1,024",
        "2,048",
    ]


def test_a_table_read_from_a_file_is_shown_alike():
    read, made = printed(MODES.convert_dtypes()), printed(MODES)
    assert [view.rows() for view in read.views] == [view.rows() for view in made.views]
    assert (read.store, read.shared, read.notes) == (made.store, made.shared, made.notes)


def test_the_terminal_shows_headings_once_in_80_columns():
    lines = shown(MODES)
    assert lines[0] == "t, ridge, l2 = 0.001"
    assert sum("of the full layer" in line for line in lines) == 1
    assert [line for line in lines if line in ("random", "pca")] == ["random", "pca"]
    ends = {len(line) for line in lines if line.endswith(("3", "1"))}
    assert len(ends) == 2  # "l2 = 0.001", and all rows alike
    long = MODES.assign(mode=MODES["mode"] + "-" * 100)
    assert max(map(len, shown(long))) <= 80


def test_a_notebook_shows_the_same_cells():
    read = texts(sweep_as_html(MODES))
    assert read[0] == "s, t, ridge, l2 = 0.001, 1,000 train rows, 500 test rows"
    for view in printed(MODES).views:
        for row in view.rows():
            assert all(cell in read for cell in row if cell)


def test_names_are_escaped():
    html = sweep_as_html(MODES.assign(store="<script>alert(1)</script>", tap="a&b", mode='"<b>'))
    assert "<script>" not in html
    assert "<script>alert(1)<" not in "".join(texts(html))
    assert "a&b" in "".join(texts(html))
    view = View([Column("<h>", "text", ["<c>"])], "<n>")
    assert texts(as_html([view], "<d>")) == ["<d>", "<h>", "<n>", "<c>"]


def test_what_did_not_go_as_usual_is_said():
    html = sweep_as_html(ONE.assign(status=["jitter=1e-9"] + ["ok"] * (len(ONE) - 1)))
    assert texts(html)[-1].startswith("Warning: 1 of 9 probes have status jitter")


@pytest.fixture(scope="module")
def result():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 20)), np.arange(60) % 3
    return probe.sweep((X, y), (X, y), fractions=[0.1, 0.5], seeds=[1, 2], solver="ridge", l2=0.1)


def test_a_result_shows_itself(result):
    read = texts(result._repr_html_())
    assert "60 train rows" in read[0]
    assert "of the full layer" in read
    assert "100 %" in read


def test_probes_without_scores_show_their_table(result):
    unscored = result.table.drop(columns="accuracy")
    assert "fraction" in texts(sweep_as_html(unscored))
