"""Bundles."""
X = 1
