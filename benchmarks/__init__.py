"""Measurements that check the answers they time: `python -m benchmarks.NAME`."""
