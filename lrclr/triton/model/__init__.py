"""What runs inside Triton's Python backend: the CPU stand-in for its ONNX Runtime backend, and the model `lrclr`.

Imported by the server's Python, never by a client. `triton_python_backend_utils` exists only there.
"""
