"""lrclr: chest x-ray findings, and the regions that speak for them, from a CLIP-like checkpoint."""
