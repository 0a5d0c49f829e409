"""How a long computation says how far it has come."""

from typing import Any, Protocol


class Progress(Protocol):
    """A callback that learns how far a stage has come."""

    def __call__(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Take the stage ("rows", "probes", ...), units done and in all, and further facts."""


def silent(stage: str, done: int, total: int, **facts: Any) -> None:
    """Report to nobody: the default progress callback."""
