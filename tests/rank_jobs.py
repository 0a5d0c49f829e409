"""Jobs of several processes at once, as a launcher starts them, on this machine."""

import os
import socket
import time
from collections.abc import Callable

from forked import processes

import featstore
from featstore.store import layout


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched(count: int, target: Callable, *arguments) -> list:
    """Start the `count` ranks of a job, each of which calls `target(*arguments)`."""
    port = free_port()
    started = []
    for rank in range(count):
        environment = {
            "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        process = processes.Process(target=_as_rank, args=(environment, target, arguments))
        process.start()
        started.append(process)
    return started


def exit_statuses(ranks: list) -> list[int]:
    """Wait for the ranks of a job; return the exit status of each."""
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def start(count: int, arguments: tuple, options: dict, pause: float = 0.0) -> list:
    """Start an extraction by `count` ranks, with `pause` seconds after every batch."""
    return launched(count, _extract, arguments, options, pause)


def extract(count: int, arguments: tuple, options: dict) -> list[int]:
    """Run an extraction to its end; return the exit status of each rank."""
    return exit_statuses(start(count, arguments, options))


def _as_rank(environment: dict, target: Callable, arguments: tuple) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    target(*arguments)


def _extract(arguments: tuple, options: dict, pause: float) -> None:
    layout.BLOCK_BYTES = 1

    def progress(stage, done, total, **facts):
        if stage == "images" and pause:
            time.sleep(pause)

    featstore.extract(*arguments, progress=progress, **options)
