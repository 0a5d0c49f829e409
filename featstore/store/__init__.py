"""Stores: features on disk or at a URL, sealed block by block."""
