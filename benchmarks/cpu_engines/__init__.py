"""lrclr's engines on the CPU, compared with OpenVINO without lrclr, and int8 with float32."""
