"""Progress: silent when short, a line now and then off a terminal, a bar on one."""

import io
import os
import pty
import re
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from featstore.cli import common, screen, tables
from featstore.cli.common import SWITCHES, Group
from featstore.cli.screen import Progress, notice


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told."""
    now = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    return now


def run(clock, calls, *switches, **facts) -> str:
    """Return what the callback writes when called with (seconds later, stage, done, total)."""
    group = Group("featstore")
    group.params += SWITCHES

    @group.command("go")
    def go():
        with Progress() as progress:
            for later, stage, done, total in calls:
                clock[0] += later
                progress(stage, done, total, **facts)
        notice("over")

    ran = CliRunner().invoke(group, ["go", *switches])
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout == ""
    return ran.stderr


def test_short_work_is_silent(clock):
    assert (
        run(clock, [(0, "images", 0, 100), (1, "images", 60, 100), (0.9, "images", 100, 100)])
        == "over\n"
    )


def test_a_line_every_ten_seconds(clock):
    calls = [(1, "images", done, 3600) for done in range(0, 3600, 100)]
    lines = run(clock, calls).splitlines()
    assert lines[0] == "images: 900 of 3,600, 100 images/s, 0:00:27 left"
    assert len(lines) == 4  # three in 35 seconds, and the notice


def test_a_resumed_run_counts_its_own_images_only(clock):
    calls = [(0, "images", 50_000, 60_000), (20, "images", 52_000, 60_000)]
    assert "100 images/s, 0:01:20 left" in run(clock, calls)


def test_a_stage_that_begins_again_is_timed_anew(clock):
    calls = [
        (0, "rows", 0, 100),
        (30, "rows", 100, 100),
        (5, "rows", 0, 100),
        (20, "rows", 40, 100),
    ]
    assert run(clock, calls).splitlines()[1] == "rows: 40 of 100, 2.0 rows/s, 0:00:30 left"


def test_facts_that_say_something_are_shown(clock):
    calls = [(0, "images", 50, 100), (20, "images", 60, 100)]
    line = run(clock, calls, reused=50, damaged=0, cached=True)
    assert line.startswith("images, reused 50, cached: 60 of 100,")


def test_quiet_says_nothing(clock):
    assert run(clock, [(0, "images", 0, 100), (50, "images", 60, 100)], "--quiet") == ""


SHOW = """
import time, click
from featstore.cli import screen
from featstore.cli.common import SWITCHES, Group
screen.Progress.PATIENCE = 0.05
group = Group("featstore"); group.params += SWITCHES
@group.command("go")
def go():
    with screen.Progress() as callback:
        for done in range(0, 400, 10):
            callback("images", done, 400, split="train")
            time.sleep(0.01)
