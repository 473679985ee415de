"""Compares lrclr with other programs that run the same weights: ``python -m benchmarks.peers``."""
