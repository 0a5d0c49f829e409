"""Geometry, universality, attribution and retrieval in studies, their reports and comparisons."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore.cli import main
from featstore.errors import BadStudy
from featstore.probe import drop_one, retrieval, shapley
from featstore.probe.attribution import agreement
from featstore.probe.errors import UsageError
from featstore.probe.geometry import calibrated_cka, intrinsic_dimension, universality
from featstore.probe.results.files import save_table
from featstore.report import page as report
from featstore.study import feature_tables, page as pages, run as running, spec
from featstore.study.analyses import Context
from featstore.study.compare import compare
from featstore.study.plan import plan

STUDY = """
fractions = [0.25, 0.5]
seeds = 2
figures = ["universality", "attribution", "agreement", "retrieval"]
template = "page.txt"
[stores]
one = {{ store = "{folder}/one.zarr", taps = ["low", "wide"] }}
two = {{ store = "{folder}/other/one.zarr" }}
[probes.ridge]
l2 = 0.1
[analyses]
cka = false
spectrum = false
universality = {{ others = "one*" }}
[analyses.geometry]
rows = 40
neighbours = 5
permutations = 9
[analyses.attribution]
permutations = 4
resamples = 50
[analyses.retrieval]
cutoff = {cutoff}
depth = 20
"""
TEMPLATE = """{{ retrieval("two", "first", 0.5) }}; {{ retrieval("two", "first", 1, "overlap") }};
{{ geometry("one@low", "two_nn", 0.5) }}; {{ worth("two", "needed") }} of
{{ worth("two", "features") }}; {{ agreement("one@low", "two") }};
{{ likeness("one@low", "one@wide", "cka") }}.

{{ table("retrieval", mode="first") }}
"""


def rows(tap: str, split: str = "test", labels: int = 3):
    count = {"train": N_TRAIN, "test": N_TEST}[split]
    return features(count, split)[tap], np.arange(count) % labels


def study_file(folder: Path, stores: Path, cutoff: int = 5) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "page.txt").write_text(TEMPLATE)
    path = folder / "study.toml"
    path.write_text(STUDY.format(folder=stores, cutoff=cutoff))
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Stores of one network on the same rows, labelled in two ways."""
    folder = tmp_path_factory.mktemp("stores")
    made(folder / "one.zarr", ("low", "wide"))
    (folder / "other").mkdir()
    made(folder / "other" / "one.zarr", ("low",), labels=2)
    return folder


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = running.run(plan(spec.read(study_file(folder, stores)), folder / "out"))
    assert [each.reason for each in done if each.status == "missing"] == []
    return folder / "out"


def table(whole: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(whole / f"{name}.csv")


def test_tables_are_what_the_library_finds(whole):
    dimensions = table(whole, "features/one@low.geometry")
    spaced = np.linspace(0, N_TEST - 1, 40).round().astype(int)
    x, y = rows("low")
    some = x[spaced], y[spaced]
    wanted = intrinsic_dimension(some, [0.25, 0.5], [1, 2], neighbours=5)
    assert dimensions["two_nn"].tolist() == pytest.approx(wanted["two_nn"].tolist())

    worth = table(whole, "features/two.attribution")
    both = rows("low", "train", 2), rows("low", "test", 2)
    assert np.allclose(worth["change"], drop_one(*both, resamples=50)["change"])
    values = shapley(*both, permutations=4).table["value"]
    assert np.allclose(worth["shapley"], values)

    found = table(whole, "features/two.retrieval")
    wanted = retrieval(
        both[1], both[0], [0.25, 0.5], [1, 2], mode=["random", "first"], cutoff=5, depth=20
    ).curves("ndcg")
    pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False)

    predicted = table(whole, "features/two.universality")
    assert predicted["other"].unique().tolist() == ["one@low", "one@wide"]
    of_wide = predicted[predicted["other"] == "one@wide"]["r2"].to_numpy()
    wanted = universality(
        tuple(rows(tap, "train") for tap in ("low", "wide")),
        tuple(rows(tap) for tap in ("low", "wide")),
    )
    assert np.allclose(of_wide, wanted["r2"], atol=1e-6, equal_nan=True)


