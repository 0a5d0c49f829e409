"""Pictures: what is drawn and where, held against the table, and that a failure leaves none."""

import io
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from scipy.stats import t
from test_summaries import table

from featstore import probe
from featstore.probe import figures
from featstore.probe.errors import DataError, UsageError
from featstore.probe.figures import most_affected
from featstore.probe.figures.style import look, spread_out
from featstore.probe.results import CURVE
from featstore.probe.results.curves import curve_table

FRACTIONS = (0.01, 0.05, 0.1, 0.5, 1.0)
ONE = table(
    [
        (seed, fraction, int(1000 * fraction), 0.9 + 0.2 * np.log10(fraction) + 0.01 * seed)
        for seed in (1, 2, 3)
        for fraction in FRACTIONS
    ],
    store="folder/resnet50-cifar10.zarr",
)
MODES = pd.concat([ONE, ONE.assign(mode="pca", accuracy=ONE["accuracy"] * 0.9)])
CKA = MODES.assign(cka=1 - 0.1 * np.log10(MODES["fraction"]) ** 2 + 0.01 * MODES["seed"])

CLASSES = ("cat", "dog", "emu")
LOST = {"cat": 0.1, "dog": 0.3, "emu": 0.2}  # a decade
PER_CLASS = pd.concat(
    ONE.drop(columns="accuracy").assign(
        **{"class": name, "class_accuracy": 0.9 + LOST[name] * np.log10(ONE["fraction"])}
    )
    for name in CLASSES
)
REDUNDANCY = pd.DataFrame(
    [
        dict.fromkeys(CURVE, "x")
        | {"l2": 0.1, "l2_choice": "given", "rule": rule, "delta": delta}
        | {"redundancy": 1 - delta, "low": 0.9 - delta, "high": 1.05 - delta}
        for rule in ("threshold", "interpolated")
        for delta in (0.5, 0.6, 0.7)
    ]
)
INEQUALITY = pd.DataFrame(
    [
        dict.fromkeys(CURVE, "x")
        | {"l2": 0.1, "l2_choice": "given", "mode": mode, "fraction": fraction}
        | {"mean_per_class": 0.5 + fraction / 4, "gini": 0.3 - fraction / 5, "gini_std": 0.01}
        for mode in ("random", "pca")
        for fraction in (0.1, 0.2, 1.0)
    ]
)
SQUARE = pd.DataFrame(
    [[1, 0.5, 0.2], [0.5, 1, 0.7], [0.2, 0.7, 1]], index=list("abc"), columns=list("abc")
)
ATTRIBUTED = pd.DataFrame(
    {
        "feature": range(4),
        "change": [-0.2, 0.1, 0, -0.1],
        "low": [-0.3, 0, -0.1, -0.2],
        "high": [-0.1, 0.2, 0.1, 0],
        "shapley": [0.5, -0.1, 0, 0.2],
        "shapley_low": [0.4, -0.2, -0.1, 0.1],
        "shapley_high": [0.6, 0, 0.1, 0.3],
    }
)
SPECTRA = pd.DataFrame(
    {
        "name": ["a"] * 4 + ["b"] * 3,
        "index": [0, 1, 2, 3, 0, 1, 2],
        "eigenvalue": [4.0, 2.0, 2.0, 0.0, 1.0, 6.0, 3.0],
    }
)
RETRIEVED = pd.DataFrame(
    {
        "mode": ["first", "first", "random", "random"],
        "fraction": [0.25, 1.0] * 2,
        "k": [4, 16] * 2,
        "cutoff": [10] * 4,
        "ndcg": [0.5, 0.8, 0.6, 0.8],
        "ndcg_low": [0.4, 0.7, 0.5, 0.7],
        "ndcg_high": [0.6, 0.9, 0.7, 0.9],
        "ratio": [0.6, 1, 0.7, 1],
        "ratio_low": [0.6, 1, 0.7, 1],
        "ratio_high": [0.6, 1, 0.7, 1],
    }
)

