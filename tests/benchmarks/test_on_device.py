"""Questions to a GPU fit into two calls, and are rehearsed on the CPU."""

import json
import sys

import pytest

from benchmarks import on_device
from benchmarks.on_device import Question


@pytest.mark.parametrize("call", on_device.CALLS)
def test_a_call_takes_less_than_ten_minutes(call):
    questions = on_device.CALLS[call]
    assert sum(question.limit for question in questions) < 600
    assert len({question.name for question in questions}) == len(questions)


@pytest.mark.parametrize(
    ("code", "limit", "ended"),
    [("", 60, 0), ("raise SystemExit(3)", 60, 3), ("while True: pass", 1, "limit")],
)
def test_each_question_is_a_process_that_costs_its_own_time_alone(
    tmp_path, monkeypatch, code, limit, ended
):
    (tmp_path / "asked.py").write_text(f"print('heard', flush=True)\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    question = Question("one of them", ("missing",), ("asked", "JSON"), limit)
    answer = on_device.asked(question, tmp_path, rehearse=True)
    assert answer["ended"] == ended
    assert (tmp_path / "one-of-them.txt").read_text().startswith("heard")


def test_answers_are_written_as_they_come(tmp_path, monkeypatch, capsys):
    failing = Question("fails", ("no_such_module",), ("no_such_module",), 60)
    monkeypatch.setitem(on_device.CALLS, 1, (failing,))
    arguments = ["on_device", "--call", "1", "--out", str(tmp_path), "--rehearse"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert on_device.main() == 1
    found = json.loads((tmp_path / "answers-1.json").read_text())
    assert [(one["question"], one["ended"]) for one in found["answers"]] == [("fails", 1)]
    assert found["rehearsed"]
    assert "fails" in capsys.readouterr().out
