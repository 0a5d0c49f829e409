"""Rows left out of a data set, or read otherwise than they are: counted, said, or refused."""

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import featstore
from featstore import data as datasets
from featstore.cli import main
from featstore.data.columns import Columns
from featstore.data.rows import opened, remarked, utf8
from featstore.errors import DatasetError, UsageError
from featstore.store import blocks

ROOT = Path(__file__).parents[2]


def picture(path, format="PNG", level=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (level,) * 3).save(path, format)


def tree(root, classes, splits=("train", "test"), n=2):
    for split in splits:
        for name in classes:
            for number in range(n):
                picture(root / split / name / f"{number}.png")


def told(rows) -> dict[str, str]:
    """The notices of rows by their kind."""
    return {notice.kind: str(notice) for notice in rows.notices}


# class folders


def test_a_set_without_anything_to_say_says_nothing(tmp_path):
    tree(tmp_path, ["cat", "dog"])
    assert datasets.load(f"folder:{tmp_path}", "train").notices == ()


def test_folders_with_an_underscore_are_classes_and_clutter_is_none(tmp_path):
    tree(tmp_path, ["_background", "cat", "dog"])
    for name in ("__MACOSX", "@eaDir", ".git"):
        picture(tmp_path / "train" / name / "0.png")
        picture(tmp_path / name / "train" / "cat" / "0.png")
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert (rows.classes, len(rows)) == (("_background", "cat", "dog"), 6)
    assert "beside" not in told(rows)


@pytest.mark.parametrize(
    "clutter", [".ipynb_checkpoints/0.png", "@eaDir/0.png", "sub/.cache/0.png", "._0.png"]
)
def test_hidden_files_and_folders_are_passed_over_at_any_depth(tmp_path, clutter):
    tree(tmp_path, ["cat", "dog"])
    picture(tmp_path / "train" / "cat" / clutter)
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert len(rows) == 4
    assert told(rows)["hidden"].startswith("passed over in train, hidden or left by a system: 1")
    assert clutter.removesuffix("/0.png") in told(rows)["hidden"]


