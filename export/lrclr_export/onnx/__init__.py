"""The three graphs as typed ONNX models, in the precision that was asked for, and where they deviate."""
