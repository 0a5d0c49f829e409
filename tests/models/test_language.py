"""Language models: taps of decoders and encoders against transformers' own hidden states."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import featstore
from featstore import models
from featstore.errors import DatasetError, UsageError
from featstore.extraction.loading import Encoder
from featstore.models import network, taps

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(28))]
TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10 w11 w12", "w1 w2 w3 w4 w13"]
SMALL = {"vocab_size": len(WORDS), "num_hidden_layers": 3, "num_attention_heads": 2}
WIDE = {**SMALL, "hidden_size": 32, "max_position_embeddings": 32}

CONFIGS = {
    "gpt2": transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=3, n_head=2, n_positions=32
    ),
    "llama": transformers.LlamaConfig(**WIDE, intermediate_size=48, num_key_value_heads=1),
    "opt": transformers.OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, pad_token_id=0),
    "bert": transformers.BertConfig(**WIDE, intermediate_size=48),
}
BLOCKS = {
    "gpt2": "h.{}",
    "llama": "layers.{}",
    "opt": "decoder.layers.{}",
    "bert": "encoder.layer.{}",
}
BRANCHES = {
    "gpt2": ("h.1.attn", "h.1.mlp"),
    "llama": ("layers.1.self_attn", "layers.1.mlp"),
    "opt": ("decoder.layers.1.self_attn", "decoder.layers.1.fc2"),
    "bert": ("encoder.layer.1.attention.output.dense", "encoder.layer.1.output.dense"),
}
DECODERS = ("gpt2", "llama", "opt")


def tokenizer(**tokens):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", model_max_length=16, **tokens
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for name, config in CONFIGS.items():
        found[name] = tmp_path_factory.mktemp("language") / name
        torch.manual_seed(1)
        model = transformers.AutoModel.from_config(config)
        with torch.no_grad():  # so that what is random differs between layers and tokens
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        model.save_pretrained(found[name])
        # some tokenizers name no token for padding, and some none at all
        tokens = {"gpt2": {}, "llama": {"eos_token": "[SEP]"}}.get(name, {"pad_token": "[PAD]"})
        tokenizer(**tokens).save_pretrained(found[name])
    return found


def read(backbone, texts, names, pool=None) -> dict[str, torch.Tensor]:
    reader = taps.resolve(backbone, names, pool)
    with torch.inference_mode():
        return reader.read(backbone.prepare(backbone.encode_batch(texts)))


def hidden(folder: Path, text: str) -> list[torch.Tensor]:
    """The states (L, D) of one text alone, of the embeddings and after each block."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
    with torch.inference_mode():
        output = model(input_ids=ids, output_hidden_states=True)
    return [state[0] for state in output.hidden_states]