group(["go"])
"""


def test_on_a_terminal_a_bar_that_goes_away():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    child = subprocess.Popen([sys.executable, "-c", SHOW], stderr=theirs, env=environment)
    os.close(theirs)
    seen = io.BytesIO()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                seen.write(part)
        except OSError:  # how Linux says that the other side hung up
            pass
    assert child.wait() == 0
    text = click.unstyle(seen.getvalue().decode())
    assert "images/s, 0:00:0" in text
    assert "390/400" in text
    assert seen.getvalue().endswith(b"\x1b[1A\x1b[2K")  # one line up, and wiped


def swept(clock, *calls) -> list[str]:
    """The lines of calls (seconds later, stage, done, total, facts)."""
    group = Group("featstore")
    group.params += SWITCHES

    @group.command("go")
    def go():
        with Progress() as progress:
            for later, stage, done, total, facts in calls:
                clock[0] += later
                progress(stage, done, total, **facts)

    ran = CliRunner().invoke(group, ["go"])
    assert ran.exit_code == 0, ran.stderr
    return ran.stderr.splitlines()


GROUP = {"phases": {"reading": 5.0, "choosing": 40.0, "solving": 20.0, "scoring": 5.0}}


def test_a_sweep_says_before_it_starts_how_long_it_takes(clock):
    begun = (0, "sweep", 0, 31, GROUP | {"later": 80.0})
    assert swept(clock, begun) == ["31 probes to solve, about 2 min"]
    named = (0, "sweep", 6, 31, GROUP | {"later": 0.0, "layer": "last"})
    assert swept(clock, named) == ["layer last: 25 probes to solve, about 70 s"]


def test_a_sweep_has_one_bar_that_never_goes_back_and_never_ends_too_early(clock):
    calls = [(0, "sweep", 0, 31, GROUP | {"later": 30.0}), (4, "rows", 900, 900, {})]
    calls += [
        (1, "penalties", 0, 26, {}),
        (11, "penalties", 3, 26, {}),
        (10, "penalties", 9, 26, {}),
    ]
    calls += [(30, "penalties", 26, 26, {})]  # 52 s of what was to take 40
    calls += [(1, "probes", 0, 9, {}), (10, "probes", 5, 9, {}), (1, "probes", 0, 17, {})]
    calls += [(1, "test rows", 9, 9, {}), (1, "test rows", 9, 9, {}), (10, "rows", 1, 9, {})]
    lines = swept(clock, *calls)
    assert lines[1] == "choosing penalties on train rows: 16 %, about 80 s left"
    assert lines[3] == "choosing penalties on train rows: 50 %, over 60 s left"
    assert "solving: " in lines[4]
    assert "scoring test rows: " in lines[-1]
    shares = [int(line.split(": ")[1].partition(" %")[0]) for line in lines[1:]]
    assert shares == sorted(shares)
    assert shares[-1] < 100
    assert not [line for line in lines if "0 s left" in line and "about 0" in line]


def layers(done: int, later: float = 0, **facts) -> tuple:
    """The call that begins the next of three layers."""
    return (later, "layers", done, 3, {"seconds": [10.0, 20.0, 40.0]} | facts)


def of_a_layer(name: str, seconds: float) -> tuple:
    """The call that begins the only group of its sweep."""
    phases = dict.fromkeys(("reading", "solving"), seconds / 2)
    return (0, "sweep", 0, 31, {"phases": phases, "later": 0.0, "layer": name})


def test_several_sweeps_have_one_time_left_that_does_not_start_anew(clock):
    over = (0, "sweep", 31, 31, {})
    calls = [layers(0), of_a_layer("one", 10.0), (10, "rows", 1, 9, {}), over]
    # the first took twice as long as it was to take, and so will the others
    calls += [layers(1, later=10), of_a_layer("two", 20.0), (10, "rows", 1, 9, {})]
    calls += [(20, "probes", 1, 9, {}), over, layers(2, later=10), of_a_layer("three", 40.0)]
    calls += [(30, "rows", 1, 9, {}), (70, "probes", 1, 9, {}), (50, "probes", 1, 9, {})]
    calls += [over, layers(3), (1, "rows", 0, 100, {}), (20, "rows", 40, 100, {})]
    lines = swept(clock, *calls)
    assert lines == [
        "3 layers to do, about 70 s",
        "layer one: reading rows: 0/3 layers, over 60 s left",
        "layers: 1/3 layers, about 2 min left",
        "layer two: reading rows: 1/3 layers, about 2 min left",
        "layer two: solving: 1/3 layers, about 2 min left",
        "layers: 2/3 layers, about 80 s left",
        "layer three: reading rows: 2/3 layers, about 50 s left",
        "layer three: solving: 2/3 layers, about 40 s left",
        "layer three: solving: 2/3 layers, longer than expected",
        "rows: 40 of 100, 2.0 rows/s, 0:00:30 left",
    ]


def test_what_is_there_already_says_nothing_of_the_pace(clock):
    calls = [layers(0), layers(1), of_a_layer("two", 20.0), (10, "rows", 1, 9, {})]
    assert swept(clock, *calls)[1] == "layer two: reading rows: 1/3 layers, about 50 s left"


def test_parts_of_which_nobody_knows_how_long_they_take_are_counted(clock):
    unknown = {"seconds": (), "of": "tables/dr"}
    calls = [
        (0, "analyses", 0, 9, unknown),
        (11, "rows", 1, 9, {}),
        (11, "analyses", 4, 9, unknown),
    ]
    lines = swept(clock, *calls)
    assert lines == ["rows: 0/9 analyses", "tables/dr: 4/9 analyses"]


def test_an_extraction_among_the_parts_says_how_far_it_has_come(clock):
    calls = [layers(0), (0, "images", 0, 100, {}), (12, "images", 25, 100, {})]
    assert swept(clock, *calls)[1] == "images: 0/3 layers, about 100 s left"  # 36 + 20 + 40


def test_a_bar_of_several_sweeps_never_goes_back_and_keeps_its_count_at_60_columns(
    clock, monkeypatch
):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    shares, drawn = [], []

    def draw(self):
        task = self.bars.tasks[0]
        shares.append(task.completed)
        console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
        console.print(self.bars.get_renderable())
        drawn.append(console.file.getvalue().rstrip("\n"))

    shown = Progress._show
    monkeypatch.setattr(
        Progress,
        "_show",
        lambda self, now: (shown(self, now), draw(self)) if self.bars else shown(self, now),
    )
    over = (0, "sweep", 31, 31, {})
    calls = [layers(0), of_a_layer("one", 10.0)]
    calls += [(1, "rows", n, 9, {}) for n in range(9)] + [over, layers(1), of_a_layer("two", 500.0)]
    calls += [(1, "rows", n, 9, {}) for n in range(9)] + [over, layers(2), of_a_layer("three", 4.0)]
    calls += [(1, "rows", n, 9, {}) for n in range(9)]
    swept(clock, *calls)
    assert len(shares) > 20
    assert shares == sorted(shares)
    assert shares[-1] < 1000
    assert all(
        re.search(r"[012]/3 layers, (about|over) \d+ (s|min) left$|longer than expected$", line)
        for line in drawn
    )
    assert max(map(len, drawn)) <= 60


def test_other_work_after_a_sweep_is_shown_as_ever(clock):
    calls = [(0, "sweep", 0, 31, GROUP), (1, "rows", 1, 9, {}), (9, "sweep", 31, 31, {})]
    calls += [(1, "rows", 0, 100, {}), (20, "rows", 40, 100, {})]
    assert swept(clock, *calls)[1:] == ["rows: 40 of 100, 2.0 rows/s, 0:00:30 left"]


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("counted", [True, False])
def test_bars_cut_neither_what_is_done_nor_what_is_left(width, counted):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bars = tables.bars(console, lambda: None, counted)
    pace = "312 images/s, 0:02:10 left"
    bars.add_task("images, reused 1,234, damaged 17", total=56_789, completed=1_234, pace=pace)
    console.print(bars.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert pace in line
    assert ("1234/56789" in line) == counted
    assert line.startswith("images, reused 1,234, damaged 17" if width == 200 else "imag")


def test_no_time_is_left_of_nothing_only(clock):
    calls = [(0, "images", 0, 1000), (30, "images", 999, 1000), (10, "images", 1000, 1000)]
    lines = run(clock, calls).splitlines()
    assert lines[0].endswith("33 images/s, 0:00:01 left")
    assert lines[1].endswith("25 images/s, finishing")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("said", "switches", "seen"),
    [("", [], "go: at work ...\n"), ("here", [], "here\n"), ("", ["--quiet"], "")],
)
def test_a_command_that_says_nothing_says_that_it_is_at_work(monkeypatch, said, switches, seen):
    monkeypatch.setattr(common, "_SILENCE", 0.2)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    group = Group("featstore")
    group.params += SWITCHES

    @group.command("go")
    def go():
        if said:
            notice(said)
        time.sleep(0.6)

    group([*switches, "go"], standalone_mode=False)
    assert terminal.getvalue() == seen