DRAWN = {
    "accuracy_against_fraction": MODES,
    "ratio_against_fraction": MODES,
    "cka_against_fraction": CKA,
    "cka_matrix": SQUARE,
    "class_lines": PER_CLASS,
    "inequality_against_accuracy": INEQUALITY,
    "redundancy_curve": REDUNDANCY,
    "spectra": SPECTRA,
    "attributions": ATTRIBUTED,
    "attributions_against": ATTRIBUTED[["feature", "change", "shapley"]],
    "retrieval_against_fraction": RETRIEVED,
}
VALUES = {
    "accuracy",
    "cka",
    "class_accuracy",
    "redundancy",
    "low",
    "gini",
    "eigenvalue",
    "change",
    "shapley",
    "ndcg",
}
every = pytest.mark.parametrize("name", DRAWN)


def draw(name: str, given: pd.DataFrame, path: Path | None = None):
    return getattr(figures, name)(given, path)


def band(axes, number: int = 0) -> dict[float, tuple[float, float]]:
    """The low and high edge of a band at each x."""
    at = {}
    for x, y in axes.collections[number].get_paths()[0].vertices:
        at.setdefault(round(float(x), 9), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in at.items()}


def names(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_figure_is_tested():
    # curves of rows are drawn in test_learning
    assert {*DRAWN, "SUFFIXES", "accuracy_against_rows"} == set(figures.__all__)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, ".svg") for name in DRAWN]
    + [("accuracy_against_fraction", s) for s in (".png", ".pdf")],
)
def test_the_same_table_gives_the_same_bytes_and_no_setting_changes(tmp_path, name, suffix):
    before = dict(matplotlib.rcParams)
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    draw(name, DRAWN[name], first)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": True}):
        draw(name, DRAWN[name], second)  # somebody else's settings are not ours
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 4000
    assert dict(matplotlib.rcParams) == before


@every
def test_no_figure_is_left_to_pyplot(name):
    from matplotlib import pyplot

    draw(name, DRAWN[name])
    assert pyplot.get_fignums() == []


@every
def test_figures_save_and_show_themselves_as_they_were_drawn(tmp_path, name):
    figure = draw(name, DRAWN[name], tmp_path / "ours.svg")
    figure.savefig(tmp_path / "theirs.svg")
    assert "<path" in (tmp_path / "theirs.svg").read_text()
    assert "<text" in (tmp_path / "theirs.svg").read_text()
    assert figure._repr_png_().startswith(b"\x89PNG")


@every
def test_settings_that_change_later_change_nothing(name):
    figure = draw(name, DRAWN[name])
    theirs = {"font.size": 30, "xtick.labelsize": 30, "ytick.labelsize": 30, "svg.fonttype": "path"}
    written = io.BytesIO()
    with matplotlib.rc_context(theirs):  # which count when a figure is drawn
        figure.canvas.print_figure(written, format="svg")
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert max(sizes) <= 8
    assert b"<text" in written.getvalue()


@every
def test_figures_are_a_column_wide_and_their_text_is_legible(name):
    figure = draw(name, DRAWN[name])
    figure.canvas.draw()
    assert figure.get_figwidth() == 3.3
    texts = figure.findobj(Text)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7


