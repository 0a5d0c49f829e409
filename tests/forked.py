"""Processes that tests start, each in a few milliseconds: forked from one that has imported much.

Python has one such server for all of a test run's modules, and it imports what it was told of last
before it began: so it is told here, and nowhere else.
"""

import multiprocessing

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "featstore.cli", "featstore.extraction.run", "featstore.report.provenance",
        "featstore.store.exchange", "featstore.store.hdf5", "featstore.store.remote",
        "featstore.store.transfer", "featstore.store.zarr", "featstore.probe.sweeps", "h5py",
        "pyarrow.parquet", "s3fs", "sklearn.datasets", "timm.data", "torchvision.datasets", "zarr",
        "zarrs",
        # what the files of the tests import, in which a process finds what it is to run
        "hypothesis", "pytest", "scipy.io",
    ]
)  # fmt: skip


def killed_after(seconds, target, *arguments, patience=60) -> int | None:
    """Run `target` in a process, kill it so long after it began; its exit status if it was done.

    It is given an event as its last argument, by which it says within `patience` that it has begun.
    """
    ready = processes.Event()
    process = processes.Process(target=target, args=(*arguments, ready))
    process.start()
    assert ready.wait(patience)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode
