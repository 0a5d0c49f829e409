"""Rows that are tokens of texts or patches of images."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
import transformers
from PIL import Image
from pyarrow import parquet

import featstore
from featstore import models
from featstore.data.rows import Ragged, Words
from featstore.errors import DatasetError, UsageError
from featstore.models import taps

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
