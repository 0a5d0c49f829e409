"""WebDataset's shards: which members make a sample, where they lie, what they are worth."""

import io
import json
import pickle
import subprocess
import tarfile

import numpy as np
import pytest
from fake_sets import LABELS, grey
from PIL import Image

from featstore import data as datasets
from featstore.data import webdataset
from featstore.data.columns import Columns
from featstore.errors import DatasetError, UsageError


def encoded(level: int, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (level,) * 3).save(file, format)
    return file.getvalue()


def write_shard(path, members, mode="w", kind=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as shard:
        for name, data in members:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def two_shards(tmp_path):
    """Two train shards and a val shard of the images of `fake_sets`; png and jpg are mixed."""
    for split, parts in {"train": [[0, 1], [2, 3]], "test": [[0, 1]]}.items():
        for number, rows in enumerate(parts):
            members = []
            for row in rows:
                label = LABELS[split][row]
                suffix = ["png", "JPG"][row % 2]
                image = encoded(grey(split, label), {"JPG": "JPEG"}.get(suffix, suffix.upper()))
                key = f"dir.d/{row:04}"
                members += [(f"{key}.{suffix}", image), (f"{key}.cls", f"{label}\n")]
            name = "train" if split == "train" else "val"
            write_shard(tmp_path / "set" / f"{name}-{number:03}.tar", members)
    return tmp_path


@pytest.mark.parametrize(
    "pattern", ["{split}-{000..001}.tar", "{split}-*.tar", "{split}-00?.tar", "{split}-00{0,1}.tar"]
)
def test_rows_of_shards(two_shards, pattern):
    rows = datasets.load(f"wds:set/{pattern}", "train", data_dir=two_shards)
    assert rows.dataset == f"wds:{pattern}"
    assert rows.ids == [f"dir.d/{row:04}" for row in range(4)]
    assert rows.labels.tolist() == LABELS["train"]
    assert rows.classes == ("0", "1")
    for row in (3, 0, 2, 1):
        image, label = rows[row]
        assert np.abs(np.asarray(image, int) - grey("train", label)).max() <= 1
    again = pickle.loads(pickle.dumps(rows))
    assert again[3][0].tobytes() == rows[3][0].tobytes()


def test_a_part_names_no_other_shard(two_shards):
    rows = datasets.load("wds:set/{split}-*.tar", "train", data_dir=two_shards)
    part = rows.part([3, 2]).cut()
    assert [shard.name for shard in part.read.shards] == ["train-001.tar"]
    assert [part[place].tobytes() for place in (0, 1)] == [rows[row][0].tobytes() for row in (3, 2)]


def test_val_stands_in_for_test(two_shards):
    rows = datasets.load("wds:set/{split}-*.tar", "test", data_dir=two_shards)
    assert (rows.split, rows.ids) == ("test", ["dir.d/0000", "dir.d/0001"])


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_tarfiles_own(tmp_path, kind):
    """Against the library's own extraction, with names that need a header more in two formats."""
    random = np.random.default_rng(0)
    prefix = "p" * 90 + "/"
    names = [f"{prefix if i % 3 else ''}{'n' * 40}{i}.bin" for i in range(40)]
    members = [(name, random.bytes(i * 97)) for i, name in enumerate(names)]
    path = write_shard(tmp_path / "a.tar", members, kind=kind)
    index = webdataset.index_of(path, kept_from=0)
    with tarfile.open(path) as shard:
        for name, offset, size in zip(index.names, index.offsets, index.sizes, strict=True):
            read = webdataset.read_member(path, int(offset), int(size))
            assert read == shard.extractfile(name).read()
    assert index.names == names


def test_samples_are_webdatasets(tmp_path):
    """Up to the first dot of the last part is the key; suffixes are lower case; links are none."""
    members = [
        ("./a.b/x.JPG", b"1"), ("./a.b/x.seg.png", b"2"), ("a.b/x.cls", b"3"), ("none", b"4"),
        (".hidden.jpg", b"5"), ("y.jpg", b"6"), ("x.jpg", b"7"),
    ]  # fmt: skip
    path = write_shard(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as shard:
        link = tarfile.TarInfo("z.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    samples = list(webdataset.samples_of(path))
    assert [(sample.key, list(sample.members)) for sample in samples] == [
        ("a.b/x", ["jpg", "seg.png", "cls"]), ("y", ["jpg"]), ("x", ["jpg"]),
    ]  # fmt: skip
    assert samples[0].read("seg.png") == b"2"


def test_keys_that_repeat_from_shard_to_shard_have_the_shards_name(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"train-{number}.tar", [("0.png", encoded(9)), ("0.cls", "1")])
    rows = datasets.load("wds:{split}-*.tar", "train", data_dir=tmp_path)
    assert rows.ids == ["train-0/0", "train-1/0"]


def test_labels_from_json_and_texts(tmp_path):
    meta = [{"name": name, "age": age, "n": 3} for name, age in (("b", 1.5), ("a", 2.5))]
    members = []
    for row, one in enumerate(meta):
        members += [(f"{row}.txt", f" text {row}\n"), (f"{row}.json", json.dumps(one))]
    write_shard(tmp_path / "train.tar", members)

    def load(**names):
        return datasets.load(f"wds:{tmp_path}/{{split}}.tar", "train", columns=Columns(**names))

    rows = load(label="name")
    assert (rows.modality, rows[0], rows.classes) == ("text", ("text 0", 1), ("a", "b"))
    assert load(label="age").labels.tolist() == [1.5, 2.5]
    assert load(targets=("age", "n")).labels.tolist() == [[1.5, 3.0], [2.5, 3.0]]
    assert load(text="name", label="n")[1] == ("a", 0)
    with pytest.raises(DatasetError, match=r"sample 0 of .* has no kind .*it has txt, json"):
        load(label="kind")


def test_fingerprint_sees_pixels_labels_and_keys(two_shards):
    def of(members):
        write_shard(two_shards / "one" / "train.tar", members)
        return datasets.load("wds:one/{split}.tar", "train", data_dir=two_shards).fingerprint

    members = [("0.png", encoded(1)), ("0.cls", "1"), ("1.png", encoded(2)), ("1.cls", "0")]
    known = of(members)
    assert of(members) == known
    assert of([*members[:2], ("2.png", encoded(2)), ("2.cls", "0")]) != known
    assert of([("0.png", encoded(3)), *members[1:]]) != known
    assert of([members[0], ("0.cls", "0"), members[2], ("1.cls", "1")]) != known


def test_index_is_kept_and_made_anew_for_another_file(two_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = two_shards / "set" / "train-000.tar"
    first = webdataset.index_of(path, kept_from=0)
    made = []
    make = webdataset._made
    monkeypatch.setattr(webdataset, "_made", lambda *given: made.append(given) or make(*given))
    webdataset._index.cache_clear()
    assert webdataset.index_of(path, kept_from=0).names == first.names
    assert made == []
    write_shard(path, [("new.png", encoded(1))])
    assert webdataset.index_of(path, kept_from=0).names == ["new.png"]
    (kept,) = [file for file in (tmp_path / "cache").rglob("*.parquet") if file.stat().st_size]
    kept.write_bytes(b"damaged")
    webdataset._index.cache_clear()
    assert webdataset.index_of(path, kept_from=0).names == ["new.png"]
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(two_shards, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    webdataset._index.cache_clear()
    path = two_shards / "set" / "train-000.tar"
    assert len(webdataset.index_of(path, kept_from=0).names) == 4


# what cannot be used


def test_expansion_is_bashs():
    for pattern in ("{a,b}-{08..11}.tar", "x{0..3}", "{000..012}{p,q}", "plain", "{1,2}{3,4}{5,6}"):
        bash = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
        assert webdataset.expanded(pattern) == bash.stdout.split()
    for pattern in ("{0..99999999}", "{0..999}{0..999}{0..9}"):
        with pytest.raises(UsageError, match="smaller range"):
            webdataset.expanded(pattern)


@pytest.mark.parametrize(
    "pattern", ["train-{0..3}.tar", "pipe:curl x/{split}.tar", "s3://bucket/{split}.tar"]
)
def test_patterns_that_name_no_local_shards(pattern):
    with pytest.raises(UsageError, match=r"does not name the local shards of each split"):
        datasets.load(f"wds:{pattern}", "train")


def test_shards_that_are_missing_are_named(two_shards):
    with pytest.raises(DatasetError, match=r"there is no shard .*train-002.tar.*fetch it again"):
        datasets.load("wds:set/{split}-{000..002}.tar", "train", data_dir=two_shards)
    with pytest.raises(DatasetError, match=r"there is no shard .* for any of train, test"):
        datasets.load("wds:set/no-{split}.tar", "train", data_dir=two_shards)
    with pytest.raises(UsageError, match="no split 'extra'; it has train, val"):
        datasets.load("wds:set/{split}-*.tar", "extra", data_dir=two_shards)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"no tar" * 500), "as an uncompressed tar file: "),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "truncated|end of data"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: write_shard(path, [("0.cls", "1")], "w:gz"), "is compressed.*uncompress it"),
        (lambda path: write_shard(path, [("0.cls", "1")]), r"first sample .* 0, has cls; say"),
        (lambda path: write_shard(path, [("0.png", b"1")]), "sample 0 .* has no label"),
        (lambda path: write_shard(path, [("none", b"1")]), "hold no sample"),
        (lambda path: write_shard(path, [("0.png", b"1"), ("0.PNG", b"1")]), "0.png twice"),
        (
            lambda path: write_shard(
                path, [(f"{k}.{s}", "1") for k in "010" for s in ("png", "cls")]
            ),
            r"the sample train/0 in two places.*--sort=name",
        ),
        (
            lambda path: write_shard(path, [("0.png", b"1"), ("0.cls", b"\xff")]),
            "cls of sample 0 in .* cannot be read",
        ),
        (
            lambda path: write_shard(path, [("0.png", b"1"), ("0.json", b"{")]),
            "label of sample 0 in .* cannot be read",
        ),
    ],
)  # fmt: skip
def test_shards_that_are_damaged_are_named(tmp_path, spoil, said):
    path = write_shard(tmp_path / "train.tar", [("0.png", encoded(1)), ("0.cls", "1")])
    spoil(path)
    with pytest.raises((DatasetError, UsageError), match=said) as caught:
        datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert "train.tar" in str(caught.value) or "{split}.tar" in str(caught.value)


def test_images_that_cannot_be_decoded_are_rows_that_cannot_be_read(tmp_path):
    members = [("0.png", encoded(1)), ("0.cls", "0"), ("1.png", encoded(1)[:50]), ("1.cls", "1")]
    write_shard(tmp_path / "train.tar", members)
    rows = datasets.load("wds:{split}.tar", "train", data_dir=tmp_path)
    assert [one.id for one in datasets.scan(rows)] == ["1"]
