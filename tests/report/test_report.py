"""The page of a report as text: what it says, that nothing leaves it, that names stay names."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from report_tables import HOSTILE, by_class, probes

from featstore import probe
from featstore.cli import main
from featstore.probe.classes import class_losses, inequality_table
from featstore.probe.errors import DataError, RowsWarning, UsageError, visible
from featstore.probe.figures.style import PALETTE
from featstore.probe.redundancy import diffused_redundancy
from featstore.probe.results.evidence import RowScores, RowSink
from featstore.probe.results.files import save_table
from featstore.probe.results.views import summary
from featstore.report import page as page_module, provenance, reading
from featstore.report.page import ASSETS, SCRIPTS, write


@pytest.fixture(autouse=True)
def short_plotly(monkeypatch):
    """A library of a line in place of one of five million characters, which take time to parse."""
    monkeypatch.setattr(page_module, "_plotly", lambda: "var Plotly;")


class Page(HTMLParser):
    """A page taken apart: its elements, its texts, and the data for its script."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._inside, self.scripts = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, text):
        inside = self._inside[-1] if self._inside else ""
        (self.scripts if inside == "script" else self.texts).append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(tmp_path, table, per_class=None, **options) -> Page:
    """Return the page of one table of results."""
    save_table(table, tmp_path / "results.csv")
    files = []
    if per_class is not None:
        files.append(tmp_path / "classes.csv")
        save_table(per_class, files[0])
    out = write([tmp_path / "results.csv"], tmp_path / "r.html", per_class=files, **options)
    return Page(out)


def column(table, title):
    """Return the values of a column of an embedded table, texts spelt out."""
    (found,) = [each for each in table["columns"] if each["title"] == title]
    if found["kind"] == "text":
        return [found["levels"][code] for code in found["codes"]]
    return found["values"]


# --- what it says ---------------------------------------------------------------------------


def test_the_answer_has_the_share_its_interval_and_its_count(tmp_path):
    table = probes()
    page = page_of(tmp_path, table)
    full = table.loc[table["fraction"] == 1, "accuracy"].iloc[0]
    shares = table.loc[table["fraction"] == 0.1, "accuracy"].to_numpy() / full
    # Student's 2.776 for 5 seeds
    reach = 2.776445 * shares.std(ddof=1) / np.sqrt(5)
    low, high = shares.mean() - reach, shares.mean() + reach
    assert (
        f"10 % of the features keep {100 * shares.mean():.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f}) of the full layer's accuracy"
    ) in page.text
    assert "ridge, l2 = 0.01 (5 seeds, 100 test rows; 95 % interval over seeds alone)" in page.text
    assert "Intervals are over seeds alone." in page.text
    assert "25 probes in 1 curve, from 1 file of results." in page.text


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    page = page_of(tmp_path, probes(seeds=(3,)))
    assert "(1 seed, 100 test rows; no interval)" in page.text
    assert "95 % interval" not in [c["title"] for c in page.data["tables"]["summary"]["columns"]]


def test_with_predictions_one_seed_has_an_interval_over_test_rows(tmp_path):
    table = probes(seeds=(1,))
    labels = np.arange(400) % 4
    right = np.random.default_rng(0).random((400, len(table))) < table["accuracy"].to_numpy()
    table["accuracy"] = right.mean(0)
    np.savez(
        tmp_path / "p.npz",
        labels=labels,
        classes=np.where(right, labels[:, None], labels[:, None] + 1),
    )
    page = page_of(tmp_path, table, predictions=[tmp_path / "p.npz"])
    assert "Intervals are over test rows alone." in page.text
    low, high = re.search(r"keep [\d.]+ % \(([\d.]+) to ([\d.]+)\) of the full", page.text).groups()
    full, part = right[:, 4].mean(), right[:, 2].mean()
    # the ratio's standard error by the delta method, rows being paired
    error = np.std(right[:, 2] / full - right[:, 4] * part / full**2) / 20
    assert (float(high) - float(low)) / 100 == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert float(low) / 100 < part / full < float(high) / 100
    with pytest.raises(UsageError, match="2 files of predictions for 1 of results"):
        page_of(tmp_path, table, predictions=[tmp_path / "p.npz"] * 2)
    with pytest.raises(DataError, match="predictions"):
        page_of(tmp_path, table.iloc[1:], predictions=[tmp_path / "p.npz"])


