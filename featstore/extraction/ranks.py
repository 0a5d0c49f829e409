"""Extraction by several ranks: who does which blocks, and what all have done."""

import itertools
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar

from featstore.errors import FeatstoreError, UsageError
from featstore.store.base import Block
from featstore.store.store import Store

_LOOK_EVERY = 0.02

T = TypeVar("T")
_meetings = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `count`, and `local_rank` of the `local_count` on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    address: str = ""
    port: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return what `torchrun` set, or else `srun`; one process alone if neither did.

        A script that `sbatch` runs is no rank, though it sees how many tasks were asked for: only
        what `srun` starts has a step. Raises `UsageError` for ranks that cannot be.

        >>> Ranks.of({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29500"})
        Ranks(rank=1, count=4, local_rank=1, local_count=4, address='a', port=29500)
        >>> Ranks.of({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}).count
        1
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            found = cls._torchrun(environment)
        elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
            found = cls._slurm(environment)
        else:
            return cls()
        if not 0 <= found.rank < found.count:
            raise UsageError(
                f"rank {found.rank} of {found.count} cannot be; start with torchrun or srun, which"
                " number the processes from 0"
            )
        return found

    @classmethod
    def _torchrun(cls, environment: Mapping[str, str]) -> Self:
        rank, count = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        return cls(
            rank=rank,
            count=count,
            local_rank=_number(environment, "LOCAL_RANK", rank),
            local_count=_number(environment, "LOCAL_WORLD_SIZE", count),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=_number(environment, "MASTER_PORT", 29500),
        )

    @classmethod
    def _slurm(cls, environment: Mapping[str, str]) -> Self:
        count = _number(environment, "SLURM_STEP_NUM_TASKS")
        machines = _number(environment, "SLURM_STEP_NUM_NODES", 1)
        job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return cls(
            rank=_number(environment, "SLURM_PROCID"),
            count=count,
            local_rank=_number(environment, "SLURM_LOCALID", 0),
            local_count=-(-count // machines),
            address=environment.get("MASTER_ADDR")
            or first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
            port=_number(environment, "MASTER_PORT", 20000 + (31 * job + step) % 20000),
        )

    def share(self, items: list[T]) -> list[T]:
        """Every `count`-th item, this rank's first: shares differ by at most one.

        >>> [Ranks(rank, 3).share([10, 11, 12, 13]) for rank in range(3)]
        [[10, 13], [11], [12]]
        """
        return items[self.rank :: self.count]

    @contextmanager
    def meeting(self) -> Iterator["Meeting"]:
        """Hold a meeting, in which a rank that fails tells the others, which then fail too."""
        meeting = Meeting(self)
        try:
            yield meeting
        except BaseException as error:
            meeting.give_up(error)
            raise
        meeting.leave()


class Meeting:
    """Messages between ranks, in rounds that each enters when it gets there.

    A rank that failed, or does not come within `patience` seconds, is a `FeatstoreError` in all
    others.
    """

    def __init__(self, ranks: Ranks, patience: float = 1800.0):
        # rank 0 may be downloading a data set first
        self._ranks, self._round, self._patience = ranks, 0, patience
        self._store = None if ranks.count == 1 else _connected(ranks, patience)
        (self.job, *_) = self.said(uuid.uuid4().hex)

    def said(self, text: str = "") -> list[str]:
        """Return what each rank says in this round, in rank order, once all have spoken.

        `job`, rank 0's word of the first round, is what tells this job from any other.
        """
        if self._store is None:
            return [text]
        self._round += 1
        self._store.set(f"said/{self._round}/{self._ranks.rank}", text)
        return [self._heard(f"said/{self._round}", rank) for rank in range(self._ranks.count)]

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work()` by rank 0 first, then by one rank a machine, then by the rest.

        Work that downloads does so once, and finds the file there afterwards.
        """
        ranks = self._ranks
        turn = 0 if ranks.rank == 0 else 1 if ranks.local_rank == 0 else 2
        for _ in range(turn):
            self.said()
        result = work()
        for _ in range(turn, 2):
            self.said()
        return result

    def leave(self) -> None:
        """End the meeting; rank 0, whose process may hold the words, stays until all have left."""
        if self._store is None:
            return
        self._store.set(f"left/{self._ranks.rank}", "")
        if self._ranks.rank == 0:
            for rank in range(self._ranks.count):
                self._heard("left", rank)

    def give_up(self, error: BaseException) -> None:
        """Let the others know that this rank does not come."""
        if self._store is None:
            return
        why = " ".join(str(error).split()) or type(error).__name__
        try:
            self._store.compare_set("failed", "", f"rank {self._ranks.rank} failed: {why}")
        except RuntimeError:
            # The store went down with rank 0: the others notice by themselves.
            return

    def _heard(self, key: str, rank: int) -> str:
        until = time.monotonic() + self._patience
        try:
            while not self._store.check([f"{key}/{rank}"]):
                if self._store.check(["failed"]):
                    raise FeatstoreError(self._store.get("failed").decode())
                if time.monotonic() > until:
                    raise FeatstoreError(
                        f"rank {self._ranks.rank} of {self._ranks.count} waited"
                        f" {self._patience:.0f} s for rank {rank}, which did not come; see why it"
                        " did not start, and run all ranks again"
                    )
                time.sleep(_LOOK_EVERY)
            return self._store.get(f"{key}/{rank}").decode()
        except RuntimeError as error:
            raise FeatstoreError(
                f"rank {self._ranks.rank} of {self._ranks.count} lost rank 0 while it waited for"
                f" rank {rank} ({_first_line(error)}); run all ranks again"
            ) from None


def _connected(ranks: Ranks, patience: float):
    """The key-value store that `torchrun` serves, or rank 0 does."""
    from torch.distributed import PrefixStore, rendezvous

    try:
        store, _, _ = next(
            rendezvous(
                f"tcp://{ranks.address}:{ranks.port}?rank={ranks.rank}&world_size={ranks.count}",
                timeout=timedelta(seconds=patience),
            )
        )
    except RuntimeError as error:
        raise FeatstoreError(
            f"rank {ranks.rank} of {ranks.count} cannot reach the others at"
            f" {ranks.address}:{ranks.port} ({_first_line(error)}); set MASTER_ADDR to the machine"
            " of rank 0 and MASTER_PORT to a free port of it"
        ) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"featstore/{attempt}/{_number_of_meeting()}", store)


def _number_of_meeting() -> int:
    """Return the number of meetings begun: all ranks make the same calls in the same order."""
    return next(_meetings)


def first_host(hosts: str) -> str:
    """The first machine of a Slurm list.

    >>> first_host("gpu[007-012,14],login"), first_host("a1,a2"), first_host("127.0.0.1")
    ('gpu007', 'a1', '127.0.0.1')
    """
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {text!r} in the environment, and not a whole number") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"


# Seconds between two looks: at files, and at objects beyond this machine, one request each.
EVERY, EVERY_REMOTE = 5.0, 60.0


class Tally:
    """Counts the rows of other ranks' `blocks` that are committed; a thread looks now and then.

    Ranks do not speak to each other while they work: what the store says is what is known. A rank
    that died commits no more, and its blocks are not counted.
    """

    def __init__(self, store: Store, blocks: Sequence[Block], every: float | None = None):
        self.rows = 0
        self._store, self._blocks = store, set(blocks)
        local = isinstance(store.path, Path)
        self._every = every or (EVERY if local else EVERY_REMOTE)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="featstore-tally", daemon=True)

    def __enter__(self) -> Self:
        if self._blocks:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._blocks:
            self._thread.join()

    def look(self) -> None:
        """Count anew."""
        store, found = self._store, 0
        for split in {split for split, _ in self._blocks}:
            views = store.spec.split(split).views
            for block, record in enumerate(store.records(split)):
                if record is not None and (split, block) in self._blocks:
                    found += len(store.rows_of(split, block)) * views
        self.rows = found

    def _look_on(self) -> None:
        while not self._done.wait(self._every):
            try:
                self.look()
            except (FeatstoreError, OSError):
                # A storage that is silent for a while: the last count stands until the next look.
                continue