OVER = {
    "last": lambda x: x[-1],
    "first": lambda x: x[0],
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
    "token:-2": lambda x: x[-2],
    "token:1": lambda x: x[1],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_are_the_hidden_states_of_transformers_pooled_in_one_pass(name, folders):
    backbone = models.load(f"hf:{folders[name]}")
    passes = []
    backbone.model.register_forward_hook(lambda *_: passes.append(1))
    names = [f"{BLOCKS[name].format(layer)}@{how}" for layer in (0, 1) for how in OVER]
    reader = taps.resolve(backbone, [*names, "last@last", "last@mean"])
    passes.clear()
    with torch.inference_mode():
        found = reader.read(backbone.prepare(backbone.encode_batch(TEXTS)))
    assert len(passes) == 1
    assert len(found) == len(reader.taps) == 2 * len(OVER) + 2
    for row, text in enumerate(TEXTS):
        states = hidden(folders[name], text)
        for layer in (0, 1):
            for how, pooled in OVER.items():
                tap = f"{BLOCKS[name].format(layer)}_{how.replace(':', '_')}"
                torch.testing.assert_close(
                    found[tap][row], pooled(states[layer + 1]), rtol=1e-4, atol=1e-5
                )
        torch.testing.assert_close(found["last_last"][row], states[-1][-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found["last_mean"][row], states[-1].mean(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_decoders_are_read_at_their_last_token_and_encoders_by_their_mean(name, folders):
    backbone = models.load(f"hf:{folders[name]}")
    reader = taps.resolve(backbone, ["all"])
    how = "last" if name in DECODERS else "avg"
    assert {tap.pooling for tap in reader.taps[:-1]} == {how}
    assert reader.taps[-1].pooling == ("last-token" if name in DECODERS else "avg")
    assert [tap.name for tap in reader.taps] == [
        *(BLOCKS[name].format(layer) for layer in range(3)), "last", "penultimate",
    ]  # fmt: skip
    found = read(backbone, TEXTS, ["all"])
    for row, text in enumerate(TEXTS):
        state = hidden(folders[name], text)[-1]
        expected = state[-1] if name in DECODERS else state.mean(0)
        torch.testing.assert_close(found["penultimate"][row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["last"][row], expected, rtol=1e-4, atol=1e-5)
    assert any("left to right" in note for note in backbone.notes) == (name in DECODERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_of_attention_and_of_mlps_by_the_path_of_their_module(name, folders):
    backbone = models.load(f"hf:{folders[name]}")
    found = read(backbone, TEXTS, BRANCHES[name], "last")
    kept = {}
    for path in BRANCHES[name]:
        backbone.model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: kept.update(
                {path: output[0] if isinstance(output, tuple) else output}
            )
        )
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            backbone.model(**backbone.encode_batch([text]))
        for path in BRANCHES[name]:
            alone = kept[path].reshape(-1, 32)[-1]
            torch.testing.assert_close(found[path][row], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_those_of_tokens_and_not_of_padding(side):
    values = torch.arange(24.0).reshape(2, 6, 2)
    lengths = (6, 3)
    mask = torch.zeros(2, 6, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, (slice(6 - length, 6) if side == "left" else slice(0, length))] = 1
    activation = network.Activation(values, network.Tokens(), mask)
    for position in (-3, -1, 0, 2):
        found = taps.pooled(activation, f"token:{position}")
        for row in range(2):
            assert torch.equal(found[row], values[row][mask[row] == 1][position])
    assert torch.equal(taps.pooled(activation, "last"), taps.pooled(activation, "token:-1"))
    assert torch.equal(taps.pooled(activation, "first"), taps.pooled(activation, "token:0"))


def test_all_layers_in_two_poolings(folders):
    backbone = models.load(f"hf:{folders['gpt2']}")
    names = [tap.name for tap in taps.resolve(backbone, ["all@last", "all@mean"]).taps]
    assert names == [
        "h.0_last", "h.1_last", "h.2_last", "last_last", "penultimate",
        "h.0_mean", "h.1_mean", "h.2_mean", "last_mean",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["h.0@middle"], "there is no pooling 'middle'.*token:N, with a number for N"),
        (["h.0@token:x"], "there is no pooling 'token:x'"),
        (["h.9@last"], "has no layer 'h.9'"),
        (["h.0@cls"], "cannot be pooled by cls: it reads from left to right"),
        (["h.0@mean", "h.0@mean"], "named twice"),
        (["penultimate@mean"], "is pooled by the model itself"),
    ],
)
def test_poolings_behind_a_name_that_cannot_be(names, message, folders):
    with pytest.raises(UsageError, match=message):
        taps.resolve(models.load(f"hf:{folders['gpt2']}"), names)


def table(folder: Path, texts) -> str:
    file = folder / "texts.jsonl"
    rows = [
        {"text": text, "label": str(place % 2), "split": split}
        for split in ("train", "test")
        for place, text in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{file}"


def random_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS[4:], random.integers(2, 14))) for _ in range(count)]


def test_texts_are_batched_by_length_and_stored_in_their_own_order(folders, tmp_path, monkeypatch):
    """Each row is what it is alone, and padding is a small part of what is computed."""
    texts, padded = random_texts(200), []
    tokens = Encoder.tokens

    def counting(self, job):
        batch = tokens(self, job)
        padded.append((batch["attention_mask"].numel(), int(batch["attention_mask"].sum())))
        return batch

    monkeypatch.setattr(Encoder, "tokens", counting)
    model = f"hf:{folders['gpt2']}"
    done = featstore.extract(
        model, table(tmp_path, texts), taps=["h.1"], device="cpu", dtype="float32", batch_size=16,
        out=tmp_path / "s.zarr",
    )  # fmt: skip
    whole, real = np.sum(padded, axis=0)
    assert whole < 1.1 * real
    backbone = models.load(model)
    stored = done.store.load("train", "h.1")
    assert done.store.ids("train")[:3] == ["0", "1", "2"]
    for row in (0, 7, 111, 199):
        alone = read(backbone, [texts[row]], ["h.1"])["h.1"][0]
        np.testing.assert_allclose(stored[row], alone, rtol=1e-4, atol=1e-5)


def test_a_text_that_is_too_short_for_a_position_is_named(folders, tmp_path):
    with pytest.raises(DatasetError, match=r"row 1 .* makes 2 tokens, and a tap takes one of 3"):
        featstore.extract(
            f"hf:{folders['gpt2']}", table(tmp_path, TEXTS), taps=["h.0@token:-3"], device="cpu",
            out=tmp_path / "s.zarr",
        )  # fmt: skip


def test_weights_of_half_the_bytes(folders, tmp_path):
    """Features agree to bfloat16's eight bits, and the store says what computed them."""
    for name in ("llama", "bert"):
        whole = models.load(f"hf:{folders[name]}")
        half = models.load(f"hf:{folders[name]}", weights_dtype="bfloat16")
        assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
        assert whole.weights_id != half.weights_id
        path = BLOCKS[name].format(1)
        ours = read(half, TEXTS, [path, "penultimate"])
        theirs = read(whole, TEXTS, [path, "penultimate"])
        for tap, features in ours.items():
            assert features.dtype == torch.float32
            off = (features - theirs[tap]).norm(dim=1) / theirs[tap].norm(dim=1)
            assert 0 < off.max() < 0.05
    options = {"taps": ["layers.1"], "device": "cpu", "weights_dtype": "bfloat16"}
    data = table(tmp_path, TEXTS)
    done = featstore.extract(f"hf:{folders['llama']}", data, out=tmp_path / "s.zarr", **options)
    assert done.store.spec.precision == "bfloat16"
    with pytest.raises(UsageError, match="the weights are bfloat16, and compute in it"):
        featstore.extract(
            f"hf:{folders['llama']}", data, out=tmp_path / "t.zarr", precision="float16", **options
        )


def test_layers_on_several_devices(folders, tmp_path):
    """With one device there is one to lie on: the same features, and the model is left there."""
    data, model = table(tmp_path, TEXTS), f"hf:{folders['llama']}"
    options = {"taps": ["layers.1", "penultimate"], "device": "cpu", "dtype": "float32"}
    one = featstore.extract(model, data, out=tmp_path / "a.zarr", **options)
    if torch.cuda.is_available():
        pytest.skip("accelerate lays the model on the GPU that is here")
    two = featstore.extract(model, data, out=tmp_path / "b.zarr", device_map="auto", **options)
    assert one.store.spec == two.store.spec
    for tap in options["taps"]:
        assert np.array_equal(one.store.load("test", tap), two.store.load("test", tap))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_dtype": "int8"}, "weights_dtype is 'int8'; choose among float32"),
        ({"device_map": "all"}, "device_map is 'all'; choose among auto"),
    ],
)
def test_what_weights_cannot_be(options, message, folders):
    with pytest.raises(UsageError, match=message):
        models.load(f"hf:{folders['gpt2']}", **options)
    known = {"weights_dtype": "bfloat16", "device_map": "auto"}
    with pytest.raises(UsageError, match="are of hf: models, and resnet18 is none"):
        models.load("resnet18", pretrained=False, **{name: known[name] for name in options})


