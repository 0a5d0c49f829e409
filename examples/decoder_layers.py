"""Probe a small decoder layer by layer, at the last token of a text and by the mean over tokens."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

import featstore
from featstore.probe import LayerSweep, accuracy_by_layer, figures, sweep

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "decoder-layers")
words = ["[UNK]", "good", "bad", "not", "the", "film", "play", "was", "plot", "and"]
shape = {"n_embd": 48, "n_layer": 4, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
GPT2Model(GPT2Config(vocab_size=len(words), **shape)).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)

random = np.random.default_rng(0)
texts = [" ".join(random.choice(words[1:], random.integers(4, 12))) for _ in range(400)]
last = [max(text.rfind("good"), text.rfind("bad")) for text in texts]
label = [
    text[place : place + 3] if place >= 0 else "none"
    for text, place in zip(texts, last, strict=True)
]
table = pd.DataFrame({"text": texts, "label": label, "split": ["train", "test"] * 200})
table.to_csv(folder / "texts.csv", index=False)

done = featstore.extract(
    f"hf:{folder}",
    f"csv:{folder / 'texts.csv'}",
    taps=["all@last", "all@mean"],
    out=folder / "layers.zarr",
    dtype="float32",
)
for how in ("last", "mean"):
    taps = [tap.name for tap in done.store.spec.taps if tap.name.endswith(f"_{how}")]
    rows = {tap: (done.store.tap("train", tap), done.store.tap("test", tap)) for tap in taps}
    layers = LayerSweep(
        tuple(sweep(*rows[tap], fractions=1.0, solver="ridge", tap=tap) for tap in taps)
    )
    print(accuracy_by_layer(layers)[["tap", "accuracy", "accuracy_low", "accuracy_high"]])
    figures.accuracy_against_layer(layers, folder / f"{how}.svg")
