"""Maps of images: classes and numbers of pixels, reduced to labels of patches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from featstore.data.maps import MapFiles, Mapped, Maps, as_map, is_map, labelled
from featstore.data.rows import ImageRows
from featstore.errors import DatasetError, UsageError


def rows_of(maps, split="train", sizes=None, classes=("0",)) -> ImageRows:
    """Return rows whose maps are these; images have their size, or the `sizes` given."""
    sizes = sizes or [one.shape[::-1] for one in maps]
    return ImageRows(
        dataset="made",
        split=split,
        labels=np.zeros(len(maps), np.int64),
        ids=[f"{row}.png" for row in range(len(maps))],
        classes=classes,
        fingerprint="none",
        read=lambda row: None,
        maps=lambda row: Mapped(maps[row], sizes[row]),
    )


def read_off(maps, grid, how=None, **more):
    """Return labels by (image, place), and the rows, of maps as large as the network's input."""
    given = {"train": rows_of(maps, **more)}
    rows = labelled(given, how or Maps(), grid, maps[0].shape, None)["train"]
    pieces, found = rows.pieces, {}
    for image in range(len(maps)):
        for row in range(pieces.starts[image], pieces.starts[image + 1]):
            label = pieces.labels[row]
            found[image, int(pieces.places[row])] = (
                rows.classes[label] if rows.classes else float(label)
            )
    return found, rows


# four patches: all 7; 7 and 3 alike; most of it ignored; one pixel of 3
QUARTERS = np.array(
    [
        [7, 7, 7, 3],
        [7, 7, 3, 7],
        [255, 255, 255, 7],
        [255, 3, 7, 3],
    ],
    np.uint8,
)


def test_a_patch_has_the_class_of_most_of_its_pixels():
    found, rows = read_off([QUARTERS], (2, 2))
    # two of each: the smaller one; of three ignored and one of 3 there is none
    assert found == {(0, 0): "7", (0, 1): "3", (0, 3): "7"}
    assert rows.classes == ("3", "7")
    assert [str(one) for one in rows.notices] == [
        "patches of train without a label, left out: 1 of 4"
    ]
    assert read_off([QUARTERS], (2, 2), Maps(share=0.75))[0] == {(0, 0): "7"}
    kept = read_off([QUARTERS], (2, 2), Maps(ignore=-1))[0]
    assert kept[0, 2] == "255"


def test_the_pixel_in_the_middle_and_the_mean():
    found, _ = read_off([QUARTERS], (2, 2), Maps("nearest"))
    # of four pixels the lower right one
    assert found == {(0, 0): "7", (0, 1): "7", (0, 2): "3", (0, 3): "3"}
    found, rows = read_off([QUARTERS], (2, 2), Maps("mean"))
    assert found[0, 1] == 5.0
    assert found[0, 2] == (3 * 255 + 3) / 4
    assert (rows.classes, rows.targets) == ((), ("target",))
    found, _ = read_off([QUARTERS], (2, 2), Maps("mean", ignore=255))
    assert found == {(0, 0): 7.0, (0, 1): 5.0, (0, 3): (7 + 7 + 3) / 3}


