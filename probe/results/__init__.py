"""Results: tables, curves, sentences and files."""
