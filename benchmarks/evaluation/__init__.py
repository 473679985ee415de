"""Simulations of the intervals and tests of `lrclr evaluate`."""