def test_of_several_random_curves_the_answer_names_the_ends(tmp_path):
    stores = ("a/low.zarr", "a/high.zarr")
    table = probes(stores=stores, modes=("random", "first"))
    table.loc[(table["store"] == stores[0]) & (table["fraction"] < 1), "accuracy"] *= 0.5
    page = page_of(tmp_path, table)
    answer = re.search(r"10 % of the features.*?alone\.", page.text).group()
    assert answer.index("(low) and ") < answer.index("(high) of")
    assert "first" not in answer
    assert answer.endswith("in 2 curves; 95 % intervals over seeds alone.")


def test_without_a_full_layer_nothing_is_said_of_what_is_kept(tmp_path):
    page = page_of(tmp_path, probes(fractions=(0.01, 0.1)))
    assert "100 features reach an accuracy of 0.8" in page.text
    assert not page.data["redundancy"]


def test_numbers_that_are_predicted_have_r2(tmp_path):
    page = page_of(tmp_path, probes().rename(columns={"accuracy": "r2"}))
    assert "of the full layer's R²" in page.text
    assert page.data["score"] == {"key": "r2", "name": "test R²"}


def test_the_curves_are_the_means_over_seeds(tmp_path):
    table = probes(cka=0.5)
    page = page_of(tmp_path, table)
    (curve,) = page.data["curves"]
    points, shown = curve["points"], summary(table)
    means = table.groupby("fraction")["accuracy"].mean()
    assert points["mean"] == pytest.approx(means.tolist(), rel=1e-6)
    for name, drawn in (("accuracy_low", "low"), ("accuracy_high", "high"),
                        ("ratio_low", "ratio_low"), ("ratio_high", "ratio_high")):  # fmt: skip
        assert points[drawn][:4] == pytest.approx(shown[name].tolist()[:4], rel=1e-6)
        assert points[drawn][4] is None  # of the full layer seeds say nothing
    assert points["probes"] == [5, 5, 5, 5, 1]
    assert curve["full"]["k"] == 1000
    assert curve["cka"]["mean"] == [0.5] * 5
    read = diffused_redundancy(table, [0.9], ["interpolated"])
    at = curve["redundancy"]["delta"].index(0.9)
    assert curve["redundancy"]["mean"][at] == pytest.approx(read["redundancy"][0], rel=1e-6)


def test_every_probe_is_in_the_table_and_what_is_the_same_is_said_once(tmp_path):
    table = probes()
    page = page_of(tmp_path, table)
    every = page.data["tables"]["probes"]
    assert column(every, "accuracy") == pytest.approx(table["accuracy"].tolist(), rel=1e-6)
    assert column(every, "seed") == table["seed"].tolist()
    assert every["same"]["solver"] == "ridge"
    assert "options" not in every["same"]


def test_probes_that_went_wrong_are_shown_before_the_curves(tmp_path):
    table = probes()
    table.loc[3, "status"] = "max_iter"
    table.loc[4, ["status", "accuracy"]] = ["not run", np.nan]
    page = page_of(tmp_path, table)
    assert "To know before reading on" in page.text
    assert "1 of 25 probes have status max_iter" in page.text
    assert "25 probes, 1 of them not run" in page.text
    assert "To know" not in page_of(tmp_path, probes(seeds=(1, 2))).text


