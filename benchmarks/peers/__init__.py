"""What else could answer with the same weights, side by side: ``python -m benchmarks.peers``."""
