"""The README is true: its Python runs, its commands and options exist, and none is left out."""

import re
import shlex
from pathlib import Path

import pytest

from featstore.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(text: str) -> list[list[str]]:
    """Every `featstore ...` line of the code blocks and tables of a text, split into words."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^ {2,}(?:.*&& )?(featstore .*)$", joined, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


EVERY = commands(README) + [
    words for command in main.commands.values() for words in commands(command.help)
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_command_that_is_shown_exists(words):
    command = main.commands[words[0]]
    known = {name for param in command.params for name in [*param.opts, *param.secondary_opts]}
    assert {word for word in words if word.startswith("--")} <= known


def test_each_command_is_shown_by_its_help_and_by_the_readme():
    for name, command in main.commands.items():
        assert name in [words[0] for words in commands(command.help)]
        assert name in [words[0] for words in commands(README)], name


def test_the_two_commands_that_define_the_product_are_word_for_word():
    shown = [" ".join(words) for words in commands(README)]
    assert "extract --model resnet50 --dataset cifar100" in shown
    assert "probe --fractions 0.01,0.05,0.1 --seeds 5" in shown
    assert '    pip install ".[quickstart]" && featstore quickstart\n' in README
    assert '    pip install ".[test]" && pytest\n' in README


def test_each_option_is_in_the_readme():
    params = {param for command in main.commands.values() for param in command.params}
    # of --standardize/--no-standardize the README shows the side that changes something
    shown = {(p.secondary_opts or p.opts)[-1] for p in params if p.param_type_name == "option"}
    assert {option for option in shown if not re.search(rf"{option}\b", README)} == set()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {"__name__": "readme"})
    assert "of the features keep" in capsys.readouterr().out
    assert (tmp_path / "results.csv").exists()
    assert (tmp_path / "accuracy.pdf").stat().st_size > 5000


def test_the_python_of_the_page_on_your_own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own.md").read_text(), flags=re.DOTALL)
    exec("\n".join(blocks), {"__name__": "own"})


PAGES = [f"docs/{page}.md" for page in ("architecture", "decisions", "own")]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_files_that_the_prose_names_exist(name):
    text = (ROOT / name).read_text()
    named = re.findall(
        r"`((?:docs|tests|benchmarks|featstore|probe|terminal|\.ci)/[\w/.]+\w)`", text
    )
    assert [path for path in named if not (ROOT / path).exists()] == []