@pytest.mark.parametrize(
    ("ending", "format"),
    [("gif", "GIF"), ("jfif", "JPEG"), ("JPE", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000"),
     ("bmp", "BMP"), ("tif", "TIFF"), ("webp", "WEBP"), ("tga", "TGA"), ("pbm", "PPM")],
)  # fmt: skip
def test_whatever_pillow_reads_is_an_image(tmp_path, ending, format):
    tree(tmp_path, ["cat"])
    picture(tmp_path / "train" / "dog" / f"0.{ending}", format)
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert rows.labels.tolist() == [0, 0, 1]
    assert np.abs(np.asarray(rows[2][0], int) - 9).max() <= 4


def test_files_and_images_that_are_left_out_are_counted(tmp_path):
    tree(tmp_path, ["cat", "dog"])
    for name in ("cat/a.txt", "cat/b.TXT", "dog/c.heic", "dog/LICENSE"):
        (tmp_path / "train" / name).write_text("no image")
    (tmp_path / "train" / "ant").mkdir()
    picture(tmp_path / "train" / "loose.png")
    picture(tmp_path / "more" / "cat" / "0.png")
    picture(tmp_path / "train" / "dog" / "young" / "0.png")
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert told(rows) == {
        "files": "left out of train: 2 .txt, 1 .heic, 1 without an ending (train/cat/a.txt,"
        " train/cat/b.TXT, train/dog/LICENSE, train/dog/c.heic)",
        "loose": "left out of train, images in no class folder: 1 (loose.png)",
        "beside": "left out, folders and images beside test, train: 1 (more/)",
        "nested": "images of train in folders below a class folder, taken for that class: 1"
        " (train/dog/young)",
        "classes": "classes without a row in train: 1 of 3 (ant)",
    }
    assert [notice.count for notice in rows.notices if notice.kind == "files"] == [4]


def test_many_examples_are_cut_and_counted(tmp_path):
    tree(tmp_path, ["cat"])
    for number in range(30):
        (tmp_path / "train" / "cat" / f"{number:02}.xml").write_text("")
    (notice,) = datasets.load(f"folder:{tmp_path}", "train").notices
    assert (notice.count, len(notice.examples)) == (30, 5)
    assert str(notice).endswith("train/cat/04.xml, ...)")


def test_links_are_followed_and_those_that_lead_back_are_not(tmp_path):
    tree(tmp_path / "set", ["cat"])
    picture(tmp_path / "elsewhere" / "0.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "train" / "dog")
    os.symlink(tmp_path / "set" / "train", tmp_path / "set" / "train" / "cat" / "back")
    rows = datasets.load(f"folder:{tmp_path / 'set'}", "train")
    assert rows.labels.tolist() == [0, 0, 1]
    assert "train/cat/back" in told(rows)["hidden"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    tree(tmp_path, ["cat"])
    (tmp_path / "train" / "cat").chmod(0)
    with pytest.raises(DatasetError, match=r"train/cat in .* cannot be read"):
        datasets.load(f"folder:{tmp_path}", "train")


# names


CAFE = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]


@pytest.mark.parametrize(
    ("one", "other"), [CAFE, ("cat", "cat\u200b"), ("cat", "cat "), ("big cat", "big\u00a0cat")]
)
def test_names_that_look_the_same_are_one_class(tmp_path, one, other):
    tree(tmp_path, [one, "tea", other])
    for split in ("train", "test"):
        rows = datasets.load(f"folder:{tmp_path}", split)
        assert rows.classes == tuple(sorted((unicodedata.normalize("NFC", one), "tea")))
        assert np.bincount(rows.labels).tolist() == [4, 2]
        assert "taken as one each: 1" in told(rows)["names"]
    lines = [f"im/{i}.png,{(one, 'tea', other)[i % 3]},train" for i in range(6)]
    listed = in_table(tmp_path, lines)
    assert (len(listed.classes), "names" in told(listed)) == (
        2,
        not one.isspace() and other != "cat ",
    )


def test_a_form_of_one_split_is_the_class_of_another(tmp_path):
    tree(tmp_path, ["tea", CAFE[0]], ["train"])
    tree(tmp_path, ["tea", CAFE[1]], ["test"])
    train, test = (datasets.load(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.classes == test.classes == (CAFE[0], "tea")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1]


def test_capitals_are_classes_of_their_own_and_said(tmp_path):
    tree(tmp_path, ["A", "a", "b"])
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert rows.classes == ("A", "a", "b")
    assert "kept apart: 1 (A and a)" in told(rows)["names"]


def test_names_of_files_that_are_no_utf8_are_escaped(tmp_path):
    tree(tmp_path, ["cat", "dog"])
    folder = os.fsencode(tmp_path / "train" / "cat")
    os.rename(folder + b"/0.png", folder + b"/caf\xe9.png")
    os.rename(
        os.fsencode(tmp_path / "train" / "dog"), os.fsencode(tmp_path / "train") + b"/h\xfcnd"
    )
    rows = datasets.load(f"folder:{tmp_path}", "train")
    assert rows.ids[:2] == ["train/cat/1.png", r"train/cat/caf\xe9.png"]
    assert rows.classes == ("cat", "dog", r"h\xfcnd")
    assert rows[1][0].size == (5, 4)
    "\n".join([*rows.ids, *rows.classes, *map(str, rows.notices)]).encode()


def test_escapes_can_be_undone():
    for name in (b"caf\xe9.png", b"a\\b\xff", b"\xff\\xff"):
        text = utf8(os.fsdecode(name))
        back = text.encode().decode("unicode_escape").encode("latin-1")
        assert (back == name, text.isascii()) == (True, True)
    assert utf8("plain\\name é") == "plain\\name é"


# splits


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "Validation"])
def test_validation_stands_in_for_test_and_is_said(tmp_path, name):
    tree(tmp_path, ["cat"], ("train", name))
    rows = datasets.load(f"folder:{tmp_path}", "test")
    assert told(rows)["split"] == f"test is read from {name}: there is no split test"
    assert "split" not in told(datasets.load(f"folder:{tmp_path}", "validation"))


def test_splits_are_found_under_their_other_names(tmp_path):
    tree(tmp_path, ["cat"], ("Training", "Testing"))
    for split, held in (("train", "Training"), ("test", "Testing")):
        rows = datasets.load(f"folder:{tmp_path}", split)
        assert (rows.ids[0], rows.notices) == (f"{held}/cat/0.png", ())


@pytest.mark.parametrize(("held", "other"), [("train", "Train"), ("val", "valid")])
def test_two_folders_of_one_split_are_said(tmp_path, held, other):
    tree(tmp_path, ["cat"], {"train", held, other})
    rows = datasets.load(f"folder:{tmp_path}", held)
    assert rows.ids[0] == f"{held}/cat/0.png"
    assert told(rows)["split"].endswith(f"of the same split as {held}: 1 ({other}/)")


# tables


@pytest.fixture
def images(tmp_path):
    for number in range(12):
        picture(tmp_path / "im" / f"{number}.png", level=number)
    return tmp_path


def in_table(folder, lines, split="train", head="path,label,split", encoding="utf-8", **columns):
    skip = columns.pop("skip", False)
    for number in range(12):
        if not (folder / "im" / f"{number}.png").exists():
            picture(folder / "im" / f"{number}.png")
    (folder / "l.csv").write_bytes(("\n".join([head, *lines]) + "\n").encode(encoding))
    return datasets.load(
        "csv:l.csv", split, data_dir=folder, columns=Columns(**columns), missing_ok=skip
    )


def labelled(labels, split="train"):
    return [f"im/{number}.png,{label},{split}" for number, label in enumerate(labels)]


def test_codes_that_differ_are_different_classes_in_the_order_of_numbers(images):
    rows = in_table(images, labelled(["10", "010", "9", "100", "10", "007"]))
    assert rows.classes == ("007", "9", "010", "10", "100")
    assert rows.labels.tolist() == [3, 2, 1, 4, 3, 0]


def test_whole_numbers_written_as_floats_are_classes_and_said(images):
    lines = labelled(["0.0", "1.0"] * 5)
    for label in (None, "label"):
        rows = in_table(images, lines, label=label)
        assert (rows.classes, rows.labels.tolist()) == (("0", "1"), [0, 1] * 5)
        assert "taken as classes: 2 (--label-kind number regresses" in told(rows)["kind"]
    assert "kind" not in told(in_table(images, lines, kind="class"))
    rows = in_table(images, lines, kind="number")
    assert (rows.targets, rows.labels.tolist()) == (("label",), [0.0, 1.0] * 5)
    # A split without a missing value has the same classes written as whole numbers.
    mixed = [*lines[:6], *(line.replace(".0,train", ",test") for line in lines[6:])]
    assert in_table(images, mixed, "test").classes == ("0", "1")


def test_many_different_whole_floats_are_refused_with_the_option_that_decides(images):
    lines = labelled([f"{number}.0" for number in range(9)])
    with pytest.raises(UsageError, match=r"--label-kind class or --label-kind number"):
        in_table(images, lines)
    assert len(in_table(images, lines, label="label").classes) == 9
    assert len(in_table(images, lines, kind="class").classes) == 9


def test_fractions_are_numbers_and_said(images):
    lines = labelled(["0.5", "1.0", "2.25"])
    rows = in_table(images, lines)
    assert rows.targets == ("label",)
    assert "--label-kind class" in told(rows)["kind"]
    assert in_table(images, lines, kind="class").classes == ("0.5", "1.0", "2.25")


def test_words_for_a_missing_value(images):
    lines = labelled(["0", "nan", "1", "NA"])
    with pytest.raises(DatasetError, match=r"row 1 .* has no label, and 1 more .*--on-error skip"):
        in_table(images, lines)
    rows = in_table(images, lines, skip=True)
    assert (rows.labels.tolist(), [one.row for one in rows.left_out]) == ([0, 1], [1, 3])
    named = in_table(images, labelled(["None", "glioma", "None"]))
    assert named.classes == ("None", "glioma")
    assert told(named)["missing"].endswith("taken as a class: 2 (None)")


def test_rows_that_lack_something_are_left_out_on_request(images):
    lines = labelled(list("abab"))
    lines[1], lines[2] = lines[1].replace("im/1.png", ""), lines[2].replace("a,", ",", 1)
    lines[2] = "im/2.png,,train"
    with pytest.raises(DatasetError):
        in_table(images, lines)
    rows = in_table(images, lines, skip=True)
    assert rows.ids == ["im/0.png", "im/3.png"]
    assert [(one.row, one.why) for one in rows.left_out] == [
        (1, "row 1 of the train split of csv:l.csv has no path"),
        (2, "row 2 of the train split of csv:l.csv has no label"),
    ]
    with pytest.raises(DatasetError, match=r"no row of the train split .* can be used"):
        in_table(images, ["im/0.png,,train"], skip=True)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_damaged_lines_are_left_out_on_request(images, kind):
    content = {
        "csv": "path,label,split\nim/0.png,a,train\nim/1.png,b,c,train\nim/2.png,b,train\n",
        "jsonl": '{"path": "im/0.png", "label": "a", "split": "train"}\n{"path": \n'
        '{"path": "im/2.png", "label": "b", "split": "train"}\n',
    }[kind]
    (images / f"l.{kind}").write_text(content)
    with pytest.raises(DatasetError, match="--on-error skip"):
        datasets.load(f"{kind}:l.{kind}", "train", data_dir=images)
    rows = datasets.load(f"{kind}:l.{kind}", "train", data_dir=images, missing_ok=True)
    assert rows.ids == ["im/0.png", "im/2.png"]
    (out,) = rows.left_out
    assert re.search(
        {"csv": "line 3 .* has 4 cells and not 3", "jsonl": "line 2 .* no JSON"}[kind], out.why
    )


def test_hidden_labels_are_no_class_and_no_test(images):
    for hidden in ("-1", "", "-1.0"):
        lines = labelled(list("0101")) + [f"im/{n}.png,{hidden},test" for n in range(4, 8)]
        rows = in_table(images, lines)
        assert rows.classes == ("0", "1")
        assert told(rows)["hidden labels"].endswith("left out of the classes: 1 (test)")
        with pytest.raises(DatasetError, match=r"labels are not told; .*--splits train"):
            in_table(images, lines, "test")
    held_out = [f"im/{n}.png,{n % 2},validation" for n in range(2, 4)]
    rows = in_table(images, [*labelled(list("01")), *held_out, "im/5.png,-1,test"], "test")
    assert (rows.split, rows.labels.tolist()) == ("test", [0, 1])
    assert told(rows)["split"] == "test is read from validation: the labels of test are not told"
    signs = in_table(images, labelled(["-1", "1", "-1"]))
    assert (signs.classes, signs.notices) == (("-1", "1"), ())


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_the_sign_between_cells_is_found_and_said(images, sign):
    lines = [
        sign.join(cells) for cells in (("im/0.png", '"x, y"', "train"), ("im/1.png", "z", "train"))
    ]
    rows = in_table(images, lines, head=sign.join(("path", "label", "split")))
    assert rows.classes == ("x, y", "z")
    assert "l.csv are separated by" in told(rows)["delimiter"]
    odd = in_table(
        images, [line.replace(sign, "^") for line in lines], head="path^label^split", delimiter="^"
    )
    assert (odd.classes, odd.notices) == (rows.classes, ())


def test_usual_columns_are_found_in_capitals_and_commas_inside_names(images):
    lines = ["im/0.png\ta\ttrain", "im/1.png\tb\ttrain"]
    rows = in_table(images, lines, head="Path\tLabel\tSPLIT")
    assert (rows.classes, rows.ids) == (("a", "b"), ["im/0.png", "im/1.png"])
    both = in_table(images, ["im/0.png,x,a,train"], head="path,Label,label,split")
    assert both.classes == ("a",)
    named = in_table(
        images, [line + "\t0" for line in lines], head="path\tlabel\tsplit\tage, in years"
    )
    assert named.classes == ("a", "b")


def test_paths_with_backslashes_are_named(images):
    with pytest.raises(DatasetError, match=r"im.0.png is not there: write its paths with /"):
        in_table(images, ["im\\0.png,a,train"])


def test_json_lines_with_a_mark(images):
    line = '{"path": "im/0.png", "label": "a", "split": "train"}\n'
    (images / "l.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert datasets.load("jsonl:l.jsonl", "train", data_dir=images).ids == ["im/0.png"]


def test_a_sign_that_excel_states(images):
    lines = [";".join(cells) for cells in (("im/0.png", "a", "train"), ("im/1.png", "b", "train"))]
    rows = in_table(images, ["path;label;split", *lines], head="sep=;")
    assert (rows.classes, rows.ids) == (("a", "b"), ["im/0.png", "im/1.png"])


def test_decimal_commas_are_refused(images):
    lines = [f"im/{n}.png;{n},5;train" for n in range(4)]
    for columns in ({}, {"targets": ("label",)}):
        with pytest.raises((UsageError, DatasetError), match="decimal comma; write a point"):
            in_table(images, lines, head="path;label;split", **columns)
    rows = in_table(images, lines, head="path;label;split", kind="class")
    assert rows.classes == ("0,5", "1,5", "2,5", "3,5")


@pytest.mark.parametrize("ending", ["\r", "\r\n"])
def test_line_ends_and_quoted_lines(images, ending):
    text = ending.join(["path,label,split", f'im/0.png,"a{ending}b",train', "im/1.png,c,train", ""])
    (images / "l.csv").write_bytes(text.encode())
    rows = datasets.load("csv:l.csv", "train", data_dir=images)
    assert rows.classes == ("a b", "c") or rows.classes == (f"a{ending}b", "c")
    assert len(rows) == 2


def test_encodings(images):
    lines = labelled(["été", "hiver"])
    for encoding in ("utf-8-sig", "utf-16"):
        assert in_table(images, lines, encoding=encoding).classes == ("hiver", "été")
    assert told(in_table(images, lines, encoding="utf-16"))["encoding"] == (
        "l.csv is read as utf-16, as its first bytes say"
    )
    for head in ("path,label,split", "path,label,split,été"):
        cells = [line + ("," if "été" in head else "") for line in lines]
        with pytest.raises(DatasetError, match=r"l.csv cannot be read .*--encoding cp1252"):
            in_table(images, cells, head=head, encoding="latin-1")
        (images / "l.csv").write_bytes("\n".join([head, *cells]).encode("latin-1"))
        rows = datasets.load(
            "csv:l.csv", "train", data_dir=images, columns=Columns(encoding="cp1252")
        )
        assert rows.classes == ("hiver", "été")


def test_space_and_capitals_in_heads_and_splits(images):
    lines = ["im/0.png, a, train", "im/1.png, b, Train", "im/2.png, b, dev"]
    rows = in_table(images, lines, head="path, label, split")
    assert (rows.classes, rows.ids) == (("a", "b"), ["im/0.png", "im/1.png"])
    assert "capitals alone, taken as one: 1 (train)" in told(rows)["split"]
    test = in_table(images, lines, "test", head="path, label, split")
    assert test.ids == ["im/2.png"]
    assert any(str(one).startswith("test is read from dev") for one in test.notices)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"kind": "word"}, "'word'; choose class or number"),
        ({"targets": ("a",), "kind": "class"}, "is of numbers, and labels are said to be"),
        ({"delimiter": ";;"}, "one character"),
        ({"encoding": "klingon"}, "no encoding 'klingon'"),
    ],
)
def test_columns_that_cannot_be(columns, said):
    with pytest.raises(UsageError, match=said):
        Columns(**columns)


