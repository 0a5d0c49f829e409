"""Activations of pretrained backbones, extracted once and kept on disk.

The names are those of the stub beside this file, which type checkers and notebooks read. Each is
imported when it is first used, so that `import featstore` alone loads no array library.
"""

import warnings
from pkgutil import resolve_name

import lazy_loader

_found, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_MOVED = {
    "Abandoned": "featstore.store.catalog.Abandoned",
    "Damage": "featstore.store.base.Damage",
    "Unusable": "featstore.store.catalog.Unusable",
    "backbones": "featstore.models",
    "datasets": "featstore.data",
    "default_path": "featstore.store.catalog.default_path",
    "exporting": "featstore.store.exchange",
    "importing": "featstore.store.exchange",
    "merging": "featstore.store.transfer",
    "quickstart": "featstore.downloads",
    "survey": "featstore.store.catalog.survey",
    "taps": "featstore.models.taps",
    "transforms": "featstore.models.transforms",
}


def __getattr__(name: str):
    if name == "__version__":
        return resolve_name("featstore.errors.VERSION")
    if name not in _MOVED:
        try:
            return _found(name)
        except ModuleNotFoundError as error:
            if (missing := resolve_name("featstore.errors.ExtraMissing").of(error)) is None:
                raise
            raise missing from None
    place = _MOVED[name]
    warnings.warn(
        f"featstore.{name} has moved: it is {place} now, and goes from here in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return resolve_name(place)
