"""Sets of Hugging Face's `datasets`, saved by the library itself, and hubs that do not answer."""

import io
import json
import pickle
import sys

import datasets as library
import numpy as np
import pyarrow as pa
import pytest
from fake_sets import LABELS, class_folders, grey
from PIL import Image
from pyarrow import parquet

from featstore import data
from featstore.data.columns import Columns
from featstore.errors import DatasetError, DownloadRefused, UsageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache that only this test sees."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def images_of(split):
    return [Image.new("RGB", (12, 9), (grey(split, label),) * 3) for label in LABELS[split]]


def pictures(split, **columns):
    features = library.Features(
        {"img": library.Image(), "fine": library.ClassLabel(names=["cat", "dog"])}
    )
    return library.Dataset.from_dict(
        {"img": images_of(split), "fine": LABELS[split]}, features=features
    )


@pytest.fixture
def saved(tmp_path):
    """A set of two splits as `save_to_disk` leaves it."""
    folder = tmp_path / "pets"
    library.DatasetDict({"train": pictures("train"), "validation": pictures("test")}).save_to_disk(
        folder
    )
    return folder


def check_pictures(rows, split):
    assert rows.labels.tolist() == LABELS[split]
    for row, label in enumerate(rows.labels):
        image, given = rows[row]
        assert (image.mode, given) == ("RGB", label)
        assert np.abs(np.asarray(image, int) - grey(split, label)).max() <= 2


def test_a_folder_of_save_to_disk(saved):
    train = data.load(f"hf:{saved}", "train")
    assert (train.dataset, train.classes, train.modality) == ("hf:pets", ("cat", "dog"), "image")
    check_pictures(train, "train")
    check_pictures(data.load("hf:pets", "test", data_dir=saved.parent), "test")
    with pytest.raises(UsageError, match="hf:pets has no split 'extra'; it has train, validation"):
        data.load(f"hf:{saved}", "extra")
    again = pickle.loads(pickle.dumps(train))
    check_pictures(again, "train")


def test_one_split_saved_by_itself(tmp_path):
    pictures("train").save_to_disk(tmp_path / "one")
    check_pictures(data.load(f"hf:{tmp_path / 'one'}", "train"), "train")


@pytest.mark.parametrize("named", ["rows", "split"])
def test_rows_of_files_elsewhere_are_not_taken(saved, tmp_path, named):
    """A folder that somebody sent names a file outside of it, which nobody gave."""
    train = saved / "train"
    if named == "rows":
        state = json.loads((train / "state.json").read_text())
        (train / state["_data_files"][0]["filename"]).rename(tmp_path / "moved.arrow")
        state["_data_files"] = [{"filename": "../../moved.arrow"}]
        (train / "state.json").write_text(json.dumps(state))
    else:
        train.rename(tmp_path / "train")
        (saved / "dataset_dict.json").write_text('{"splits": ["../train", "validation"]}')
    with pytest.raises(DatasetError, match="outside of it; copy that into it"):
        data.load(f"hf:{saved}", "train")


def test_rows_that_were_selected_before_they_were_saved(tmp_path):
    pictures("train").select([3, 0]).save_to_disk(tmp_path / "two")
    rows = data.load(f"hf:{tmp_path / 'two'}", "train")
    assert rows.labels.tolist() == [1, 0]
    assert rows[0][0].getpixel((0, 0)) == (grey("train", 1),) * 3


