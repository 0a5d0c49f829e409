"""Extraction: rows through a network, into the blocks of a store."""
