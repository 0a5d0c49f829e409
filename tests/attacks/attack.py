"""Common parts of the attacks: their number, what a command did, and what was survived.

FEATSTORE_ATTACKS is how many attempts each attack makes, by default few enough for every run of the
tests; FEATSTORE_ATTACKS_LOG names a file that gets a line of JSON for each attack. The numbers in
docs/reliability.md are from there.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import rank_jobs
from forked import processes

import featstore
from featstore.store import layout

# Attempts of each attack; seconds after which something hangs.
ATTEMPTS = int(os.environ.get("FEATSTORE_ATTACKS", "0"))
PATIENCE = 30.0


def attempts(short: int, share: float = 1.0) -> int:
    """Return how often to attack: `short` in the suite, else a share of what was asked for."""
    return max(short, round(ATTEMPTS * share)) if ATTEMPTS else short


class Record:
    """Counts outcomes of one attack, and notes them where FEATSTORE_ATTACKS_LOG says."""

    def __init__(self, name: str):
        self.name, self.seen = name, Counter()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # who ends a long form keeps what was survived until then
        survived = kind in (None, KeyboardInterrupt)
        line = {"attack": self.name, "attempts": self.seen.total(), "survived": survived}
        print(json.dumps({**line, "outcomes": dict(self.seen)}))
        if log := os.environ.get("FEATSTORE_ATTACKS_LOG"):
            with open(log, "a") as file:
                print(json.dumps({**line, "outcomes": dict(self.seen)}), file=file)

    def __call__(self, outcome: str) -> None:
        self.seen[outcome] += 1


# Commands, each in a process of its own, which is forked from one that has imported everything.


def _command(arguments, said, limits, environment, ready) -> None:
    import resource

    from featstore.cli import main

    os.environ.update(environment)
    if address := environment.get("HF_ENDPOINT"):
        _ask_hub_at(address)

    layout.BLOCK_BYTES = 1
    for limit, value in limits.items():
        resource.setrlimit(getattr(resource, limit), (value, resource.RLIM_INFINITY))
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    ready.release()
    main([str(argument) for argument in arguments], prog_name="featstore")


def _ask_hub_at(address: str) -> None:
    """Let the hub's client, which was imported before this process began, ask there."""
    from huggingface_hub import constants

    from featstore import downloads

    downloads.endpoint = lambda: address
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    for proxy in [variable for variable in os.environ if "proxy" in variable.lower()]:
        del os.environ[proxy]


class Command:
    """A command of the command line that runs on its own, to be waited for, stopped or killed."""

    def __init__(
        self,
        *arguments,
        said: Path,
        ranks: int = 1,
        environment: dict[str, str] | None = None,
        **limits: int,
    ):
        self.said, ready = said, processes.Semaphore(0)
        given = (arguments, str(said), limits, environment or {}, ready)
        if ranks > 1:
            self.process, *self.others = rank_jobs.launched(ranks, _command, *given)
        else:
            self.process, self.others = processes.Process(target=_command, args=given), []
            self.process.start()
        for _ in range(ranks):
            assert ready.acquire(timeout=120)
        self.began = time.monotonic()

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status; a command that takes longer than that hangs."""
        for process in (self.process, *self.others):
            process.join(seconds)
            if process.exitcode is None:
                self.kill_after(0)
                raise AssertionError(f"no end after {seconds} s: {self.text()}")
        return max(process.exitcode for process in (self.process, *self.others))

    def kill_after(self, seconds: float) -> bool:
        """Kill it so long after it began, its other ranks after it; whether it was at work."""
        self.process.join(seconds)
        for process in (self.process, *self.others):
            process.kill()
            process.join()
        return self.process.exitcode == -signal.SIGKILL

    def text(self) -> str:
        """Everything that it has printed."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""


def run(*arguments, said: Path, **limits) -> tuple[int, str]:
    """Run a command to its end; its exit status and what it printed."""
    command = Command(*arguments, said=said, **limits)
    return command.wait(), command.text()


def assert_plain(status: int, text: str) -> None:
    """A command ended well, or with one line that says why."""
    assert "Traceback" not in text, text
    assert "unexpected" not in text, text
    if status:
        assert status in (1, 2, 3), (status, text)
        lines = [line for line in text.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, text


@contextlib.contextmanager
def no_longer_than(seconds: float):
    """Fail where what is done takes longer: a hang is a failure, not a wait."""

    def stop(*_):
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents(path) -> dict[str, bytes]:
    """Every byte of the rows of a store, read past all caches; raises what reading raises."""
    store = featstore.open(path)
    found = {}
    for split in (split.name for split in store.spec.splits):
        for name in store.header.arrays(split):
            found[f"{split}/{name}"] = store.load(split, name).tobytes()
    return found


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a path, or the file."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def arrays(folder: Path, rows: int = 32 * 8 + 5, features: int = 24, seed: int = 0) -> list[Path]:
    """Features and labels of train and test in .npy files, as `import` takes them."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, n_rows in (("train", rows), ("test", 40)):
        np.save(folder / f"{name}.npy", draw.normal(size=(n_rows, features)).astype("f4"))
        np.save(folder / f"{name}_y.npy", np.arange(n_rows) % 3)
        found += [folder / f"{name}.npy", folder / f"{name}_y.npy"]
    return found


def duration(*arguments, said: Path, ranks: int = 1) -> float:
    """Run a command that has to end well; seconds that it took, from when it could be killed."""
    command = Command(*arguments, said=said, ranks=ranks)
    status = command.wait()
    took = time.monotonic() - command.began
    assert_plain(status, command.text())
    assert status == 0, command.text()
    return took


def instants(name: str) -> random.Random:
    """The draw of an attack's instants: another one each time a long form runs, and then told."""
    seed = os.environ.get("FEATSTORE_ATTACKS_SEED", "0" if not ATTEMPTS else str(time.time_ns()))
    print(f"FEATSTORE_ATTACKS_SEED={seed}")
    return random.Random(f"{name} {seed}")
