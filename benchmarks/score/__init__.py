"""Scores many images with faults in between: ``python -m benchmarks.score.run``."""
