"""Rows that are tokens of texts or patches of images."""

import json

import numpy as np
import pyarrow as pa
import pytest
import timm
import tokenizers
import torch
import transformers
from PIL import Image
from pyarrow import parquet
from timm.data import resolve_model_data_config
from torchvision.transforms import functional

import featstore
from featstore import models
from featstore.cli import main
from featstore.data.columns import Columns
from featstore.data.maps import Maps
from featstore.data.rows import Ragged, Words
from featstore.errors import DatasetError, SpecMismatch, UsageError
from featstore.models import taps
from featstore.probe import sweep

PIECES = ["[PAD]", "[UNK]", "the", "cat", "##s", "sat", "on", "a", "mat", "big"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A decoder and an encoder, whose tokenizer cuts "cats" and "mats" in two."""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: n for n, word in enumerate(PIECES)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    common = {"vocab_size": len(PIECES), "max_position_embeddings": 16, "hidden_size": 16}
    common |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    found = {}
    for name, config in {
        "llama": transformers.LlamaConfig(**common), "bert": transformers.BertConfig(**common)
    }.items():  # fmt: skip
        found[name] = tmp_path_factory.mktemp("pieces") / name
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        model.save_pretrained(found[name])
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", model_max_length=12
        ).save_pretrained(found[name])
    return found


SENTENCES = [["the", "cats", "sat"], ["a", "big", "mats", "sat", "on", "cats"], ["cat"]] * 9
TAGS = [["D", "N", "V"], ["D", "A", "N", "V", "P", "N"], ["N"]] * 9
# the tokens of each word, by place
PARTS = {3: [[0], [1, 2], [3]], 6: [[0], [1], [2, 3], [4], [5], [6, 7]], 1: [[0]]}


def table(folder, words=SENTENCES, tags=TAGS, as_text=False):
    if as_text:
        words = [" ".join(some) for some in words]
    half = len(words) - 3
    splits = ["train"] * half + ["test"] * 3
    rows = pa.table({"text": words, "label": tags, "split": splits})
    parquet.write_table(rows, folder / "tags.parquet")
    return f"parquet:{folder / 'tags.parquet'}"


def extract(model, data, out, **options):
    options = {"rows": "tokens", "device": "cpu", "dtype": "float32", "batch_size": 4} | options
    return featstore.extract(f"hf:{model}", data, out=out, **options)


OVER = {
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
}


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_rows_are_the_words_and_their_features_those_of_their_tokens(name, folders, tmp_path):
    path = {"llama": "layers.0", "bert": "encoder.layer.0"}[name]
    done = extract(
        folders[name], table(tmp_path), tmp_path / "s.zarr",
        taps=[path, *(f"{path}@{how}" for how in OVER), "last"],
    )  # fmt: skip
    store = done.store
    assert store.spec.rows == "tokens"
    assert store.spec.classes == ("A", "D", "N", "P", "V")
    assert store.ids("train")[:5] == ["0:0", "0:1", "0:2", "1:0", "1:1"]
    told = [store.spec.classes[label] for label in store.labels("train")]
    assert told == [tag for tags in TAGS[:-3] for tag in tags]
    default = {"llama": "last", "bert": "mean"}[name]
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    row = 0
    stored = {tap.name: store.load("train", tap.name) for tap in store.spec.taps}
    for words in SENTENCES[:-3]:
        ids = tokenizer(" ".join(words), return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        for places in PARTS[len(words)]:
            for how, pooled in OVER.items():
                wanted = pooled(states[places])
                np.testing.assert_allclose(stored[f"{path}_{how}"][row], wanted, 1e-4, 1e-5)
            np.testing.assert_array_equal(stored[path][row], stored[f"{path}_{default}"][row])
            row += 1
    assert row == len(stored["last"])


def test_texts_are_parted_at_their_space(folders, tmp_path):
    one = extract(folders["bert"], table(tmp_path), tmp_path / "a.zarr")
    two = extract(folders["bert"], table(tmp_path, as_text=True), tmp_path / "b.zarr")
    assert np.array_equal(one.store.load("test", "last"), two.store.load("test", "last"))
    assert one.store.spec.split("test").fingerprint == two.store.spec.split("test").fingerprint


@pytest.mark.usefixtures("small_blocks")
def test_blocks_that_part_a_text_have_the_bits_of_one_pass(folders, tmp_path):
    """Blocks of 32 rows part texts; resuming computes a lost block to the same bits."""
    many = [SENTENCES * 4, TAGS * 4]
    data = table(tmp_path, *many)
    done = extract(folders["llama"], data, tmp_path / "s.zarr")
    assert done.store.n_blocks("train") == 11
    whole = done.store.load("train", "last")
    each = {row: whole[row : row + 3] for row in range(0, len(whole) - 3, 10)}
    for rows in each.values():
        np.testing.assert_allclose(rows, each[0], 1e-4, 1e-6)
    with done.store.writer() as writer:
        writer.discard("train", 5)
    again = extract(folders["llama"], data, tmp_path / "s.zarr")
    assert again.images_done == 32
    assert np.array_equal(again.store.load("train", "last"), whole)


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ([["a", "cat"], *SENTENCES], [["D"], *TAGS], "row 0 .* has 2 words and 1 labels"),
        ([["cat"] * 13, *SENTENCES], [["N"] * 13, *TAGS], "word 12 of row 0 .* longer than 12"),
        (SENTENCES, ["N"] * 27, "give a column with a list of labels a row"),
    ],
)
def test_labels_and_words_that_do_not_fit(words, tags, message, folders, tmp_path):
    with pytest.raises(DatasetError, match=message):
        extract(folders["bert"], table(tmp_path, words, tags), tmp_path / "s.zarr")


def test_words_of_json_lines_and_of_a_limit(folders, tmp_path):
    file = tmp_path / "tags.jsonl"
    rows = [
        {"text": words, "label": tags, "split": split}
        for split in ("train", "test")
        for words, tags in zip(SENTENCES, TAGS, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = extract(folders["llama"], f"jsonl:{file}", tmp_path / "s.zarr", limit=3)
    ids = done.store.ids("train")
    assert [one.split(":")[0] for one in ids] == ["0"] * 3 + ["13"] * 6 + ["26"]


def test_ragged_labels_of_some_items():
    every = Ragged(np.arange(10), np.array([0, 3, 3, 7, 10]))
    some = every.kept(np.array([3, 1, 0]))
    assert some.labels.tolist() == [7, 8, 9, 0, 1, 2]
    assert some.starts.tolist() == [0, 3, 3, 6]


def test_words_of_letters_that_take_several_bytes():
    words = Words.of(["née", "日本", "b"])
    assert [words[start:end] for start, end in words.spans] == ["née", "日本", "b"]


# patches


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.mark.parametrize(("model", "tap"), [("test_vit", "last"), ("test_resnet", "layer3")])
def test_patches_and_positions_of_images(model, tap, images, tmp_path):
    done = featstore.extract(
        model, f"folder:{images}", pretrained=False, taps=[tap], rows="patches", device="cpu",
        dtype="float32", batch_size=4, out=tmp_path / "s.zarr",
    )  # fmt: skip
    store, backbone = done.store, models.load(model, pretrained=False)
    stored = store.load("train", tap)
    image = Image.open(images / "train" / "a" / "1.png")
    with torch.inference_mode():
        batch = backbone.prepare(backbone.encode_batch([image]))
        kept = taps.reader(backbone.network, {tap: lambda found: found})(batch)[tap]
    if kept.kind == "map":
        wanted = kept.values[0].permute(1, 2, 0).reshape(-1, kept.shape[0])
    else:
        wanted = kept.values[0, kept.tokens.prefix :]
    per_image = len(wanted)
    assert len(stored) == 6 * per_image
    np.testing.assert_allclose(stored[per_image : 2 * per_image], wanted, 1e-4, 1e-5)
    assert store.ids("train")[per_image + 2] == "train/a/1.png:2"
    assert store.labels("train").tolist() == [0] * 3 * per_image + [1] * 3 * per_image
    assert (store.spec.rows, store.spec.tap(tap).pooling) == ("patches", "patches")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "tokens"}, "rows are tokens, which texts have, and test_resnet takes images"),
        ({"rows": "words"}, "rows are 'words'; choose items, tokens, patches"),
        ({"taps": ["layer1", "layer3"]}, "layers of one store have as many positions"),
        ({"taps": ["penultimate", "layer1"]}, "penultimate of test_resnet has no patches"),
        ({"views": 2}, "rows are patches, of which every one is read, clean"),
        ({"pool": "max", "taps": ["layer1"]}, "patches are not pooled"),
    ],
)
def test_pieces_that_cannot_be(options, message, images, tmp_path):
    options = {"rows": "patches", "pretrained": False, "device": "cpu"} | options
    with pytest.raises(UsageError, match=message):
        featstore.extract("test_resnet", f"folder:{images}", out=tmp_path / "s.zarr", **options)


# patches with maps


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A table of pictures of two sizes and their maps: rectangles of 0, 4 and 9, and some 255."""
    folder = tmp_path_factory.mktemp("scenes")
    rng, lines = np.random.default_rng(0), ["image,mask,depth,split"]
    for number in range(5):
        width, height = [(64, 48), (50, 90)][number % 2]
        labels = np.full((height, width), 255, np.uint8)
        for _ in range(9):
            y, x = rng.integers(0, height), rng.integers(0, width)
            labels[y : y + height // 2, x : x + width // 2] = rng.choice([0, 4, 9])
        colours = rng.integers(0, 256, (256, 3), np.uint8)
        Image.fromarray(colours[labels]).save(folder / f"{number}.png")
        # maps of the last two images are of half their size
        halved = labels[:: 1 + number // 3, :: 1 + number // 3]
        Image.fromarray(halved).save(folder / f"{number}.map.png")
        np.save(folder / f"{number}.depth.npy", labels / 8)
        split = "test" if number == 4 else "train"
        lines.append(f"{number}.png,{number}.map.png,{number}.depth.npy,{split}")
    (folder / "scenes.csv").write_text("\n".join(lines))
    return folder


def picture(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def mapped(scenes, out, **options):
    options = {"columns": Columns(map="mask"), "rows": "patches", "image_size": 96} | options
    return featstore.extract(
        "test_vit",
        f"csv:{scenes / 'scenes.csv'}",
        pretrained=False,
        taps=["last"],
        device="cpu",
        dtype="float32",
        out=out,
        **options,
    )


def test_patches_have_the_classes_of_their_pixels(scenes, tmp_path):
    store = mapped(scenes, tmp_path / "s.zarr", batch_size=2).store
    everything = mapped(scenes, tmp_path / "all.zarr", columns=Columns(label="mask")).store
    assert store.spec.classes == ("0", "4", "9")
    config = resolve_model_data_config(timm.create_model("test_vit"))
    shorter = int(96 / config["crop_pct"])
    for split, images in {"train": range(4), "test": [4]}.items():
        wanted, left_out = {}, 0
        for number in images:
            image = picture(scenes / f"{number}.png")
            labels = picture(scenes / f"{number}.map.png").resize(image.size, 0)
            labels = functional.resize(labels, [shorter], functional.InterpolationMode.NEAREST)
            labels = np.asarray(functional.center_crop(labels, [96]))
            for place in range(36):
                y, x = 16 * (place // 6), 16 * (place % 6)
                counts = np.bincount(labels[y : y + 16, x : x + 16].ravel(), minlength=256)
                if counts.argmax() == 255:
                    left_out += 1
                    continue
                wanted[f"{number}.png:{place}"] = str(counts.argmax())
        assert store.ids(split) == list(wanted)
        assert [store.spec.classes[label] for label in store.labels(split)] == list(wanted.values())
        assert 0 < left_out < 36 * len(images)
        told = f"patches of {split} without a label, left out: {left_out} of {36 * len(images)}"
        assert told in map(str, store.notices)
        # the features are those of the same patches without maps
        place = {name: row for row, name in enumerate(everything.ids(split))}
        whole = everything.load(split, "last")[[place[name] for name in store.ids(split)]]
        np.testing.assert_allclose(store.load(split, "last"), whole, 1e-4, 1e-5)
        groups = store.tap(split, "last").groups
        assert list(groups) == [f"{split}/{name.split(':')[0]}" for name in store.ids(split)]


@pytest.mark.usefixtures("small_blocks")
def test_patches_with_maps_go_on_to_the_same_bytes(scenes, tmp_path):
    whole = mapped(scenes, tmp_path / "s.zarr", batch_size=1).store
    assert whole.n_blocks("train") > 2
    before = {split: whole.load(split, "last") for split in ("train", "test")}
    with whole.writer() as writer:
        writer.discard("train", 1)
    again = mapped(scenes, tmp_path / "s.zarr")
    assert again.images_done == 32
    assert all(np.array_equal(again.store.load(split, "last"), before[split]) for split in before)
    with pytest.raises(SpecMismatch, match=r"splits\.train\.fingerprint"):
        mapped(scenes, tmp_path / "s.zarr", maps=Maps(share=0.9))
    limited = mapped(scenes, tmp_path / "few.zarr", limit=1).store
    assert {name.split(":")[0] for name in limited.ids("train")} == {"0.png"}


def test_maps_by_the_command_and_numbers_of_patches(scenes, tmp_path, capsys):
    words = ["extract", "--model", "test_vit", "--no-pretrained", "--image-size", "96"]
    words += ["--dataset", f"csv:{scenes / 'scenes.csv'}", "--rows-are", "patches"]
    words += ["--map-column", "depth", "--map-labels", "mean", "--out", str(tmp_path / "d.zarr")]
    main([*words, "--map-ignore", "31.875"], standalone_mode=False)  # 255 / 8
    store = featstore.open(tmp_path / "d.zarr")
    assert store.spec.targets == ("depth",)
    assert "patches of train without a label" in capsys.readouterr().err
    assert 0 <= store.labels("train").min() < store.labels("train").max() <= 9 / 8
    with pytest.raises(SystemExit):
        main([*words[:-6], "--map-column", "mask", "--label-column", "depth"])
    assert "which tells the labels of patches" in capsys.readouterr().err


COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.2]])


def quarters(n: int, seed: int):
    """Return images of 32 pixels of four coloured quarters and noise, and what each pixel is."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        places = torch.randperm(4, generator=generator).reshape(2, 2)
        labels = places.repeat_interleave(16, 0).repeat_interleave(16, 1)
        image = COLOURS[labels].permute(2, 0, 1)
        found.append((image + 0.05 * torch.randn(3, 32, 32, generator=generator), labels))
    return found


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 16, 4, 4), torch.nn.ReLU())


def test_probes_of_positions_find_what_every_pixel_is(network, tmp_path):
    """Quarters of one colour each are told by any features of their colour."""
    data = {"train": quarters(12, 1), "test": quarters(8, 2)}
    options = {"taps": ["1"], "rows": "patches", "dtype": "float32"}
    store = featstore.extract(network, data, out=tmp_path / "q.zarr", **options).store
    assert store.spec.split("test").n_rows == 8 * 64
    labels = torch.stack([labels[::4, ::4] for _, labels in data["test"]]).flatten()
    np.testing.assert_array_equal(store.labels("test"), labels)
    with torch.inference_mode():
        seen = network(torch.stack([image for image, _ in data["test"]]))
    np.testing.assert_allclose(
        store.load("test", "1"), seen.permute(0, 2, 3, 1).reshape(-1, 16), 1e-4, 1e-5
    )
    pair = store.tap("train", "1"), store.tap("test", "1")
    found = sweep(*pair, fractions=1.0, seeds=1, solver="ridge").table
    assert found["accuracy"].iloc[0] == 1
    assert found["n_groups"].iloc[0] == 8  # the images
    # the same as numbers: how blue a place is
    blue = {
        split: [(image, COLOURS[labels][..., 2]) for image, labels in pairs]
        for split, pairs in data.items()
    }
    store = featstore.extract(
        network, blue, out=tmp_path / "blue.zarr", maps=Maps("mean"), **options
    ).store
    np.testing.assert_allclose(store.labels("test"), COLOURS[labels][:, 2], 1e-6)
    pair = store.tap("train", "1"), store.tap("test", "1")
    assert sweep(*pair, fractions=1.0, seeds=1, solver="ridge").table["r2"].iloc[0] > 0.97


def test_images_and_maps_as_objects_follow_the_transform_of_a_model_by_name(scenes, tmp_path):
    pairs = {
        split: [(picture(scenes / f"{n}.png"), picture(scenes / f"{n}.map.png")) for n in numbers]
        for split, numbers in {"train": range(4), "test": [4]}.items()
    }
    options = {"pretrained": False, "image_size": 96, "taps": ["last"], "dtype": "float32"}
    done = featstore.extract(
        "test_vit", pairs, rows="patches", out=tmp_path / "o.zarr", device="cpu", **options
    )
    files = mapped(scenes, tmp_path / "f.zarr").store
    assert done.store.spec.classes == files.spec.classes
    for split in pairs:
        np.testing.assert_array_equal(done.store.labels(split), files.labels(split))
        np.testing.assert_array_equal(done.store.load(split, "last"), files.load(split, "last"))
        places = [name.split(":")[1] for name in files.ids(split)]
        assert [name.split(":")[1] for name in done.store.ids(split)] == places


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": Columns(map="none")}, UsageError, "has no column 'none'; it has image, mask"),
        ({"columns": Columns(map="depth")}, DatasetError, "row 0.png .* numbers with a fraction"),
        ({"columns": Columns(), "maps": Maps("mean")}, UsageError, "say which holds the labels"),
        ({"rows": "items"}, UsageError, "maps are of rows that are patches, and rows are items"),
        ({"maps": Maps(ignore=0.5)}, None, ""),
    ],
)
def test_maps_that_do_not_fit_their_rows(options, error, message, scenes, tmp_path):
    if error is None:
        assert "255" in mapped(scenes, tmp_path / "s.zarr", **options).store.spec.classes
        return
    with pytest.raises(error, match=message) as caught:
        mapped(scenes, tmp_path / "s.zarr", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (
            [(torch.ones(3, 32, 32), torch.zeros(16, 16))],
            {},
            DatasetError,
            "it is 16 x 16, and the",
        ),
        (
            [(torch.ones(3, 32, 32), torch.full((32, 32), 255))],
            {},
            DatasetError,
            "no patch of the train split of list has a label",
        ),
        (
            [(torch.ones(3, 32, 32), torch.zeros(32, 32)), (torch.ones(3, 32, 32), 1)],
            {},
            DatasetError,
            "row 1 of the train split .* it is of type int; give each image a map",
        ),
        ([(torch.ones(3, 32, 32), torch.rand(32, 32))], {}, DatasetError, "with a fraction"),
        ([(torch.ones(3, 32, 32), 1)], {"maps": Maps()}, UsageError, "has no maps"),
        (
            {
                "a": [(torch.ones(3, 32, 32), torch.zeros(32, 32))],
                "b": [(torch.ones(3, 32, 32), 1)],
            },
            {},
            DatasetError,
            "one split has maps of its images, and another has none",
        ),
        ([(torch.ones(3, 32, 32), torch.zeros(32, 32))], {"rows": "items"}, DatasetError, "label"),
    ],
)
def test_maps_of_objects_that_cannot_be(rows, options, error, message, network, tmp_path):
    options = {"taps": ["1"], "rows": "patches"} | options
    with pytest.raises(error, match=message) as caught:
        featstore.extract(network, rows, out=tmp_path / "s.zarr", **options)
    assert "\n" not in str(caught.value)


def test_a_map_column_of_what_is_no_table_is_refused(images, tmp_path):
    with pytest.raises(UsageError, match="has no column 'mask' with files of maps; give a table"):
        featstore.extract(
            "test_vit", f"folder:{images}", rows="patches", columns=Columns(map="mask"),
            pretrained=False, out=tmp_path / "s.zarr",
        )  # fmt: skip
