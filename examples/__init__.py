"""Runnable scripts, one for each task; tests run all of them."""
