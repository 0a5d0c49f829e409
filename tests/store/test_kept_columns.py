"""Columns of a data set that a store keeps of each row: patients, speakers, years."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import featstore
from featstore import data
from featstore.cli import main
from featstore.data.columns import Columns
from featstore.errors import DatasetError, SpecMismatch, UsageError
from featstore.probe.rows import Grouped
from featstore.spec import Column
from featstore.store.exchange import columns_of
from featstore.study.outside import groups_of
from featstore.testing import spec_of

PATIENTS = ["ann", "ann", "bøb", "cleo", "", "ann"]
YEARS = [1999, 2001, 2001, -5, 7, 8]


@pytest.fixture
def scans(tmp_path):
    """A table of images with the columns patient and year, and a store's home for it."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(6)],
            "label": ["sick", "well"] * 3,
            "split": ["train"] * 4 + ["test"] * 2,
            "patient": PATIENTS,
            "year": YEARS,
            "weight": np.arange(6) / 2,
        }
    )
    table.to_parquet(tmp_path / "scans.parquet")
    table.to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def extract(folder, out, keep=("patient", "year"), kind="parquet", **options):
    return featstore.extract(
        "test_resnet",
        f"{kind}:{folder / f'scans.{kind}'}",
        columns=Columns(keep=tuple(keep)),
        pretrained=False,
        image_size=32,
        device="cpu",
        out=folder / out,
        **options,
    ).store


def test_columns_of_a_table_come_along(scans):
    store = extract(scans, "a.zarr")
    assert store.spec.columns == (Column(name="patient", width=4), Column(name="year"))
    assert store.column("train", "patient").tolist() == PATIENTS[:4]
    assert store.column("test", "year").tolist() == YEARS[4:]
    assert store.column("test", "year").dtype == np.int64
    # a CSV file has texts alone
    texts = extract(scans, "b.zarr", kind="csv")
    assert texts.column("train", "year").tolist() == [str(year) for year in YEARS[:4]]
    assert "columns patient, year" in repr(store)
    # the spec of a store without them is what it was
    assert "columns" not in extract(scans, "c.zarr", keep=()).header.to_json()["spec"]


def test_a_limit_patches_and_rows_that_are_left_out_keep_their_own(scans):
    few = extract(scans, "a.zarr", limit=2)
    assert few.column("train", "patient").tolist() == ["ann", "cleo"]
    patches = extract(scans, "p.zarr", rows="patches", taps=["layer3"])
    count = patches.spec.split("train").n_rows // 4
    assert patches.column("train", "year").tolist() == np.repeat(YEARS[:4], count).tolist()
    (scans / "1.png").unlink()
    skipped = extract(scans, "s.zarr", on_error="skip")
    assert skipped.column("train", "patient").tolist() == ["ann", "bøb", "cleo"]


def test_another_value_is_another_store(scans):
    extract(scans, "a.zarr")
    assert not extract(scans, "a.zarr").missing("train")
    table = pd.read_parquet(scans / "scans.parquet")
    table.loc[0, "patient"] = "dan"
    table.to_parquet(scans / "scans.parquet")
    with pytest.raises(SpecMismatch, match=r"splits\.train\.fingerprint"):
        extract(scans, "a.zarr")
    with pytest.raises(SpecMismatch, match=r"columns is \('patient', 'year'\), wanted \('year',\)"):
        extract(scans, "a.zarr", keep=["year"])


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (["weight"], DatasetError, "the column weight of .* holds .* whole numbers are kept"),
        (["age"], UsageError, "has no column 'age'; it has image, label"),
        (["year", "year"], UsageError, "the column to be kept 'year' is given twice"),
    ],
)
def test_columns_that_cannot_be_kept(keep, error, message, scans):
    with pytest.raises(error, match=message) as caught:
        extract(scans, "x.zarr", keep=keep)
    assert "\n" not in str(caught.value)