def test_a_folder_of_parquet_files_as_the_hub_keeps_them(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in LABELS:
        pictures(split).to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    for split in LABELS:
        rows = data.load(f"hf:{tmp_path / 'set'}", split)
        check_pictures(rows, split)
        assert rows.classes == ("cat", "dog")


def test_a_folder_of_image_folders_reads_the_files_where_they_lie(tmp_path):
    class_folders(tmp_path / "set", ["cat", "dog"])
    rows = data.load(f"hf:{tmp_path / 'set'}", "train")
    assert rows.classes == ("cat", "dog")
    for row, label in enumerate([0, 0, 1, 1]):
        image, given = rows[row]
        assert given == label
        assert np.abs(np.asarray(image, int) - grey("train", label)).max() <= 2
    assert rows.fingerprint != data.load(f"hf:{tmp_path / 'set'}", "test").fingerprint


def test_fingerprints_are_of_contents(tmp_path):
    """The library's own change from one saving to the next."""
    prints = []
    for name in ("a", "b"):
        pictures("train").save_to_disk(tmp_path / name)
        prints.append(data.load(f"hf:{tmp_path / name}", "train").fingerprint)
    pictures("train").select([1, 0, 2, 3]).save_to_disk(tmp_path / "c")
    prints.append(data.load(f"hf:{tmp_path / 'c'}", "train").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def texts(**columns):
    return library.Dataset.from_dict({"sentence": ["one", "two", "three"], **columns})


def test_texts_with_classes_and_targets(tmp_path):
    texts(label=["b", "a", "b"], score=[1.5, 2.5, 0.0], age=[3, 4, 5]).save_to_disk(tmp_path / "t")

    def load(**names):
        return data.load(f"hf:{tmp_path / 't'}", "train", columns=Columns(**names))

    rows = load()
    assert (rows.modality, rows.classes) == ("text", ("a", "b"))
    assert [rows[row] for row in range(3)] == [("one", 1), ("two", 0), ("three", 1)]
    assert load(label="score").labels.tolist() == [1.5, 2.5, 0.0]
    assert load(targets=("age", "score")).labels.tolist() == [[3, 1.5], [4, 2.5], [5, 0]]
    assert load(text="label", label="age").classes == ("3", "4", "5")
    with pytest.raises(UsageError, match="no column 'kind'; it has sentence, label, score, age"):
        load(label="kind")
    with pytest.raises(DatasetError, match=r"sentence of .* not images; choose another"):
        load(image="sentence")


def test_a_split_without_labels_is_named(tmp_path):
    features = library.Features(
        {"sentence": library.Value("string"), "label": library.ClassLabel(names=["no", "yes"])}
    )
    unlabelled = library.Dataset.from_dict(
        {"sentence": ["a", "b"], "label": [-1, -1]}, features=features
    )
    unlabelled.save_to_disk(tmp_path / "t")
    with pytest.raises(
        DatasetError, match=r"train split .* no label but -1 .* labels are not told"
    ):
        data.load(f"hf:{tmp_path / 't'}", "train")


def test_rows_without_a_label_are_left_out_on_request(tmp_path):
    features = library.Features(
        {"sentence": library.Value("string"), "label": library.ClassLabel(names=["no", "yes"])}
    )
    some = library.Dataset.from_dict(
        {"sentence": list("abcd"), "label": [1, -1, 0, None]}, features=features
    )
    test = library.Dataset.from_dict({"sentence": ["e"], "label": [-1]}, features=features)
    library.DatasetDict(train=some, test=test).save_to_disk(tmp_path / "t")
    with pytest.raises(DatasetError, match=r"has label -1; .*--on-error skip"):
        data.load(f"hf:{tmp_path / 't'}", "train")
    rows = data.load(f"hf:{tmp_path / 't'}", "train", missing_ok=True)
    assert (rows.ids, rows.labels.tolist()) == (["0", "2"], [1, 0])
    assert [one.why[:5] for one in rows.left_out] == ["row 1", "row 3"]
    with pytest.raises(DatasetError, match=r"labels are not told; .*--splits train"):
        data.load(f"hf:{tmp_path / 't'}", "test")


def test_images_that_are_damaged_or_missing_are_rows_that_cannot_be_read(tmp_path):
    good = io.BytesIO()
    images_of("train")[0].save(good, "PNG")
    cells = [{"bytes": good.getvalue()}, {"bytes": b"no image"}, None]
    features = library.Features({"image": library.Image(), "label": library.Value("int64")})
    bad = library.Dataset.from_dict({"image": cells, "label": [0, 1, 1]}, features=features)
    bad.save_to_disk(tmp_path / "bad")
    rows = data.load(f"hf:{tmp_path / 'bad'}", "train")
    assert [one.row for one in data.scan(rows)] == [1, 2]


def test_a_set_chooses_no_file_of_this_machine(tmp_path):
    """A table may name files by path; they count only below the set's own folder."""
    secret = tmp_path / "secret.png"
    Image.new("L", (3, 3)).save(secret)
    (tmp_path / "set").mkdir()
    image = pa.array([{"bytes": None, "path": str(secret)}] * 2)
    table = pa.table({"image": image, "label": [0, 1]})
    features = library.Features({"image": library.Image(), "label": library.Value("int64")})
    table = table.cast(features.arrow_schema)
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    with pytest.raises(DatasetError, match=r"secret.png, outside of the set's own folders"):
        data.load(f"hf:{tmp_path / 'set'}", "train")


def test_folders_and_names_that_hold_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"hf:empty cannot be read: ."):
        data.load("hf:empty", "train", data_dir=tmp_path)
    for name in ("./nowhere", "/no/such/folder", "a/b/c/d", "...", "a b"):
        with pytest.raises(
            DatasetError, match=r"there is no folder .* no name of a set of the hub"
        ):
            data.load(f"hf:{name}", "train")


def test_files_and_addresses_are_no_names(tmp_path):
    (tmp_path / "a.csv").write_text("text,label")
    with pytest.raises(DatasetError, match=r"hf:a.csv is a file; give the folder"):
        data.load("hf:a.csv", "train", data_dir=tmp_path)
    with pytest.raises(DatasetError, match="is no name of a set of the hub"):
        data.load("hf:https://huggingface.co/datasets/owner/set", "train")


def test_a_script_is_never_run(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DatasetError, match="hf:set cannot be read"):
        data.load(f"hf:{tmp_path / 'set'}", "train")
    assert not (tmp_path / "ran").exists()


def test_a_hub_that_cannot_be_reached_names_the_remedy(tmp_path):
    with pytest.raises(DownloadRefused) as caught:
        data.load("hf:owner/some-set:config", "train", data_dir=tmp_path)
    for part in ("hf:owner/some-set:config", "from https://huggingface.co: ", "give hf:DIR"):
        assert part in str(caught.value)
    assert "not cached" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_library_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r'pip install "featstore-probe\[hf\]"'):
        data.load("hf:mnist", "train")


def test_a_library_that_runs_scripts_is_refused(monkeypatch):
    monkeypatch.setattr(library, "__version__", "3.6.0")
    with pytest.raises(DatasetError, match=r"datasets 3\.6\.0 runs scripts"):
        data.load("hf:mnist", "train")
