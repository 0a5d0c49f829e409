"""Exact softmax regression: every chain, prefix and penalty in lockstep, with a certificate."""

from probe.logistic.solver import (
    MAX_ITER,
    REMEDIES,
    TOL,
    UNFINISHED,
    LogisticFit,
    Metrics,
    fit,
    path,
)

__all__ = ["MAX_ITER", "REMEDIES", "TOL", "UNFINISHED", "LogisticFit", "Metrics", "fit", "path"]
