"""Comparisons and their pages, from a checkout: `python -m benchmarks.bench_NAME`."""

from benchmarks.stages import STAGES, run

__all__ = ["STAGES", "run"]
