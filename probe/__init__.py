"""Linear probes on any feature blocks.

Names are imported when first used, so that `import probe` alone loads no array library.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ArrayBlocks": "blocks",
    "Chain": "chains",
    "ProbeResult": "result",
    "RowBlocks": "blocks",
    "Weights": "weights",
    "first_chain": "chains",
    "fit": "fits",
    "ordered_chain": "chains",
    "random_chain": "chains",
    "sentence": "summaries",
    "subset_chain": "chains",
    "summary": "summaries",
    "sweep": "sweeps",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
