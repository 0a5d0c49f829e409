"""Activations of pretrained backbones, extracted once and kept on disk."""

from featstore.spec import Spec, Split, Tap
from featstore.store import Damage, Store, create, open, open_or_create, remove

__all__ = [
    "Damage",
    "Spec",
    "Split",
    "Store",
    "Tap",
    "create",
    "open",
    "open_or_create",
    "remove",
]
