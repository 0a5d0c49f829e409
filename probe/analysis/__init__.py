"""Analyses of tables and of layers."""
