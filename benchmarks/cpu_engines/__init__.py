"""Engines on the CPU, side by side."""
