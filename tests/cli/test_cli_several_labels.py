"""Several labels at once: from arrays, tables and objects into stores and probes."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from pyarrow import parquet

import featstore
from featstore import data
from featstore.cli import main
from featstore.data.columns import Columns
from featstore.errors import DatasetError
from featstore.probe import sweep
from featstore.probe.errors import UsageError
from featstore.probe.rows import OneLabel

NAMES = ["cat", "dog", "owl"]
LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], np.uint8)
LISTS = [["cat"], ["dog", "cat"], [], ["owl", "dog"]]


def drawn(n, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6)).astype(np.float32)
    return x, (x[:, :3] + random.normal(size=(n, 3)) > 0.5).astype(int)


@pytest.fixture
def store(tmp_path):
    return featstore.import_arrays(drawn(90, 1), drawn(60, 2), tmp_path / "s.zarr", classes=NAMES)


def run(*arguments, status=0):
    ran = CliRunner().invoke(main, [*map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_a_store_keeps_zeros_and_ones_with_their_names(store, tmp_path):
    tap = store.tap("train", "features")
    assert (tap.n_classes, tap.labels().dtype, tuple(tap.classes)) == (0, np.uint8, tuple(NAMES))
    np.testing.assert_array_equal(tap.labels(), drawn(90, 1)[1])
    assert "3 labels" in repr(tap)
    assert "3 labels" in repr(store)
    copy = featstore.convert(store.path, tmp_path / "s.h5")
    np.testing.assert_array_equal(copy.labels("test"), drawn(60, 2)[1])
    featstore.export(store.path, tmp_path / "s.parquet", [0, 1])
    found = parquet.read_table(tmp_path / "s.parquet")["label"].to_pylist()
    np.testing.assert_array_equal(found, np.concatenate([drawn(90, 1)[1], drawn(60, 2)[1]]))


def test_a_split_whose_rows_have_one_label_each_is_of_several_all_the_same(tmp_path):
    one_hot = np.eye(3, dtype=int)[np.arange(60) % 3]
    test = drawn(60, 2)[0], one_hot
    store = featstore.import_arrays(drawn(90, 1), test, tmp_path / "s.zarr")
    assert store.spec.targets == ("label0", "label1", "label2")
    np.testing.assert_array_equal(store.labels("test"), one_hot)


def test_a_writer_takes_them(tmp_path):
    x, y = drawn(90, 1)
    with featstore.writer(tmp_path / "w.zarr", classes=NAMES) as writer:
        writer.append(x, y)
        writer.append(*drawn(60, 2), split="test")
    np.testing.assert_array_equal(featstore.open(tmp_path / "w.zarr").labels("train"), y)


def test_tables_have_them_in_columns_of_0_and_1_or_as_lists(tmp_path):
    table = {"text": list("abcd"), "split": ["train"] * 4}
    columns = {name: LABELS[:, place] for place, name in enumerate(NAMES)}
    pd.DataFrame(table | columns).to_csv(tmp_path / "t.csv", index=False)
    parquet.write_table(pa.table(table | {"tags": LISTS}), tmp_path / "t.parquet")
    asked = Columns(targets=tuple(NAMES), kind="class")
    for name, how in (("csv:t.csv", asked), ("parquet:t.parquet", Columns(label="tags"))):
        rows = data.load(name, "train", data_dir=tmp_path, columns=how)
        assert rows.targets == tuple(NAMES)
        np.testing.assert_array_equal(rows.labels, LABELS)
        assert rows.labels.dtype == np.uint8
    table["text"][1] = "e"
    wrong = table | columns | {"dog": [0, 3, 1, 0]}
    pd.DataFrame(wrong).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(DatasetError, match=r"row 1 of the train split .* has '?3'? in dog"):
        data.load("csv:w.csv", "train", data_dir=tmp_path, columns=asked)


def test_archives_and_sets_of_hugging_face_have_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = np.zeros((4, 8, 8), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None]
    arrays = {"x_train": images, "y_train": LABELS, "x_test": images, "y_test": LABELS[:, ::-1]}
    np.savez(tmp_path / "a.npz", **arrays, classes=NAMES)
    rows = data.load("npz:a.npz", "test", data_dir=tmp_path)
    assert rows.targets == tuple(NAMES)
    np.testing.assert_array_equal(rows.labels, LABELS[:, ::-1])
    label = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    lists = [[NAMES.index(name) for name in own] for own in LISTS]
    found = datasets.Dataset.from_dict({"text": list("abcd"), "label": lists}, features=features)
    datasets.DatasetDict({"train": found}).save_to_disk(tmp_path / "hf")
    rows = data.load("hf:hf", "train", data_dir=tmp_path)
    assert rows.targets == tuple(NAMES)
    np.testing.assert_array_equal(rows.labels, LABELS)


def test_objects_have_them_as_vectors(tmp_path):
    own = [(torch.full((3,), float(row)), torch.from_numpy(LABELS[row])) for row in range(4)]
    net = torch.nn.Sequential(torch.nn.Linear(3, 5))
    sets = {"train": own, "test": own}
    featstore.extract(net, sets, taps=["0"], out=tmp_path / "own.zarr", dtype="float32")
    store = featstore.open(tmp_path / "own.zarr")
    assert store.spec.binary
    np.testing.assert_array_equal(store.labels("test"), LABELS)


def test_the_command_shows_and_saves_what_the_library_finds(store, tmp_path):
    out, per_class = tmp_path / "r.csv", tmp_path / "c.csv"
    ran = run("probe", store.path, "--fractions", "0.5", "--seeds", 2, "--solver", "ridge",
              "--l2", "0.1", "--out", out, "--save-per-class", per_class)  # fmt: skip
    rows = store.tap("train", "features"), store.tap("test", "features")
    found = sweep(*rows, fractions=0.5, seeds=2, solver="ridge", l2=0.1)
    assert pd.read_csv(out)["auroc"].tolist() == found.table["auroc"].tolist()
    assert "AUROC" in ran.stdout
    assert pd.read_csv(per_class)["class"].unique().tolist() == NAMES


def test_labels_are_predicted_and_again_by_saved_probes(store, tmp_path):
    files = tmp_path / "p.csv", tmp_path / "p.safetensors", tmp_path / "again.csv"
    asked = ["--fractions", 0.5, "--seeds", 1, "--solver", "lda", "--l2", 0.1]
    saved = ["--save-predictions", files[0], "--save-weights", files[1]]
    run("probe", store.path, *asked, *saved)
    rows = store.tap("train", "features"), store.tap("test", "features")
    given = sweep(*rows, fractions=0.5, solver="lda", l2=0.1).predict(rows[1])
    written = pd.read_csv(files[0])
    assert written[[f"label:{name}" for name in NAMES]].to_numpy().tolist() == given.labels.tolist()
    own = written[[f"probe_0:{name}" for name in NAMES]].to_numpy() > 0
    assert own.tolist() == given.classes[:, 0].tolist()
    ran = run("predict", store.path, "--probes", files[1], "--out", files[2])
    assert "test macro F1" in ran.stdout
    assert f"{given.table['macro_f1'][1]:.3f}" in ran.stdout
    pd.testing.assert_frame_equal(pd.read_csv(files[2]), written)


def test_one_label_alone_is_a_class(store, tmp_path):
    out = tmp_path / "dog.csv"
    run("probe", store.path, "--label", "dog", "--fractions", 1, "--seeds", 1, "--solver", "lda",
        "--out", out)  # fmt: skip
    pairs = ((x, y[:, 1]) for x, y in (drawn(90, 1), drawn(60, 2)))
    found = sweep(*pairs, fractions=1.0, solver="lda")
    assert pd.read_csv(out)["accuracy"].tolist() == found.table["accuracy"].tolist()
    assert OneLabel(store.tap("test", "features"), "dog").classes == ("no dog", "dog")
    said = run("probe", store.path, "--label", "cow", "--fractions", 1, "--seeds", 1, status=2)
    assert "there is no label 'cow': there are cat, dog, owl" in said.output
    with pytest.raises(UsageError, match="each row has one class"):
        OneLabel(next(iter([(np.eye(3), np.arange(3))])), 0)


def test_groups_are_told_by_ids_or_by_a_table(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 5)).astype(np.float32), np.arange(80) // 2 % 2
    x[:, 0] += 3 * y
    who = [f"p{number // 8}" for number in range(80)]
    ids = [f"{one}/{number}.png" for number, one in enumerate(who)]
    other = [f"q{one}" for one in ids]
    store = featstore.import_arrays((x, y, ids), (x, y, other), tmp_path / "g.zarr")
    patient = who + ["q" + one for one in who]
    table = pd.DataFrame({"age": 3, "image": ids + other, "patient": patient})
    table.to_csv(tmp_path / "who.csv", index=False)
    said = []
    for place, groups in enumerate(("id:^([^/]+)/", f"{tmp_path / 'who.csv'}:patient")):
        out = tmp_path / f"{place}.csv"
        ran = run("probe", store.path, "--fractions", "0.5", "--seeds", 2, "--solver", "ridge",
                  "--groups", groups, "--out", out)  # fmt: skip
        said.append(pd.read_csv(out))
        assert "80 test rows of 10 groups" in " ".join(ran.stdout.split())
    pd.testing.assert_frame_equal(*said)
    pairs = (x, y), (x, y)
    found = sweep(*pairs, fractions=0.5, seeds=2, solver="ridge",
                  groups=(who, ["q" + one for one in who]))  # fmt: skip
    assert said[0]["l2"].tolist() == found.table["l2"].tolist()
    for wrong, told in (
        ("id:^x", "'^x' is not in the id 'p0/0.png'"),
        ("who", "give id:PATTERN, or FILE:COLUMN"),
        (f"{tmp_path / 'who.csv'}:doctor", "has no column 'doctor': it has age, image, patient"),
    ):
        ran = run("learn", store.path, "--shots", 1, "--groups", wrong, status=2)
        assert told in " ".join(ran.output.split())
