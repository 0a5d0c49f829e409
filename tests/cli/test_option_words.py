"""The same word means the same in every command, and words that were replaced work still."""

import re
from collections import defaultdict

import click
import pytest
from click.testing import CliRunner

from featstore.cli import main
from featstore.cli.common import Option

# Why an option may differ between commands: in its type, or in the first word of its help.
EXCEPTIONS = {
    "--out": "each command says what it writes: a store, a table, a page or a folder",
    "--delta": "a list where a table has room for several",
    "--rule": "a list where a table has room for several",
    "--solver": "a list where a study solves by several",
    "--only": "patterns of a study's parts, names of a repository's",
    "--l2": "one penalty where there is one probe, a list or auto where there are many",
    "--weights": "NAME=FILE where there are several models",
}


def options() -> dict[str, dict[str, click.Option]]:
    """The options of all commands: by name, and then by command."""
    found = defaultdict(dict)
    for name, command in main.commands.items():
        for param in command.params:
            if isinstance(param, click.Option):
                assert len(param.opts) == 1, (name, param.opts)
                found[param.opts[0]][name] = param
    return found


OPTIONS = options()


def kind(option: click.Option) -> str:
    return option.type.name.removesuffix(" range")


def first_word(option: click.Option) -> str:
    told = re.sub(r"^[a-z, ]+: ", "", option.help or "")
    return re.match(r"\w*", told)[0].lower()


@pytest.mark.parametrize("name", [name for name, of in OPTIONS.items() if len(of) > 1])
def test_an_option_is_the_same_in_every_command(name):
    kinds = {command: kind(option) for command, option in OPTIONS[name].items()}
    words = {command: first_word(option) for command, option in OPTIONS[name].items()}
    same = len(set(kinds.values())) == len(set(words.values())) == 1
    assert same != (name in EXCEPTIONS), (kinds, words)
    assert all(words.values()), "help is missing"


@pytest.mark.parametrize("name", main.commands)
def test_defaults_are_shown_once_and_required_options_are_marked(name):
    command = main.commands[name]
    ctx = click.Context(command, info_name=name, **main.context_settings)
    for param in command.params:
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
            assert record[1].count("default: ") <= 1, record
            assert not param.required or "[required]" in record[1]


OLD = [
    (command, option, old)
    for name, of in OPTIONS.items()
    for command, option in of.items()
    for old in getattr(option, "old", ())
    if old not in option.opts
]


def test_words_that_were_replaced_work_still_and_are_not_shown():
    assert {old for _, _, old in OLD} >= {"--tap", "--per-class", "--report", "--rows", "--weights"}
    for command, option, old in OLD:
        assert isinstance(option, Option)
        owner = main.commands[command]
        ctx = click.Context(owner, info_name=command)
        given, _, _ = owner.make_parser(ctx).parse_args([old, "value"])
        assert given[option.name] == "value"
        assert old not in re.findall(r"--[\w-]+", owner.get_help(ctx)) or old in OPTIONS


def test_a_store_to_make_is_named_once(tiny_store, tmp_path):
    copies = [tmp_path / "a.h5", tmp_path / "b.h5"]
    source = str(tiny_store.path)
    for words in ([source, str(copies[0])], [source, "--out", str(copies[1])]):
        assert CliRunner().invoke(main, ["convert", *words]).exit_code == 0
    assert all(path.is_file() for path in copies)
    for words in ([source], [source, "x.h5", "--out", "y.h5"]):
        ran = CliRunner().invoke(main, ["convert", *words])
        assert ran.exit_code == 2
        assert "name the store to make, once: --out PATH" in ran.stderr
