"""A study run to its end, cut short, run again, and changed: what is made, and what is not."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import fill, spec_of_clusters
from forked import processes
from test_cli_commands import run as command

import featstore
from featstore import probe
from featstore.errors import BadStudy, PartMissing
from featstore.probe.plans import ResultsFile
from featstore.probe.redundancy import diffused_redundancy
from featstore.probe.results.files import read_table
from featstore.probe.solvers.registry import SOLVERS
from featstore.study import analyses, facts as sheets, page as pages, run as running, spec, sweeps
from featstore.study.facts import Facts
from featstore.study.plan import cost_of, plan
from featstore.study.records import require

STUDY = """
title = "Clusters"
fractions = [0.1, 0.5]
seeds = 3
template = "page.md"
figures = {figures}
[stores]
one = {{ store = "{one}" }}
two = {{ store = "{two}" }}
[probes.ridge]
l2 = {l2}
modes = ["random", "first"]
per_class = true
[probes.lda]
l2 = 0.1
features = ["one"]
[analyses]
resamples = 100
"""
TEMPLATE = """Ten per cent keep {{ ratio("one", "random", "ridge", 0.1) }}, alone
{{ accuracy("one", "random", "ridge", 0.1, part="mean") }}.
DR is {{ dr("one", "random", "ridge", 0.9) }}, CKA {{ cka("one", 0.5) }}, rank
{{ spectrum("two", "effective_rank") }}.
{{ solver("one", "random", "ridge", "lda", 0.5) }}; {{ mode("one", "first", "ridge", 0.5) }};
{{ losers("two", "random", "ridge", 0.1, 2) }};
{{ k("one", 0.1) }} of {{ features("one") }}; {{ span("ratio", "*", "random", "ridge", 0.1) }};
{{ p("one", "random", "ridge", 0.1) }}.
Over chance {{ corrected("one", "random", "ridge", 0.1, part="mean") }}; of {{ probes() }} probes
{{ probes("unsolved", "one", "lda") }} are unsolved.

{{ table("ratio", "ridge") }}

{{ figure("ratio.ridge", "What is kept") }}
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    """Two stores of the same rows."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("one", "two"):
        fill(featstore.create(folder / f"{name}.zarr", spec_of_clusters(backbone=name)))
    return folder / "one.zarr", folder / "two.zarr"


def study_file(folder: Path, stores, l2: float = 0.1, figures: str = "[]") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page.md").write_text(TEMPLATE)
    path = folder / "study.toml"
    path.write_text(STUDY.format(one=stores[0], two=stores[1], l2=l2, figures=figures))
    return path


def run(path: Path, out: Path, only: str | None = None, **options) -> dict[str, str]:
    """Run a study; return what became of each part."""
    done = running.run(plan(spec.read(path), out, only), only=only, **options)
    return {each.part: each.status for each in done}


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory) -> tuple[Path, Path]:
    """A study that ran to its end: its file and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    path = study_file(folder, stores, figures='["ratio"]')
    parts = []

    def progress(stage, done, total, seconds=None, of="", **facts):
        if seconds is not None:
            parts.append((stage, done, total, len(seconds), of))

    cost = cost_of(plan(spec.read(path), folder / "out"), measure=False)
    done = run(path, folder / "out", cost=cost, progress=progress)
    assert "missing" not in done.values()
    # three sweeps of known length, then what is only counted
    assert [part[:4] for part in parts[:4]] == [
        *(("parts", number, 3, 3) for number in range(3)),
        ("parts", 3, 3, 0),
    ]
    assert {part[0] for part in parts[4:]} == {"analyses"}
    counts = [part[1] for part in parts[4:]]
    assert counts == list(range(len(counts)))
    totals = [part[2] for part in parts[4:]]
    assert totals == sorted(totals)
    assert totals[-1] == counts[-1]
    assert {"tables/accuracy", "figures/ratio.ridge", "page"} <= {part[4] for part in parts}
    return path, folder / "out"


def test_it_makes_each_part_and_then_has_nothing_to_do(whole, monkeypatch):
    path, out = whole
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    names = {str(file.relative_to(out)) for file in before}
    assert {"results/one.ridge.csv", "results/one.lda.csv", "results/two.ridge.csv"} <= names
    assert {"per_class/one.ridge.csv", "predictions/one.ridge.npz", "page.md"} <= names
    assert {"tables/accuracy.csv", "figures/ratio.ridge.svg", "study.toml"} <= names
    assert "results/two.lda.csv" not in names
    monkeypatch.setattr(sweeps.probe, "sweep", None)
    planned = plan(spec.read(path), out)
    assert planned.complete
    assert set(run(path, out).values()) == {"there"}
    for file, time in before.items():
        assert file.stat().st_mtime_ns == time or file.name == "study.toml"