LONG = ["w1 w2 w3", " ".join(f"w{number % 28}" for number in range(1, 41)), "w5 w6", "w7 w8 w9"]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_long_texts_are_the_mean_of_their_parts_weighted_by_tokens(name, folders, tmp_path):
    """The model takes 16 of 40 tokens at once: parts of 16, 16 and 8, each alone."""
    path = BLOCKS[name].format(1)
    done = featstore.extract(
        f"hf:{folders[name]}", table(tmp_path, LONG), out=tmp_path / "s.zarr", dtype="float32",
        taps=[f"{path}@{how}" for how in ("mean", "max", "last", "first")] + ["penultimate"],
        batch_size=3, device="cpu", long_texts="chunk",
    )  # fmt: skip
    words = LONG[1].split()
    parts = [words[:16], words[16:32], words[32:]]
    states = [hidden(folders[name], " ".join(part)) for part in parts]
    blocks, last = [one[2] for one in states], [one[-1] for one in states]
    shares = torch.tensor([16.0, 16.0, 8.0])[:, None] / 40

    def mean(found):
        return (shares * torch.stack(found)).sum(0)

    expected = {
        "mean": torch.cat(blocks).mean(0),
        "max": torch.cat(blocks).amax(0),
        "last": mean([x[-1] for x in blocks]),
        "first": mean([x[0] for x in blocks]),
    }
    for how, features in expected.items():
        stored = done.store.load("train", f"{path}_{how}")
        np.testing.assert_allclose(stored[1], features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            stored[0], OVER[how](hidden(folders[name], LONG[0])[2]), rtol=1e-4, atol=1e-5
        )
    of_model = mean([x[-1] if name in DECODERS else x.mean(0) for x in last])
    np.testing.assert_allclose(
        done.store.load("train", "penultimate")[1], of_model, rtol=1e-4, atol=1e-5
    )
    assert [str(one) for one in done.notices if one.kind == "chunked"] == [
        f"texts of {split} that were longer than the transform's max_length, and are the mean of"
        " their parts: 1"
        for split in ("train", "test")
    ]
    cut = models.load(f"hf:{folders[name]}")
    assert done.store.spec.transform != cut.transform_text
    assert (
        cut.transform_text == models.load(f"hf:{folders[name]}", long_texts="error").transform_text
    )


