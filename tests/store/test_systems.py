"""Systems without what POSIX has: Windows, as far as it can be had here, and Macs."""

import subprocess
import sys
import textwrap

import pytest
import torch

from featstore.errors import UsageError
from featstore.extraction.inference import device_for
from featstore.extraction.loading import Workers

# Takes away what Windows lacks before anything is imported.
_WITHOUT = """
    import os, sys
    for name in ("fcntl", "resource"):
        sys.modules[name] = None
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "preadv", "pread", "pwrite", "memfd_create",
                 "sched_getaffinity"):
        if hasattr(os, name):
            delattr(os, name)
    import warnings
    import numpy as np
"""


def run(code: str, *arguments) -> str:
    whole = textwrap.dedent(_WITHOUT) + textwrap.dedent(code)
    ran = subprocess.run(
        [sys.executable, "-c", whole, *map(str, arguments)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_is_imported_and_stores_are_written_without_posix(tmp_path):
    """One process: torch is imported once. The bytes are those that POSIX's calls write."""
    told = run(
        """
        import importlib, pkgutil
        import featstore
        absent = []
        for found in pkgutil.walk_packages(featstore.__path__, "featstore."):
            if found.name.endswith("__main__") or ".kernels" in found.name:
                continue
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                absent.append((found.name, str(error)))
        assert not [one for one in absent if "pytest" not in one[1]], absent
        from featstore.errors import WriterBusy
        from featstore.store import locks
        x, y = np.arange(600, dtype=np.float32).reshape(100, 6), np.arange(100) % 2
        for kind in ("zarr", "h5"):
            path = f"{sys.argv[1]}/a.{kind}"
            store = featstore.import_arrays(train=(x, y), test=(x[:9], y[:9]), out=path)
            assert np.array_equal(store.load("train", store.spec.taps[0].name), x)
            assert store.verify() == [] and store.complete
            with store.writer():
                assert locks.is_held(store.path)
                try:
                    with store.writer():
                        raise SystemExit("two writers")
                except WriterBusy as error:
                    print(error)
            assert not locks.is_held(store.path)
        from featstore import probe
        probe.sweep((x, y), (x, y), fractions=0.5, solver="ridge", out=f"{sys.argv[1]}/r.csv")
        """,
        tmp_path,
    )
    assert told.count("is being written by another process, and this system lets none share") == 2
    assert sorted(path.name for path in tmp_path.iterdir() if "lock" in path.name) == []
    again = tmp_path / "again.h5"
    import featstore

    featstore.convert(tmp_path / "a.zarr", again)
    assert featstore.open(tmp_path / "a.h5").verify() == []
    one, two = (
        featstore.open(path).load("train", "features") for path in (again, tmp_path / "a.h5")
    )
    assert (one == two).all()


def test_threads_decode_on_windows(monkeypatch):
    monkeypatch.setattr("featstore.extraction.loading.os.name", "nt")
    assert Workers.chosen(4, "cuda", "image", 10**6) == Workers(0, 4)
    assert Workers.chosen(None, "cuda", "tensor", 10**6) == Workers(0, 1)


def test_the_device_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_for("mps") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="there is no device 'mps' here, which Macs"):
        device_for("mps")
