"""Failures of the command line: message, exit status, traceback only when asked for."""

import errno
import signal
import subprocess
import sys
import warnings

import click
import pytest
from click.testing import CliRunner

import featstore.errors
import featstore.probe.errors
from featstore.cli.common import SWITCHES, Group

FAILURES = [
    (featstore.errors.StoreDamaged("block 3 is damaged"), 1, "block 3 is damaged"),
    (featstore.errors.UsageError("no split 'val'"), 2, "no split 'val'"),
    (featstore.probe.errors.DataError("row 7 is not finite"), 1, "row 7 is not finite"),
    (featstore.probe.errors.UsageError("fraction 2 is too large"), 2, "fraction 2 is too large"),
    (OSError(errno.ENOSPC, "No space left", "out.csv"), 1, "out.csv: No space left"),
    (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero"),
]


def failing(error: BaseException) -> Group:
    """A group with one command, `probe`, that raises."""
    group = Group("featstore")
    group.params += SWITCHES

    @group.command("probe")
    def command():
        raise error

    return group


@pytest.mark.parametrize(("error", "status", "message"), FAILURES)
def test_an_error_is_one_line_and_a_status(error, status, message):
    ran = CliRunner().invoke(failing(error), ["probe"])
    assert ran.exit_code == status
    assert ran.stderr.startswith(f"Error: {message}")
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stdout == ""


def test_a_warning_is_one_line_without_its_place_in_the_code():
    group = Group("featstore")
    group.params += SWITCHES

    @group.command("probe")
    def command():
        # what is an error in the tests is a warning to a person
        warnings.simplefilter("default")
        warnings.warn(
            "the device ran out of memory", featstore.probe.errors.DeviceWarning, stacklevel=1
        )

    ran = CliRunner().invoke(group, ["probe"])
    assert ran.exit_code == 0
    assert ran.stderr == "Warning: the device ran out of memory\n"


def test_an_unexpected_error_names_the_switch_for_more():
    ran = CliRunner().invoke(failing(KeyError("x")), ["probe"])
    assert "add --debug for the traceback" in ran.stderr


@pytest.mark.parametrize("arguments", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_lets_the_traceback_through(arguments):
    error = featstore.probe.errors.DataError("row 7 is not finite")
    assert CliRunner().invoke(failing(error), arguments).exception is error


def test_debug_by_the_environment(monkeypatch):
    monkeypatch.setenv("FEATSTORE_DEBUG", "1")
    error = featstore.probe.errors.DataError("row 7 is not finite")
    assert CliRunner().invoke(failing(error), ["probe"]).exception is error


def test_interrupt_says_what_is_kept():
    ran = CliRunner().invoke(failing(KeyboardInterrupt()), ["probe"])
    assert ran.exit_code == 130
    assert "Interrupted: finished probes are in the file of --out" in ran.stderr


def test_a_click_error_keeps_its_own_status():
    ran = CliRunner().invoke(failing(click.BadParameter("no such thing")), ["probe"])
    assert ran.exit_code == 2
    assert "no such thing" in ran.stderr


SLEEP = """
import time
from featstore.cli.common import SWITCHES, Group
group = Group("featstore"); group.params += SWITCHES
@group.command("extract")
def extract():
    print("ready", flush=True)
    time.sleep(60)
group(["extract"])
"""


def test_ctrl_c_ends_a_process_with_130_and_a_sentence():
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=20)[1]
    assert child.returncode == 130
    assert said.startswith("\nInterrupted: every block committed so far is kept; run the same")
    assert "Traceback" not in said