def test_classes_have_lines_losses_and_inequality(tmp_path):
    table = probes()
    classes = by_class(table, ["cat", "dog", "eel"])
    page = page_of(tmp_path, table, classes)
    (lines,) = page.data["classes"]
    assert lines["classes"] == ["cat", "dog", "eel"]
    mean = classes[classes["fraction"] == 0.1].groupby("class")["class_accuracy"].mean()
    assert [each[2] for each in lines["mean"]] == pytest.approx(mean.tolist(), rel=1e-6)
    losses = lines["losses"][2]["table"]
    assert column(losses, "class") == ["eel", "dog", "cat"]
    assert column(page.data["tables"]["inequality"], "worst class")[0] == "eel"


def test_a_sweep_of_every_size_is_thinned_to_draw_and_kept_whole_in_its_table(tmp_path):
    sizes = np.arange(1, 1001) / 1000
    page = page_of(tmp_path, probes(seeds=(1, 2), fractions=sizes))
    points = page.data["curves"][0]["points"]
    assert len(points["k"]) <= 240
    assert points["k"][:3] == [1, 2, 3]
    assert points["k"][-1] == 1000
    assert len(column(page.data["tables"]["probes"], "k")) == 2000


def test_how_it_was_made_is_told_or_said_to_be_unknown(tiny_store, tmp_path):
    assert "unknown: there is no note results.csv.provenance.json" in (
        page_of(tmp_path, probes()).text
    )
    provenance.write(tmp_path / "results.csv", [tiny_store], ["featstore", "probe", "s3://k:s@h/x"])
    page = page_of(tmp_path, probes(store="s3://key:secret@host/x.zarr"))
    for words in ("featstore probe s3://h/x", "train-of-clusters", tiny_store.spec.digest()):
        assert words in page.text
    assert "secret" not in page.source


def test_a_file_that_was_written_anew_is_told_from_what_its_note_is_about(tmp_path):
    save_table(probes(), tmp_path / "results.csv")
    provenance.write(tmp_path / "results.csv")
    assert "has changed since" not in page_of(tmp_path, probes()).text
    assert "has changed since" in page_of(tmp_path, probes(seeds=(1, 2))).text


def test_a_note_that_holds_anything_at_all_does_no_harm(tmp_path):
    for note in (
        {"machine": 3, "versions": [], "stores": [1, {"spec": {"splits": [2], "taps": {}}}]},
        {
            "command": ["<i>"],
            "machine": {"cores": "<i>"},
            "stores": [{"provenance": {"<i>": None}}],
        },
    ):
        path = provenance.beside(tmp_path / "results.csv")
        path.write_text(json.dumps(note | {"format": 1}))
        page = page_of(tmp_path, probes())
        assert "i" not in [tag for tag, _ in page.elements]


# --- a study's folder, and what is refused --------------------------------------------------


def test_a_study_s_folder_gives_its_results_and_classes(tmp_path):
    for name in ("results", "per_class", "tables"):
        (tmp_path / "study" / name).mkdir(parents=True)
    for number, store in enumerate(("a", "b")):
        table = probes(stores=(store,))
        save_table(table, tmp_path / "study/results" / f"{number}.csv")
        save_table(by_class(table, "xy"), tmp_path / "study/per_class" / f"{number}.csv")
        provenance.write(tmp_path / "study/results" / f"{number}.csv")
    save_table(pd.DataFrame({"x": [1]}), tmp_path / "study/tables/other.csv")
    page = Page(write([tmp_path / "study"], tmp_path / "r.html"))
    assert [curve["label"] for curve in page.data["curves"]] == ["a", "b"]
    assert [curve["label"] for curve in page.data["classes"]] == ["a", "b"]
    assert page.text.count("none: called from Python") == 2


def test_sweeps_that_differ_only_in_their_options_are_curves_of_their_own(tmp_path):
    for name in ("scaled", "raw"):
        save_table(probes(), tmp_path / f"{name}.csv")
    page = Page(write([tmp_path / "scaled.csv", tmp_path / "raw.csv"], tmp_path / "r.html"))
    assert sorted(curve["label"] for curve in page.data["curves"]) == [
        "resnet.zarr (raw)", "resnet.zarr (scaled)",
    ]  # fmt: skip


