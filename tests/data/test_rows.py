"""Rows of any source: what pixels become, rows that cannot be read, processes that read them."""

import csv
import io
import pickle

import numpy as np
import pytest
from fake_sets import class_folders, write_image
from forked import processes
from hypothesis import given, settings, strategies as st
from PIL import Image

from featstore import data as datasets
from featstore.data.rows import ImageRows, TextRows, opened, rgb
from featstore.errors import DatasetError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def through(image: Image.Image, format: str, **options) -> Image.Image:
    """An image as it comes back from a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return opened(io.BytesIO(file.getvalue()))


# pixels


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_high_byte(format):
    deep = Image.fromarray(RAMP.astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(np.asarray(rgb(through(deep, format)))[..., 2], RAMP)


def test_pixels_without_a_range_are_refused():
    with pytest.raises(ValueError, match="floating-point numbers without a range"):
        rgb(through(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    with pytest.raises(ValueError, match="go from -1 to 65536"):
        rgb(through(Image.fromarray(np.array([[-1, 65536]], np.int32)), "TIFF"))


def test_grey_palettes_and_cmyk_are_their_colours():
    grey = Image.fromarray(RAMP)
    for image in (grey, grey.convert("P"), grey.convert("CMYK"), through(grey, "GIF")):
        np.testing.assert_allclose(np.asarray(rgb(image))[..., 1], RAMP, atol=1)
    assert np.asarray(rgb(Image.new("1", (2, 2), 1))).min() == 255
    cmyk = through(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    np.testing.assert_allclose(np.asarray(rgb(cmyk))[0, 0], [255, 0, 0], atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    alpha = Image.fromarray(RAMP)
    black = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    black.putalpha(alpha)
    if mode == "P":
        image = Image.new("P", (16, 16), 3)
        image.putpalette([0] * 768)
        image.info["transparency"] = bytes(range(0, 256, 20))
        expected = np.full((16, 16), 255 - 60)
    else:
        image, expected = black.convert(mode) if mode != "PA" else black.convert("LA"), 255 - RAMP
    np.testing.assert_allclose(np.asarray(rgb(image))[..., 0], expected, atol=1)


def test_opaque_pixels_stay_as_they_are():
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(colours)
    assert rgb(image) is image
    np.testing.assert_array_equal(np.asarray(rgb(image.convert("RGBA"))), colours)


def test_the_orientation_that_a_camera_noted_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = through(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert image.getexif()[0x0112] == 6
    assert rgb(image).size == (20, 10)


# rows that cannot be read


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Eight images below a folder, of which the third and the fifth are damaged."""
    folder = tmp_path_factory.mktemp("spoilt")
    class_folders(folder, ["cat", "dog"])
    for number in range(8):
        write_image(folder / "train" / "cat" / f"a{number}.png", "train", 0)
    for number, data in ((2, b""), (4, (folder / "train/cat/a4.png").read_bytes()[:45])):
        (folder / "train" / "cat" / f"a{number}.png").write_bytes(data)
    return folder


@pytest.mark.parametrize("workers", [1, 3])
def test_scan_names_the_rows_that_cannot_be_read(spoilt, workers):
    rows = datasets.load(f"folder:{spoilt}", "train")
    seen = []
    found = datasets.scan(
        rows, workers=workers, progress=lambda *call, **facts: seen.append((*call, facts))
    )
    assert [one.id for one in found] == ["train/cat/a2.png", "train/cat/a4.png"]
    assert [rows.ids[one.row] for one in found] == [one.id for one in found]
    assert "cannot identify image file" in found[0].why
    assert seen == [("checked images", len(rows), len(rows), {"unreadable": 2})]


