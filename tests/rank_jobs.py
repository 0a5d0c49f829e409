"""Extractions by several processes at once, as a launcher starts them, on this machine."""

import multiprocessing
import os
import socket
import time

import torch

import featstore
from featstore import layout

# The server forks each rank in a few milliseconds from a process that has imported everything.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["featstore.extraction", "featstore.hdf5_store", "zarr", "timm"])


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count: int, arguments: tuple, options: dict, pause: float = 0.0) -> list:
    """Start `count` ranks of one job, each of one thread; `pause` seconds after every batch."""
    port = free_port()
    started = []
    for rank in range(count):
        environment = {
            "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        process = processes.Process(target=_run, args=(environment, arguments, options, pause))
        process.start()
        started.append(process)
    return started


def extract(count: int, arguments: tuple, options: dict) -> list[int]:
    """Run a job to its end; return the exit status of each rank."""
    ranks = start(count, arguments, options)
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def _run(environment: dict, arguments: tuple, options: dict, pause: float) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    layout.BLOCK_BYTES = 1

    def progress(stage, done, total, **facts):
        if stage == "images" and pause:
            time.sleep(pause)

    featstore.extract(*arguments, progress=progress, **options)
