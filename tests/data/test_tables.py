"""Lists of images and texts in CSV, Parquet and JSON lines: columns, classes, targets, paths."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from fake_sets import grey, write_image
from pyarrow import parquet

from featstore import data
from featstore.data.columns import Columns
from featstore.data.files import below
from featstore.data.rows import ImageRows, TextRows
from featstore.errors import DatasetError, UsageError

# Four images, a split and a label each.
PICTURES = {
    "image": ["cat/0.png", "dog/1.png", "cat/2.png", "dog/3.png"],
    "label": ["cat", "dog", "cat", "dog"],
    "split": ["train", "train", "test", "test"],
}
TEXTS = {
    "text": ['a "quoted", comma', "two\nlines", "ünïcödé", "NA"],
    "label": ["x", "y", "y", "x"],
    "split": ["train", "train", "train", "test"],
}


def csv_text(columns: dict, delimiter: str = ",") -> str:
    def cell(value) -> str:
        value = "" if value is None else str(value)
        return '"' + value.replace('"', '""') + '"'

    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    return "".join(delimiter.join(map(cell, row)) + "\n" for row in rows)


def write_csv(path, columns):
    path.write_text(csv_text(columns, "\t" if ".tsv" in path.suffixes else ","), encoding="utf-8")


def write_jsonl(path, columns):
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


WRITERS = {
    "csv": write_csv,
    "parquet": lambda path, columns: parquet.write_table(pa.table(columns), path),
    "jsonl": write_jsonl,
}
KINDS = pytest.mark.parametrize("kind", WRITERS)


@pytest.fixture
def pictures(tmp_path):
    """The four images below a folder, whose path this is."""
    for number, name in enumerate(PICTURES["image"]):
        write_image(tmp_path / name, PICTURES["split"][number], number % 2)
    return tmp_path


@pytest.fixture
def load(tmp_path):
    """Write columns as a file of a kind, and load a split of it."""

    def load(columns, part="train", /, kind="csv", file=None, data_dir=None, **names):
        file = file or tmp_path / f"list.{kind}"
        WRITERS[kind](file, columns)
        return data.load(f"{kind}:{file}", part, data_dir=data_dir, columns=Columns(**names))

    return load


@KINDS
def test_images_of_a_list(pictures, load, kind):
    for split in ("train", "test"):
        rows = load(PICTURES, split, kind=kind)
        assert isinstance(rows, ImageRows)
        assert (rows.modality, rows.dataset, rows.split) == ("image", f"{kind}:list.{kind}", split)
        assert rows.classes == ("cat", "dog")
        assert rows.labels.tolist() == [0, 1]
        assert rows.ids == PICTURES["image"][:2] if split == "train" else PICTURES["image"][2:]
        for row in range(2):
            image, label = rows[row]
            assert (image.getpixel((0, 0)), label) == ((grey(split, row),) * 3, row)


@KINDS
def test_texts_of_a_table(load, kind):
    rows = load(TEXTS, kind=kind)
    assert isinstance(rows, TextRows)
    assert rows.modality == "text"
    assert [rows[row] for row in range(3)] == list(zip(TEXTS["text"][:3], [0, 1, 1], strict=True))
    assert rows.classes == ("x", "y")
    assert rows.ids == ["0", "1", "2"]
    assert load(TEXTS, "test", kind=kind)[0] == ("NA", 0)


def test_every_kind_has_the_same_fingerprint_and_every_cell_counts(pictures, load):
    for columns in (PICTURES, TEXTS):
        known = {load(columns, kind=kind).fingerprint for kind in WRITERS}
        assert len(known) == 1
        item = next(iter(columns))
        changed = {**columns, item: [columns[item][0], columns[item][2], *columns[item][1::2]]}
        assert load(changed).fingerprint not in known
        assert load({**columns, "label": ["x", "x", "y", "y"]}).fingerprint not in known
    assert load(TEXTS).fingerprint != load({**TEXTS, "text": ["a", "b", "c", "d"]}).fingerprint


def test_where_a_text_ends_is_part_of_its_fingerprint(load):
    labels = {"label": ["a", "b"], "split": ["train"] * 2}
    prints = {
        load({"text": texts, **labels}, kind="parquet").fingerprint
        for texts in (["ab", "c"], ["a", "bc"], ["", "abc"], [None, "abc"])
    }
    assert len(prints) == 4


@KINDS
def test_files_of_each_split(pictures, load, kind):
    for part, rows in (("train", slice(0, 2)), ("val", slice(2, 4))):
        columns = {name: PICTURES[name][rows] for name in ("image", "label")}
        WRITERS[kind](pictures / f"{part}-list.{kind}", columns)
    name = f"{kind}:{{split}}-list.{kind}"
    test = data.load(name, "test", data_dir=pictures)
    assert test.ids == PICTURES["image"][2:]
    assert data.load(name, "train", data_dir=pictures).ids == PICTURES["image"][:2]
    with pytest.raises(UsageError, match="no split 'extra'; it has train, val"):
        data.load(name, "extra", data_dir=pictures)


def test_classes_are_the_sorted_values_of_all_splits(load):
    labels = {"split": ["train", "train", "train", "test"], "text": list("abcd")}
    for kind in WRITERS:
        rows = load({**labels, "label": [10, 2, 10, 3]}, kind=kind)
        assert (rows.classes, rows.labels.tolist()) == (("2", "3", "10"), [2, 0, 2])
    rows = load({**labels, "label": ["10", "2", "b", "3"]})
    assert (rows.classes, rows.labels.tolist()) == (("10", "2", "3", "b"), [0, 1, 3])
    rows = load({**labels, "label": [True, False, True, True]}, kind="parquet")
    assert (rows.classes, rows.labels.tolist()) == (("False", "True"), [1, 0, 1])
    names = pa.array(["b", "a", "b", "c"]).dictionary_encode()
    assert load({**labels, "label": names}, kind="parquet").classes == ("a", "b", "c")


@KINDS
def test_numbers_with_a_fraction_are_targets(load, kind):
    table = {**TEXTS, "label": [1.5, -2.0, 1e-3, 7.0]}
    rows = load(table, kind=kind)
    assert (rows.targets, rows.classes) == (("label",), ())
    assert rows.labels.dtype == np.float64
    assert rows.labels.tolist() == [1.5, -2.0, 1e-3]
    assert rows[1] == ("two\nlines", -2.0)


@KINDS
def test_target_columns_may_be_several_and_whole(load, kind):
    table = {**TEXTS, "age": [30, 40, 50, 60], "height": [1.5, 1.6, 1.75, 2.0]}
    assert load(table, kind=kind, targets=("age",)).labels.tolist() == [30.0, 40.0, 50.0]
    rows = load(table, kind=kind, targets=("height", "age"))
    assert rows.targets == ("height", "age")
    np.testing.assert_array_equal(rows.labels, [[1.5, 30], [1.6, 40], [1.75, 50]])
    assert rows[2] == (TEXTS["text"][2], [1.75, 50.0])


def test_columns_by_other_names(pictures, load):
    renamed = dict(zip(("where", "what", "part"), PICTURES.values(), strict=True))
    rows = load(renamed, "test", image="where", label="what", split="part")
    assert rows.labels.tolist() == [0, 1]
    both = {**PICTURES, "text": list("abcd")}
    assert load(both).modality == "image"
    assert load(both, text="text")[1] == ("b", 1)


def test_tabs_of_tsv_and_a_byte_order_mark(tmp_path, load):
    file = tmp_path / "list.tsv"
    assert load(TEXTS, file=file)[1][0] == "two\nlines"
    file.write_text("\ufefftext\tlabel\tsplit\na,b\tx\ttrain\n", encoding="utf-8")
    assert data.load(f"csv:{file}", "train")[0] == ("a,b", 0)


def test_space_around_labels_and_numbers_of_many_digits(load):
    table = {"text": ["a", "b"], "split": ["train"] * 2}
    assert load({**table, "label": [" cat", "cat "]}).classes == ("cat",)
    assert load({**table, "label": [" 2", "1 "]}).labels.tolist() == [1, 0]
    many = load({**table, "label": ["99999999999999999999", "1"]})
    assert many.classes == ("1", "99999999999999999999")
    assert load({**table, "age": ["1", " 1e3 "]}, targets=("age",)).labels.tolist() == [1, 1000]
    with pytest.raises(DatasetError, match=r"row 1 of the train split .* has no age; fill it in"):
        load({**table, "age": ["1", " "]}, targets=("age",))


def test_types_that_differ_from_split_to_split(tmp_path):
    for labels, classes in [
        (([1, 2], ["2", "x"]), ("1", "2", "x")),
        (([1, 2], [2, 3]), ("1", "2", "3")),
        (([1, 2], [0.5, 1.0]), ()),
        ((["a", "b"], [None, None]), ("a", "b")),
    ]:
        for split, column in zip(("train", "test"), labels, strict=True):
            write_jsonl(tmp_path / f"{split}.jsonl", {"text": ["a", "b"], "label": column})
        assert data.load(f"jsonl:{tmp_path}/{{split}}.jsonl", "train").classes == classes


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_every_kind_of_text(tmp_path, kind):
    words = pa.array(["a", "b"], kind)
    for text, label in ((words, words), (words.cast(pa.string()).dictionary_encode(), words)):
        table = pa.table({"text": text, "label": label, "split": ["train"] * 2})
        parquet.write_table(table, tmp_path / "t.parquet")
        rows = data.load(f"parquet:{tmp_path / 't.parquet'}", "train")
        assert (rows[1], rows.classes) == (("b", 1), ("a", "b"))


def test_csv_cells_are_what_is_written(load):
    """A reader that guesses types makes numbers, dates and truth of these."""
    table = {"text": ["1", "2.50"], "split": ["train"] * 2}
    rows = load({**table, "label": ["2020-01-02", "2020-01-01"]})
    assert [rows[row][0] for row in range(2)] == table["text"]
    assert rows.classes == ("2020-01-01", "2020-01-02")
    assert load({**table, "label": ["true", "no"]}).classes == ("no", "true")


def test_rows_survive_pickling(pictures, load):
    for columns, targets in ((PICTURES, ()), (TEXTS, ())):
        rows = load(columns, targets=targets)
        again = pickle.loads(pickle.dumps(rows))
        assert again[1] == rows[1]
        assert again.ids == rows.ids


# paths


@pytest.mark.parametrize("name", ["", ".", "..", "../set2/x", "/etc/passwd", "a/../../b", "a\0b"])
def test_paths_that_leave_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="does not lie below"):
        below(tmp_path / "set", name)


def test_absolute_paths_count_where_the_folder_holds_them(pictures, load, tmp_path):
    absolute = {**PICTURES, "image": [str(pictures / name) for name in PICTURES["image"]]}
    rows = load(absolute)
    assert rows.ids == PICTURES["image"][:2]
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    with pytest.raises(DatasetError, match=r"row 0 .*cat/2.png' does not lie below .*--data-dir"):
        load(absolute, file=elsewhere / "list.csv")
    assert load(absolute, file=elsewhere / "list.csv", data_dir=pictures).ids == rows.ids


def test_paths_start_from_the_data_folder_or_the_list(pictures, load):
    (pictures / "lists").mkdir()
    file = pictures / "lists" / "list.csv"
    with pytest.raises(DatasetError, match=r"lists 2 images; .*lists/cat/0.png and 1 more are not"):
        load(PICTURES, file=file)
    assert load(PICTURES, file=file, data_dir=pictures).ids == PICTURES["image"][:2]


def test_files_that_are_missing_may_be_left_to_the_scan(pictures, load):
    whole = load(PICTURES)
    (pictures / "dog" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"lists 2 images; .*dog/1.png is not there"):
        load(PICTURES)
    name = f"csv:{pictures / 'list.csv'}"
    rows = data.load(name, "train", missing_ok=True)
    assert rows.fingerprint != whole.fingerprint
    found = data.scan(rows)
    assert [one.id for one in found] == ["dog/1.png"]
    assert data.without(rows, found).ids == ["cat/0.png"]
    (pictures / "cat" / "0.png").unlink()
    rows = data.load(name, "train", missing_ok=True)
    with pytest.raises(DatasetError, match=r"none of the 2 rows .* the first: .*No such file"):
        data.without(rows, data.scan(rows))


# what cannot be used


def test_images_listed_twice_are_named(pictures, load):
    twice = {**PICTURES, "image": ["cat/0.png", "cat/../cat/0.png", "cat/2.png", "dog/3.png"]}
    with pytest.raises(DatasetError, match=r"cat/0.png twice, as row 0 .* row 1 of the train"):
        load(twice)
    leaked = {**PICTURES, "image": ["cat/0.png", "dog/1.png", "cat/0.png", "dog/3.png"]}
    with pytest.raises(DatasetError, match=r"twice, as row 0 of the test .* row 0 of the tr"):
        load(leaked)


BAD = [
    ({"label": ["cat", None, "cat", "dog"]}, "row 1 of the train split .* has no label"),
    ({"split": ["train", "", "test", "test"]}, "has rows without a split"),
    ({"split": ["a", "b", "c", "d"]}, "no split 'train'; it has a, b, c, d"),
    ({"image": ["cat/0.png", "", "cat/2.png", "dog/3.png"]}, "row 1 .* '' does not lie below"),
    ({"image": None, "other": list("abcd")}, "columns label, split, other; say which holds the im"),
    ({"label": None}, "columns image, split; say which holds the labels"),
    ({"split": None}, r"has no column 'split'; give --split-column, or .* \{split\} in it"),
    ({"label": [1.0, float("nan"), 2.5, 1.0]}, "row 1 of the train split .* has no label"),
    ({"label": [1.0, float("inf"), 2.5, 1.0]}, "row dog/1.png .* has no finite label"),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("changes", "said"), BAD, ids=[said for _, said in BAD])
def test_lists_that_cannot_be_used(pictures, load, kind, changes, said):
    columns = {name: cells for name, cells in {**PICTURES, **changes}.items() if cells}
    with pytest.raises((DatasetError, UsageError), match=said):
        load(columns, kind=kind)


def test_columns_that_are_not_there_or_are_no_labels(pictures, load):
    with pytest.raises(UsageError, match="has no column 'kind'; it has image, label, split"):
        load(PICTURES, label="kind")
    with pytest.raises(DatasetError, match=r"the column label .* holds text; targets are numbers"):
        load(PICTURES, kind="parquet", targets=("label",))
    with pytest.raises(DatasetError, match=r"holds struct<.*a label is one word or one number"):
        load({**TEXTS, "label": [{"class": 1}] * 4}, kind="parquet")
    with pytest.raises(DatasetError, match=r"lists of list<.*words or whole numbers"):
        load({**TEXTS, "label": [[0.5], [2.5], [3.5], [1.5]]}, kind="parquet")
    with pytest.raises(DatasetError, match=r"are struct<.*not paths; .*hf:FOLDER"):
        load({**PICTURES, "image": [{"bytes": b"1"}] * 4}, kind="parquet")
    with pytest.raises(DatasetError, match="are int64, not strings"):
        load({**TEXTS, "text": [1, 2, 3, 4]}, kind="parquet")
    each = {"text": ["a"] * 100, "label": [f"id{row}" for row in range(100)]}
    with pytest.raises(UsageError, match=r"100 values in as many rows.*--target-columns"):
        load({**each, "split": ["train"] * 100})


def test_columns_that_contradict_each_other():
    for names, said in [
        ({"image": "a", "text": "b"}, "are both given; a row is an image or a text"),
        ({"label": "a", "targets": ("b",)}, "are both given; give one"),
        ({"targets": ("b", "b")}, "'b' is given twice"),
    ]:
        with pytest.raises(UsageError, match=said):
            Columns(**names)
    with pytest.raises(UsageError, match="digits has no columns, and kind is named"):
        data.load("digits", "train", columns=Columns(label="kind"))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b""), ("csv", b"text,label\na,b,c\n"), ("parquet", b"PAR1 no"),
        ("csv", b"text,label,split\n\xff\xfe,1,a\n"), ("jsonl", b'{"text": 1\n'),
        ("jsonl", b'{"text": 1}\n{"text": "a"}'),
    ],
)  # fmt: skip
def test_files_that_are_damaged_are_named(tmp_path, kind, content):
    file = tmp_path / f"bad.{kind}"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"bad.{kind} cannot be read as {kind}: ."):
        data.load(f"{kind}:{file}", "train")


def test_files_that_are_empty_or_missing(tmp_path, load):
    with pytest.raises(DatasetError, match=r"there is no file .*none.csv; .*\{split\} in it"):
        data.load("csv:none.csv", "train", data_dir=tmp_path)
    with pytest.raises(UsageError, match="no data set 'csv:'"):
        data.load("csv:", "train")
    (tmp_path / "twice.csv").write_text("text,text,label,split\na,b,c,train\n")
    with pytest.raises(UsageError, match="has two columns 'text'"):
        data.load("csv:twice.csv", "train", data_dir=tmp_path)
    with pytest.raises(DatasetError, match=r"csv:header.csv has no rows"):
        load({name: [] for name in TEXTS}, file=tmp_path / "header.csv")


def test_texts_that_are_missing_are_unreadable_rows(load):
    rows = load({**TEXTS, "text": ["a", None, "", "d"]}, kind="parquet")
    assert rows[2] == ("", 1)
    with pytest.raises(DatasetError, match=r"text 1 of the train split .* there is none; replace"):
        rows[1]
    assert [one.row for one in data.scan(rows)] == [1]