def test_numbers_that_are_not_finite_are_of_no_patch():
    depth = np.full((4, 6), 2.5, np.float32)
    depth[:2, :2] = np.nan
    depth[3, 5] = np.inf
    found, _ = read_off([depth, depth + 1], (2, 3), Maps("mean"))
    assert (0, 0) not in found
    assert found[0, 5] == 2.5
    assert found[1, 2] == 3.5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_majorities_are_those_of_a_loop(data):
    height, width = data.draw(st.integers(1, 13)), data.draw(st.integers(1, 13))
    grid = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    seed, share = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([0.0, 0.4, 0.8]))
    pixels = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width))
    wanted = {}
    for y in range(grid[0]):
        for x in range(grid[1]):
            mine = [
                pixels[i, j]
                for i in range(height)
                for j in range(width)
                if (i * grid[0] // height, j * grid[1] // width) == (y, x)
            ]
            counts = [mine.count(label) for label in (0, 1, 2)]
            if max(counts) and max(counts) >= max(mine.count(255), share * len(mine)):
                wanted[0, y * grid[1] + x] = str(counts.index(max(counts)))
    if wanted:
        assert read_off([pixels], grid, Maps(share=share))[0] == wanted
    else:
        with pytest.raises(DatasetError, match="no patch of the train split of made has a label"):
            read_off([pixels], grid, Maps(share=share))


def test_positions_finer_than_pixels_share_them():
    found, _ = read_off([np.array([[1, 2], [3, 4]])], (4, 4))
    assert [found[0, place] for place in range(16)] == [*"1122" * 2, *"3344" * 2]


def test_classes_are_those_of_all_splits_and_have_the_names_that_are_stated():
    one, other = np.full((2, 2), 1), np.full((2, 2), 2)
    rows = {"train": rows_of([one]), "test": rows_of([other], "test")}
    made = labelled(rows, Maps(), (1, 1), (2, 2), None)
    assert made["train"].classes == made["test"].classes == ("1", "2")
    assert made["test"].pieces.labels.tolist() == [1]
    assert str(made["test"].notices[0]) == "classes without a row in test: 1 of 2 (1)"
    named = read_off([other], (1, 1), classes=("sky", "sea", "land"))[0]
    assert named == {(0, 0): "land"}


def test_a_map_follows_its_image_in_any_size():
    """A network that sees the left half of an image, turned upside down, meets its map so too."""
    across, down = np.meshgrid(np.arange(6), np.arange(4))
    upside = lambda size: (down[::-1, :3], across[:, :3])  # noqa: E731
    small = np.array([[1, 2, 9], [3, 4, 9]], np.uint8)
    for values in (small, small.repeat(2, 0).repeat(2, 1), small.repeat(6, 0).repeat(6, 1)):
        rows = {"train": rows_of([values], sizes=[(6, 4)])}
        (made,) = labelled(rows, Maps(), (2, 1), (4, 3), upside).values()
        # two of the three columns are of the left third of the map
        assert [made.classes[label] for label in made.pieces.labels] == ["3", "1"]


def test_rows_that_are_kept_keep_their_patches():
    maps = [np.full((2, 2), label) for label in (3, 255, 1, 2)]
    _, rows = read_off(maps, (1, 2))
    kept = rows.kept(np.array([3, 1, 0]))
    assert kept.pieces.starts.tolist() == [0, 2, 2, 4]
    assert [rows.classes[label] for label in kept.pieces.labels] == ["2", "2", "3", "3"]
    assert kept.pieces.places.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(kept.maps(0).values, maps[3])


def save(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_files_of_maps_are_read_as_numbers(tmp_path):
    image = save(tmp_path / "image.png", np.zeros((2, 3, 3), np.uint8))
    numbers = np.array([[0, 1, 2], [3, 200, 255]])
    palette = Image.fromarray(numbers.astype(np.uint8))
    palette.putpalette([value for place in range(256) for value in (place, 255 - place, 7)])
    palette.save(tmp_path / "palette.png")
    np.save(tmp_path / "depth.npy", numbers / 7)
    files = {
        save(tmp_path / "grey.png", numbers.astype(np.uint8)): numbers,
        tmp_path / "palette.png": numbers,
        save(tmp_path / "deep.png", (numbers * 99).astype(np.uint16)): numbers * 99,
        save(tmp_path / "two.png", (numbers > 1) * np.uint8(255), "1"): numbers > 1,
        tmp_path / "depth.npy": numbers / 7,
    }
    for path, wanted in files.items():
        mapped = MapFiles([image], [path])(0)
        np.testing.assert_array_equal(mapped.values, wanted, err_msg=str(path))
        assert mapped.size == (3, 2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda path: save(path / "m.png", np.zeros((2, 3, 3), np.uint8)), "it has colours .RGB."),
        (lambda path: save(path / "m.jpg", np.zeros((2, 3), np.uint8)), "JPEG changes the numbers"),
        (lambda path: path / "none.png", "there is no file .*none.png"),
        (lambda path: save(path / "m.png", np.zeros((9, 3), np.uint8)), "it is 3 x 9 .* image 3 x"),
        (lambda path: (path / "m.png").write_text("no image") and path / "m.png", "cannot identif"),
        (lambda path: np.save(path / "m.npy", [[0.5] * 3] * 2) or path / "m.npy", "such as 0.5"),
        (lambda path: np.save(path / "m.npy", [[-3] * 3] * 2) or path / "m.npy", "the class -3"),
        (lambda path: np.save(path / "m.npy", [1, 2]) or path / "m.npy", r"int64 \(2,\)"),
    ],
)
def test_maps_that_cannot_be_used_name_their_row(made, message, tmp_path):
    image = save(tmp_path / "image.png", np.zeros((2, 3, 3), np.uint8))
    rows = rows_of([np.zeros((2, 3))])
    object.__setattr__(rows, "maps", MapFiles([image], [made(tmp_path)]))
    down, across = np.mgrid[:2, :3]
    with pytest.raises(DatasetError, match=message) as caught:
        labelled({"train": rows}, Maps(), (1, 1), (2, 3), lambda size: (down, across))
    assert "the map of row 0.png of the train split of made cannot be used" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_maps_cannot_be():
    with pytest.raises(UsageError, match="maps are read by 'mode'; choose majority, nearest, mean"):
        Maps("mode")
    with pytest.raises(UsageError, match="the share of a patch's pixels is 2"):
        Maps(share=2)
    with pytest.raises(DatasetError, match="2 x 2, and the network sees 4 x 4 pixels"):
        labelled({"train": rows_of([np.zeros((2, 2))])}, Maps(), (1, 1), (4, 4), None)
    many = np.arange(20_000).reshape(100, 200)
    with pytest.raises(DatasetError, match="have 20,000 values, as those of instances"):
        labelled({"train": rows_of([many])}, Maps(ignore=-1), (100, 200), (100, 200), None)


def test_what_is_a_map():
    image = Image.new("L", (3, 2))
    assert is_map(image)
    assert is_map(torch.zeros(2, 3))
    assert is_map(torch.zeros(1, 2, 3))
    assert not any(map(is_map, (1, "a", torch.zeros(3), np.zeros((3, 2, 2)), None, [[1]])))
    assert as_map(torch.zeros(1, 2, 3, dtype=torch.bool)).dtype == np.uint8
    with pytest.raises(ValueError, match="a map holds numbers"):
        as_map(np.array([["a"]]))