def test_options_that_a_source_has_no_use_for(tmp_path):
    tree(tmp_path, ["cat"])
    for columns, said in (
        (Columns(kind="number"), "has classes, and its labels are said to be numbers"),
        (Columns(delimiter=";"), "has no columns, and ; is named"),
    ):
        for call in (datasets.check, lambda name, **given: datasets.load(name, "train", **given)):
            with pytest.raises(UsageError, match=said):
                call(f"folder:{tmp_path}", columns=columns)


# arrays


def npz(folder, labels, test=None, **options):
    x, arrays = np.zeros((len(labels), 4, 4), np.uint8), {}
    if test is not None:
        arrays = {"x_test": np.zeros((len(test), 4, 4), np.uint8), "y_test": test}
    np.savez(folder / "a.npz", x_train=x, y_train=labels, **arrays)
    return datasets.load("npz:a.npz", "train", data_dir=folder, **options)


def test_labels_of_arrays_that_could_be_either(tmp_path):
    whole, classes = np.arange(12) % 3, Columns(kind="class")
    rows = npz(tmp_path, whole.astype(float))
    assert (rows.targets, "--label-kind class" in told(rows)["kind"]) == (("target",), True)
    assert npz(tmp_path, whole.astype(float), columns=classes).labels.tolist() == whole.tolist()
    assert npz(tmp_path, whole, columns=Columns(kind="number")).labels.tolist() == whole.tolist()
    for kind in (int, float):
        with pytest.raises(UsageError, match=r"one 1 among 2 zeros .*--label-kind class or"):
            npz(tmp_path, np.eye(3, dtype=kind)[whole])
        found = npz(tmp_path, np.eye(3, dtype=kind)[whole], columns=classes)
        assert (found.labels.tolist(), found.classes) == (whole.tolist(), ("0", "1", "2"))
    assert npz(tmp_path, np.eye(3)[whole], columns=Columns(kind="number")).labels.shape == (12, 3)
    with pytest.raises(UsageError, match="numbers with a fraction, which number no classes"):
        npz(tmp_path, whole / 2, columns=classes)


