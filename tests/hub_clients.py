"""Backbones loaded in a process whose hub and cache are the test's own."""

import os
import sys
import time

from forked import processes

# They read where the hub is when they are imported, and the process that others are forked from
# has imported them.
_READERS = {"featstore", "huggingface_hub", "timm", "transformers"}


def load_from(endpoint: str, home, name: str, **variables: str) -> dict:
    """Load a backbone where the hub is `endpoint` and its cache in `home`; what came of it."""
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    ours, theirs = processes.Pipe()
    loading = processes.Process(target=_load, args=(theirs, name, variables))
    loading.start()
    theirs.close()
    try:
        assert ours.poll(120), "nothing was loaded in two minutes"
        return ours.recv()
    finally:
        loading.kill()
        loading.join()


def _load(told, name: str, variables: dict[str, str]) -> None:
    for proxy in [variable for variable in os.environ if "proxy" in variable.lower()]:
        del os.environ[proxy]
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.update(variables)
    for module in [module for module in sys.modules if module.partition(".")[0] in _READERS]:
        del sys.modules[module]
    from featstore import models
    from featstore.errors import FeatstoreError

    began = time.monotonic()
    try:
        found = {"id": models.load(name).weights_id}
    except FeatstoreError as error:
        found = {"error": type(error).__name__, "text": str(error)}
    told.send({**found, "seconds": time.monotonic() - began})
