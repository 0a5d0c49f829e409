"""Probes on more features than rows: solved in the N x N dual, never in D x D."""

from probe.dual.fit import DualFit, DualLeaveOneOut, DualPath
from probe.dual.plan import Cut, Problem, WidePart, wide_plan

__all__ = ["Cut", "DualFit", "DualLeaveOneOut", "DualPath", "Problem", "WidePart", "wide_plan"]
