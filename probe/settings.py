"""What every solver is told besides the data: memory, device, scaling, progress."""

from dataclasses import dataclass, field
from pathlib import Path

from probe.arrays import Backend
from probe.arrays import backend as backend_named
from probe.budget import AUTO, parse
from probe.progress import Progress, silent

__all__ = ["Progress", "Settings", "settings_of", "silent"]


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


def settings_of(
    standardize: bool,
    moments_cache: Path | None = None,
    memory: str | int = AUTO,
    device: str = "auto",
    backend: str = "torch",
    progress: Progress = silent,
) -> Settings:
    """Return settings from what a person gives, "4GiB" and "cuda".

    Raises:
        UsageError: the memory is no size, or this machine has no such device or backend.
    """
    return Settings(
        standardize, parse(memory), backend_named(backend, device), moments_cache, progress
    )
