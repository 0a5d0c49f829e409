"""Probe the words of sentences for their part of speech: rows are tokens with labels."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import featstore
from featstore.probe import sentence, sweep

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "token-labels")
speech = {"cat": "NOUN", "dog": "NOUN", "saw": "VERB", "chased": "VERB", "the": "DET", "a": "DET"}
pieces = ["[PAD]", "[UNK]", "##s", *speech]
shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
BertModel(BertConfig(vocab_size=len(pieces), **shape)).save_pretrained(folder)
tokenizer = Tokenizer(
    models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokens = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)

random = np.random.default_rng(0)
bare = [random.choice(list(speech), random.integers(3, 9)) for _ in range(120)]
plural = [[word + "s" * (speech[word] == "NOUN") for word in words] for words in bare]
table = pd.DataFrame(
    {"text": plural, "label": [[speech[word] for word in words] for words in bare]}
)
table.assign(split=["train", "test"] * 60).to_parquet(folder / "tagged.parquet")

done = featstore.extract(
    f"hf:{folder}",
    f"parquet:{folder / 'tagged.parquet'}",
    rows="tokens",
    out=folder / "words.zarr",
    dtype="float32",
)
print(done.store.ids("train")[:4])
train, test = done.store.tap("train", "last"), done.store.tap("test", "last")
print(sentence(sweep(train, test, fractions=0.1, seeds=5, solver="ridge")))
