"""Activations of pretrained backbones, extracted once and kept on disk.

The names are those of the stub beside this file, which type checkers and notebooks read. Each is
imported when it is first used, so that `import featstore` alone loads no array library.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
