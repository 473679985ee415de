"""Measurements: side by side, interleaved, with the machine they were taken on."""
