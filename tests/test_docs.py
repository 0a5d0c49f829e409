"""The README and the guide are true: Python runs, commands and options exist, none is left out."""

import configparser
import re
import runpy
import shlex
from pathlib import Path

import mutants
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import datasets

import featstore
from featstore.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *sorted((ROOT / "docs/guide").glob("*.md")),
    *sorted((ROOT / "docs/tutorials").glob("*.md")),
]
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
SHOWN = "\n".join([README, *(page.read_text() for page in PAGES)])


def commands(text: str) -> list[list[str]]:
    """Every `featstore ...` line of the code blocks and tables of a text, split into words."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^ {2,}(?:.*&& )?(featstore .*)$", joined, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


EVERY = commands(SHOWN) + [
    words for command in main.commands.values() for words in commands(command.help)
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_command_that_is_shown_exists(words):
    command = main.commands[words[0]]
    known = {name for param in command.params for name in [*param.opts, *param.secondary_opts]}
    assert {word for word in words if word.startswith("--")} <= known


def test_each_command_is_shown_by_its_help_and_by_the_guide():
    for name, command in main.commands.items():
        assert name in [words[0] for words in commands(command.help)]
        assert name in [words[0] for words in commands(SHOWN)], name


def test_the_two_commands_that_define_the_product_are_word_for_word():
    shown = [" ".join(words) for words in commands(README)]
    assert "extract --model resnet50 --dataset cifar100" in shown
    assert "probe --fractions 0.01,0.05,0.1 --seeds 5" in shown
    assert '    pip install ".[quickstart]" && featstore quickstart\n' in README
    assert '    pip install ".[test]" && pytest\n' in README


def test_each_option_is_in_the_guide():
    params = {param for command in main.commands.values() for param in command.params}
    # of --standardize/--no-standardize the guide shows the side that changes something
    shown = {(p.secondary_opts or p.opts)[-1] for p in params if p.param_type_name == "option"}
    assert {option for option in shown if not re.search(rf"{option}\b", SHOWN)} == set()


def python(text: str) -> str:
    """All Python blocks of a text."""
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


@pytest.mark.slow
def test_the_python_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "guide"}
    exec(python((ROOT / "docs/guide/python.md").read_text()), names)
    assert "of the features keep" in capsys.readouterr().out
    assert (tmp_path / "results.csv").exists()
    assert (tmp_path / "accuracy.pdf").stat().st_size > 5000


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 200)
    )
    digits = datasets.load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    rows = torch.utils.data.TensorDataset(images, torch.tensor(digits.target))
    train_set, test_set = torch.utils.data.random_split(rows, [0.8, 0.2])
    exec(python(README), {"net": net, "train_set": train_set, "test_set": test_set})
    assert "10 % of the features keep" in capsys.readouterr().out


def test_the_python_of_the_page_on_your_own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(python((ROOT / "docs/own.md").read_text()), {"__name__": "own"})


def test_the_readme_fits_two_screens_and_its_numbers_are_those_of_the_study():
    assert len(README.splitlines()) <= 100
    answers = re.findall(r"^\|.*\| (.*) \|$", README, flags=re.MULTILINE)
    numbers = {n for answer in answers for n in re.findall(r"\d+\.\d+", answer)}
    assert len(numbers) >= 15
    measured = (ROOT / "docs/results.md").read_text()
    assert {n for n in numbers if n not in measured} == set()


def test_the_page_of_mutants_is_of_their_log():
    assert mutants.written(mutants.PAGE.read_text()) == mutants.PAGE.read_text()


def test_the_recipe_and_the_citation_say_what_setup_cfg_says():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    # conda has no extras: its package brings both halves
    extras = config["options.extras_require"]
    halves = (config["options"]["install_requires"], extras["extract"], extras["report"])
    required = " ".join(halves).split()
    recipe = (ROOT / "packaging/recipe.yaml").read_text()
    run = re.findall(r"^    - (\S+) (>=\S+)$", recipe.partition("  run:\n")[2], re.MULTILINE)
    theirs = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-xxhash": "xxhash"}
    names = {theirs.get(name, name).replace("-", "_"): bound for name, bound in run}
    assert names.pop("python") == config["options"]["python_requires"]
    assert {f"{name}{bound}" for name, bound in names.items()} == {
        each.replace("-", "_") for each in required
    }
    assert f'version: "{featstore.__version__}"' in recipe
    assert config["metadata"]["url"] in (ROOT / "CITATION.cff").read_text()
    assert config["metadata"]["url"] in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("store", ["clusters.zarr", "clusters.h5", "views.zarr"])
def test_the_reader_of_the_format_reads_golden_stores(store):
    reader = runpy.run_path(str(ROOT / "examples/read_store.py"))["read"]
    place = ROOT / "tests/golden" / store
    ours = featstore.open(place)
    for split in ours.spec.splits:
        (tap,) = ours.spec.taps
        features, labels, ids = reader(place, split.name, tap.name)
        assert features.shape[:-1] == ((split.views,) * (split.views > 1) + (split.n_rows,))
        np.testing.assert_array_equal(features, ours.load(split.name, tap.name))
        np.testing.assert_array_equal(labels, ours.labels(split.name))
        assert ids == ours.ids(split.name)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in DOCS)]
)
def test_files_that_the_prose_names_exist(name):
    text = (ROOT / name).read_text()
    named = re.findall(
        r"`((?:docs|tests|benchmarks|featstore|probe|terminal|\.ci)/[\w/.]+\w)`", text
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("page", "results"),
    [
        ("results.md", "studies/debian/study"),
        ("studies/cifar100/results.md", "studies/cifar100/study"),
    ],
)
def test_a_study_s_page_has_the_numbers_of_its_results(page, results):
    text = (ROOT / "docs" / page).read_text()
    files = sorted((ROOT / "docs" / results / "results").glob("*.csv"))
    tables = {path.stem: pd.read_csv(path) for path in files}
    for name, table in tables.items():
        source, _, solver = name.rpartition(".")
        if solver == "logistic":
            chosen = table[table["mode"] == "random"]
            by = chosen.pivot(index="seed", columns="fraction", values="accuracy")
            kept = 100 * by.div(by[1.0], axis=0)
            cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(kept.mean(), kept.std(), strict=True)]
            assert f"| {source} | random | {' | '.join(cells[:-1])} | 100.0 |" in text
    every = pd.concat(tables.values())
    at_an_end = every["l2_place"].isin(["lowest", "highest"]).sum()
    counted = f"{at_an_end:,}" if at_an_end else "(0|none)"
    assert re.search(rf"\b{counted} of the {len(every):,}\b", text)


@pytest.mark.parametrize("page", ["results.md", "studies/debian/results.md.in"])
def test_what_the_first_study_s_page_says_of_the_second_is_what_that_one_found(page):
    pages = (page, "studies/cifar100/results.md")
    text, found = ((ROOT / "docs" / name).read_text() for name in pages)
    section = text.partition("## Narrow layers and many classes\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 11
    assert [row for row in rows if row not in found.splitlines()] == []


def test_the_lists_of_the_second_study_are_read_from_folders_and_lines(tmp_path):
    made = runpy.run_path(str(ROOT / "docs/studies/cifar100/data.py"))
    classes = " ".join(made["SUPERCLASSES"].values()).split()
    assert (len(made["SUPERCLASSES"]), len(set(classes)), len(classes)) == (20, 100, 100)
    for name in ("train/whale/a.png", "train/apple/b.png", "test/apple/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert made["images"](tmp_path).to_numpy().tolist() == [
        ["test/apple/c.png", "apple", "test"],
        ["train/apple/b.png", "apple", "train"],
        ["train/whale/a.png", "whale", "train"],
    ]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/TREC.train").write_bytes(b"LOC:city Where is \xd0 ?\nHUM:ind Who ?\n")
    (tmp_path / "raw/TREC.test").write_text("HUM:ind Who ?\n")
    assert made["questions"](tmp_path).to_numpy().tolist() == [
        ["Who ?", "HUM", "HUM:ind", "test"],
        ["Where is Ð ?", "LOC", "LOC:city", "train"],
    ]
    (tmp_path / "stsa.binary.train").write_text("1 fine ,\n0 crème\n1 fine ,\n", "utf-8")
    (tmp_path / "stsa.binary.test").write_text("0 bad .\n")
    assert made["reviews"](tmp_path).to_numpy().tolist() == [
        ["bad .", "negative", "test"],
        ["fine ,", "positive", "train"],
        ["crème", "negative", "train"],
    ]
