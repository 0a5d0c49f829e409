"""Pictures: what is drawn, where, and that a failure leaves no half picture."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from test_summaries import table

from probe import plots
from probe.errors import UsageError
from probe.plots import accuracy_against_fraction
from probe.summaries import as_curves

FRACTIONS = (0.01, 0.05, 0.1, 0.5, 1.0)
CURVE = table(
    [
        (seed, fraction, int(1000 * fraction), 0.9 + 0.2 * np.log10(fraction) + 0.01 * seed)
        for seed in (1, 2, 3)
        for fraction in FRACTIONS
    ],
    store="folder/resnet50-cifar10.zarr",
)


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_the_same_table_gives_the_same_bytes(tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    before = dict(matplotlib.rcParams)
    assert accuracy_against_fraction(CURVE, first) == first
    accuracy_against_fraction(CURVE, second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5000
    assert dict(matplotlib.rcParams) == before


def test_text_stays_text(tmp_path):
    svg = accuracy_against_fraction(CURVE, tmp_path / "a.svg").read_text()
    for words in (
        "features kept (%)",
        "test accuracy (%)",
        "resnet50-cifar10",
        "all 1,000 features",
    ):
        assert f">{words}" in svg
    pdf = accuracy_against_fraction(CURVE, tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf


def test_means_spread_and_seeds_are_drawn():
    axes = plots._figure(as_curves(CURVE)).axes[0]
    line = axes.lines[0]
    assert line.get_xdata() == pytest.approx(FRACTIONS)
    assert line.get_ydata()[-1] == pytest.approx(92.0)
    assert axes.lines[1].get_ydata()[0] == pytest.approx(92.0)  # the full layer, all along
    band, dots = axes.collections
    assert len(dots.get_offsets()) == len(CURVE)
    edges = band.get_paths()[0].vertices
    assert np.ptp(edges[np.isclose(edges[:, 0], 0.1), 1]) == pytest.approx(2.0)  # twice 1 point


def test_the_right_axis_is_the_share_of_the_full_layer():
    figure = plots._figure(as_curves(CURVE))
    right = figure.axes[0].child_axes[0]
    figure.canvas.draw()
    bottom, top = figure.axes[0].get_ylim()
    assert right.get_ylim() == pytest.approx((bottom / 0.92, top / 0.92))


def test_ticks_are_percentages_a_person_reads():
    figure = plots._figure(as_curves(CURVE))
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["1", "2", "5", "10", "20", "50", "100"]


def test_several_penalties_are_told_apart():
    both = np.concatenate([[1e-3] * len(CURVE), [1e-2] * len(CURVE)])
    axes = plots._figure(as_curves(pd.concat([CURVE, CURVE]).assign(l2=both))).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "l2 = 0.001",
        "l2 = 0.01",
    ]
    assert not axes.child_axes


def test_chosen_penalties_are_named_and_make_one_curve(tmp_path):
    chosen = CURVE.assign(l2=np.geomspace(1e-6, 1, len(CURVE)), l2_choice="loo")
    svg = accuracy_against_fraction(chosen, tmp_path / "a.svg").read_text()
    assert "ridge, l2 by leave-one-out, 3 seeds" in svg


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a\.gif: \.gif is not a picture format here; use \.png"):
        accuracy_against_fraction(CURVE, tmp_path / "a.gif")


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")
    monkeypatch.setattr(
        plots.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        accuracy_against_fraction(CURVE, path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.png", "old")]