def test_labels_of_arrays_that_leave_classes_empty(tmp_path):
    rows = npz(tmp_path, np.arange(12) % 3 + 1)
    assert told(rows)["classes"] == "classes without a row in train: 1 of 4 (0)"
    with pytest.raises(DatasetError, match=r"up to 1,000,000,000 in 2 rows; number the classes"):
        npz(tmp_path, np.array([1, 10**9]))
    assert npz(tmp_path, np.array([0, 1]), np.array([-1, -1])).classes == ("0", "1")
    with pytest.raises(DatasetError, match=r"the test split .* labels are not told"):
        datasets.load("npz:a.npz", "test", data_dir=tmp_path)


# shards


def shard(path, members, whole=True):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if not whole:
        data = path.read_bytes()
        path.write_bytes(data[: len(data.rstrip(b"\0")) // 2])


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 9, 9)).save(file, "PNG")
    return file.getvalue()


def test_samples_that_lack_a_member_are_left_out_on_request(tmp_path):
    members = [(f"{n}.{s}", png() if s == "png" else b"%d\n" % (n % 2)) for n in range(6)
               for s in ("png", "cls") if (n, s) not in ((0, "cls"), (3, "png"))]  # fmt: skip
    shard(tmp_path / "train.tar", [*members, ("._0.png", b"?"), ("README", b"?")])
    with pytest.raises(DatasetError, match=r"has no label|has no cls"):
        datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    rows = datasets.load("wds:{split}.tar", "train", data_dir=tmp_path, missing_ok=True)
    assert (rows.ids, rows.labels.tolist()) == (["1", "2", "4", "5"], [1, 0, 0, 1])
    assert [one.id for one in rows.left_out] == ["0", "3"]
    assert told(rows)["files"].endswith(": 2 (._0.png, README)")


