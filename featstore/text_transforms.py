"""From texts to a backbone's input: tokens, truncated and padded."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

# A tokenizer changes its own settings while it works, so one thread at a time asks one.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class TextTransform:
    """`prompt` before each text, then tokens, at most `max_length` of them.

    Texts are padded on the right to the longest of their batch, and the padding masked: what else
    is in the batch reaches a text's features by rounding alone. `text` is the canonical
    description: two transforms of one text give the same tokens.
    """

    tokenizer: Any
    max_length: int
    text: str
    prompt: str = ""
    modality: ClassVar[str] = "text"

    def batch(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokens of texts: "input_ids", "attention_mask" and what else the model takes.

        Each is int64 (b, L).
        """
        return self.met(texts)[0]

    def met(self, texts: Sequence[str]) -> tuple[dict[str, torch.Tensor], Counter[str]]:
        """The tokens of texts, and how many of these were "cut" and how many are "blank"."""
        prompted = [self.prompt + text for text in texts]
        with _ONE_AT_A_TIME:
            made = self.tokenizer(
                prompted,
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=True,
                return_tensors="pt",
            )
            if made.encodings:
                cut = sum(bool(one.overflowing) for one in made.encodings)
            else:
                whole = self.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
                cut = sum(len(ids) > self.max_length for ids in whole)
        blank = sum(not text.strip() for text in texts)
        return dict(made), Counter({"cut": cut, "blank": blank})

    def normalized(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch as it is: nothing is left to do on the device."""
        return batch
