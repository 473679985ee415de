"""Type-I error and power of `lrclr drift`."""