def test_what_has_no_columns_keeps_none():
    with pytest.raises(UsageError, match="digits has no columns, and patient is named"):
        data.check("digits", ["train"], columns=Columns(keep=("patient",)))
    with pytest.raises(UsageError, match="has no columns, and patient is to be kept"):
        data.check("wds:a.tar", ["train"], columns=Columns(keep=("patient",)))


def arrays(n: int, seed: int, labels=2):
    random = np.random.default_rng(seed)
    y = np.arange(n) % labels
    return random.normal(size=(n, 8)).astype(np.float32) + 3 * y[:, None], y


@pytest.fixture
def imported(tmp_path):
    """A store of arrays with a patient and a year of each row, 4 rows of one patient."""
    pair = arrays(80, 0), arrays(40, 1)
    patients = [[f"p{row // 4}" for row in range(80)], [f"q{row // 4}" for row in range(40)]]
    columns = {"patient": tuple(patients), "year": (np.arange(80), np.arange(40, dtype=np.uint8))}
    return featstore.import_arrays(*pair, tmp_path / "mine.zarr", columns=columns)


def test_arrays_come_with_columns(imported, tmp_path):
    assert imported.column("train", "patient")[:5].tolist() == ["p0"] * 4 + ["p1"]
    assert imported.column("test", "year").tolist() == list(range(40))
    again = {"patient": (["a"] * 80, ["a"] * 40)}
    with pytest.raises(SpecMismatch, match="fingerprint"):
        featstore.import_arrays(arrays(80, 0), arrays(40, 1), imported.path, columns=again)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"a": ["x"] * 80}, UsageError, "column a is no pair of train and test"),
        ({"a": (["x"] * 80, ["x"] * 39)}, DatasetError, "needs one value a row in a column"),
        ({"a": (["x"] * 80, [1] * 40)}, DatasetError, "texts in one split and numbers in another"),
        ({"a": ([0.5] * 80, [0.5] * 40)}, DatasetError, "a column is texts or whole numbers"),
        ({"a": ([2**64 - 1] * 80, [1] * 40)}, DatasetError, "too large; give it as text"),
        ({"a": (["x\0y"] * 80, ["x"] * 40)}, DatasetError, "has a NUL in it"),
    ],
)
def test_columns_of_arrays_that_cannot_be(columns, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        featstore.import_arrays(arrays(80, 0), arrays(40, 1), tmp_path / "x.zarr", columns=columns)
    assert "\n" not in str(caught.value)


def test_copies_and_exports_keep_columns(imported, tmp_path):
    copy = featstore.convert(imported.path, tmp_path / "copy.h5", dtype="float16")
    chosen = tmp_path / "chosen.zarr"
    featstore.export(imported.path, chosen, [3, 1])
    for store in (copy, featstore.open(chosen)):
        assert store.spec.columns == imported.spec.columns
        for name in ("patient", "year"):
            for split in ("train", "test"):
                np.testing.assert_array_equal(
                    store.column(split, name), imported.column(split, name)
                )
    featstore.export(imported.path, tmp_path / "a.npz", [0])
    featstore.export(imported.path, tmp_path / "a.parquet", [0])
    table = pd.read_parquet(tmp_path / "a.parquet")
    with np.load(tmp_path / "a.npz") as archive:
        for name in ("patient", "year"):
            np.testing.assert_array_equal(archive[f"train_{name}"], imported.column("train", name))
            own = table.loc[table["split"] == "train", name]
            assert own.tolist() == imported.column("train", name).tolist()


def test_merged_stores_keep_what_each_keeps(imported, tmp_path):
    pair = arrays(80, 0), arrays(40, 1)
    same = {"year": (np.arange(80), np.arange(40)), "site": (["x"] * 80, ["longer"] * 40)}
    other = featstore.import_arrays(*pair, tmp_path / "other.zarr", columns=same)
    made = featstore.merge(imported.path, other.path, tmp_path / "both.zarr", names=["a", "b"])
    assert [one.name for one in made.spec.columns] == ["patient", "year", "site"]
    assert made.column("test", "site").tolist() == ["longer"] * 40
    np.testing.assert_array_equal(
        made.column("test", "patient"), imported.column("test", "patient")
    )
    same["year"][0][7] = 0
    wrong = featstore.import_arrays(*pair, tmp_path / "wrong.zarr", columns=same)
    with pytest.raises(SpecMismatch, match=r"row 7 of train has year 7 in .* and 0 in"):
        featstore.merge(imported.path, wrong.path, tmp_path / "x.zarr", names=["a", "b"])


def test_groups_are_read_from_the_store(imported, scans, tmp_path):
    """A column gives the probes that an array of the same groups gives."""
    groups = groups_of(imported, "train", "patient")
    assert groups.tolist() == imported.column("train", "patient").tolist()
    rows = {
        split: Grouped(imported.tap(split, "features"), imported.column(split, "patient"))
        for split in ("train", "test")
    }
    options = {"fractions": (0.5,), "seeds": 2, "solver": "ridge"}
    wanted = featstore.probe.sweep(rows["train"], rows["test"], **options).table
    out = tmp_path / "results.csv"
    words = ["probe", str(imported.path), "--fractions", "0.5", "--seeds", "2", "--solver", "ridge"]
    main([*words, "--groups", "patient", "--out", str(out)], standalone_mode=False)
    found = pd.read_csv(out)
    assert found["n_groups"].tolist() == wanted["n_groups"].tolist() == [10] * len(found)
    np.testing.assert_allclose(found["accuracy"], wanted["accuracy"])
    np.testing.assert_allclose(found["l2"], wanted["l2"])
    with pytest.raises(UsageError, match=r"groups are 'who': .* .a column of .*: patient, year"):
        groups_of(imported, "train", "who")
    with pytest.raises(UsageError, match=r"row 0 of test in .* has no patient"):
        groups_of(extract(scans, "a.zarr"), "test", "patient")


def test_columns_by_the_commands(scans, tmp_path, capsys):
    out = tmp_path / "kept.zarr"
    words = ["extract", "--model", "test_resnet", "--no-pretrained", "--image-size", "32"]
    words += ["--dataset", f"csv:{scans / 'scans.csv'}", "--keep-columns", "patient,year"]
    main([*words, "--out", str(out)], standalone_mode=False)
    main(["info", str(out)], standalone_mode=False)
    assert "patient, year" in capsys.readouterr().out
    for split, n in {"train": 80, "test": 40}.items():
        x, y = arrays(n, n)
        names = pd.Series([f"s{row // 8}" for row in range(n)])
        pd.DataFrame({"x": list(x), "y": y, "who": names}).to_parquet(tmp_path / f"{split}.parquet")
    words = ["import", "--out", str(tmp_path / "i.zarr")]
    for split in ("train", "test"):
        file = tmp_path / f"{split}.parquet"
        words += [f"--{split}-features", f"{file}:x", f"--{split}-labels", f"{file}:y"]
        words += [f"--{split}-column", f"speaker={file}:who"]
    main(words, standalone_mode=False)
    assert featstore.open(tmp_path / "i.zarr").column("test", "speaker")[-1] == "s4"
    with pytest.raises(SystemExit):
        main(words[:-2])
    assert "column speaker is of one split alone" in capsys.readouterr().err


def test_a_tap_cannot_have_the_name_of_a_columns_array():
    tap = featstore.Tap(name="column.0", dim=3, pooling="avg")
    assert spec_of(taps=(tap,)).tap("column.0").dim == 3
    with pytest.raises(ValueError, match="the store keeps that name"):
        spec_of(taps=(tap,), columns=(Column(name="a"),))
    with pytest.raises(ValueError, match="column 'a' is there twice"):
        spec_of(columns=(Column(name="a"), Column(name="a", width=2)))
    assert columns_of([{}, {}]) == ()