def test_pairs_are_of_the_same_rows_or_of_the_same_features(whole):
    pairs = table(whole, "tables/likeness").set_index(["name", "other"])
    # the two stores hold the same rows, so that all three layers are compared
    assert len(pairs) == 3
    spaced = np.linspace(0, N_TEST - 1, 40).round().astype(int)
    layers = [(rows(tap)[0][spaced], rows(tap)[1][spaced]) for tap in ("low", "wide")]
    null = calibrated_cka(*layers, permutations=9)
    row = pairs.loc[("one@low", "one@wide")]
    assert row[["cka", "p"]].tolist() == pytest.approx([null.value, null.p])
    alike = table(whole, "tables/agreement")
    assert alike[["name", "other"]].values.tolist() == [["one@low", "two"]]
    tables = {n: table(whole, f"features/{n}.attribution") for n in ("one@low", "two")}
    assert alike["rho"][0] == pytest.approx(agreement(tables, "shapley")["rho"][0])


def test_the_page_has_their_numbers_and_figures(whole):
    page = (whole / "page.md").read_text()
    row = (
        table(whole, "features/two.retrieval").query("mode == 'first' and fraction == 0.5").iloc[0]
    )
    kept = [f"{100 * row[name]:.1f}" for name in ("ratio", "ratio_low", "ratio_high")]
    assert page.startswith(f"{kept[0]} % ({kept[1]} to {kept[2]}); 1.000;")
    near = table(whole, "features/one@low.geometry").query("fraction == 0.5")["two_nn"]
    assert f"\n{near.mean():.1f} ± {near.std():.1f}; " in page
    worse = (table(whole, "features/two.attribution")["high"] < 0).sum()
    assert f"; {worse} of\n12; " in page
    assert "| two, first | 50 % | 6 | " in page
    assert "| two, random |" not in page
    drawn = {path.stem for path in (whole / "figures").glob("*.svg")}
    names = ("one@low", "one@wide", "two")
    assert drawn == {
        *(
            f"{kind}.{name}"
            for kind in ("attribution", "retrieval", "universality")
            for name in names
        ),
        "agreement.one@low.two",
    }


def test_a_study_without_a_template_shows_every_table(whole, stores, tmp_path):
    read = spec.read(study_file(tmp_path, stores)).model_copy(update={"template": None})
    found, held = running.there(plan(read, whole))
    page = pages.Page(Context(read, held, whole), found, ["retrieval.two"], [], whole / "p.md", {})
    text, wanting = pages.filled(pages.default(page), page)
    assert not wanting
    for heading in (
        *("In how many dimensions rows lie", "What layers have in common"),
        *("Which features another layer predicts", "What features are worth"),
        *("Are the same features good for several tasks", "What fewer dimensions find"),
    ):
        after = text.split(f"## {heading}\n\n")[1]
        assert after.startswith("| ")
    assert "![retrieval.two](figures/retrieval.two.svg)" in text
    assert "| one@low and two | 12 | " in text


def test_only_the_analysis_whose_options_changed_is_made_again(stores, tmp_path):
    def run(cutoff: int) -> dict[str, str]:
        path = study_file(tmp_path, stores, cutoff)
        done = running.run(plan(spec.read(path), tmp_path / "out"), only="analyses")
        return {each.part: each.status for each in done if each.status != "missing"}

    first = run(5)
    assert first["features/retrieval.two"] == first["tables/agreement"] == "made"
    again = run(4)
    changed = {part for part, status in again.items() if status == "made"}
    names = ("one@low", "one@wide", "two")
    assert {part for part in changed if part.startswith("features/")} == {
        f"features/retrieval.{name}" for name in names
    }
    assert "tables/accuracy" not in changed
    assert set(run(4).values()) == {"there"}


def test_a_fault_in_one_is_named_and_the_others_are_made(stores, tmp_path, monkeypatch):
    def failing(layer, asked):
        raise UsageError("too wide")

    entry = feature_tables.OF_LAYERS["attribution"]
    monkeypatch.setitem(feature_tables.OF_LAYERS, "attribution", (failing, entry[1]))
    read = spec.read(study_file(tmp_path, stores)).model_copy(update={"template": None})
    done = running.run(plan(read, tmp_path / "out"), only="analyses")
    lost = [(each.part, each.reason) for each in done if each.status == "missing"]
    assert lost == [
        (f"features/attribution.{name}", "too wide") for name in ("one@low", "one@wide", "two")
    ]
    assert (tmp_path / "out" / "features" / "two.retrieval.csv").exists()
    assert "too wide" in (tmp_path / "out" / "page.md").read_text()