def test_shards_that_are_cut_give_what_is_whole_on_request(tmp_path):
    noise = np.random.default_rng(0).bytes(9000)
    members = [
        ("0.png", png()),
        ("0.cls", b"0"),
        ("1.png", png()),
        ("1.cls", b"1"),
        ("2.cls", b"1"),
    ]
    shard(tmp_path / "train.tar", [*members, ("2.png", noise)], whole=False)
    with pytest.raises(DatasetError, match=r"train.tar .*--on-error skip"):
        datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    rows = datasets.load("wds:{split}.tar", "train", data_dir=tmp_path, missing_ok=True)
    assert rows.ids == ["0", "1"]
    assert [one.id for one in rows.left_out] == ["train.tar", "2"]


def test_a_shard_that_ends_inside_a_header_or_without_a_mark(tmp_path):
    shard(tmp_path / "train.tar", [("0.png", png()), ("0.cls", b"0"), ("1.cls", b"1")])
    data = (tmp_path / "train.tar").read_bytes()
    end = data.index(b"1.cls")
    (tmp_path / "train.tar").write_bytes(data[: end + 100])
    with pytest.raises(DatasetError, match="is truncated, the member behind its last is cut"):
        datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    (tmp_path / "train.tar").write_bytes(data[:end])
    os.utime(tmp_path / "train.tar", ns=(1, 1))
    rows = datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    assert told(rows)["shards"].endswith("perhaps cut: 1 (train.tar)")


