"""What a backbone is to the rest: a network, the identity of its weights, and its own transform."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from featstore.backbones.activations import Inputs
from featstore.backbones.network import Network
from featstore.transforms import Transform


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode on the CPU, and what its weights were trained to see.

    `weights_id` is "sha256:<hex>" of the tensors as loaded, with "random:<seed>:" before it for an
    untrained network. `head` names the classifier's modules; `notes` says what was left out.
    `engine` is what computes: "torch", or "onnxruntime", where `model` has no torch layers.
    `libraries` names the packages beside torch and timm whose version may matter.
    """

    name: str
    model: torch.nn.Module
    weights_id: str
    transform: Transform
    head: tuple[str, ...]
    network: Network
    notes: tuple[str, ...] = ()
    engine: str = "torch"
    libraries: tuple[str, ...] = ()

    @property
    def modality(self) -> str:
        """What the network takes: "image" or "text"."""
        return self.transform.modality

    @property
    def transform_text(self) -> str:
        """Canonical text of the transform."""
        return self.transform.text

    def encode_batch(self, items: Sequence[Image.Image] | Sequence[str]) -> Inputs:
        """RGB images as pixels uint8 (b, H, W, 3), or texts as {name: int64 (b, L)}, on the CPU.

        Texts are padded to the longest of the batch. Any thread may call this.
        """
        return self.transform.batch(items)

    def prepare(self, batch: Inputs) -> Inputs:
        """What the network takes, from what `encode_batch` gave, on whatever device that is."""
        return self.transform.normalized(batch)
