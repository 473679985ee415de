"""Engines on the CPU against the best that a user has without lrclr, and without regions."""
