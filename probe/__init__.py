"""Linear probes on any feature blocks."""
