"""Activations of pretrained backbones, extracted once and kept on disk."""

from featstore import errors
from featstore.catalog import default_path, newest_complete, store_root, stores
from featstore.importing import import_arrays
from featstore.spec import Spec, Split, Tap
from featstore.store import FORMATS, Damage, Store, create, open, open_or_create, remove

__all__ = [
    "FORMATS",
    "Damage",
    "Spec",
    "Split",
    "Store",
    "Tap",
    "create",
    "default_path",
    "errors",
    "import_arrays",
    "newest_complete",
    "open",
    "open_or_create",
    "remove",
    "store_root",
    "stores",
]
