"""What every solver is told besides the data: memory, device, scaling, progress."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from probe.arrays import Backend


class Progress(Protocol):
    """A callback that learns how far a stage has come."""

    def __call__(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Take the stage ("rows", "probes", ...), units done and in all, and further facts."""


def silent(stage: str, done: int, total: int, **facts: Any) -> None:
    """Report to nobody: the default progress callback."""


@dataclass(frozen=True)
class Settings:
    """How to solve, whatever the solver.

    Attributes:
        standardize: divide each feature by its train standard deviation (the mean is always
            subtracted).
        memory: bytes that arrays may take above the interpreter's own, on host and device each.
        backend: the array module and device on which to compute.
        moments_cache: folder where moments are kept, one file a fingerprint; None for nowhere.
        progress: callback.
    """

    standardize: bool = True
    memory: int = 4 << 30
    backend: Backend = field(default_factory=Backend)
    moments_cache: Path | None = None
    progress: Progress = silent