def test_a_report_of_the_folder_has_their_tables(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_plotly", lambda: "var Plotly;")
    text = report.write([whole], tmp_path / "r.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    names = ["geometry", "likeness", "universality", "attribution", "agreement", "retrieval"]
    assert data["features"] == names
    for name in names:
        assert f'id="table-{name}"' in text
        assert all(len(c.get("values", c.get("codes"))) for c in data["tables"][name]["columns"])
    shown = {c["title"]: c for c in data["tables"]["agreement"]["columns"]}
    row = table(whole, "tables/agreement").iloc[0]
    assert shown["Spearman's rho"]["values"] == pytest.approx([row["rho"]], rel=1e-6)
    assert shown["interval"]["low"] == pytest.approx([row["low"]], rel=1e-6)
    assert "low" not in shown["Spearman's rho"]

    copied = tmp_path / "two" / "features"
    copied.mkdir(parents=True)
    (copied.parent / "results").mkdir()
    results = pd.read_csv(whole / "results" / "two.ridge.csv")
    save_table(results, copied.parent / "results" / "two.ridge.csv")
    (copied / "two.retrieval.csv").write_text("store,mode\ntwo,first\n")
    with pytest.raises(UsageError, match="is no table of retrieval as a study"):
        report.write([copied.parent], tmp_path / "r.html")


def test_a_comparison_shows_what_else_is_asked_of_layers(stores, tmp_path):
    places = [f"{stores}/one.zarr#low", stores / "other" / "one.zarr"]
    also = ("spectrum", "geometry", "universality", "attribution", "retrieval")
    found = compare(places, [0.5], [1], also=also, solver="ridge", out_dir=tmp_path / "kept")
    assert list(found.features) == [
        *("spectrum", "geometry", "attribution", "retrieval", "likeness", "universality"),
        "agreement",
    ]
    for name, each in found.features.items():
        kept = pd.read_csv(tmp_path / "kept" / "features" / f"{name}.csv")
        assert len(kept) == len(each)
        assert set(each["name"]) <= {str(stores / "one.zarr"), str(places[1])}
    assert found.features["universality"]["r2"].min() > 0.5  # both have the same features
    assert compare(places, [0.5], [1], solver="ridge").features == {}
    for given, said in (
        (
            {"also": ["spectra"]},
            "no analysis of layers is called 'spectra'; did you mean spectrum",
        ),
        ({"also": ["universality"]}, "no two are named"),
    ):
        with pytest.raises(BadStudy, match=said):
            compare(places[:1], [0.5], [1], solver="ridge", **given)
    results = next((tmp_path / "kept").glob("*.csv"))
    with pytest.raises(BadStudy, match="only results are given"):
        compare([results], also=["geometry"])


def test_the_command_prints_them(stores):
    words = [f"{stores}/one.zarr", "--fractions", "0.5", "--seeds", "1", "--solver", "ridge"]
    ran = CliRunner().invoke(main, ["compare", *words, "--also", "geometry,retrieval"])
    assert ran.exit_code == 0, ran.output
    assert "In how many dimensions rows lie" in ran.stdout
    assert "What fewer dimensions find" in ran.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("geometry = {row = 9}", "there is no key analyses.geometry.row; did you mean rows?"),
        ("geometry = {rows = 9}", "analyses.geometry.rows: input should be greater"),
        ("attribution = {solver = 'sgd'}", "analyses.attribution.solver: input should be 'ridge'"),
        ("retrieval = 3", "analyses.retrieval: input should be"),
        ("universal = true", "there is no key analyses.universal; did you mean universality?"),
    ],
)
def test_options_that_cannot_be_are_named(line, said):
    text = f"[stores]\na = {{store = 'a'}}\n[probes.ridge]\n[analyses]\n{line}\n"
    with pytest.raises(BadStudy) as raised:
        spec.parsed(text, Path())
    assert said in str(raised.value)


def test_true_is_the_defaults_and_false_is_none():
    text = "[stores]\na = {store = 'a'}\n[probes.ridge]\n[analyses]\ngeometry = true\n"
    asked = spec.parsed(text + "retrieval = false\n", Path()).analyses
    assert asked.geometry == spec.Geometry()
    assert asked.retrieval is asked.attribution is asked.universality is None