def test_only_what_has_changed_is_made_again(whole, stores, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "made" in run(study_file(tmp_path, stores), out).values()
    swept, read = [], []
    sweep, reading = probe.sweep, analyses.READINGS["accuracy"]
    monkeypatch.setitem(
        analyses.READINGS, "accuracy", lambda *a: read.append(a[0].sweep.name) or reading(*a)
    )
    monkeypatch.setattr(
        sweeps.probe, "sweep", lambda *a, **k: swept.append(k["out"].name) or sweep(*a, **k)
    )
    done = run(study_file(tmp_path, stores, l2=0.2), out)
    assert swept == ["one.ridge.csv", "two.ridge.csv"]
    assert done["one.lda"] == "there"
    assert done["features/cka.one"] == done["features/spectrum.one"] == "there"
    assert done["tables/accuracy"] == "made"
    assert read == ["one.ridge", "two.ridge"]
    assert set(read_table(out / "results" / "one.ridge.csv")["l2"]) == {0.2}
    swept.clear()
    (out / "results" / "two.ridge.csv").unlink()
    assert run(study_file(tmp_path, stores, l2=0.2), out, only="two*")["two.ridge"] == "made"
    assert swept == ["two.ridge.csv"]


def test_results_are_those_of_the_sweep_and_predictions_say_the_same(whole, stores):
    _, out = whole
    table = read_table(out / "results" / "one.ridge.csv")
    store = featstore.open(stores[0])
    result = probe.sweep(
        store.tap("train", "penultimate"), store.tap("test", "penultimate"), solver="ridge",
        fractions=[0.1, 0.5], seeds=[1, 2, 3], mode=["random", "first"], l2=0.1,
    )  # fmt: skip
    assert table["accuracy"].tolist() == result.table["accuracy"].tolist()
    assert set(table["store"]) == {"one"}
    with np.load(out / "predictions" / "one.ridge.npz") as held:
        assert (held["classes"] == result.predict(store.tap("test", "penultimate")).classes).all()
    classes = read_table(out / "per_class" / "one.ridge.csv")
    expected = probe.per_class_table(result, store.spec.classes)
    assert np.allclose(classes["class_accuracy"].astype(float), expected["class_accuracy"])
    assert classes["class"].tolist() == expected["class"].tolist()


def cut(path: Path, out: Path, where: str) -> None:
    """Run a study in one-chain groups, and kill this process at the second call of something."""
    for name, entry in SOLVERS.items():
        SOLVERS[name] = replace(entry, together=1)
    home, name = {
        "groups": (sweeps.Groups, "__call__"),
        "write": (ResultsFile, "write"),
        "made": (sweeps.Records, "write"),
    }[where]
    before, calls = getattr(home, name), []

    def killing(self, *arguments, **facts):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(self, *arguments, **facts)

    setattr(home, name, killing)
    run(path, out)


@pytest.mark.parametrize("where", ["groups", "write", "made"])
def test_killed_it_goes_on_to_the_same_files(whole, stores, tmp_path, monkeypatch, where):
    path, out = study_file(tmp_path, stores), tmp_path / "out"
    killed = processes.Process(target=cut, args=(path, out, where))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    for name, entry in SOLVERS.items():
        monkeypatch.setitem(SOLVERS, name, replace(entry, together=1))
    solved = []
    keep = sweeps.Groups.__call__
    monkeypatch.setattr(
        sweeps.Groups, "__call__", lambda self, result: solved.append(self) or keep(self, result)
    )
    run(path, out)
    # of each sweep's groups (a seed, `first`, the whole layer) some were done
    assert len(solved) < len(groups_of(path, tmp_path / "all", monkeypatch))
    for folder in ("results", "predictions", "per_class", "tables"):
        for file in (whole[1] / folder).iterdir():
            if not file.name.endswith(".provenance.json"):
                assert same(file, out / folder / file.name), file.name


def groups_of(path: Path, out: Path, monkeypatch) -> list:
    """Every group of an uninterrupted run."""
    solved = []
    keep = sweeps.Groups.__call__
    monkeypatch.setattr(
        sweeps.Groups, "__call__", lambda self, result: solved.append(self) or keep(self, result)
    )
    run(path, out, only="one,two")
    return solved


def same(one: Path, other: Path) -> bool:
    if one.suffix == ".npz":
        with np.load(one) as a, np.load(other) as b:
            return all((a[name] == b[name]).all() for name in a)
    return one.read_bytes() == other.read_bytes()


def test_numbers_of_the_page_are_those_of_the_tables(whole):
    _, out = whole
    page = (out / "page.md").read_text()
    assert "**not known**" not in page
    accuracy = pd.read_csv(out / "tables" / "accuracy.csv")
    row = accuracy[(accuracy["store"] == "one") & (accuracy["probe"] == "ridge")]
    row = row[(row["mode"] == "random") & (row["fraction"] == 0.1)].iloc[0]
    results = read_table(out / "results" / "one.ridge.csv")
    random = results[results["mode"] == "random"]
    full = random[random["fraction"] == 1]["accuracy"].to_numpy(float)
    part = random[random["fraction"] == 0.1]["accuracy"].to_numpy(float)
    assert row["accuracy"] == pytest.approx(part.mean())
    assert row["ratio"] == pytest.approx((part / full).mean())
    assert row["ratio_std"] == pytest.approx((part / full).std(ddof=1))
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    over = ((part - 0.25) / (full - 0.25)).mean()  # of four classes
    assert f"Over chance {100 * over:.1f} %" in page
    files = [read_table(path) for path in (out / "results").glob("*.csv")]
    assert f"of {sum(map(len, files))} probes\n0 are unsolved" in page
    kept = f"{100 * row['ratio']:.1f} % ({100 * row['ratio_low']:.1f}"
    assert f"keep {kept} to {100 * row['ratio_high']:.1f}), alone\n" in page
    assert f"alone\n{100 * part.mean():.1f} %." in page
    assert "6 of 64; " in page
    assert "![What is kept](figures/ratio.ridge.svg)" in page
    dr = diffused_redundancy(random, rules=["interpolated"])["redundancy"].iloc[0]
    assert f"DR is {dr:.3f} (" in page
    lda = read_table(out / "results" / "one.lda.csv")
    gap = random[random["fraction"] == 0.5]["accuracy"].mean()
    gap -= lda[lda["fraction"] == 0.5]["accuracy"].mean()
    assert f"{100 * gap:+.1f} points (" in page


def test_a_table_shows_the_rows_that_are_chosen(whole):
    facts = Facts(whole[1], ["one", "two"])
    rows = sheets.sheet(facts, "redundancy", mode="random", probe="ridge|lda").splitlines()
    assert [row.split(" | ")[:3] for row in rows[2:]] == [
        ["| one", "ridge", "random"], ["| one", "lda", "random"], ["| two", "ridge", "random"],
    ]  # fmt: skip
    assert rows[0].count("DR(") == 4
    chosen = {"fraction": [0.1, 1], "mode": "f*"}
    rows = sheets.sheet(facts, "accuracy", "ridge", "two", **chosen).splitlines()
    assert len(rows) == 3
    assert rows[0] == "| features | mode | 10 % | 100 % |"
    assert rows[2].startswith("| two (l2 = 0.1) | first | ")
    with pytest.raises(BadStudy, match="did you mean mode"):
        sheets.sheet(facts, "redundancy", modes="random")
    with pytest.raises(BadStudy, match="did you mean ridge"):
        sheets.sheet(facts, "accuracy", "rigde")


def test_what_a_template_asks_for_in_vain_is_said(whole, stores, tmp_path):
    facts = Facts(whole[1], ["one", "two"])
    for asked, said in {
        ("ratoi", "one", "random", "ridge", 0.1): "did you mean ratio?",
        ("ratio", "onee", "random", "ridge", 0.1): "did you mean one?",
        ("ratio", "one", "random", "ridge", 0.3): "there are 0.1, 0.5, 1.0",
        ("ratio", "one", "random"): "missing a required argument: 'probe'",
        ("ratio", "one", "random", "ridge", "much"): "could not convert",
        ("spectrum", "one", "effective"): "effective_rank",
        ("span", "gini", "*", "random", "ridge", 0.1): "of accuracy or ratio",
    }.items():
        with pytest.raises(BadStudy) as raised:
            facts.fact(*asked)
        assert said in str(raised.value), asked
    with pytest.raises(BadStudy, match="did you mean mean"):
        facts.fact("ratio", "one", "random", "ridge", 0.1, part="men")
    path = study_file(tmp_path, stores)
    (tmp_path / "page.md").write_text(
        '{{ ratio("one", "random", "ridge", 0.3) }}\n{{ figure("x") }} {{ table("x") }}'
    )
    done = running.run(plan(spec.read(path), tmp_path / "out"))
    assert [each.part for each in done if each.status == "missing"] == ["page"]
    reason = done[-1].reason if done[-1].part == "page" else ""
    assert reason.startswith('3 numbers of page.md are not known; line 1: {{ ratio("one", ')
    assert (tmp_path / "out" / "page.md").read_text().count("**not known**") == 3
    with pytest.raises(PartMissing, match=r"1 of \d+ parts are missing; the first is page: 3 numb"):
        require(done)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "a\n{{ ratoi('one') }}",
            "line 2 of the template: there is no 'ratoi'; did you mean ratio",
        ),
        ("{{ title }}{{ range(9) }}", "there is no 'range'"),
        (
            "a\nb {{ratio.mean:one,random,ridge,0.1}}",
            "line 2 of the template: {{ratio.mean:one,random,ridge,0.1}} is now written "
            '{{ ratio("one", "random", "ridge", 0.1, part="mean") }}',
        ),
        (
            "{{table:ratio,ridge,mode=random|pca}}",
            'is now written {{ table("ratio", "ridge", mode="random|pca") }}',
        ),
        ("{{figure:ratio.ridge|What}}", '{{ figure("ratio.ridge", "What") }}'),
        ("a\n\n{{ ratio( }}", "line 3 of the template: unexpected '}'"),
        ("a\n{% include '/etc/passwd' %}", "line 2 of the template: no loader"),
        ("{{ 'a' * 10000000000 }}", "line 1 of the template: a template has no *"),
        ("{{ title.__class__.__mro__ }}", "line 1 of the template: access to attribute"),
        ("{{ title|upper }}", "line 1 of the template: No filter named 'upper'"),
        ("b\n{{ title.nothing }}", "line 2 of the template: 'str object' has no attribute"),
        ("{{ title + 1 }}", "line 1 of the template: can only concatenate str"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_an_error_of_a_line(whole, template, said):
    path, out = whole
    context = analyses.Context(spec.read(path), [], out)
    page = pages.Page(context, [], [], [], out / "page.md", {})
    with pytest.raises(BadStudy) as raised:
        pages.filled(template, page)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lines_of_what_is_not_known_are_those_of_the_template(whole):
    path, out = whole
    context = analyses.Context(spec.read(path), [], out)
    page = pages.Page(context, [], [], [], out / "page.md", {})
    text = "a\n{{ k('one') }} {{ k('one', 7) }}\n"
    text += "{% for f in [0.1, 3] %}\n{{ k('one', f) }}{% endfor %}\n"
    done, wanting = pages.filled(text, page)
    assert done == "a\n**not known** **not known**\n\n6\n**not known**\n"
    assert [line.partition(":")[0] for line in wanting] == ["line 2", "line 2", "line 4"]
    assert '{{ k("one", 3) }}: no fraction 3 in accuracy' in wanting[2]


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(stores, tmp_path):
    path = study_file(tmp_path, stores)
    path.write_text(path.read_text().replace(str(stores[1]), str(tmp_path / "none.zarr")))
    text = path.read_text().replace('template = "page.md"\n', "")
    path.write_text(text)
    ran = command("study", path, "--out", tmp_path / "out", status=1)
    assert "parts are missing; the first is two: there is no store at" in ran.output
    page = (tmp_path / "out" / "page.md").read_text()
    assert "## What is missing" in page
    assert "| two | there is no store at" in page
    assert (tmp_path / "out" / "results" / "one.ridge.csv").exists()
    assert "one" in page.partition("## How it was made")[2]


def test_features_are_extracted_once_and_again_when_the_request_changes(tmp_path, monkeypatch):
    text = """
    fractions = [0.1]
    seeds = 2
    figures = []
    [models.small]
    model = "resnet18"
    pretrained = false
    image_size = 32
    [datasets.digits]
    dataset = "digits"
    limit = 40
    [probes.ridge]
    [analyses]
    cka = false
    spectrum = false
    resamples = 10
    """
    calls, extract = [], featstore.extract
    monkeypatch.setattr(featstore, "extract", lambda **k: calls.append(k["limit"]) or extract(**k))
    path = tmp_path / "study.toml"
    path.write_text(text)
    command("study", path)
    record = json.loads(
        (tmp_path / "study" / ".made" / "features" / "small-digits.json").read_text()
    )
    assert record["images"] == 80
    command("study", path)
    assert calls == [40]
    path.write_text(text.replace("limit = 40", "limit = 30"))
    ran = command("study", path, "--dry-run")
    assert "small-digits" in ran.output
    assert "60" in ran.output
    command("study", path)
    assert calls == [40, 30]
    table = read_table(tmp_path / "study" / "results" / "small-digits.ridge.csv")
    assert set(table["n_train"]) == {30}


def test_cost_counts_what_is_left(stores, tmp_path):
    from featstore.study.features import Feature
    from featstore.study.plan import counts_of

    text = STUDY.format(one=stores[0], two=stores[1], l2=0.1, figures=[]) + (
        "[models.vit]\nmodel = 'vit_small_patch16_224'\n"
        "[datasets.cifar10]\ndataset = 'cifar10'\nlimit = 20000\n"
    )
    cost = cost_of(plan(spec.parsed(text, tmp_path), tmp_path / "out"), measure=False)
    by = {line.name: line for line in cost.lines}
    assert by["vit-cifar10"].rows == 30_000
    assert by["vit-cifar10"].extracting == pytest.approx(30_000 / 30)
    # 3 seeds and `first` at 2 fractions and the whole layer; lda 3 seeds at 2 and the whole layer
    assert by["one"].probes == (3 + 1) * 2 + 1 + 3 * 2 + 1
    assert by["one"].rows == 0
    # trainings of the published way: of the costlier probe, modes x fractions x seeds and the whole
    assert by["one"].published == (2 * 2 * 3 + 1) * 100 * 240
    assert cost.total("rows") == 30_000
    assert counts_of(Feature("x", {"model": "m", "dataset": "flowers102"})) == (1020, 6149, 102)
    assert counts_of(Feature("x", {"model": "m", "dataset": "hf:somewhere/else"})) is None


def test_a_fault_in_one_part_is_named_and_the_rest_is_made(stores, tmp_path, monkeypatch):
    monkeypatch.setitem(analyses.READINGS, "inequality", lambda held, asked: {}["x"])
    path, out = study_file(tmp_path, stores), tmp_path / "out"
    path.write_text(path.read_text().replace('template = "page.md"\n', ""))
    done = running.run(plan(spec.read(path), out))
    (fault,) = [each for each in done if each.status == "missing"]
    assert fault.part == "tables/inequality"
    assert re.fullmatch(
        r"unexpected KeyError: 'x' \(test_study.py, line \d+\); please report it", fault.reason
    )
    assert fault.reason in (out / "page.md").read_text()


SCORED = """
title = "Scored"
fractions = [0.5]
seeds = 3
figures = ["accuracy"]
[stores]
one = {{ store = "{one}" }}
[probes.ridge]
l2 = 0.1
modes = ["random", "first"]
per_class = true
[probes.lda]
l2 = 0.1
[analyses]
resamples = 100
classes_at = [0.5]
score = "{score}"
"""


def test_a_study_is_of_the_score_that_it_names(stores, tmp_path):
    """Tables, differences, DR and the page, with intervals over test rows."""
    path = tmp_path / "study.toml"
    path.write_text(SCORED.format(one=stores[0], score="kappa"))
    assert "missing" not in run(path, tmp_path / "out").values()
    table = pd.read_csv(tmp_path / "out" / "tables" / "accuracy.csv")
    assert {f"kappa{end}" for end in ("", "_std", "_low", "_high")} <= set(table)
    assert "accuracy" not in table
    assert table["over"].str.contains("test rows").all()
    held = read_table(tmp_path / "out" / "results" / "one.ridge.csv")
    assert {"accuracy", "kappa"} <= set(held)
    part = held[(held["mode"] == "random") & (held["fraction"] == 0.5)]
    rows = table[(table["probe"] == "ridge") & (table["mode"] == "random")]
    own = rows[rows["fraction"] == 0.5].iloc[0]
    assert own["kappa"] == pytest.approx(part["kappa"].astype(float).mean())
    differences = pd.read_csv(tmp_path / "out" / "tables" / "differences.csv")
    assert differences["over"].str.contains("test rows").all()
    facts = Facts(tmp_path / "out", ["one"])
    said = facts.fact("accuracy", "one", "random", "ridge", 0.5, part="mean")
    assert said == f"{own['kappa']:.3f}"  # it may be below 0, and is not in per cent
    assert "## ridge: Cohen's kappa\n" in (tmp_path / "out" / "page.md").read_text()
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "affected.csv"))


def test_a_score_that_there_is_not_is_named_before_anything_runs(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SCORED.format(one="one.zarr", score="makro_f1"))
    with pytest.raises(BadStudy, match="no score is called makro_f1; did you mean macro_f1"):
        spec.read(path)
