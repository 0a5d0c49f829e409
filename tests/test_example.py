"""The worked example of the docs runs, and shows what its file says that it shows."""

import json
import re
from pathlib import Path

import pytest
from notebooks import executed, rewrite

EXAMPLE = Path(__file__).parents[1] / "docs" / "example.ipynb"


def skeleton(cell: dict) -> list[tuple[str, str]]:
    """Return a code cell's kinds of output and their words: numbers differ between machines."""
    found = []
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text")})
        for kind, shown in data.items():
            words = "" if kind == "image/png" else re.sub(r"[\d.,]+", "#", "".join(shown))
            found.append((kind, words))
    return found


def test_the_example_runs_and_shows_what_its_file_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = json.loads(EXAMPLE.read_text())
    made = executed(kept)
    assert [skeleton(cell) for cell in made["cells"] if cell["cell_type"] == "code"] == [
        skeleton(cell) for cell in kept["cells"] if cell["cell_type"] == "code"
    ]
    assert (tmp_path / "accuracy.pdf").stat().st_size > 5000
    assert (tmp_path / "results.csv").exists()


def test_the_example_shows_a_picture_of_each_question():
    text = EXAMPLE.read_text()
    assert text.count('"image/png"') >= 7
    assert "/tmp" not in text


@pytest.fixture
def notebook(tmp_path) -> Path:
    cells = [
        {"cell_type": "markdown", "source": ["# *"]},
        {"cell_type": "code", "source": ["a = 2\n", "print('b')\n", "a"], "outputs": []},
        {"cell_type": "code", "source": ["c = a"], "outputs": ["old"]},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    return tmp_path / "a.ipynb"


def test_cells_keep_what_they_print_and_their_last_value(notebook, monkeypatch):
    monkeypatch.setenv("FEATSTORE_HOME", "")  # put back at the end
    rewrite(notebook)
    first, second = json.loads(notebook.read_text())["cells"][1:]
    assert [output["output_type"] for output in first["outputs"]] == ["stream", "execute_result"]
    assert first["outputs"][0]["text"] == ["b\n"]
    assert first["outputs"][1]["data"] == {"text/plain": ["2"]}
    assert (second["outputs"], second["execution_count"]) == ([], 2)