def test_what_is_no_table_of_probes_is_refused_and_no_page_is_left(tmp_path):
    good, bad, numbers = (tmp_path / f"{name}.csv" for name in ("good", "bad", "numbers"))
    save_table(probes(), good)
    save_table(pd.DataFrame({"x": [1]}), bad)
    save_table(probes().rename(columns={"accuracy": "r2"}), numbers)
    out = tmp_path / "r.html"
    for arguments, words in (
        (([bad], out), "has no column 'store', which every table of probes has"),
        (([good, numbers], out), "has the score r2 and .* has accuracy: make a report of each"),
        (([tmp_path / "none.csv"], out), "there is no .*none.csv"),
        (([tmp_path], out), "has no results: a study's folder has them in"),
        (([], out), "there are no results to report on"),
        (([good], tmp_path / "r.pdf"), "does not end in .html"),
    ):
        with pytest.raises(UsageError, match=words):
            write(*arguments)
    with pytest.raises(UsageError, match="class"):
        write([good], out, per_class=[good])
    assert not out.exists()


def test_the_command_writes_the_page_and_fails_in_one_line(tmp_path):
    save_table(probes(), tmp_path / "results.csv")
    out = tmp_path / "page.html"
    arguments = ["report", str(tmp_path / "results.csv"), "--out", str(out), "--title", "Mine & me"]
    ran = CliRunner().invoke(main, arguments)
    assert (ran.exit_code, f"wrote {out}" in ran.stderr) == (0, True), ran.output
    assert "<title>Mine &amp; me</title>" in out.read_text()
    save_table(pd.DataFrame({"x": [1]}), tmp_path / "results.csv")
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 2
    assert "has no column 'store'" in ran.stderr