def test_text_stays_text(tmp_path):
    figures.accuracy_against_fraction(ONE, tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    for words in ("features kept (%)", "test accuracy (%)", "all 1,000 features: 92.0 %"):
        assert f">{words}" in svg
    assert "<dc:title>resnet50-cifar10, t, random, ridge, l2 = 0.001</dc:title>" in svg
    figures.accuracy_against_fraction(ONE, tmp_path / "a.pdf")
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf


def test_control_characters_of_names_are_escapes_that_xml_can_hold(tmp_path):
    named = PER_CLASS.replace({"dog": "d\x1b[2J\0g"})
    figures.class_lines(named, tmp_path / "a.svg")
    figures.accuracy_against_fraction(ONE.assign(tap="t\x07"), tmp_path / "b.svg")
    for name, shown in (("a", r"d\x1b[2J\x00g"), ("b", r"t\x07, random")):
        text = (tmp_path / f"{name}.svg").read_text()
        ElementTree.fromstring(text)
        assert shown in text


def test_means_spread_and_seeds_are_drawn():
    axes = figures.accuracy_against_fraction(ONE).axes[0]
    line = axes.lines[0]
    assert line.get_xdata() == pytest.approx(FRACTIONS)
    assert line.get_ydata()[-1] == pytest.approx(92.0)
    assert axes.lines[1].get_ydata()[0] == pytest.approx(92.0)  # the full layer, all along
    shown = probe.summary(ONE).set_index("fraction")
    for fraction in FRACTIONS[:-1]:
        ends = 100 * shown.loc[fraction, ["accuracy_low", "accuracy_high"]].astype(float)
        assert band(axes)[fraction] == pytest.approx(ends.tolist())
    assert axes.get_xlabel().endswith("bands: 95 % intervals over seeds alone")
    assert len(axes.collections[1].get_offsets()) == len(ONE)


def test_the_right_axis_is_the_share_of_the_full_layer():
    figure = figures.accuracy_against_fraction(ONE)
    right = figure.axes[0].child_axes[0]
    figure.canvas.draw()
    bottom, top = figure.axes[0].get_ylim()
    assert right.get_ylim() == pytest.approx((bottom / 0.92, top / 0.92))


def test_ratios_are_each_seed_s_own():
    axes = figures.ratio_against_fraction(ONE).axes[0]
    at_tenth = 100 * np.array([0.71 / 0.91, 0.72 / 0.92, 0.73 / 0.93])
    line = axes.lines[1]  # after the one at 100 %
    assert line.get_ydata()[2] == pytest.approx(at_tenth.mean())
    low, high = band(axes)[0.1]
    reach = t.ppf(0.975, 2) * at_tenth.std(ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((at_tenth.mean() - reach, at_tenth.mean() + reach))


def test_intervals_of_the_table_are_the_band():
    given = pd.DataFrame({"fraction": [0.1, 1.0], "ratio": 0.9, "low": 0.8, "high": 0.95})
    assert band(figures.ratio_against_fraction(given).axes[0])[0.1] == pytest.approx((80, 95))
    one = ONE[ONE["seed"] == 1]
    axes = figures.accuracy_against_fraction(one).axes[0]
    assert axes.get_xlabel().endswith("one seed: no intervals")
    hits = np.arange(1000) < 1000 * one["accuracy"].to_numpy()[:, None]
    for draw, name in (
        (figures.accuracy_against_fraction, "accuracy"),
        (figures.ratio_against_fraction, "ratio"),
    ):
        axes = draw(one, correct=hits, level=0.8).axes[0]
        assert axes.get_xlabel().endswith("bands: 80 % intervals over test rows alone")
        shown = curve_table(one, hits, 0.8).set_index("fraction").loc[0.1]
        ends = 100 * shown[f"{name}_low"], 100 * shown[f"{name}_high"]
        assert band(axes)[0.1] == pytest.approx(ends)
    # those are accuracies, no ratios
    assert figures.ratio_against_fraction(one).axes[0].collections[0].get_paths() == []


def test_cka_is_drawn_with_its_spread():
    axes = figures.cka_against_fraction(CKA).axes[0]
    assert axes.lines[0].get_ydata()[2] == pytest.approx(0.92)
    assert band(axes)[0.1] == pytest.approx((0.91, 0.93))
    chosen = CKA.assign(l2=np.geomspace(1e-6, 1, len(CKA)), l2_choice="loo")
    for several in (chosen, pd.concat([CKA, CKA.assign(l2=0.1, solver="lda")])):
        figure = figures.cka_against_fraction(several)
        assert names(figure) == ["random", "pca"]
        assert band(figure.axes[0])[0.1] == pytest.approx((0.91, 0.93))
    plain = CKA[["seed", "fraction", "cka"]]  # no column of a curve
    assert len(figures.cka_against_fraction(plain).axes[0].lines) == 1


def test_redundancy_is_drawn_with_its_interval():
    figure = figures.redundancy_curve(REDUNDANCY[::-1])
    axes = figure.axes[0]
    assert axes.lines[0].get_xdata() == pytest.approx((50, 60, 70))
    assert axes.lines[0].get_ydata() == pytest.approx((0.5, 0.4, 0.3))
    assert band(axes)[60] == pytest.approx((0.3, 0.45))
    assert names(figure) == ["interpolated", "threshold"]


def test_a_matrix_holds_its_numbers():
    figure = figures.cka_matrix(SQUARE)
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), SQUARE)
    assert axes.images[0].get_clim() == (0, 1)
    assert [text.get_text() for text in axes.texts][:3] == ["1.00", "0.50", "0.20"]
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert figures.cka_matrix(SQUARE - 0.3).axes[0].images[0].get_clim()[0] == pytest.approx(-0.1)


