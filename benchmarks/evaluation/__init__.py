"""Simulations of what `lrclr evaluate` says about its own uncertainty."""
