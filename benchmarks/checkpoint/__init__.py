"""Makes the default checkpoint: `make checkpoint`."""
