"""Triton: `server` starts one, `model` runs inside it, `client` asks it, and `protocol` is what they agree on."""
