"""Probes on more features than rows: solved in the N x N dual, never in D x D."""

from probe.dual.fit import DualFit, DualLeaveOneOut
from probe.dual.plan import Problem, WidePart, touched, wide_plan

__all__ = ["DualFit", "DualLeaveOneOut", "Problem", "WidePart", "touched", "wide_plan"]
