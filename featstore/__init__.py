"""Activations of pretrained backbones, extracted once and kept on disk."""

from importlib import import_module
from typing import Any

from featstore import errors
from featstore.catalog import Unusable, default_path, newest_complete, store_root, stores, survey
from featstore.collecting import Abandoned, abandoned, collect
from featstore.converting import convert
from featstore.exporting import export
from featstore.importing import import_arrays
from featstore.merging import merge
from featstore.spec import Spec, Split, Tap
from featstore.store import FORMATS, Damage, Store, create, finish, open, open_or_create, remove

__all__ = [
    "FORMATS",
    "Abandoned",
    "Damage",
    "Extraction",
    "Spec",
    "Split",
    "Store",
    "Tap",
    "Unusable",
    "abandoned",
    "collect",
    "convert",
    "create",
    "default_path",
    "errors",
    "export",
    "extract",
    "finish",
    "import_arrays",
    "merge",
    "newest_complete",
    "open",
    "open_or_create",
    "remove",
    "store_root",
    "stores",
    "survey",
]

# These bring in torch and timm, which take seconds to import: only when first asked for.
_LAZY = {"extract": "featstore.extraction", "Extraction": "featstore.extraction"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