def test_long_texts_are_cut_and_counted_or_an_error(folders, tmp_path):
    how = {"out": tmp_path / "s.zarr", "taps": ["h.1"], "device": "cpu", "dtype": "float32"}
    model, data = f"hf:{folders['gpt2']}", table(tmp_path, LONG)
    with pytest.raises(DatasetError, match=r"row 1 of the train .* has more than the 16 tokens"):
        featstore.extract(model, data, long_texts="error", **how)
    done = featstore.extract(model, data, **how)
    assert {one.count for one in done.notices if one.kind == "cut"} == {1}
    begun = " ".join(LONG[1].split()[:16])
    np.testing.assert_allclose(
        done.store.load("test", "h.1")[1],
        hidden(folders["gpt2"], begun)[2][-1],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_prompt_stands_before_each_text(folders, tmp_path):
    how = {"taps": ["h.1"], "device": "cpu", "dtype": "float32"}
    model = f"hf:{folders['gpt2']}"
    data = table(tmp_path, TEXTS)
    ours = featstore.extract(model, data, out=tmp_path / "a.zarr", prompt="w20 w21 ", **how).store
    written = table(tmp_path, [f"w20 w21 {text}" for text in TEXTS])
    theirs = featstore.extract(model, written, out=tmp_path / "b.zarr", **how).store
    assert np.array_equal(ours.load("train", "h.1"), theirs.load("train", "h.1"))
    assert "w20 w21 " in ours.spec.transform


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt2", {"long_texts": "fold"}, "long_texts is 'fold'; choose among truncate"),
        ("gpt2", {"long_texts": "chunk", "taps": ["h.0@token:-2"]}, "leave --long-texts chunk out"),
        ("gpt2", {"long_texts": "chunk", "rows": "tokens"}, "chunks are of whole texts"),
        ("resnet18", {"prompt": "a"}, "are of models of texts, and resnet18 is none"),
    ],
)
def test_what_long_texts_cannot_be(model, options, message, folders, tmp_path):
    given = {"pretrained": False} if model == "resnet18" else {"taps": ["h.0"]}
    with pytest.raises(UsageError, match=message):
        featstore.extract(
            f"hf:{folders[model]}" if model in folders else model,
            table(tmp_path, TEXTS),
            out=tmp_path / "s.zarr",
            **given | options,
        )


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_span_of_each_text_is_pooled(name, kind, folders, tmp_path):
    """Spans by characters and by words, of texts that are batched by length."""
    texts = ["w1 w2 w3 w4", "w5 w6", "w7 w8 w9 w10 w11 w12 w13", "w1 w2 w1 w2 w3"]
    spans = {
        "csv": ["3:8", "w6", "w9 w10 w11", "w1 w2"],
        "jsonl": [[3, 8], [3, 5], [6, 16], [0, 5]],
    }[kind]
    places = [(1, 3), (1, 2), (2, 5), (0, 2)]
    rows = [
        {"text": text, "about": span, "label": str(row % 2), "split": split}
        for split in ("train", "test")
        for row, (text, span) in enumerate(zip(texts, spans, strict=True))
    ]
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    file = tmp_path / f"spans.{kind}"
    file.write_text("\n".join(lines) + "\n")
    path = BLOCKS[name].format(1)
    done = featstore.extract(
        f"hf:{folders[name]}", f"{kind}:{file}", out=tmp_path / "s.zarr", dtype="float32",
        taps=[f"{path}@span:about", f"{path}@span:about:max", f"{path}@mean"], device="cpu",
        batch_size=3,
    )  # fmt: skip
    how = "last" if name in DECODERS else "avg"
    assert [tap.pooling for tap in done.store.spec.taps] == [
        f"span:about:{how}", "span:about:max", "avg",
    ]  # fmt: skip
    for row, (text, (start, end)) in enumerate(zip(texts, places, strict=True)):
        x = hidden(folders[name], text)[2]
        inside = x[start:end]
        expected = [inside[-1] if how == "last" else inside.mean(0), inside.amax(0), x.mean(0)]
        for tap, features in zip(done.store.spec.taps, expected, strict=True):
            stored = done.store.load("train", tap.name)[row]
            np.testing.assert_allclose(stored, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("span", "taps", "error", "message"),
    [
        ("w9", ["h.1@span:about"], DatasetError, "row 0 of the train split .* has the span 'w9'"),
        ("4:99", ["h.1@span:about"], DatasetError, "of 5 characters does not have"),
        ("w1", ["h.1@span:abuot"], UsageError, "has no column 'abuot'"),
        ("w1", ["h.1@span:about", "h.0@span:text"], UsageError, "a text has one"),
        ("2:3", ["h.1@span:about"], DatasetError, "span 0 of row 0 .* has no token"),
        ("w1", ["h.1@span:"], UsageError, "there is no pooling 'span:'"),
    ],
)
def test_spans_that_are_not_there(span, taps, error, message, folders, tmp_path):
    file = tmp_path / "spans.jsonl"
    rows = [
        {"text": "w1 w2", "about": span, "label": "a", "split": split}
        for split in ("train", "test")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(error, match=message):
        featstore.extract(
            f"hf:{folders['gpt2']}", f"jsonl:{file}", out=tmp_path / "s.zarr", taps=taps
        )