def test_rows_without_those_that_cannot_be_read(spoilt):
    rows = datasets.load(f"folder:{spoilt}", "train")
    found = datasets.scan(rows)
    left = datasets.without(rows, found)
    assert left.ids == [id_ for id_ in rows.ids if id_ not in {one.id for one in found}]
    assert datasets.scan(left) == ()
    kept = [label for id_, label in zip(rows.ids, rows.labels, strict=True) if id_ in left.ids]
    assert [left[row][1] for row in range(len(left))] == left.labels.tolist() == kept
    prints = {
        rows.fingerprint, left.fingerprint, datasets.without(rows, found[:1]).fingerprint,
        datasets.without(rows, found[1:]).fingerprint,
    }  # fmt: skip
    assert len(prints) == 4
    assert datasets.without(rows, ()) is rows


def test_limited_rows_are_scanned_by_their_own_numbers(spoilt):
    rows = datasets.load(f"folder:{spoilt}", "train", limit=4)
    found = datasets.scan(rows)
    assert all(one.id == rows.ids[one.row] for one in found)
    assert datasets.scan(datasets.without(rows, found)) == ()


def test_nothing_left_is_an_error(tmp_path):
    rows = TextRows("d", "train", np.array([0]), ["0"], ("a",), "f", {0: None}.get)
    with pytest.raises(DatasetError, match="none of the 1 rows of the train split of d can be rea"):
        datasets.without(rows, datasets.scan(rows))


def test_report_is_a_table(spoilt, tmp_path):
    found = datasets.scan(datasets.load(f"folder:{spoilt}", "train"))
    datasets.save_report(tmp_path / "report.csv", found)
    with open(tmp_path / "report.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["split", "id", "why"]
    assert [line[:2] for line in lines[1:]] == [["train", one.id] for one in found]
    assert [file.name for file in tmp_path.glob("*report*")] == ["report.csv"]


FILES = {
    format: (lambda file: (Image.fromarray(RAMP).convert(mode).save(file, format), file)[1])(
        io.BytesIO()
    ).getvalue()
    for format, mode in [
        ("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"),
        ("WEBP", "RGB"), ("PPM", "L"), ("ICO", "RGBA"),
    ]
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_an_unreadable_row_and_nothing_worse(format, data):
    """Bytes changed at random places, or cut off: decoded, or a DatasetError."""
    content = bytearray(FILES[format])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    rows = ImageRows(
        "d", "train", np.array([0]), ["one"], ("a",), "f", lambda row: opened(io.BytesIO(content))
    )
    found = datasets.scan(rows)
    if found:
        assert found[0].why.startswith("image one of the train split of d cannot be read: ")
    else:
        assert rows[0][0].mode == "RGB"


def test_decompression_bombs_are_unreadable(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    rows = ImageRows(
        "d", "train", np.array([0]), ["one"], ("a",), "f",
        lambda row: opened(io.BytesIO(FILES["PNG"])),
    )  # fmt: skip
    with pytest.raises(
        DatasetError, match=r"one .* cannot be read: .* exceeds limit of 200 pixels"
    ):
        rows[0]


def test_targets_that_are_not_finite_are_refused():
    with pytest.raises(DatasetError, match="row b of the train split of d has no finite height"):
        TextRows(
            "d", "train", np.array([[1.0, 2.0], [0.0, np.inf]]), ["a", "b"], (), "f", str,
            targets=("age", "height"),
        )  # fmt: skip


# processes


def levels(rows) -> list[int]:
    return [rows[row][0].getpixel((0, 0))[0] for row in range(len(rows))]


@pytest.mark.long
def test_rows_are_read_by_another_process(spoilt):
    """And are small on the way: paths and offsets travel, not images."""
    rows = datasets.load(f"folder:{spoilt}", "test")
    assert len(pickle.dumps(rows)) < 2000
    with processes.Pool(1) as pool:
        assert pool.apply(levels, (rows,)) == levels(rows)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_rows_of_every_source_can_be_pickled(name, spoilt):
    rows = datasets.load({"folder": f"folder:{spoilt}"}.get(name, name), "test", limit=2)
    assert levels(pickle.loads(pickle.dumps(rows))) == levels(rows)
    part = pickle.loads(pickle.dumps(rows.part([1]).cut()))
    assert (len(part), part[0].tobytes()) == (1, rows[1][0].tobytes())
