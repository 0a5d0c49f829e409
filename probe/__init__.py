"""Linear probes on any feature blocks.

Names are imported when first used, so that `import probe` alone loads no array library.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ArrayBlocks": "blocks",
    "Chain": "chains",
    "Curve": "curve",
    "Predictions": "predictions",
    "ProbeResult": "result",
    "RowBlocks": "blocks",
    "SavedWeights": "weights_file",
    "Weights": "weights",
    "affected_classes": "affected",
    "class_losses": "inequality",
    "curve_table": "curve",
    "curves": "curve",
    "diffused_redundancy": "redundancy",
    "first_chain": "chains",
    "fit": "fits",
    "inequality_table": "inequality",
    "judged": "reading",
    "judged_by_class": "reading",
    "layer_similarity": "layer_cka",
    "layer_spectrum": "spectrum",
    "load_weights": "weights_file",
    "ordered_chain": "chains",
    "per_class_table": "per_class",
    "predict": "predicting",
    "random_chain": "chains",
    "read_per_class": "reading",
    "read_results": "reading",
    "save_weights": "weights_file",
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
