"""A kit that measures the GPU path on a borrowed GPU within a quarter of an hour. See README.md here."""
