"""Measurements that check the answers they time: `featstore bench`, `python -m benchmarks.NAME`."""

from benchmarks.stages import STAGES, run

__all__ = ["STAGES", "run"]
