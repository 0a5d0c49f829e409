"""Linear probes on any feature blocks.

The names are those of the stub beside this file, which type checkers and notebooks read. Each is
imported when it is first used, so that `import featstore.probe` alone loads no array library.
"""

import warnings
from pkgutil import resolve_name

import lazy_loader

_found, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_MOVED = {
    "Curve": "results.curves.Curve",
    "Predictions": "predicted.Predictions",
    "RowBlocks": "rows.RowBlocks",
    "SavedWeights": "prediction.SavedWeights",
    "Weights": "solvers.weights.Weights",
    "affected_classes": "classes.affected_classes",
    "class_losses": "classes.class_losses",
    "curve_table": "results.curves.curve_table",
    "curves": "results.curves.curves",
    "first_chain": "subsets.first_chain",
    "inequality_table": "classes.inequality_table",
    "judged": "results.reading.judged",
    "judged_by_class": "results.reading.judged_by_class",
    "ordered_chain": "subsets.ordered_chain",
}


def __getattr__(name: str):
    if name not in _MOVED:
        return _found(name)
    place = f"{__name__}.{_MOVED[name]}"
    warnings.warn(
        f"{__name__}.{name} has moved: it is {place} now, and goes from here in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return resolve_name(place)