@pytest.mark.parametrize("wrong", [SQUARE.iloc[:2], SQUARE.iloc[:0, :0]])
def test_a_table_that_is_no_matrix_is_refused(wrong):
    with pytest.raises(DataError, match="has to be square"):
        figures.cka_matrix(wrong)


def test_the_classes_that_lose_most_are_named_at_their_lines():
    figure = figures.class_lines(PER_CLASS)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx(  # dog comes first
        [100 * (0.9 + 0.3 * np.log10(fraction)) for fraction in FRACTIONS]
    )
    assert [text.get_text() for text in axes.texts] == ["dog", "emu", "cat"]
    assert all(text.xy == (1.0, pytest.approx(90)) for text in axes.texts)
    one = figures.class_lines(PER_CLASS.assign(fraction=0.5))  # one fraction: nothing to compare
    assert len(one.axes[0].texts) == 3


def test_other_classes_are_grey():
    few = figures.class_lines(PER_CLASS, named=1).axes[0]
    assert [text.get_text() for text in few.texts] == ["dog"]
    assert {line.get_color() for line in few.lines} == {"#B8B8B8", look(0)["color"]}


def test_losses_are_compared_at_the_nearest_fraction():
    wide = pd.DataFrame({"a": [10, 80, 90], "b": [80, 10, 90]}, index=[0.01, 0.1, 1.0])
    assert most_affected(wide, 1, 0.2) == ["b"]
    assert most_affected(wide, 1, 0.01) == ["a"]


def test_each_mode_has_its_panel_of_classes():
    both = pd.concat([PER_CLASS, PER_CLASS.assign(mode="pca")])
    figure = figures.class_lines(both)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["random", "pca"]


def test_gini_is_drawn_along_fraction():
    figure = figures.inequality_against_accuracy(INEQUALITY[::-1])
    axes = figure.axes[0]
    assert names(figure) == ["pca", "random"]
    assert axes.lines[0].get_xdata() == pytest.approx((52.5, 55, 75))
    assert axes.lines[0].get_ydata() == pytest.approx((0.28, 0.26, 0.1))
    bars = axes.collections[0].get_segments()
    assert bars[0] == pytest.approx(np.array([[52.5, 0.27], [52.5, 0.29]]))
    assert [text.get_text() for text in axes.texts] == ["10 %", "100 %"]


def test_spectra_fall_and_add_up():
    figure = figures.spectra(SPECTRA)
    above, below = figure.axes
    assert above.lines[0].get_xdata().tolist() == [1, 2, 3]  # 0 has no logarithm
    assert above.lines[1].get_ydata().tolist() == [6, 3, 1]
    assert below.lines[0].get_ydata() == pytest.approx((50, 75, 100, 100))
    assert (above.get_xscale(), above.get_yscale()) == ("log", "log")


def test_attributions_are_sorted_with_their_bands_and_a_panel_for_each_measure():
    above, below = figures.attributions(ATTRIBUTED).axes
    assert above.lines[1].get_ydata() == pytest.approx([10, 0, -10, -20])
    assert below.lines[1].get_ydata() == pytest.approx([0.5, 0.2, 0, -0.1])
    assert band(above)[1] == pytest.approx((0, 20))
    assert band(below)[4] == pytest.approx((-0.2, 0))
    shapley = ATTRIBUTED[["feature", "shapley", "low", "high"]].rename(columns={"shapley": "value"})
    assert len(figures.attributions(shapley).axes) == 1
    with pytest.raises(DataError, match="no attribution to draw"):
        figures.attributions(ATTRIBUTED[["feature"]])


def test_ticks_are_percentages_a_person_reads():
    figure = figures.accuracy_against_fraction(ONE)
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["1", "2", "5", "10", "20", "50", "100"]


