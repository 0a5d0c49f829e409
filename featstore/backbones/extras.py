"""Libraries that only some models need: imported when asked for, and named when they are absent."""

import importlib
from types import ModuleType

from featstore.errors import BackboneError


def needed(module: str, extra: str, what: str) -> ModuleType:
    """The module, or a `BackboneError` that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise BackboneError(
            f"{what} needs the package {module}, which is not installed;"
            f' pip install "featstore[{extra}]"'
        ) from None
