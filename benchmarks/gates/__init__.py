"""Mutants of bundles, all of which the gates have to refuse."""
