"""What a quarter of an hour on a GPU can measure; README.md says how to run it."""