# --- nothing leaves it, names stay names ----------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = page_of(tmp_path, probes())
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "video", "audio")
        assert "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "data:,").startswith(("data:,", "#heading-"))
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe" not in script
    assert script.count("'sha256-") == 2
    assert "http" not in policy
    for name in (*SCRIPTS, "report.css", "report.html"):
        text = (ASSETS / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest", text), name


def test_names_that_look_like_markup_stay_texts(tmp_path):
    stores = tuple(f"{name}.zarr" for name in HOSTILE)
    table = probes(stores=stores, seeds=(1, 2), modes=(HOSTILE[0],), tap=HOSTILE[1])
    with pytest.raises(DataError, match="no probe has that status"):
        page_of(tmp_path, table.assign(status=HOSTILE[2]))
    provenance.write(tmp_path / "results.csv", (), ["featstore", *HOSTILE])
    plain = page_of(tmp_path, probes(), by_class(probes(), "ab"))
    page = page_of(tmp_path, table, by_class(table, HOSTILE), title=HOSTILE[1])
    tags = {tag for tag, _ in page.elements}
    assert tags - {tag for tag, _ in plain.elements} <= {"aside", "ul", "li"}
    assert len(page.scripts) == 3
    assert sorted(page.data["classes"][0]["classes"]) == sorted(map(visible, HOSTILE))
    assert page.source.count("<script") - page.scripts[1].count("<script") == 3
    assert HOSTILE[0] in page.text


def test_control_characters_of_names_are_shown(tmp_path):
    name = "a\x1b[2J\u202e\x9b"
    table = probes(stores=(f"{name}.zarr", "b.zarr"), seeds=(1, 2), modes=(name,), tap=name)
    provenance.write(tmp_path / "results.csv", (), ["featstore", name])
    page = page_of(tmp_path, table, by_class(table, [name, "b"]), title=name)
    rest = page.source
    for script in page.scripts[1:]:
        rest = rest.replace(script, "")
    assert visible(rest) == rest
    assert rest.count(visible(name)) > 3
    assert visible(name) in page.data["classes"][0]["classes"]
    assert page.data["tables"]["probes"]["same"]["tap"] == visible(name)


def test_json_in_a_script_cannot_end_it():
    text = reading.script_json({"a": [*HOSTILE, "<!--", "]]>"]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["a"][: len(HOSTILE)] == [visible(name) for name in HOSTILE]


def test_plotly_stands_in_the_page_whole_and_cannot_end_its_element(monkeypatch):
    monkeypatch.undo()
    text = page_module._plotly()
    assert "Plotly.js" in text[:200] or "plotly.js" in text[:200]
    assert len(text) > 3_000_000
    assert "</script" not in text.lower()
    # what a browser would change on reading would change the digest too
    assert not set("\r\0") & set(text)


def test_the_page_has_the_colours_of_the_figures():
    text = (ASSETS / "charts.js").read_text()
    assert json.loads(re.search(r"const PALETTE = (\[.*?\]);", text).group(1)) == list(PALETTE)


def test_a_page_is_the_same_for_the_same_results(tmp_path):
    first = page_of(tmp_path, probes()).source
    assert page_of(tmp_path, probes()).source == first
    assert len(first) < 60_000


# --- test rows that are known without predictions -------------------------------------------


def kept_with_rows(folder, name, table, n=400):
    """Write results with the rows that each probe has right, as `probe.sweep` does."""
    right = np.random.default_rng(0).random((len(table), n)) < table["accuracy"].to_numpy()[:, None]
    for _, rows in table[table["fraction"] == 1].groupby(["store", "mode"]):
        right[rows.index] = right[rows.index[0]]  # one full layer
    table = table.assign(accuracy=right.mean(1), n_test=n, chance=0.25, majority=0.25)
    rows = RowScores.empty(np.arange(n) % 4, len(table))
    sink = RowSink(rows)
    sink.add(np.arange(len(table)), right)
    sink.gather()
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    probe.ProbeResult(table, None, np.arange(len(table)), "ridge", by_row=rows).save(path)
    return path, table, right


def test_what_lies_beside_the_results_gives_the_page_its_intervals(tmp_path):
    path, table, right = kept_with_rows(tmp_path, "results.csv", probes())
    page = Page(write([path], tmp_path / "r.html"))
    assert "(5 seeds, 400 test rows; 95 % interval)" in page.text
    assert "Intervals are over seeds and test rows." in page.text
    assert "chance 0.250, commonest class 0.250 of 400 test rows" in page.text
    assert page.data["over"] == "seeds and test rows"
    shown = summary(table, right)
    assert page.data["curves"][0]["points"]["low"] == pytest.approx(shown["accuracy_low"].tolist())
    # other results under the name: what lies beside them is not used
    save_table(table.assign(l2=0.5), path, digest=True)
    with pytest.warns(RowsWarning, match="of another sweep"):
        page = Page(write([path], tmp_path / "r.html"))
    assert "95 % interval over seeds alone" in page.text


def test_two_test_sets_have_each_their_own_rows(tmp_path):
    one, _, _ = kept_with_rows(tmp_path, "a.csv", probes(stores=("a.zarr",)))
    other, _, _ = kept_with_rows(tmp_path, "b.csv", probes(stores=("b.zarr",)), n=300)
    page = Page(write([one, other], tmp_path / "r.html"))
    assert "95 % intervals over seeds and test rows" in page.text


def test_a_study_s_own_predictions_give_its_report_its_intervals(tmp_path):
    table = probes()
    labels = np.arange(400) % 4
    right = np.random.default_rng(0).random((400, len(table))) < table["accuracy"].to_numpy()
    table["accuracy"] = right.mean(0)
    for name in ("results", "predictions"):
        (tmp_path / "study" / name).mkdir(parents=True)
    save_table(table, tmp_path / "study" / "results" / "a.ridge.csv")
    classes = np.where(right, labels[:, None], labels[:, None] + 1)
    path = tmp_path / "study" / "predictions" / "a.ridge.npz"
    np.savez(path, labels=labels, classes=classes)
    page = Page(write([tmp_path / "study"], tmp_path / "r.html"))
    assert "Intervals are over seeds and test rows." in page.text
    np.savez(path, labels=labels, classes=classes[::-1])
    with pytest.warns(RowsWarning, match="a.ridge.npz is not used"):
        page = Page(write([tmp_path / "study"], tmp_path / "r.html"))
    assert "Intervals are over seeds alone." in page.text


def test_a_full_layer_within_noise_has_no_share_on_the_page(tmp_path):
    table = probes(stores=("good.zarr", "noise.zarr"), chance=0.1, majority=0.1)
    table.loc[table["store"] == "noise.zarr", "accuracy"] = 0.11
    page = page_of(tmp_path, table)
    assert "noise: The full layer's accuracy, 0.110, is within noise" in page.text
    noise = next(each for each in page.data["curves"] if each["label"] == "noise")
    assert noise["points"]["ratio"] == [None] * 5
    assert noise["redundancy"] is None
    alone = page_of(tmp_path, table[table["store"] == "noise.zarr"])
    assert "no share of it is told" in alone.text


def test_losses_of_classes_have_intervals_over_test_rows_too(tmp_path):
    path, table, right = kept_with_rows(tmp_path, "results.csv", probes())
    labels, names = np.arange(400) % 4, ["cat", "dog", "eel", "fox"]
    shares = np.stack([right[:, labels == each].mean(1) for each in range(4)], axis=1)
    classes = by_class(table, names).assign(class_accuracy=shares.ravel())
    save_table(classes, tmp_path / "classes.csv")
    page = Page(write([path], tmp_path / "r.html", per_class=[tmp_path / "classes.csv"]))
    losses, unequal = (
        function(classes, right, labels) for function in (class_losses, inequality_table)
    )
    wanted = losses[losses["fraction"] == 0.1]
    shown = page.data["classes"][0]["losses"][2]["table"]
    assert column(shown, "class") == wanted["class"].tolist()
    (ends,) = [each for each in shown["columns"] if each["title"] == "95 % interval"]
    assert ends["low"] == pytest.approx(wanted["low"].tolist(), rel=1e-6)
    alone = class_losses(classes)
    narrow = alone[alone["fraction"] == 0.1].set_index("class").loc[wanted["class"]]
    assert ends["low"] != pytest.approx(narrow["low"].tolist(), rel=1e-6)
    rises = [each for each in page.data["tables"]["inequality"]["columns"] if "low" in each]
    assert rises[0]["high"][:4] == pytest.approx(unequal["gini_rise_high"][:4].tolist(), rel=1e-6)
    assert "Intervals of what classes lose are over seeds and test rows." in page.text
    assert "Intervals of the rise are over seeds and test rows." in page.text
    # of other probes under these names, which the accuracies by class show
    save_table(classes.assign(class_accuracy=shares[:, ::-1].ravel()), tmp_path / "classes.csv")
    page = Page(write([path], tmp_path / "r.html", per_class=[tmp_path / "classes.csv"]))
    assert "Intervals of what classes lose are over seeds alone." in page.text


def test_the_contents_lead_to_every_section(tmp_path):
    table = probes(modes=("random", "first"))
    page = page_of(tmp_path, table, by_class(table, ["cat", "dog"]))
    headings = [of["id"] for tag, of in page.elements if tag == "h2" and "id" in of]
    links = [of["href"] for tag, of in page.elements if tag == "a" and of["href"][:1] == "#"]
    assert links == [f"#{name}" for name in headings]
    assert {"#heading-accuracy", "#heading-classes", "#heading-making"} <= set(links)
