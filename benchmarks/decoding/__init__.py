"""Measures reading and decoding of files, alone and beside the network: ``python -m benchmarks.decoding``."""
