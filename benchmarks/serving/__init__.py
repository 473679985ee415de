"""A real server under load, and what the way through it costs."""
