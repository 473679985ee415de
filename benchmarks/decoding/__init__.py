"""From file to findings: what decoding costs, and what is left of it. See ``python -m benchmarks.decoding``."""
