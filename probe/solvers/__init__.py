"""Solvers, and what they share."""
