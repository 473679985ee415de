"""Triton: `server` starts it, `model` runs inside it, `client` sends requests, `protocol` is what these three share."""
