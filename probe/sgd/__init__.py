"""The paper's own training protocol: SGD on raw features, every probe in the same steps."""

from probe.sgd.solver import REMEDIES, WEIGHT_DECAY, SgdFit, departures, fit

__all__ = ["REMEDIES", "WEIGHT_DECAY", "SgdFit", "departures", "fit"]
