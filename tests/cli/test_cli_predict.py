import numpy as np
import pandas as pd
import pytest
from conftest import N_TEST, fill, spec_of_clusters
from test_cli_commands import FRACTIONS, run

import featstore
from featstore import probe
from featstore.probe.results.reading import read_predictions


@pytest.fixture
def saved(tiny_store, tmp_path):
    """The file of nine probes of the tiny store."""
    path = tmp_path / "probes.safetensors"
    run("probe", tiny_store.path, *FRACTIONS, "--save-weights", path, "--per-class",
        tmp_path / "classes.csv", "--save-predictions", tmp_path / "own.npz",
        "--out", tmp_path / "results.csv")  # fmt: skip
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_saved_probes_predict_what_the_sweep_found(tiny_store, saved, tmp_path, suffix):
    out = tmp_path / f"predictions{suffix}"
    ran = run("predict", tiny_store.path, "--weights", saved, "--out", out)
    assert f"wrote {out}" in ran.stderr
    results = pd.read_csv(tmp_path / "results.csv")
    with np.load(tmp_path / "own.npz") as held:
        labels, classes = held["labels"], held["classes"]
    assert (classes == labels[:, None]).mean(0).tolist() == results["accuracy"].tolist()
    if suffix == ".npz":
        with np.load(out) as held:
            assert (held["classes"] == classes).all()
            assert held["class_names"].tolist() == held["label_names"].tolist() == list("abcd")
    else:
        table = (pd.read_csv if suffix == ".csv" else pd.read_parquet)(out)
        names = np.array(list("abcd"))
        assert (table.filter(regex=r"^probe_\d").to_numpy() == names[classes]).all()
        assert (table["label"] == names[labels]).all()
        assert (table["label_number"] == labels).all()
    again, found = read_predictions(out)
    assert (again == labels).all()
    assert ((found == again[:, None]) == (classes == labels[:, None])).all()
    full = results[results["fraction"] == 1]["accuracy"].iloc[0]
    assert f"{full:.3f}" in ran.stdout


def test_accuracy_by_class_is_saved(saved, tmp_path):
    table = pd.read_csv(tmp_path / "classes.csv")
    assert table["class"].tolist() == list("abcd") * 9
    means = table.groupby(["seed", "fraction"])["class_accuracy"].mean()
    results = pd.read_csv(tmp_path / "results.csv").set_index(["seed", "fraction"])["accuracy"]
    assert np.allclose(means, results.sort_index())  # the classes have as many rows each


def test_another_split_is_predicted(tiny_store, saved, tmp_path):
    out = tmp_path / "train.csv"
    run("predict", tiny_store.path, "--weights", saved, "--split", "train", "--out", out)
    assert len(pd.read_csv(out)) == 240


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "other"}, "for features of backbone clusters, and these are of backbone oth"),
        ({"weights": "sha256:00"}, "of weights none, and these are of weights sha256:00"),
        ({"transform": "flip"}, "of transform none, and these are of transform flip"),
        (
            {"taps": (featstore.Tap(name="penultimate", dim=64, pooling="avg"),)},
            "of pooling none, and these are of pooling avg",
        ),
    ],
)
def test_a_store_of_other_features_is_refused(tmp_path, saved, changes, message):
    other = fill(featstore.create(tmp_path / "other.zarr", spec_of_clusters(**changes)))
    out = tmp_path / "predictions.csv"
    ran = run("predict", other.path, "--weights", saved, "--out", out, status=1)
    assert message in ran.stderr
    assert not out.exists()


def test_other_images_through_the_same_backbone_are_welcome(tmp_path, saved):
    classes = spec_of_clusters(dataset="more", classes=tuple("wxyz"))
    more = fill(featstore.create(tmp_path / "more.zarr", classes))
    ran = run("predict", more.path, "--weights", saved, "--out", tmp_path / "p.csv")
    assert "no scores: the classes of this store are not those of the probes" in ran.stderr
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == N_TEST
    assert set(table["label"]) == set("wxyz")
    assert set(table["probe_0"]) <= set("abcd")


def test_a_file_without_probes_is_refused(tiny_store, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not safetensors")
    ran = run("predict", tiny_store.path, "--weights", path, status=1)
    assert "cannot be read as safetensors" in ran.stderr
    run("predict", tiny_store.path, "--weights", tmp_path / "none.safetensors", status=2)


def test_a_resumed_sweep_has_no_weights_to_save(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    ran = run("probe", tiny_store.path, *FRACTIONS, "--out", out, "--resume",
              "--save-weights", tmp_path / "p.safetensors", status=2)  # fmt: skip
    assert "leave it out to solve every probe" in " ".join(ran.stderr.split())
    assert not out.exists()


def test_the_library_does_the_same(tiny_store, saved):
    predicted = probe.predict(saved, tiny_store.tap("test", "penultimate"))
    assert predicted.classes.shape == (N_TEST, 9)
