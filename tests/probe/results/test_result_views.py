"""Views and their writers: one layout, the same numbers in every medium."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from featstore.cli.screen import of_view
from featstore.probe.results import views
from featstore.probe.results.views import KINDS, Column, View, as_html, as_json, as_markdown

VIEW = View(
    [
        Column("curve", "text", ["a|b", "<c>"]),
        Column("kept", "kept", [0.8614, 0.5], ends=([0.85, math.nan], [0.87, 0.6])),
        Column("gap", "points", [-0.0002, 0.12], spread=[0.01, math.nan]),
        Column("k", "count", [1280, None]),
    ],
    "all",
)


def test_every_writer_has_the_same_cells():
    rows = [("a|b", "86.1 % [85.0, 87.0]", "+0.0 ± 1.0", "1,280"), ("<c>", "50.0 %", "+12.0", "-")]
    assert VIEW.rows() == rows
    table = of_view(VIEW)
    assert table.title == "all"
    assert list(zip(*(column.cells for column in table.columns), strict=True)) == rows
    assert [column.justify for column in table.columns] == ["left", "right", "right", "right"]
    assert as_markdown(VIEW).splitlines() == [
        "| curve | kept | gap | k |",
        "|:--|--:|--:|--:|",
        r"| a\|b | 86.1 % (85.0 to 87.0) | +0.0 ± 1.0 | 1,280 |",
        "| <c> | 50.0 % | +12.0 | - |",
    ]
    html = as_html([VIEW])
    assert "&lt;c&gt;" in html
    assert "<c>" not in html
    assert all(f">{cell}<" in html for cell in rows[0])


def test_json_has_numbers_and_not_what_they_look_like():
    columns = as_json(VIEW)["columns"]
    assert json.loads(json.dumps(columns, allow_nan=False)) == columns
    texts = {"levels": ["a|b", "<c>"], "codes": [0, 1]}
    assert columns[0] == {"title": "curve", "kind": "text", **texts}
    assert columns[1]["values"] == [0.8614, 0.5]
    assert (columns[1]["low"], columns[1]["high"]) == ([0.85, None], [0.87, 0.6])
    assert columns[2]["spread"] == [0.01, None]
    assert columns[3]["values"] == [1280, None]


def test_a_bound_has_an_interval_only_where_it_is_one():
    dr = Column("DR", "score", [0.9, 0.9], ends=([0.9, 0.8], [0.9, 1]), bounds=["at least"] * 2)
    assert dr.cells() == ["at least 0.900", "at least 0.900 [0.800, 1.000]"]
    known = {"delta": 0.9, "redundancy": 0.9, "low": 0.8, "high": 1.0, "bound": "at least"}
    curve = pd.DataFrame([known, {"delta": 0.95, "bound": ""}]).assign(rule="interpolated")
    assert views.redundancy(curve, "").rows() == [("90 %", "at least 0.900"), ("95 %", "-")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_not_known_is_never_written(kind):
    unknown = [None, math.nan, np.nan, pd.NA]
    assert Column("a", kind, unknown, unknown, (unknown, unknown)).cells() == ["-"] * 4
    assert Column("a", kind, unknown, missing="").cells() == [""] * 4
