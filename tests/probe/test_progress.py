"""Work shows how far it has come where somebody looks: in a terminal and in a notebook."""

import fcntl
import io
import os
import pty
import struct
import sys
import termios
import time
from types import ModuleType

import numpy as np
import pytest
import torch
import tqdm.auto

import featstore
from featstore import probe
from featstore.extraction import run
from featstore.probe import memory

# What shows the work of each wing, and the callback that is silent there.
SHOWN = {"probe": (memory.shown, memory.silent), "extraction": (run._shown, run.no_progress)}
ROWS = (np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2)


class Terminal:
    """A terminal in the place of standard error; `text` is what has been drawn on it."""

    def __init__(self):
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
        self.stderr = os.fdopen(theirs, "w", buffering=1)
        self._seen = b""

    def close(self) -> None:
        self.stderr.close()
        os.close(self._ours)

    @property
    def text(self) -> str:
        try:
            while part := os.read(self._ours, 4096):
                self._seen += part
        except BlockingIOError:
            pass
        return self._seen.decode()


@pytest.fixture
def on_terminal(monkeypatch):
    """Returns a terminal, in a test: pytest puts its own files back before it."""
    made = []

    def make() -> Terminal:
        made.append(Terminal())
        monkeypatch.setattr(sys, "stderr", made[-1].stderr)
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


def work(progress) -> None:
    for done in range(0, 50, 10):
        progress("images", done, 40, reused=7, damaged=0)
        time.sleep(0.03)


@pytest.mark.parametrize("wing", SHOWN)
def test_a_terminal_has_a_bar_that_goes_away(wing, on_terminal):
    terminal = on_terminal()
    with SHOWN[wing][0](None, 0.02) as progress:
        time.sleep(0.1)
        assert "starting 00:00" in terminal.text  # although nothing has been told
        work(progress)
    assert "images: " in terminal.text
    assert "20/40" in terminal.text
    assert "images/s, reused 7]" in terminal.text
    assert "damaged" not in terminal.text
    # the line is blank, and the cursor at its beginning
    assert terminal.text.split("\r")[-2].strip() == ""
    assert terminal.text.endswith("\r")


@pytest.mark.parametrize("wing", SHOWN)
def test_short_work_and_what_is_not_to_be_shown_show_nothing(wing, on_terminal):
    (shown, silent), terminal = SHOWN[wing], on_terminal()
    with shown(None, 5) as progress:
        work(progress)
    with shown(False, 0.01) as progress:
        assert progress is silent
    assert terminal.text == ""


@pytest.mark.parametrize("wing", SHOWN)
def test_nothing_is_shown_where_standard_error_is_a_file(wing, monkeypatch, capsys):
    shown, silent = SHOWN[wing]
    with shown(None, 0.01) as progress:
        assert progress is silent
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    with shown(None, 0.01) as progress:
        assert progress is silent
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("wing", SHOWN)
def test_true_writes_lines_where_there_is_no_screen(wing, capsys):
    with SHOWN[wing][0](True, 0.02) as progress:
        work(progress)
        time.sleep(0.25)
    out, told = capsys.readouterr()
    lines = told.splitlines()
    assert out == ""
    assert 2 <= len(lines) <= 4
    assert "40/40" in lines[-1]
    assert "reused 7" in lines[-1]
    assert "\r" not in told


@pytest.mark.parametrize("wing", SHOWN)
def test_a_notebook_has_a_bar(wing, monkeypatch, capsys):
    """A kernel's standard error is no terminal; tqdm.auto then draws with widgets."""
    made = []

    class Widget(tqdm.std.tqdm):
        def __init__(self, **how):
            super().__init__(**how)
            made.append(self.desc)

    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(tqdm.auto, "tqdm", Widget)
    with SHOWN[wing][0](None, 0.02) as progress:
        work(progress)
    assert made == ["starting", "images"]
    assert "/40" in capsys.readouterr().err


@pytest.mark.parametrize("wing", SHOWN)
def test_what_fails_and_what_tells_too_little_leave_nothing_behind(wing, on_terminal):
    terminal = on_terminal()

    def stopped():
        with SHOWN[wing][0](None, 0.01) as progress:
            progress("images", 1, 40)
            time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert terminal.text.split("\r")[-2].strip() == ""
    written = terminal.text
    time.sleep(0.05)
    assert terminal.text == written  # the thread that drew is gone


@pytest.mark.parametrize("wing", SHOWN)
def test_a_callback_is_itself(wing):
    told = []
    callback = lambda *said, **facts: told.append(said)  # noqa: E731
    with SHOWN[wing][0](callback) as progress:
        assert progress is callback


def test_inside_what_shows_itself_nothing_else_does(on_terminal):
    on_terminal()
    with memory.shown(None, 5), memory.shown(None) as inner:
        assert inner is memory.silent
    with memory.shown(None, 5) as outer:
        assert outer is not memory.silent


def test_a_sweep_says_how_many_probes_are_solved(on_terminal):
    terminal = on_terminal()
    with memory.shown(None, 0.01) as progress:
        progress("sweep", 3, 12, phases={"reading": 1.0}, later=2.0, layer="a\x1b[2Jb")
        progress("rows", 20, 40, layer="a\x1b[2Jb")
        time.sleep(0.05)
    assert "20/40" in terminal.text
    assert "layer a\\x1b[2Jb, 3 of 12 probes solved]" in terminal.text


def test_an_extraction_in_a_script_shows_itself_within_two_seconds(on_terminal, tmp_path):
    terminal = on_terminal()

    class Slow:
        def __len__(self):
            return 60

        def __getitem__(self, row):
            time.sleep(0.03)
            return torch.full((3,), float(row)), row % 2

    call = {"taps": ["output"], "batch_size": 4, "workers": 0, "dtype": "float32"}
    featstore.extract(torch.nn.Linear(3, 2), Slow(), out=tmp_path / "a.zarr", **call)
    assert "tensors/s" in terminal.text or "starting" in terminal.text
    before = terminal.text
    featstore.extract(
        torch.nn.Linear(3, 2), Slow(), out=tmp_path / "b.zarr", progress=False, **call
    )
    assert terminal.text == before


def test_a_sweep_in_a_script_shows_itself_within_two_seconds(on_terminal):
    terminal = on_terminal()
    how = {"fractions": [0.5], "solver": "ridge", "l2": 0.1, "device": "cpu"}
    probe.sweep(ROWS, ROWS, each=lambda _: time.sleep(1.3), **how)
    assert "0 of 2 probes solved" in terminal.text
    before = terminal.text
    probe.sweep(ROWS, ROWS, each=lambda _: time.sleep(1.3), progress=False, **how)
    assert terminal.text == before
    assert isinstance(sys.stderr, io.TextIOBase)
