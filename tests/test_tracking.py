"""The page that sends a sweep's rows to MLflow or Weights & Biases is run as it stands."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featstore import probe

PAGE = (Path(__file__).parents[1] / "docs/guide/track.md").read_text()


def code(title: str) -> str:
    part = PAGE[PAGE.index(f"## {title}") :]
    return re.search(r"```python\n(.*?)```", part, flags=re.DOTALL)[1]


@pytest.fixture
def names():
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=(60, 20)).astype(np.float32), np.arange(60) % 2) for _ in range(2)]
    return {"probe": probe, "train": rows[0], "test": rows[1]}


def expected(names) -> list[float]:
    swept = probe.sweep(
        names["train"], names["test"], fractions=0.1, seeds=5, solver="ridge", tap="last"
    )
    # the whole layer, which is one probe for all seeds, comes once
    parts = swept.table[swept.table["fraction"] < 1]["accuracy"].tolist()
    return sorted([*parts, swept.table["accuracy"].iloc[-1]])


def test_rows_go_to_the_files_of_mlflow(names, tmp_path, monkeypatch):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: pip install mlflow-skinny")
    # newer versions refuse files without it; a folder that is there is taken for a store
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    exec(code("MLflow"), names)
    runs = mlflow.search_runs()
    assert sorted(runs["metrics.accuracy"]) == expected(names)
    assert set(runs["params.tap"]) == {"last"}


def test_rows_go_to_what_mlflow_is_called_by(names, monkeypatch):
    """Whatever is installed: the calls of the page, noted."""
    runs = []

    class Run:
        def __enter__(self):
            runs.append({})

        def __exit__(self, *_):
            pass

    stand_in = SimpleNamespace(
        start_run=lambda run_name: Run(),
        log_params=lambda given: runs[-1].update(given),
        log_metric=lambda name, value: runs[-1].update({name: value}),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    exec(code("MLflow"), names)
    assert sorted(run["accuracy"] for run in runs) == expected(names)
    assert {run["seed"] for run in runs if run["fraction"] == 0.1} == {1, 2, 3, 4, 5}


def test_rows_go_to_weights_and_biases(names, monkeypatch):
    logged, ended = [], []
    run = SimpleNamespace(log=logged.append, finish=lambda: ended.append(1))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    exec(code("Weights & Biases"), names)
    assert sorted(row["accuracy"] for row in logged) == expected(names)
    assert ended