def test_two_images_in_a_sample_are_refused_with_the_option_that_decides(tmp_path):
    shard(tmp_path / "train.tar", [("0.png", png()), ("0.jpg", png()), ("0.cls", b"0")])
    with pytest.raises(UsageError, match=r"several images, png, jpg .*--image-column png"):
        datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    columns = Columns(image="jpg")
    assert len(datasets.load("wds:{split}.tar", "train", data_dir=tmp_path, columns=columns)) == 1


def test_members_whose_names_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    shard(tmp_path / "train.tar", [(f"{name}.png", png()), (f"{name}.cls", b"0")])
    rows = datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    assert rows.ids == [r"caf\xe9"]
    assert rows[0][0].size == (5, 4)


# pixels


def through(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return opened(io.BytesIO(file.getvalue()))


def png16(levels: np.ndarray) -> Image.Image:
    """A PNG of 16 bits a channel, (h, w, 3), which Pillow does not write."""
    height, width, _ = levels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return opened(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_fewer_bits_in_sixteen_are_refused_or_read_as_one_says(format, depth):
    image = through(Image.fromarray(RAMP << (depth - 8)), format)
    with pytest.raises(ValueError, match=rf"go from 0 to \d+, .*black.*--bit-depth {depth} or"):
        remarked(image)
    found, remarks = remarked(image, depth)
    np.testing.assert_array_equal(np.asarray(found)[..., 1], RAMP)
    assert remarks == ["scaled"]
    dark, remarks = remarked(image, 16)
    np.testing.assert_array_equal(np.asarray(dark)[..., 1], RAMP >> (16 - depth))
    assert remarks == ["deep"]


def test_more_than_the_stated_bits_are_refused():
    with pytest.raises(ValueError, match="go from 0 to 4080, which is more than 8 bits hold"):
        remarked(through(Image.fromarray(RAMP << 4), "PNG"), 8)


def test_sixteen_bits_are_said_and_dark_ones_apart():
    assert remarked(through(Image.fromarray(RAMP << 8), "PNG"))[1] == ["deep"]
    assert remarked(through(Image.fromarray(RAMP << 6), "PNG"))[1] == ["dark"]
    assert remarked(through(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"))[0].size == (4, 4)


def test_colours_of_sixteen_bits_that_are_black_are_refused():
    levels = np.stack([RAMP] * 3, axis=-1)
    for image in (png16(levels), png16(levels << 3)):
        with pytest.raises(ValueError, match=r"all black in their range.*--bit-depth 16"):
            remarked(image)
        assert remarked(image, 16)[1] == ["deep"]
    found, remarks = remarked(png16(levels << 8))
    np.testing.assert_array_equal(np.asarray(found), levels)
    assert remarks == ["deep"]


def test_what_is_not_seen_of_an_image_is_remarked_on():
    plain, other = Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("RGB", (8, 8), (200, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("GIF", "WEBP", "TIFF", "PNG"):
        several = through(plain, format, save_all=True, append_images=[other])
        assert remarked(several)[1] == ["frames"]
        assert remarked(through(plain, format))[1] == []
    for format in ("JPEG", "PNG", "WEBP"):
        assert remarked(through(plain, format, exif=exif))[1] == ["turned"]
    exif[0x0112] = 1
    assert remarked(through(plain, "JPEG", exif=exif))[1] == []
    assert remarked(through(Image.new("RGBA", (4, 4), (0, 0, 0, 9)), "PNG"))[1] == ["alpha"]
    assert remarked(through(Image.new("RGBA", (4, 4), (0, 0, 0, 255)), "PNG"))[1] == []
    assert remarked(through(Image.new("CMYK", (8, 8)), "JPEG"))[1] == ["cmyk"]


# before anything is fetched or read


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar11", "did you mean cifar10"),
        ("folder:nope", "there is no folder"),
        ("csv:nope.csv", "there is no file"),
        ("npz:nope.npz", "there is no file"),
        ("hf:a b", "no name of a set of the hub"),
        ("wds:nope.tar", "does not name the local shards"),
        ("wds:{split}.tar", "there is no shard"),
        ("imagenet", "is not to be downloaded, and there is no folder"),
    ],
)
def test_names_and_folders_are_checked_without_reading(tmp_path, name, said):
    with pytest.raises((DatasetError, UsageError), match=said):
        datasets.check(name, ("train",), data_dir=tmp_path / "nowhere")


def test_columns_are_checked_by_the_head_alone(tmp_path):
    (tmp_path / "l.csv").write_text("path,label,split\n\0 no rows")
    for columns, said in (
        (Columns(label="kind"), "no column 'kind'; it has path, label, split"),
        (Columns(delimiter=";"), "has the columns path,label,split; say which"),
    ):
        with pytest.raises(UsageError, match=said):
            datasets.check("csv:l.csv", ("train",), data_dir=tmp_path, columns=columns)
    datasets.check("csv:l.csv", ("train",), data_dir=tmp_path)


def test_splits_are_checked_without_reading(tmp_path):
    tree(tmp_path, ["cat"], ["train"])
    (tmp_path / "l-train.csv").write_text("path,label\n")
    shard(tmp_path / "s-train.tar", [("0.png", png())])
    for name in (
        f"folder:{tmp_path}",
        "csv:l-{split}.csv",
        "wds:s-{split}.tar",
        "cifar10",
        "digits",
    ):
        with pytest.raises(UsageError, match="no split 'middle'; it has train"):
            datasets.check(name, ("train", "middle"), data_dir=tmp_path)
        datasets.check(name, ("train",), data_dir=tmp_path)


# what a store keeps of it


COMMAND = ["extract", "--model", "test_resnet", "--no-pretrained", "--image-size", "32"]


def run(*arguments, status=0):
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ran.exit_code == status, ran.output
    return ran


@pytest.fixture
def odd(tmp_path):
    """A set of which five images are not seen as they are, and something is left out."""
    tree(tmp_path / "odd", ["cat", "dog"], n=20)
    folder = tmp_path / "odd" / "train" / "cat"
    for number in range(3):
        Image.new("RGBA", (5, 4), (9, 9, 9, 100)).save(folder / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3, 5):
        Image.new("RGB", (5, 4)).save(folder / f"{number}.png", exif=exif)
    (folder / "notes.txt").write_text("no image")
    return tmp_path / "odd"


SAID = [
    "left out of train: 1 .txt (train/cat/notes.txt)",
    "images of train with transparent parts, laid on white: 3",
    "images of train with a camera's orientation, which is not applied: 2",
]


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.usefixtures("small_blocks")  # train has two
def test_notices_are_printed_kept_and_shown(odd, tmp_path, format):
    out = tmp_path / f"s.{format}"
    extraction = [*COMMAND, "--dataset", f"folder:{odd}", "--out", out, "--format", format]
    ran = run(*extraction, "--workers", "2" if format == "zarr" else "0")
    assert [line for line in ran.stderr.splitlines() if line in SAID] == SAID
    store = featstore.open(out)
    assert [str(notice) for notice in store.notices] == SAID
    assert store.seen("train") == {"alpha": 3, "turned": 2}
    assert store.seen("test") == {}
    shown = " ".join(run("info", out).stdout.split())
    assert all(said in shown for said in SAID)
    # Nothing to do, and said again; by another name, kept; under --quiet, not said.
    assert [line for line in run(*extraction).stderr.splitlines() if line in SAID] == SAID
    copy = featstore.convert(out, tmp_path / "copy.h5")
    assert [str(notice) for notice in copy.notices] == SAID
    assert run(*extraction, "--quiet").stderr == ""


@pytest.mark.usefixtures("small_blocks")
def test_a_resumed_extraction_counts_what_both_saw(odd, tmp_path):
    # The last row, which is in the second block.
    Image.new("RGBA", (5, 4), (9, 9, 9, 100)).save(odd / "train" / "dog" / "9.png")

    def extract(**options):
        return featstore.extract(
            "test_resnet", f"folder:{odd}", pretrained=False, image_size=32, batch_size=8,
            workers=0, out=tmp_path / "s.zarr", **options,
        )  # fmt: skip

    def stop(stage, done, total, **_):
        if stage == "images" and done > 36:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(progress=stop)
    assert featstore.open(tmp_path / "s.zarr").seen("train") == {"alpha": 3, "turned": 2}
    done = extract()
    assert 0 < done.images_reused < 40
    assert done.store.seen("train") == {"alpha": 4, "turned": 2}
    assert done.notices == done.store.notices


def test_each_image_counts_once_whatever_its_views(odd, tmp_path):
    done = featstore.extract(
        "test_resnet", f"folder:{odd}", pretrained=False, image_size=32, views=2,
        augment="RandomHorizontalFlip() + Resize((size, size))", out=tmp_path / "s.zarr",
    )  # fmt: skip
    assert done.store.seen("train") == {"alpha": 3, "turned": 2}


def test_remarks_that_a_record_has_no_room_for_are_dropped_from_the_least():
    seen = {"alpha": 3, "turned": 12345, "frames": 7}
    record = blocks.Record(store="s", split="train", block=1, checksums={}, seen=seen)
    assert blocks.unseal(record.sealed(512)) == record
    size = len(record.sealed(512).rstrip(b"\0"))
    short = blocks.unseal(record.sealed(size - 1))
    assert short.seen == {"turned": 12345, "frames": 7}
    assert b"seen" not in record.model_copy(update={"seen": {}}).sealed(512)
    assert blocks.unseal(record.sealed(size - 45)).seen == {}


def test_images_of_fewer_bits_are_an_error_until_one_says_how_many(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            path = tmp_path / "set" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RAMP + np.uint16(number)).save(path)
    extraction = [*COMMAND, "--dataset", f"folder:{tmp_path / 'set'}", "--out", tmp_path / "s.zarr"]
    ran = run(*extraction, status=1)
    assert "is black in a range of 16 bits" in ran.stderr
    assert "--bit-depth 10 or --bit-depth 16" in ran.stderr or "--bit-depth 8 or" in ran.stderr
    run(*extraction, "--bit-depth", "10", "--overwrite")
    store = featstore.open(tmp_path / "s.zarr")
    assert store.seen("train") == {"scaled": 4}
    assert store.spec.split("train").fingerprint.endswith(" of 10 bits")
    other = run(*extraction, "--bit-depth", "16", status=1)
    assert "splits.train.fingerprint" in other.stderr


def test_rows_that_are_left_out_are_in_the_report_and_the_store(images, tmp_path):
    lines = labelled(["a", "", "b", "a", "b"]) + labelled(list("ab"), "test")
    lines = [line.replace(f"im/{i}", f"im/{i + 5}") if "test" in line else line
             for i, line in enumerate(lines)]  # fmt: skip
    lines[5:] = ["im/7.png,a,test", "im/8.png,b,test"]
    (tmp_path / "l.csv").write_text("path;label;split\n" + "\n".join(lines).replace(",", ";"))
    extraction = [*COMMAND, "--dataset", f"csv:{tmp_path / 'l.csv'}", "--out", tmp_path / "s.zarr"]
    assert "row 1 of the train split" in run(*extraction, status=1).stderr
    run(*extraction, "--on-error", "skip", "--report", tmp_path / "out.csv")
    assert "train,row 1,row 1 of the train split of csv:l.csv has no label" in (
        (tmp_path / "out.csv").read_text()
    )
    store = featstore.open(tmp_path / "s.zarr")
    assert store.provenance["unreadable"] == ["train: row 1"]
    assert store.spec.split("train").n_rows == 4
    assert [notice.kind for notice in store.notices] == ["delimiter"]


def test_validation_is_tested_on_where_there_is_no_test(images, tmp_path):
    lines = labelled(list("ababab")) + [
        f"im/{n}.png,{'ab'[n % 2]},validation" for n in range(6, 10)
    ]
    lines += [f"im/{n}.png,-1,test" for n in range(10, 12)]
    (tmp_path / "l.csv").write_text("path,label,split\n" + "\n".join(lines))
    extraction = [*COMMAND, "--dataset", f"csv:{tmp_path / 'l.csv'}", "--out", tmp_path / "s.zarr"]
    stood_in = run(*extraction[:-1], tmp_path / "u.zarr").stderr
    assert "test is read from validation: the labels of test are not told" in stood_in
    run(*extraction, "--splits", "train,validation")
    both = [featstore.open(tmp_path / name) for name in ("u.zarr", "s.zarr")]
    assert both[0].ids("test") == both[1].ids("validation")
    probing = ["probe", tmp_path / "s.zarr", "--fractions", "0.5", "--seeds", "1"]
    weights = ["--save-weights", tmp_path / "w.safetensors"]
    ran = run(*probing, "--solver", "ridge", "--out", tmp_path / "r.csv", *weights)
    assert "tested on validation" in ran.stderr
    table = pd.read_csv(tmp_path / "r.csv")
    assert set(table["n_test"]) == {4}
    named = run(*probing, "--solver", "ridge", "--test-split", "train", "--out", tmp_path / "t.csv")
    assert "tested on" not in named.stderr
    assert set(pd.read_csv(tmp_path / "t.csv")["n_test"]) == {6}
    assert "no split 'middle'" in run(*probing, "--test-split", "middle", status=2).stderr
    predicted = run("predict", tmp_path / "s.zarr", "--weights", tmp_path / "w.safetensors")
    assert "tested on validation" in predicted.stderr
    compared = ["compare", tmp_path / "s.zarr", "--fractions", "0.5", "--seeds", "1"]
    run(*compared, "--solver", "ridge", "--test-split", "validation")


def test_a_wrong_name_is_told_before_torch_is_imported(tmp_path):
    script = (
        "import sys; from click.testing import CliRunner; from featstore.cli import main;"
        "ran = CliRunner().invoke(main, sys.argv[1:]); print(ran.stderr, ran.exit_code);"
        "print('torch' in sys.modules)"
    )
    for dataset, options, said in (
        ("cifar11", [], "no data set 'cifar11'"),
        ("folder:nope", [], "there is no folder"),
        ("imagenet", ["--data-dir", "nowhere"], "no folder nowhere"),
        ("digits", ["--splits", "train,train"], "named twice"),
    ):
        command = ["extract", "--model", "resnet50", "--dataset", dataset, *options]
        ran = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT
        )
        assert said in ran.stdout
        assert ran.stdout.split()[-1] == "False"
