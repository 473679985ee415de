"""Code that runs in Triton's Python backend: the model `lrclr`, and stand-ins for backends of graphs.

Clients do not import it: `triton_python_backend_utils` exists only in the server's Python.
"""