def test_curves_keep_the_order_of_the_table_and_are_told_apart_without_colour():
    figure = figures.accuracy_against_fraction(MODES)
    assert names(figure) == ["random", "pca"]
    assert not figure.axes[0].child_axes
    looks = [look(number) for number in range(12)]
    assert len({(one["marker"], str(one["linestyle"])) for one in looks}) == 12
    assert len({str(look(number)) for number in range(84)}) == 84


def test_chosen_penalties_are_named_and_make_one_curve(tmp_path):
    chosen = ONE.assign(l2=np.geomspace(1e-6, 1, len(ONE)), l2_choice="loo")
    figures.accuracy_against_fraction(chosen, tmp_path / "a.svg")
    assert "ridge, l2 by leave-one-out" in (tmp_path / "a.svg").read_text()


def test_every_k_is_a_line_with_few_markers():
    k = np.arange(1, 2049)
    rows = [(seed, size / 2048, size, 1 - 1 / (1 + size)) for seed in (1, 2) for size in k]
    figure = figures.accuracy_against_fraction(table(rows))
    line = figure.axes[0].lines[0]
    assert len(line.get_xdata()) == 2048
    assert 3 < len(line.get_markevery()) < 10
    assert len(figure.axes[0].collections) == 1  # the band, and no point for each seed
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0.1", "1", "10", "100"]


NAMES = ("_hidden", "a$b^c$", "<b>&amp;</b>", "Größe Δ", "long-" * 30, "x" * 90)


def test_names_are_shown_as_they_are(tmp_path):
    given = pd.concat(ONE.assign(mode=name) for name in NAMES)
    path = tmp_path / "a.svg"
    figure = figures.ratio_against_fraction(given, path)
    shown = [name.replace("\n", "") for name in names(figure)]
    assert shown == list(NAMES)
    assert ">&lt;b&gt;&amp;amp;&lt;/b&gt;<" in path.read_text()
    assert ">a$b^c$<" in path.read_text()  # and not only in a comment
    square = pd.DataFrame(np.eye(6), index=NAMES, columns=NAMES)
    figures.cka_matrix(square, tmp_path / "m.png")
    classes = pd.concat(PER_CLASS.assign(**{"class": name}) for name in NAMES)
    drawn = figures.class_lines(classes.drop_duplicates(), named=6).axes[0].texts
    assert {text.get_text().replace("\n", "") for text in drawn} == set(NAMES)


def test_a_legend_lies_above_the_axes_whatever_it_holds():
    for given in (
        MODES,
        pd.concat(ONE.assign(mode=name) for name in NAMES),
        pd.concat(ONE.assign(mode=f"{name}{n}") for n in range(5) for name in NAMES),
    ):
        figure = figures.accuracy_against_fraction(given)
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        axes = figure.axes[0].get_window_extent()
        assert legend.y0 >= axes.y1
        assert legend.x1 <= figure.bbox.x1
        assert axes.height / figure.dpi > 1.5


def test_of_many_curves_each_has_a_panel_with_the_others_in_grey(tmp_path):
    modes = [f"mode {n}" for n in range(9)]
    given = pd.concat(
        ONE.assign(mode=mode, accuracy=ONE["accuracy"] - 0.03 * n) for n, mode in enumerate(modes)
    )
    for draw, unit in (
        (figures.accuracy_against_fraction, 100),
        (figures.ratio_against_fraction, 0),
    ):
        figure = draw(given, tmp_path / "a.svg")
        panels = [axes for axes in figure.axes if axes.get_visible()]
        assert [axes.get_title(loc="left") for axes in panels] == modes
        assert not figure.legends
        for number, axes in enumerate(panels):
            (own,) = [line for line in axes.lines if line.get_color() == look(number)["color"]]
            others = [line for line in axes.lines if line.get_color() == "#B8B8B8"]
            assert len(others) == 8
            if unit:
                assert own.get_ydata()[-1] == pytest.approx(92 - 3 * number)
                ends = {round(float(line.get_ydata()[-1]), 6) for line in others}
                assert ends == {92.0 - 3 * n for n in range(9) if n != number}
            assert len(band(axes)) == len(FRACTIONS)
        assert len({axes.get_ylim() for axes in panels}) == 1
        figure.canvas.draw()
        shown = [any(label.get_visible() for label in axes.get_xticklabels()) for axes in panels]
        assert shown == [False] * 7 + [True] * 2


