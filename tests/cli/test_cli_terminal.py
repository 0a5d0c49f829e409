"""Tables in narrow terminals and on streams that lack characters: no number is cut or lost."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.table import Table
from test_printed import MODES, ONE

from featstore.cli import screen
from featstore.cli.screen import PLAIN, of_sweep, show


def printed(things, monkeypatch, width: int, encoding: str = "utf-8") -> str:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setattr(sys, "stdout", stream)
        show(*things)
        stream.flush()
    return written.getvalue().decode(encoding)


def rows_of(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


@pytest.mark.parametrize("given", [ONE, MODES], ids=["one curve", "several"])
@pytest.mark.parametrize("width", [8, 20, 30, 44, 60, 80, 200])
def test_whole_columns_are_left_out_and_said(monkeypatch, given, width):
    things = of_sweep(given)
    whole = [thing for thing in things if isinstance(thing, Table)]
    text = printed(things, monkeypatch, width)
    lines = [line.strip() for line in text.splitlines()]
    for table in whole:
        for cells in rows_of(table):
            starts = [" ".join(" ".join(cells[:n]).split()) for n in range(1, len(cells) + 1)]
            found = [line for line in (" ".join(line.split()) for line in lines)
                     if line in starts or line.removesuffix(" …") in starts]  # fmt: skip
            assert found or width < 12, (cells, text)
    headings = [str(column.header) for column in whole[0].columns]
    if width >= 80:
        assert "…" not in text
    elif width >= 20:
        told = re.search(r"… left out: (.*); (\d+) columns have\s+room for all",
                         " ".join(text.split()))  # fmt: skip
        assert headings[-1] in told[1]
        wide = printed(things, monkeypatch, int(told[2]))
        assert "left out" not in wide
        assert "left out" in printed(things, monkeypatch, int(told[2]) - 1)


def test_titles_are_as_wide_as_the_terminal(monkeypatch):
    table = Table(title="a title of thirty characters!!", **PLAIN)
    table.add_column("k", justify="right")
    table.add_row("1")
    assert printed([table], monkeypatch, 30).splitlines()[0].rstrip() == table.title


def test_texts_are_folded_before_a_number_is_left_out(monkeypatch):
    table = Table(**PLAIN)
    table.add_column("store", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_row("a-name-of-forty-characters-" + "x" * 13, "1,234,567")
    text = printed([table], monkeypatch, 30)
    assert "1,234,567" in text
    assert "…" not in text
    assert "".join(re.findall(r"^\S+", text, re.MULTILINE)).count("x") == 13


NAME = "tf_efficientnet_lite0-mnist5k-2b25943c.zarr"


def of_names(no_wrap: bool) -> Table:
    """A table of one name, a sentence, a heading of two lines and numbers."""
    table = Table(**PLAIN)
    table.add_column("store", no_wrap=no_wrap, overflow="fold")
    table.add_column("what it is of", overflow="fold")
    for heading in ("rows", "mean\nfirst", "size"):
        table.add_column(heading, justify="right")
    table.add_row(NAME, "the handwritten digits of scikit-learn", "1,234", "0.123", "12.3 MiB")
    return table


@pytest.mark.parametrize("width", range(20, 120, 5))
def test_names_to_be_copied_are_whole_where_they_fit(monkeypatch, width):
    text = printed([of_names(no_wrap=True)], monkeypatch, width)
    assert max(map(len, text.splitlines())) <= width
    lines = text.partition("… left out")[0].splitlines()
    parts = [line.split()[0] for line in lines if not line.startswith((" ", "─")) and line]
    assert "".join(parts) == f"store{NAME}"
    assert (NAME in text) == (width >= len(NAME) + 4)


@pytest.mark.parametrize("width", range(40, 120, 5))
def test_texts_are_folded_between_words(monkeypatch, width):
    text = printed([of_names(no_wrap=False)], monkeypatch, width)
    assert max(map(len, text.splitlines())) <= width
    shown = " ".join(text.split())
    assert "handwritten" in shown or "what it is of" in shown.partition("left out: ")[2]
    if "left out" in shown:
        assert "size" in shown.partition("left out: ")[2]
    if "first" in shown.partition("left out: ")[2]:
        assert "mean first" in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_streams_that_lack_characters_get_ascii(monkeypatch, encoding):
    things = [*of_sweep(ONE), "10 % keep 93 ± 1 %, café 中 … \udce9"]
    text = printed(things, monkeypatch, 100, encoding)
    assert "\\udce9" in text
    if encoding == "ascii":
        assert "+-" in text
        assert "93 +- 1 %, caf\\xe9 \\u4e2d ... " in text
        assert "---" in text
        # columns stand under one another although +- is wider than one character
        table = Table(**PLAIN)
        for heading in ("first", "second"):
            table.add_column(heading, justify="right")
        table.add_row("0.1 ± 0.02", "1")
        table.add_row("0.123 ± 0.02", "22")
        text = printed([table], monkeypatch, 100, encoding)
        lines = [line for line in text.splitlines() if "+-" in line]
        assert len(lines) == 2
        assert len({line.index("+-") for line in lines}) == 1
    elif encoding == "latin-1":
        assert "± 1 %, café \\u4e2d ... " in text


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import click
from featstore.cli.common import SWITCHES, Group
from featstore.cli.screen import show
group = Group("featstore")
group.params += SWITCHES
@group.command("probe")
def command():
    {body}
group()
"""


def run(body: str, **options):
    root = str(os.path.dirname(os.path.dirname(screen.__file__)))
    script = SCRIPT.format(root=root, body=body)
    return subprocess.run([sys.executable, "-c", script, "probe"], timeout=120, **options)


def test_what_follows_is_done_though_the_reader_went_away(tmp_path):
    read, write = os.pipe()
    os.close(read)
    body = f"show('x' * 100000); show('y'); open({str(tmp_path / 'kept')!r}, 'w').close()"
    ran = run(body, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (tmp_path / "kept").exists()
    assert ran.returncode == 0
    assert ran.stderr == b""


def test_nothing_is_lost_where_the_locale_is_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    body = "show('0.5 ± 0.1', 'é'); sys.stdout.write('±'); sys.stderr.write('…')"
    ran = run(body, capture_output=True, env=environment)
    assert (ran.returncode, ran.stdout) == (0, b"0.5 +- 0.1\n\\xe9\n+-")
    assert ran.stderr == b"..."
