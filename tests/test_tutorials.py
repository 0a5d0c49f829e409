"""Every command of the tutorials runs in its order in an empty directory, and makes its files."""

import itertools
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from featstore.cli import main

PAGES = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.md"))
FIRST = PAGES[0]
WRITES = ("--out", "--plot", "--save-per-class", "--save-predictions", "--matrix")


def steps(page: str) -> list[tuple[str, str]]:
    """The commands of a page and its blocks of Python, in their order."""
    joined = page.replace("\\\n", " ")
    either = r"^    (featstore [^\n]*)$|```python\n(.*?)```"
    return re.findall(either, joined, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tutorials_from_an_empty_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "88")
    for page in PAGES:
        (tmp_path / page.stem).mkdir()
        monkeypatch.chdir(tmp_path / page.stem)
        found = steps(page.read_text())
        assert len(found) >= 2
        for command, code in found:
            if code:
                exec(code, {"__name__": "tutorial"})
                said = capsys.readouterr().out
                assert not said or "of the features keep" in said
                continue
            words = shlex.split(command)[1:]
            if words == ["quickstart"] and page not in PAGES[:4]:
                continue  # its store is there
            ran = CliRunner().invoke(main, words)
            assert ran.exit_code == 0, f"{page.name}: {command}\n{ran.output}"
            if words == ["quickstart"]:
                made = "stored 5,000 images" if page == FIRST else "reusing"
                assert made in ran.stderr
                look_at_the_quickstart(ran.stdout)
            for option, name in itertools.pairwise(words):
                assert option not in WRITES or Path(name).exists()


def look_at_the_quickstart(said: str) -> None:
    """Hold what it prints and writes."""
    assert "10 % of the features keep" in said
    worth = dict(
        re.findall(r"the (raw pixels|untrained network|trained one) .* (0\.\d{3})\n", said)
    )
    others = float(worth["raw pixels"]), float(worth["untrained network"])
    assert 0.75 < max(others) < float(worth["trained one"]) - 0.03
    assert "helps here" in said
    folder = Path("featstore-quickstart")
    sides = ("", ".rows.npz", ".provenance.json", ".sha256")
    made = {*(f"results.csv{side}" for side in sides), "accuracy.png"}
    assert {path.name for path in folder.iterdir()} == made
    table = pd.read_csv(folder / "results.csv")
    assert sorted(table["fraction"].unique()) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    means = table.groupby("fraction")["accuracy"].mean()
    assert means[1.0] > 0.88  # trained weights see digits; random features of this size do not
    assert means[0.1] > 0.75