@pytest.mark.parametrize("curves", [1, 2, 6])
def test_fractions_at_the_ends_of_a_line_cover_nothing(curves):
    rows = INEQUALITY[INEQUALITY["mode"] == INEQUALITY["mode"].iloc[0]]
    given = pd.concat(
        rows.assign(mode=f"m{n}", gini=rows["gini"] + 0.004 * n, gini_std=0.01)
        for n in range(curves)
    )
    figure = figures.inequality_against_accuracy(given)
    figure.canvas.draw()
    axes = figure.axes[0]
    first, last = boxes = [text.get_window_extent() for text in axes.texts]
    assert not first.overlaps(last)
    for line in axes.lines:
        path = Outline(axes.transData.transform(line.get_xydata()))
        assert not any(path.intersects_bbox(box, filled=False) for box in boxes)


def test_labels_at_lines_do_not_overlap():
    classes = pd.concat(
        PER_CLASS.assign(**{"class": f"class {n}"}) for n in range(100)
    ).drop_duplicates()
    figure = figures.class_lines(classes, named=8)
    figure.canvas.draw()
    boxes = sorted(
        (Text.get_window_extent(text) for text in figure.axes[0].texts),  # without leaders
        key=lambda box: box.y0,
    )
    assert len(boxes) == 8
    assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))


def test_labels_move_no_more_than_they_must():
    found = spread_out(np.array([0.0, 0.0, 9.9]), np.array([1.0, 2.0, 1.0]), 0.0, 10.0)
    assert found.tolist() == [0.5, 2.0, 9.5]
    apart = np.array([5.0, 1.0, 3.0])
    assert spread_out(apart, np.ones(3), 0, 10).tolist() == apart.tolist()


def drawn(figure) -> list:
    """Every number of a figure's lines, as (x, y), and of its matrix."""
    found = []
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_transform() == axes.transData]
        points = [point for line in lines for point in line.get_xydata().tolist()]
        found += [tuple(point) for point in points if np.isfinite(point).all()]
        for image in axes.images:
            found += np.ma.masked_invalid(image.get_array()).compressed().tolist()
    return found


@every
def test_what_is_not_known_is_not_drawn(tmp_path, name):
    unknown, some = DRAWN[name].copy(), DRAWN[name].copy()
    numbers = list(unknown.columns) if name == "cka_matrix" else list(VALUES & set(unknown))
    unknown[numbers] = np.nan
    assert drawn(draw(name, unknown, tmp_path / "a.png")) == []
    some.iloc[0, [some.columns.get_loc(column) for column in numbers]] = np.nan
    found = drawn(draw(name, some, tmp_path / "a.png"))
    if name == "cka_matrix":
        assert found == SQUARE.to_numpy()[1:].ravel().tolist()
    else:  # as though the row were not there
        assert found == drawn(draw(name, DRAWN[name].iloc[1:]))
        assert len(found) > 1


@every
def test_a_table_read_from_a_file_serves_as_well(tmp_path, name):
    written = DRAWN[name].copy()
    last = [*written].index(next(iter(VALUES & set(written)), "c"))
    written.iloc[-1, last] = np.nan
    read = written.convert_dtypes()
    assert read.iloc[-1, last] is pd.NA
    draw(name, read, tmp_path / "a.svg")


@every
def test_one_row_is_enough(tmp_path, name):
    one = DRAWN[name].iloc[:1, :1] if name == "cka_matrix" else DRAWN[name].iloc[:1]
    found = drawn(draw(name, one, tmp_path / "a.pdf"))
    # a part has no ratio without its full layer; spectra and attributions have two panels
    known = {"ratio_against_fraction": 0, "spectra": 2, "attributions": 2}
    assert len(found) == known.get(name, 1)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@every
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"a\.gif: \.gif is not a picture format here; use \.png"):
        draw(name, DRAWN[name], tmp_path / "a.gif")


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        figures.accuracy_against_fraction(ONE, path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.png", "old")]
